#include "bench/shim.h"

#include <benchmark/benchmark.h>

struct shim_state {
    benchmark::State *state;
};

void shim_register(const char *name, shim_benchmark_fn benchmark, const void *argument)
{
#ifndef __clang_analyzer__ /* takes what Google Benchmark keeps for lost */
    benchmark::RegisterBenchmark(name, [benchmark, argument](benchmark::State &state) {
        shim_state shim = {&state};
        benchmark(&shim, argument);
    });
#endif
}

int shim_keep_running(shim_state *state) { return state->state->KeepRunning(); }

void shim_set_rate(shim_state *state, const char *name, double per_iteration)
{
    state->state->counters[name] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

void shim_set_value(shim_state *state, const char *name, double value) { state->state->counters[name] = value; }

void shim_add_context(const char *name, const char *value) { benchmark::AddCustomContext(name, value); }

int shim_run(int argc, char **argv)
{
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 2;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
