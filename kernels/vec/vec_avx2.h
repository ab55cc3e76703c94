/* Eight floats in a vector: x86 with AVX2 and FMA. */
#ifndef HEED_VEC_AVX2_H
#define HEED_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define VF_LANES 8
#define TILE_KEYS 4
#define TILE_CHANNELS 4
#define ROW_VECTORS 4
#define MIX_ROWS 6
#define MIX_VECTORS 2

typedef __m256 vf;
typedef __m256 vm;

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }

static inline __m256i lanes_below(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, lanes_below(n)); }
static inline void vf_store_n(float *p, vf x, int n) { _mm256_maskstore_ps(p, lanes_below(n), x); }

static inline vf vf_load_bool_n(const uint8_t *p, int n)
{
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes |= (uint64_t)p[i] << (8 * i);
    __m256i zero =
        _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)), _mm256_setzero_si256());
    return _mm256_andnot_ps(_mm256_castsi256_ps(zero), _mm256_set1_ps(1.0f));
}

static inline int vf_can_stream(const float *p) { return ((uintptr_t)p & 31) == 0; }
static inline void vf_stream(float *p, vf x) { _mm256_stream_ps(p, x); }
static inline void vf_stream_fence(void) { _mm_sfence(); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

static inline vf vf_reciprocal(vf x) { return _mm256_div_ps(_mm256_set1_ps(1.0f), x); }

/* One correction makes the quotient as good as a division, which takes 10 times as long as each of these. */
static inline vf vf_divide(vf x, vf y, vf inverse)
{
    vf q = _mm256_mul_ps(x, inverse), rest = _mm256_fnmadd_ps(q, y, x);
    return _mm256_blendv_ps(q, _mm256_fmadd_ps(rest, inverse, q), _mm256_cmp_ps(rest, rest, _CMP_ORD_Q));
}
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
static inline vf vf_minus_abs(vf x) { return _mm256_or_ps(_mm256_set1_ps(-0.0f), x); }

static inline vf vf_clamp_exponent(vf x, float low) { return vf_max(vf_set1(low), x); }

static inline vf vf_fraction(vf x) { return _mm256_sub_ps(x, _mm256_floor_ps(x)); }

static inline vf vf_scale2(vf x, vf y)
{
    __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(y)), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
}

static inline vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vm vf_unordered(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
static inline vf vf_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

static inline float vf_largest(vf x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

static inline float vf_sum(vf x)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline int vm_any(vm m) { return _mm256_movemask_ps(m) != 0; }

HEED_INLINE void vf_transpose(vf x[VF_LANES])
{
    vf pairs[8], quads[8];
    HEED_UNROLL
    for (int i = 0; i < 4; i++) {
        pairs[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    HEED_UNROLL
    for (int i = 0; i < 8; i += 4) {
        quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    HEED_UNROLL
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

static inline vf vf_keep(vf x)
{
    __asm__("" : "+x"(x));
    return x;
}

#endif
