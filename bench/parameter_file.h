/* Learned parameters in a folder: FOLDER/NAME.npy, whose shape is checked against what is expected. */
#ifndef HEED_BENCH_PARAMETER_FILE_H
#define HEED_BENCH_PARAMETER_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { PARAMETER_MAX_RANK = 3 };

/* What a file may hold: in each dimension a size, or another one where that is not 0. A size of 0 stands for any but
 * 0. */
typedef struct parameter_shape {
    int rank;
    int64_t sizes[PARAMETER_MAX_RANK];
    int64_t others[PARAMETER_MAX_RANK];
} parameter_shape;

/* 1 where sizes of that rank are what `shape` expects, else 0. */
int parameter_fits(const parameter_shape *shape, int rank, const int64_t *sizes);

/* "PATH: A x B expected, got C x D". */
void parameter_tell_sizes(const char *path, const parameter_shape *shape, int rank, const int64_t *sizes, char *message,
                          size_t message_bytes);

/* Reads FOLDER/NAME.npy; `sizes` receives those of the file, 1 beyond the rank. Returns the data, from malloc, or NULL
 * with the reason in `message`. */
float *parameter_read(const char *folder, const char *name, const parameter_shape *shape,
                      int64_t sizes[PARAMETER_MAX_RANK], char *message, size_t message_bytes);

#endif
