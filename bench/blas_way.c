#include "bench/blas_way.h"

#include "bench/clock.h"

#include <math.h>

/* OpenBLAS's own call; its header would bring all of BLAS along. */
extern void openblas_set_num_threads(int n_threads);

void blas_way_take(blas_way way) { openblas_set_num_threads(way.n_blas_threads); }

/* The best run of 50 ms, at least three: the first ones wake threads, and a busy moment must not decide. */
static double try_way(blas_way way, void (*run)(void *state, blas_way way), void *state)
{
    const double start = clock_seconds();
    double best = INFINITY;
    for (int i = 0; i < 3 || clock_seconds() - start < 50e-3; i++) {
        const double run_start = clock_seconds();
        run(state, way);
        const double seconds = clock_seconds() - run_start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* Heads side by side come first: the others leave threads of OpenBLAS busy for a while. */
blas_way blas_way_choose(int n_threads, void (*run)(void *state, blas_way way), void *state)
{
    const blas_way ways[] = {{n_threads, 1, 1}, {1, n_threads, n_threads}, {1, 1, n_threads}};
    blas_way fastest = ways[0];
    if (n_threads == 1)
        return fastest;
    double best = try_way(ways[0], run, state);
    for (int i = 1; i < 3; i++) {
        const double seconds = try_way(ways[i], run, state);
        if (seconds < best) {
            best = seconds;
            fastest = ways[i];
        }
    }
    return fastest;
}
