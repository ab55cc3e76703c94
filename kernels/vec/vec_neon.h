/* Four floats in a vector: 64-bit Arm. */
#ifndef HEED_VEC_NEON_H
#define HEED_VEC_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#define VF_LANES 4
#define TILE_KEYS 6 /* 8 spill under GCC 12 */
#define TILE_CHANNELS 6
#define ROW_VECTORS 8
#define MIX_ROWS 6
#define MIX_VECTORS 4

typedef float32x4_t vf;
typedef uint32x4_t vm;

static inline vf vf_zero(void) { return vdupq_n_f32(0.0f); }
static inline vf vf_set1(float x) { return vdupq_n_f32(x); }
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf x) { vst1q_f32(p, x); }

static inline vf vf_load_n(const float *p, int n)
{
    vf x = vf_zero();
    if (n > 0)
        x = vld1q_lane_f32(p, x, 0);
    if (n > 1)
        x = vld1q_lane_f32(p + 1, x, 1);
    if (n > 2)
        x = vld1q_lane_f32(p + 2, x, 2);
    if (n > 3)
        x = vld1q_lane_f32(p + 3, x, 3);
    return x;
}

static inline void vf_store_n(float *p, vf x, int n)
{
    if (n > 0)
        vst1q_lane_f32(p, x, 0);
    if (n > 1)
        vst1q_lane_f32(p + 1, x, 1);
    if (n > 2)
        vst1q_lane_f32(p + 2, x, 2);
    if (n > 3)
        vst1q_lane_f32(p + 3, x, 3);
}

static inline vf vf_load_bool_n(const uint8_t *p, int n)
{
    float lanes[4];
    for (int i = 0; i < 4; i++)
        lanes[i] = i < n && p[i] ? 1.0f : 0.0f;
    return vld1q_f32(lanes);
}

static inline int vf_can_stream(const float *p) { return ((void)p, 0); }
static inline void vf_stream(float *p, vf x) { vst1q_f32(p, x); }
static inline void vf_stream_fence(void) {}
static inline vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }

static inline vf vf_reciprocal(vf x) { return vdivq_f32(vdupq_n_f32(1.0f), x); }

/* One correction makes the quotient as good as a division, which takes several times as long as each of these. */
static inline vf vf_divide(vf x, vf y, vf inverse)
{
    vf q = vmulq_f32(x, inverse), rest = vfmsq_f32(x, q, y);
    return vbslq_f32(vceqq_f32(rest, rest), vfmaq_f32(q, rest, inverse), q);
}

/* Arm's own maximum and minimum give NaN where either is NaN. */
static inline vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline vf vf_abs(vf x) { return vabsq_f32(x); }
static inline vf vf_minus_abs(vf x) { return vnegq_f32(vabsq_f32(x)); }

static inline vf vf_clamp_exponent(vf x, float low) { return vf_max(vf_set1(low), x); }

static inline vf vf_fraction(vf x) { return vsubq_f32(x, vrndmq_f32(x)); }

static inline vf vf_scale2(vf x, vf y)
{
    int32x4_t biased = vaddq_s32(vcvtmq_s32_f32(y), vdupq_n_s32(127));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
}

static inline vm vf_eq(vf a, vf b) { return vceqq_f32(a, b); }
static inline vm vf_lt(vf a, vf b) { return vcltq_f32(a, b); }
static inline vm vf_unordered(vf a, vf b) { return vmvnq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))); }
static inline vf vf_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }
static inline float vf_largest(vf x) { return vmaxvq_f32(x); }
static inline float vf_sum(vf x) { return vaddvq_f32(x); }
static inline int vm_any(vm m) { return vmaxvq_u32(m) != 0; }

HEED_INLINE void vf_transpose(vf x[VF_LANES])
{
    float32x4x2_t rows01 = vtrnq_f32(x[0], x[1]), rows23 = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(rows01.val[0]), vget_low_f32(rows23.val[0]));
    x[1] = vcombine_f32(vget_low_f32(rows01.val[1]), vget_low_f32(rows23.val[1]));
    x[2] = vcombine_f32(vget_high_f32(rows01.val[0]), vget_high_f32(rows23.val[0]));
    x[3] = vcombine_f32(vget_high_f32(rows01.val[1]), vget_high_f32(rows23.val[1]));
}

/* volatile: GCC 12 would move all weights of 6 x 4 accumulators ahead of the products, and spill. */
static inline vf vf_keep(vf x)
{
    __asm__ volatile("" : "+w"(x));
    return x;
}

#endif
