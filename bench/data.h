/* Where the sample inputs are. */
#ifndef HEED_BENCH_DATA_H
#define HEED_BENCH_DATA_H

#include <stddef.h>

/* The folder with the samples: beside the installed program (../share/heed/data), else the source tree's. Never fails:
 * a file that is not there is reported when it is read. */
void data_find_folder(char *folder, size_t size);

#endif
