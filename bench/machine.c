#include "bench/machine.h"

#include "bench/clock.h"
#include "bench/loops.h"
#include "bench/memory.h"
#include "bench/parallel.h"
#include "core/isa.h"
#include "kernels/kernels.h"
#ifdef HEED_HAVE_BLAS
#include "core/gemm.h"
#endif

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_STEP = 256 /* floats, see bench_loops */ };

static const int64_t mebibyte = 1 << 20;

typedef enum rate_kind { RATE_FMA, RATE_READ, RATE_STREAMS, RATE_UPDATE } rate_kind;

/* What a rate was taken of; isa for the FMA rate, bytes for the others. */
typedef struct rate_key {
    rate_kind kind;
    heed_isa isa;
    int64_t bytes;
    int n_threads;
} rate_key;

typedef struct rate {
    rate_key key;
    double largest;
} rate;

struct machine {
    char cpu[128];
    int n_cores;
    int quick;
    const bench_loops *best_loops;
    double exp_gops;
    machine_reads reads;
    float *buffer; /* what the bandwidth loops go over */
    int64_t buffer_bytes;
    rate *rates; /* as many as were ever asked for: n_rates of n_rates_allocated */
    int n_rates, n_rates_allocated;
};

/* Results of loops end here, so that no compiler leaves the loops out. */
static volatile float sink;

/* ---- Rates ------------------------------------------------------------------------------------------------------ */

/* NULL when none of the kind was taken. */
static rate *find_rate(const machine *m, rate_key key)
{
    for (int i = 0; i < m->n_rates; i++) {
        const rate_key *k = &m->rates[i].key;
        if (k->kind == key.kind && k->isa == key.isa && k->bytes == key.bytes && k->n_threads == key.n_threads)
            return &m->rates[i];
    }
    return NULL;
}

static double largest_rate(const machine *m, rate_key key)
{
    const rate *found = find_rate(m, key);
    return found ? found->largest : 0;
}

/* Makes room for one more rate; returns -1 without memory. */
static int grow_rates(machine *m)
{
    if (m->n_rates < m->n_rates_allocated)
        return 0;
    const int n = m->n_rates_allocated == 0 ? 64 : 2 * m->n_rates_allocated;
    rate *rates = realloc(m->rates, (size_t)n * sizeof *rates);
    if (!rates)
        return -1;
    m->rates = rates;
    m->n_rates_allocated = n;
    return 0;
}

/* Keeps a rate where it is the largest of its kind so far; returns -1 without memory for a new kind. */
static int keep_rate(machine *m, rate_key key, double value)
{
    rate *found = find_rate(m, key);
    if (found) {
        found->largest = value > found->largest ? value : found->largest;
        return 0;
    }
    if (grow_rates(m) != 0)
        return -1;
    m->rates[m->n_rates++] = (rate){key, value};
    return 0;
}

/* ---- Work on several threads ------------------------------------------------------------------------------------ */

/* One piece of work that every worker does n_repeats times, and when it did so. */
typedef struct piece {
    rate_kind kind;
    const bench_loops *loops;
    float *buffer; /* streams: four arrays of n floats behind each other */
    int64_t n;     /* FMA: steps of multiply_add; else floats of an array */
    int n_repeats;
    double first_start, last_end;
    int n_workers;
} piece;

/* What a worker does of the piece: all steps of multiply_add, or its contiguous part of the arrays. */
static void work_once(const piece *p, int worker, int n_workers)
{
    if (p->kind == RATE_FMA) {
        sink = p->loops->multiply_add(p->n, 0.999f, 0.001f);
        return;
    }
    int64_t begin, end;
    parallel_share(p->n / READ_STEP, worker, n_workers, &begin, &end);
    const int64_t n = (end - begin) * READ_STEP;
    float *x = p->buffer + begin * READ_STEP;
    if (p->kind == RATE_READ)
        sink = p->loops->read_sum(x, n);
    else if (p->kind == RATE_UPDATE)
        p->loops->update(x, 0.999f, 0.001f, n); /* no denormals: all comes near 1 */
    else
        p->loops->add_streams(x, x + p->n, x + 2 * p->n, x + 3 * p->n, n);
}

/* The workers start behind a barrier and the last one to end stops the clock; none writes what another one does. */
static void work_in_team(void *job, int worker, int n_workers)
{
    piece *p = job;
    parallel_barrier();
    if (worker == 0) {
        p->first_start = clock_seconds();
        p->n_workers = n_workers;
    }
    for (int i = 0; i < p->n_repeats; i++)
        work_once(p, worker, n_workers);
    parallel_barrier();
    if (worker == 0)
        p->last_end = clock_seconds();
}

