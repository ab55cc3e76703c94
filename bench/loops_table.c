#include "bench/loops.h"

const bench_loops *bench_loops_of(heed_isa isa)
{
    static const bench_loops *const all[] = {
        &bench_loops_scalar,
#ifdef HEED_HAVE_AVX2
        &bench_loops_avx2,
#endif
#ifdef HEED_HAVE_AVX512
        &bench_loops_avx512,
#endif
#ifdef HEED_HAVE_NEON
        &bench_loops_neon,
#endif
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->isa == isa)
            return heed_isa_supported(isa) ? all[i] : NULL;
    return NULL;
}
