/* Memory of all benchmark buffers. Tensors and the buffers of the bandwidth loops come from here, so that both lie on
 * the same kind of pages. */
#ifndef HEED_BENCH_MEMORY_H
#define HEED_BENCH_MEMORY_H

#include <stdint.h>

/* At least `bytes` zeroed bytes, aligned to 64 and written once, so that every page is there; NULL without memory or
 * for a negative size. Freed with free(). */
void *memory_allocate(int64_t bytes);

/* The same for a*b*c*d floats, NULL also where that overflows. */
float *memory_allocate_floats(int64_t a, int64_t b, int64_t c, int64_t d);

#endif
