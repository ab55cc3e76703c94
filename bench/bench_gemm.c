/* The product of heed_feature_map_apply() by its register tiles and by OpenBLAS: path/channels/rows, one thread each, for
 * phi(x) = max(x D^-1/4 omega, 0) + eps, the map that does least beside its product. Where the second overtakes the
 * first, the call turns from the one to the other (core/tuning.h).
 *
 *   tiles   the call, in pieces of PIECE_ROWS rows, below where it turns to OpenBLAS
 *   blas    heed_gemm() over all rows, and a loop over its result
 *   call    the call over all rows, whichever way it goes */
#include "bench/clock.h"
#include "bench/loops.h"
#include "bench/machine.h"
#include "bench/memory.h"
#include "bench/shim.h"
#include "core/gemm.h"
#include "core/isa.h"
#include "heed.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* OpenBLAS's own call; its header would bring all of BLAS along. */
extern void openblas_set_num_threads(int n_threads);

/* Rows of one call of path tiles: enough for the call itself to be nothing beside them, and one task. */
enum { PIECE_ROWS = 480 };

static const int64_t row_counts[] = {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};
static const int64_t channel_counts[] = {64, 128, 256};

enum {
    N_ROW_COUNTS = sizeof row_counts / sizeof row_counts[0],
    N_CHANNEL_COUNTS = sizeof channel_counts / sizeof channel_counts[0],
    N_PATHS = 3,
    MOST_ROWS = 65536,
    MOST_CHANNELS = 256
};

static const float eps = 1e-3f;

/* What all cases share. */
typedef struct bench_memory {
    heed_context *context;
    const bench_loops *loops;
    double fma_gflops;
    float *x, *omega, *out;
} bench_memory;

static bench_memory memory;

/* A path on a size. */
typedef struct bench_case {
    int (*run)(const struct bench_case *c); /* 0, or -1 where the call failed */
    int64_t n_rows, n_channels;
} bench_case;

/* ---- The paths -------------------------------------------------------------------------------------------------- */

/* Rows [first, first + n) by the call. */
static int apply(const bench_case *c, int64_t first, int64_t n)
{
    const int64_t d = c->n_channels;
    const heed_tensor omega = heed_tensor_bhnd(memory.omega, HEED_FLOAT32, 1, 1, d, d);
    const heed_tensor x = heed_tensor_bhnd(memory.x + first * d, HEED_FLOAT32, 1, 1, n, d);
    const heed_tensor out = heed_tensor_bhnd(memory.out + first * d, HEED_FLOAT32, 1, 1, n, d);
    const heed_feature_layer layer = {.kind = HEED_FEATURE_FAVOR_RELU, .eps = eps, .omega = &omega};
    heed_feature_map map = HEED_FEATURE_MAP_INIT;
    map.layers = &layer;
    map.n_layers = 1;
    const heed_status status = heed_feature_map_apply(memory.context, &x, &map, HEED_FEATURES_OF_KEYS, &out);
    return status == HEED_OK ? 0 : -1;
}

static int run_tiles(const bench_case *c)
{
    for (int64_t first = 0, n = 0; first < c->n_rows; first += n) {
        n = c->n_rows - first < PIECE_ROWS ? c->n_rows - first : PIECE_ROWS;
        if (apply(c, first, n) != 0)
            return -1;
    }
    return 0;
}

static int run_call(const bench_case *c) { return apply(c, 0, c->n_rows); }

static int run_blas(const bench_case *c)
{
    const int64_t d = c->n_channels;
    const float scale = (float)pow((double)d, -0.25);
    heed_gemm(0, c->n_rows, d, d, scale, memory.x, d, memory.omega, d, 0, memory.out, d);
    memory.loops->keep_positive(memory.out, eps, c->n_rows * d);
    return 0;
}

/* ---- The program ------------------------------------------------------------------------------------------------ */

