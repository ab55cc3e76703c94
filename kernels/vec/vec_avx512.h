/* Sixteen floats in a vector: x86 with AVX-512 F, BW, DQ and VL. */
#ifndef HEED_VEC_AVX512_H
#define HEED_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define VF_LANES 16
#define TILE_KEYS 8
#define TILE_CHANNELS 8
#define ROW_VECTORS 8
#define MIX_ROWS 6
#define MIX_VECTORS 4

typedef __m512 vf;
typedef __mmask16 vm;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline __mmask16 lanes_below(int n) { return (__mmask16)((1u << n) - 1u); }
static inline vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
static inline void vf_store_n(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), x); }

static inline vf vf_load_bool_n(const uint8_t *p, int n)
{
    __m128i bytes = _mm_maskz_loadu_epi8(lanes_below(n), p);
    return _mm512_maskz_mov_ps(_mm_test_epi8_mask(bytes, bytes), _mm512_set1_ps(1.0f));
}

static inline int vf_can_stream(const float *p) { return ((uintptr_t)p & 63) == 0; }
static inline void vf_stream(float *p, vf x) { _mm512_stream_ps(p, x); }
static inline void vf_stream_fence(void) { _mm_sfence(); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

/* The estimate holds 14 bits, one Newton step doubles them: a division takes 4 times as long. */
static inline vf vf_reciprocal(vf x)
{
    vf y = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0f)), y, y);
}

/* One correction makes the quotient as good as a division, which takes 20 times as long as each of these. */
static inline vf vf_divide(vf x, vf y, vf inverse)
{
    vf q = _mm512_mul_ps(x, inverse), rest = _mm512_fnmadd_ps(q, y, x);
    return _mm512_mask_mov_ps(q, _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q), _mm512_fmadd_ps(rest, inverse, q));
}
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_abs(vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
static inline vf vf_minus_abs(vf x) { return _mm512_or_ps(_mm512_set1_ps(-0.0f), x); }

/* scalef takes any exponent, infinite ones too, and rounds it down by itself. */
static inline vf vf_clamp_exponent(vf x, float low)
{
    (void)low;
    return x;
}

static inline vf vf_fraction(vf x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

/* scalef could give denormals; every product with one would take the processor's slow path. */
static inline vf vf_scale2(vf x, vf y)
{
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(y, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), x, y);
}

static inline vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm vf_unordered(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
static inline vf vf_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
static inline float vf_largest(vf x) { return _mm512_reduce_max_ps(x); }
static inline float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
static inline int vm_any(vm m) { return m != 0; }

HEED_INLINE void vf_transpose(vf x[VF_LANES])
{
    vf pairs[16], quads[16];
    HEED_UNROLL
    for (int i = 0; i < 8; i++) {
        pairs[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    /* quads[4 i + c]: rows 4 i .. 4 i + 3, column c of each group of four columns */
    HEED_UNROLL
    for (int i = 0; i < 16; i += 4) {
        quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    /* a 4 x 4 transpose of 128-bit pieces: piece g of quads[4 i + c] is rows 4 i .. of column 4 g + c */
    HEED_UNROLL
    for (int c = 0; c < 4; c++) {
        vf low01 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x44);
        vf high01 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xee);
        vf low23 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x44);
        vf high23 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xee);
        x[c] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        x[4 + c] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        x[8 + c] = _mm512_shuffle_f32x4(high01, high23, 0x88);
        x[12 + c] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
    }
}

static inline vf vf_keep(vf x)
{
    __asm__("" : "+v"(x));
    return x;
}

#endif
