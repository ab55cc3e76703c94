/* NumPy's .npy files, as far as attention inputs need them: float32, little-endian, C order, format versions 1 and 2.
 * Anything else is refused in words; nothing is converted. */
#ifndef HEED_BENCH_NPY_H
#define HEED_BENCH_NPY_H

#include <stddef.h>
#include <stdint.h>

enum { NPY_MAX_RANK = 8 };

/* An array in C order: the last size runs fastest. */
typedef struct npy_array {
    int rank;
    int64_t shape[NPY_MAX_RANK];
    float *data; /* product of shape floats, from malloc */
} npy_array;

/* Reads a whole file into fresh memory. Returns 0, or -1 with the reason in `message` ("q.npy: float32 expected ...")
 * and `array` empty. */
int npy_read(const char *path, npy_array *array, char *message, size_t message_bytes);

/* Writes float32 data of the given shape as format version 1; the header ends at a multiple of 64 bytes, as NumPy
 * writes it. Returns 0, or -1 with the reason in `message`. */
int npy_write(const char *path, int rank, const int64_t *shape, const float *data, char *message, size_t message_bytes);

/* Frees the data and empties the array. */
void npy_free(npy_array *array);

#endif
