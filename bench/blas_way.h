/* How several threads share the work of a variant whose products are OpenBLAS's: there is more than one way, and the
 * fastest differs from shape to shape. Only in builds with a BLAS. */
#ifndef HEED_BENCH_BLAS_WAY_H
#define HEED_BENCH_BLAS_WAY_H

/* Heads side by side; or threads inside one product, and inside the loops between products. */
typedef struct blas_way {
    int n_heads; /* at one time, each with a worker of its own */
    int n_loop_threads;
    int n_blas_threads;
} blas_way;

/* Tries each way that n_threads have with run(state, way) and returns the fastest one. */
blas_way blas_way_choose(int n_threads, void (*run)(void *state, blas_way way), void *state);

/* Gives OpenBLAS the threads of a way. */
void blas_way_take(blas_way way);

#endif
