#include "core/isa.h"

#include <stdlib.h>
#include <string.h>

static int machine_has(heed_isa isa)
{
    switch (isa) {
    case HEED_ISA_SCALAR:
        return 1;
#if defined(__x86_64__) || defined(__i386__)
    /* These builtins ask the operating system too (XGETBV). */
    case HEED_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case HEED_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#endif
#if defined(__aarch64__)
    case HEED_ISA_NEON: /* part of every 64-bit Arm */
        return 1;
#endif
    default:
        return 0;
    }
}

static const heed_kernels *built_in(heed_isa isa)
{
    switch (isa) {
    case HEED_ISA_SCALAR:
        return &heed_kernels_scalar;
#ifdef HEED_HAVE_AVX2
    case HEED_ISA_AVX2:
        return &heed_kernels_avx2;
#endif
#ifdef HEED_HAVE_AVX512
    case HEED_ISA_AVX512:
        return &heed_kernels_avx512;
#endif
#ifdef HEED_HAVE_NEON
    case HEED_ISA_NEON:
        return &heed_kernels_neon;
#endif
    default:
        return NULL;
    }
}

const heed_kernels *heed_isa_kernels(heed_isa isa) { return machine_has(isa) ? built_in(isa) : NULL; }

static heed_isa fastest(void)
{
    static const heed_isa fastest_first[] = {HEED_ISA_AVX512, HEED_ISA_AVX2, HEED_ISA_NEON};
    for (size_t i = 0; i < sizeof fastest_first / sizeof *fastest_first; i++) {
        if (heed_isa_kernels(fastest_first[i]))
            return fastest_first[i];
    }
    return HEED_ISA_SCALAR;
}

static const char *const names[] = {"auto", "scalar", "avx2", "avx512", "neon"};

const char *heed_isa_name(heed_isa isa)
{
    return (unsigned)isa < sizeof names / sizeof *names ? names[isa] : "unknown";
}

int heed_isa_supported(heed_isa isa) { return isa == HEED_ISA_AUTO || heed_isa_kernels(isa) != NULL; }

heed_status heed_isa_choose(heed_isa *isa, heed_message *message)
{
    const char *from = "config";
    if (*isa == HEED_ISA_AUTO) {
        const char *wanted = getenv("HEED_ISA");
        if (!wanted || !*wanted || strcmp(wanted, "auto") == 0) {
            *isa = fastest();
            return HEED_OK;
        }
        from = "HEED_ISA";
        for (int i = HEED_ISA_SCALAR; i <= HEED_ISA_NEON; i++) {
            if (strcmp(wanted, names[i]) == 0)
                *isa = (heed_isa)i;
        }
        if (*isa == HEED_ISA_AUTO)
            return heed_complain(message, HEED_ERROR_ISA,
                                 "HEED_ISA: unknown instruction set \"%.32s\" (scalar, avx2, avx512 or neon)", wanted);
    }
    if (*isa < HEED_ISA_AUTO || *isa > HEED_ISA_NEON)
        return heed_complain(message, HEED_ERROR_ISA, "%s: unknown instruction set %d", from, (int)*isa);
    if (!built_in(*isa))
        return heed_complain(message, HEED_ERROR_ISA, "%s: this build has no %s kernels", from, heed_isa_name(*isa));
    if (!machine_has(*isa))
        return heed_complain(message, HEED_ERROR_ISA, "%s: this machine does not run %s", from, heed_isa_name(*isa));
    return HEED_OK;
}