static double time_piece(piece *p, int n_threads)
{
    parallel_run(n_threads, work_in_team, p);
    return p->last_end - p->first_start;
}

/* Repeats a piece so often that it lasts `seconds`, and returns the best of `n_trials` such times for one repeat. */
static double best_time(piece *p, int n_threads, double seconds, int n_trials)
{
    p->n_repeats = 1;
    const double once = time_piece(p, n_threads);
    const double repeats = seconds / (once > 1e-9 ? once : 1e-9);
    p->n_repeats = repeats < 1 ? 1 : repeats > 1e6 ? 1000000 : (int)repeats;
    double best = time_piece(p, n_threads);
    for (int i = 1; i < n_trials; i++) {
        const double next = time_piece(p, n_threads);
        best = next < best ? next : best;
    }
    return best / p->n_repeats;
}

/* ---- The ceilings ----------------------------------------------------------------------------------------------- */

int machine_take_fma(machine *m, heed_isa isa, int n_threads)
{
    const bench_loops *loops = bench_loops_of(isa);
    if (!loops)
        return 0;
    piece p = {.kind = RATE_FMA, .loops = loops, .n = 20000};
    const double seconds = best_time(&p, n_threads, m->quick ? 2e-4 : 1e-3, m->quick ? 2 : 5);
    const double flops = (double)p.n * (double)loops->flops_per_step * p.n_workers;
    return keep_rate(m, (rate_key){.kind = RATE_FMA, .isa = isa, .n_threads = n_threads}, flops / seconds * 1e-9);
}

double machine_fma_gflops(const machine *m, heed_isa isa, int n_threads)
{
    return largest_rate(m, (rate_key){.kind = RATE_FMA, .isa = isa, .n_threads = n_threads});
}

/* Gives the buffer exactly `bytes`: the pages of a much larger one could be of another kind. A new buffer takes
 * the place of the old one, since both at once might not fit. */
static int resize_buffer(machine *m, int64_t bytes)
{
    if (bytes == m->buffer_bytes)
        return 0;
    free(m->buffer);
    m->buffer = memory_allocate(bytes);
    m->buffer_bytes = m->buffer ? bytes : 0;
    return m->buffer ? 0 : -1;
}

/* The rate at which arrays of `bytes` bytes all together go through a loop; there and back for an update. */
static int take_bandwidth(machine *m, rate_kind kind, int64_t bytes, int n_threads)
{
    const int64_t n_arrays = kind == RATE_STREAMS ? 4 : 1;
    const int64_t step_bytes = n_arrays * READ_STEP * (int64_t)sizeof(float);
    const int64_t rounded = (bytes + step_bytes - 1) / step_bytes * step_bytes;
    if (resize_buffer(m, rounded) != 0)
        return -1;
    piece p = {
        .kind = kind, .loops = m->best_loops, .buffer = m->buffer, .n = rounded / n_arrays / (int64_t)sizeof(float)};
    const double seconds = best_time(&p, n_threads, m->quick ? 2e-4 : 2e-3, m->quick ? 1 : 3);
    const rate_key key = {.kind = kind, .bytes = bytes, .n_threads = n_threads};
    return keep_rate(m, key, (kind == RATE_UPDATE ? 2 : 1) * (double)rounded / seconds * 1e-9);
}

int machine_take_read(machine *m, int64_t bytes, int n_threads)
{
    return take_bandwidth(m, RATE_READ, bytes, n_threads);
}

double machine_row_read_gbytes(const machine *m, int64_t bytes, int n_threads)
{
    return largest_rate(m, (rate_key){.kind = RATE_READ, .bytes = bytes, .n_threads = n_threads});
}

int machine_take_streams(machine *m, int64_t bytes, int n_threads)
{
    return take_bandwidth(m, RATE_STREAMS, bytes, n_threads);
}

double machine_row_streams_gbytes(const machine *m, int64_t bytes, int n_threads)
{
    return largest_rate(m, (rate_key){.kind = RATE_STREAMS, .bytes = bytes, .n_threads = n_threads});
}

int machine_take_update(machine *m, int64_t bytes, int n_threads)
{
    return take_bandwidth(m, RATE_UPDATE, bytes, n_threads);
}