static void run_case(shim_state *state, const void *argument)
{
    const bench_case *c = argument;
    double n_calls = 0;
    int failed = 0;
    const double start = clock_seconds();
    while (shim_keep_running(state)) {
        failed |= c->run(c);
        n_calls++;
    }
    const double seconds = clock_seconds() - start;
    const double flops = 2.0 * (double)c->n_rows * (double)c->n_channels * (double)c->n_channels;
    shim_set_rate(state, "flops", failed ? NAN : flops);
    shim_set_value(state, "share_of_fma", failed ? NAN : flops * n_calls / seconds * 1e-9 / memory.fma_gflops);
}

static void register_cases(bench_case *c)
{
    static const struct {
        const char *name;
        int (*run)(const bench_case *c);
    } paths[N_PATHS] = {{"tiles", run_tiles}, {"blas", run_blas}, {"call", run_call}};
    for (int d = 0; d < N_CHANNEL_COUNTS; d++) {
        for (int n = 0; n < N_ROW_COUNTS; n++) {
            for (int p = 0; p < N_PATHS; p++, c++) {
                char name[64];
                *c = (bench_case){paths[p].run, row_counts[n], channel_counts[d]};
                snprintf(name, sizeof name, "%s/%" PRId64 "/%" PRId64, paths[p].name, c->n_channels, c->n_rows);
                shim_register(name, run_case, c);
            }
        }
    }
}

/* Path tiles must not take OpenBLAS, nor may another path be taken for it. */
static int check_tiles(void)
{
    heed_report report = HEED_REPORT_INIT;
    for (int d = 0; d < N_CHANNEL_COUNTS; d++) {
        const bench_case c = {run_tiles, PIECE_ROWS, channel_counts[d]};
        if (run_tiles(&c) != 0) {
            fprintf(stderr, "bench_gemm: %s\n", heed_context_message(memory.context));
            return -1;
        }
        if (heed_context_report(memory.context, &report) != HEED_OK || strcmp(report.path, "feature-map") != 0) {
            fprintf(stderr, "bench_gemm: %d rows do not go through tiles\n", PIECE_ROWS);
            return -1;
        }
    }
    return 0;
}

static int start(machine *m)
{
    char message[256];
    heed_isa isa = HEED_ISA_AUTO;
    heed_message reason;
    if (heed_isa_choose(&isa, &reason) != HEED_OK) {
        fprintf(stderr, "bench_gemm: %s\n", reason.text);
        return -1;
    }
    if (heed_context_create(NULL, &memory.context, message, sizeof message) != HEED_OK) {
        fprintf(stderr, "bench_gemm: %s\n", message);
        return -1;
    }
    memory.loops = bench_loops_of(isa);
    memory.x = memory_allocate_floats(1, 1, MOST_ROWS, MOST_CHANNELS);
    memory.out = memory_allocate_floats(1, 1, MOST_ROWS, MOST_CHANNELS);
    memory.omega = memory_allocate_floats(1, 1, MOST_CHANNELS, MOST_CHANNELS);
    if (!memory.x || !memory.out || !memory.omega) {
        fprintf(stderr, "bench_gemm: out of memory\n");
        return -1;
    }
    for (int64_t i = 0; i < (int64_t)MOST_ROWS * MOST_CHANNELS; i++)
        memory.x[i] = (float)(i % 31 - 15) / 64;
    for (int64_t i = 0; i < (int64_t)MOST_CHANNELS * MOST_CHANNELS; i++)
        memory.omega[i] = (float)(i % 29 - 14) / 64;
    openblas_set_num_threads(1);
    for (int i = 0; i < 10; i++)
        (void)machine_take_fma(m, isa, 1); /* needs no memory: the machine took this rate when it was made */
    memory.fma_gflops = machine_fma_gflops(m, isa, 1);
    return check_tiles();
}

int main(int argc, char **argv)
{
    static bench_case cases[N_CHANNEL_COUNTS * N_ROW_COUNTS * N_PATHS];
    machine *m = machine_create(1);
    if (!m) {
        fprintf(stderr, "bench_gemm: out of memory\n");
        return 1;
    }
    int result = 1;
    if (start(m) == 0) {
        register_cases(cases);
        result = shim_run(argc, argv);
    }
    heed_context_destroy(memory.context);
    free(memory.x);
    free(memory.out);
    free(memory.omega);
    machine_destroy(m);
    return result;
}
