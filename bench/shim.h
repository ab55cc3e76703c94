/* Google Benchmark for C: what the benchmarks of this folder need of it, and nothing of its C++. */
#ifndef HEED_BENCH_SHIM_H
#define HEED_BENCH_SHIM_H

#ifdef __cplusplus
extern "C" {
#endif

/* One running benchmark. */
typedef struct shim_state shim_state;

typedef void (*shim_benchmark_fn)(shim_state *state, const void *argument);

/* Adds a benchmark. `argument` is handed to it and must outlive shim_run(). */
void shim_register(const char *name, shim_benchmark_fn benchmark, const void *argument);

/* The timed loop: while (shim_keep_running(state)) { ... } */
int shim_keep_running(shim_state *state);

/* Adds a column "name": `per_iteration` things a second. After the loop. */
void shim_set_rate(shim_state *state, const char *name, double per_iteration);

/* Adds a column "name" with a plain value. After the loop. */
void shim_set_value(shim_state *state, const char *name, double value);

/* Adds a line "name: value" to the heading. Before shim_run(). */
void shim_add_context(const char *name, const char *value);

/* Reads Google Benchmark's options (--benchmark_filter=... and so on) and runs what they choose. Returns the exit
 * code. */
int shim_run(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