double machine_row_update_gbytes(const machine *m, int64_t bytes, int n_threads)
{
    return largest_rate(m, (rate_key){.kind = RATE_UPDATE, .bytes = bytes, .n_threads = n_threads});
}

static double measure_exp(const machine *m)
{
    enum { N = 4096 };
    static alignas(64) float x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = -20.0f * (float)i / N;
    const heed_kernels *kernels = heed_isa_kernels(m->best_loops->isa);
    double best = 1e9;
    for (int trial = 0; trial < (m->quick ? 5 : 100); trial++) {
        const int n_calls = 20;
        const double start = clock_seconds();
        for (int i = 0; i < n_calls; i++) {
            kernels->exp2_array(x, y, N);
            sink = y[i];
        }
        const double seconds = (clock_seconds() - start) / n_calls;
        best = seconds < best ? seconds : best;
    }
    return N / best * 1e-9;
}

/* What sysconf says, or `otherwise` where it does not know. */
static int64_t cache_bytes(int name, int64_t otherwise)
{
    const long bytes = sysconf(name);
    return bytes > 0 ? bytes : otherwise;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int measure_reads(machine *m)
{
    const int64_t l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, mebibyte);
    const int64_t l3 = cache_bytes(_SC_LEVEL3_CACHE_SIZE, 32 * mebibyte);
    const int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    const int64_t l3_wanted = 4 * l2 > 32 * mebibyte ? 4 * l2 : 32 * mebibyte;
    const int64_t dram_wanted = clamp(2 * l3, 256 * mebibyte, 1024 * mebibyte);

    const int64_t l2_bytes = l2 / 2;
    const int64_t l3_bytes = l3_wanted < l3 / 2 ? l3_wanted : l3 / 2;
    const int64_t dram_bytes = m->quick ? 64 * mebibyte : dram_wanted < memory / 4 ? dram_wanted : memory / 4;

    if (machine_take_read(m, dram_bytes, 1) != 0 || machine_take_read(m, l2_bytes, 1) != 0 ||
        machine_take_read(m, l3_bytes, 1) != 0)
        return -1;
    m->reads = (machine_reads){machine_row_read_gbytes(m, l2_bytes, 1), machine_row_read_gbytes(m, l3_bytes, 1),
                               machine_row_read_gbytes(m, dram_bytes, 1)};
    return 0;
}

/* ---- The machine ------------------------------------------------------------------------------------------------ */

/* The processor's name as Linux tells it: "model name" on x86, nothing of the kind on most Arm machines. */
static void read_cpu_name(char *name, size_t size)
{
    snprintf(name, size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (colon && (strncmp(line, "model name", 10) == 0 || strncmp(line, "Model", 5) == 0)) {
            snprintf(name, size, "%.*s", (int)strcspn(colon + 1, "\n") - 1, colon + 2);
            break;
        }
    }
    fclose(file);
}

machine *machine_create(int quick)
{
    machine *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    read_cpu_name(m->cpu, sizeof m->cpu);
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    m->n_cores = n_cores > 0 ? (int)n_cores : 1;
    m->quick = quick;
    static const heed_isa weakest_first[] = {HEED_ISA_SCALAR, HEED_ISA_NEON, HEED_ISA_AVX2, HEED_ISA_AVX512};
    for (size_t i = 0; i < sizeof weakest_first / sizeof weakest_first[0]; i++) {
        const bench_loops *loops = bench_loops_of(weakest_first[i]);
        if (!loops)
            continue;
        m->best_loops = loops;
        if (machine_take_fma(m, weakest_first[i], 1) != 0) {
            machine_destroy(m);
            return NULL;
        }
    }
    m->exp_gops = measure_exp(m);
    if (measure_reads(m) != 0) {
        machine_destroy(m);
        return NULL;
    }
    return m;
}

void machine_destroy(machine *m)
{
    if (m) {
        free(m->buffer);
        free(m->rates);
        free(m);
    }
}

const char *machine_cpu(const machine *m) { return m->cpu; }

int machine_n_cores(const machine *m) { return m->n_cores; }

const char *machine_compiler(void)
{
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#ifdef __clang__
    return "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__);
#else
    return "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__);
#endif
}

const char *machine_blas(void)
{
#ifdef HEED_HAVE_BLAS
    return heed_blas_name();
#else
    return "none";
#endif
}

double machine_exp_gops(const machine *m) { return m->exp_gops; }

machine_reads machine_read_gbytes(const machine *m) { return m->reads; }
