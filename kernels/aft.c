/* aft_keys, aft_fold, aft_row: the Attention-Free Transformer over keys one by one, lanes over channels; aft_move,
 * aft_weigh, aft_ratio: over blocks of keys, as a product of exp(w) and exp(k) v; gate_array.
 *
 * The reference of a channel is a key already seen, not the maximum: it moves only when a key stands more than e^8 above
 * it, so that nearly every key costs one exponential and no rescale, and no later key has a say in an earlier result.
 * It is kept as its two parts. k + w in one number would round at the size of k, which may be 1e4, and an error of a
 * score is a relative error of its weight; the differences from a near reference are small. */
#include "kernels/activations.h"

enum { WEIGH_AHEAD = 16, KEYS_TOGETHER = 6 };

/* Channels of a panel where so many are left. */
HEED_INLINE int64_t panel_channels(int64_t left) { return left < AFT_PANEL ? left : AFT_PANEL; }

/* The reference moves to the key where that stands far above it. Nearly never called: inlined, its registers would be
 * missing elsewhere. */
static HEED_NOINLINE void move_channels(float *restrict state, int64_t n_channels, vf key, vf bias, int width)
{
    vf ref_k = vf_load_n(state + AFT_REF_K * n_channels, width),
       ref_w = vf_load_n(state + AFT_REF_W * n_channels, width);
    vf a = vf_add(vf_sub(key, ref_k), vf_sub(bias, ref_w));
    vm moves = vf_lt(vf_set1(AFT_MOVE_ABOVE), a);
    vf factor = vf_select(moves, exp_vector(vf_sub(vf_zero(), a)), vf_set1(1.0f));
    for (int row = AFT_NUM; row < AFT_STATE_ROWS; row++)
        vf_store_n(state + row * n_channels, vf_mul(vf_load_n(state + row * n_channels, width), factor), width);
    vf_store_n(state + AFT_REF_K * n_channels, vf_select(moves, key, ref_k), width);
    vf_store_n(state + AFT_REF_W * n_channels, vf_select(moves, bias, ref_w), width);
}

HEED_INLINE void aft_channels(float *restrict state, const float *restrict k, int64_t k_stride, const float *restrict v,
                              int64_t v_stride, const float *restrict w, int n_keys, int64_t n_channels, int width,
                              const int scalar_keys)
{
    const vf low = vf_set1(-__builtin_inff());
    float *new_num = state + AFT_NEW_NUM * n_channels, *new_den = state + AFT_NEW_DEN * n_channels;
    vf ref_k = vf_load_n(state + AFT_REF_K * n_channels, width),
       ref_w = vf_load_n(state + AFT_REF_W * n_channels, width);
    vf num = vf_load_n(new_num, width), den = vf_load_n(new_den, width);
    for (int j = 0; j < n_keys; j++) {
        prefetch(k, j + n_keys, k_stride); /* what the next call is likely to take */
        prefetch(v, j + n_keys, v_stride);
        if (w[j] == -__builtin_inff())
            continue;
        vf key = scalar_keys ? vf_set1(k[j * k_stride]) : vf_load_n(k + j * k_stride, width), bias = vf_set1(w[j]);
        vf a = vf_add(vf_sub(key, ref_k), vf_sub(bias, ref_w));
        if (vm_any(vf_lt(vf_set1(AFT_MOVE_ABOVE), a))) {
            vf_store_n(new_num, num, width);
            vf_store_n(new_den, den, width);
            move_channels(state, n_channels, key, bias, width);
            num = vf_load_n(new_num, width);
            den = vf_load_n(new_den, width);
            ref_k = vf_load_n(state + AFT_REF_K * n_channels, width);
            ref_w = vf_load_n(state + AFT_REF_W * n_channels, width);
            a = vf_add(vf_sub(key, ref_k), vf_sub(bias, ref_w));
        }
        vm hidden = vf_eq(key, low);
        vf e = vf_select(hidden, vf_zero(), exp_weight(a));
        den = vf_add(den, e);
        num = vf_select(hidden, num, vf_fma(e, vf_load_n(v + j * v_stride, width), num));
    }
    vf_store_n(new_num, num, width);
    vf_store_n(new_den, den, width);
}

/* A few keys at a time: their rows are read from end to end, side by side, as the processor expects it. */
void HEED_FN(aft_keys)(float *restrict state, const float *restrict k, int64_t k_stride, const float *restrict v,
                       int64_t v_stride, const float *restrict w, int n_keys, int64_t n_channels, int scalar_keys)
{
    for (int j = 0; j < n_keys; j += KEYS_TOGETHER) {
        int n = n_keys - j < KEYS_TOGETHER ? n_keys - j : KEYS_TOGETHER;
        const float *keys = k + j * k_stride, *values = v + j * v_stride;
        for (int64_t c = 0; c < n_channels; c += VF_LANES) {
            int width = lanes_left(n_channels - c);
            if (scalar_keys)
                aft_channels(state + c, keys, k_stride, values + c, v_stride, w + j, n, n_channels, width, 1);
            else
                aft_channels(state + c, keys + c, k_stride, values + c, v_stride, w + j, n, n_channels, width, 0);
        }
    }
}

void HEED_FN(aft_fold)(float *state, int64_t n_channels)
{
    float *sums = state + AFT_NUM * n_channels, *added = state + AFT_NEW_NUM * n_channels;
    for (int64_t i = 0; i < 2 * n_channels; i += VF_LANES) {
        int width = lanes_left(2 * n_channels - i);
        vf_store_n(sums + i, vf_add(vf_load_n(sums + i, width), vf_load_n(added + i, width)), width);
        vf_store_n(added + i, vf_zero(), width);
    }
}

HEED_INLINE vf sum_of_rows(const float *state, int row, int row_of_new, int64_t n_channels, int width)
{
    return vf_add(vf_load_n(state + row * n_channels, width), vf_load_n(state + row_of_new * n_channels, width));
}

void HEED_FN(aft_join)(float *rows, int64_t stride, const float *restrict state, const float *other,
                       int64_t other_stride, int64_t n_channels)
{
    vf low = vf_set1(-__builtin_inff()), zero = vf_zero(), one = vf_set1(1.0f);
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        vf num = sum_of_rows(state + c, AFT_NUM, AFT_NEW_NUM, n_channels, width);
        vf den = sum_of_rows(state + c, AFT_DEN, AFT_NEW_DEN, n_channels, width);
        vf ref = sum_of_rows(state + c, AFT_REF_K, AFT_REF_W, n_channels, width);
        if (other) {
            vf key = vf_load_n(other + c, width), above = vf_sub(key, ref), e = exp_vector(vf_minus_abs(above));
            vm higher = vf_lt(zero, above);
            vf weight = vf_select(vf_eq(key, low), zero, vf_select(higher, one, e));
            num = vf_fma(weight, vf_load_n(other + other_stride + c, width), vf_mul(num, vf_select(higher, e, one)));
            den =
                vf_fma(weight, vf_load_n(other + 2 * other_stride + c, width), vf_mul(den, vf_select(higher, e, one)));
            ref = vf_select(higher, key, ref);
        }
        vf_store_n(rows + c, ref, width);
        vf_store_n(rows + stride + c, num, width);
        vf_store_n(rows + 2 * stride + c, den, width);
    }
}

void HEED_FN(aft_start)(float *restrict o, int64_t o_stride, int64_t panel_stride, const float *restrict rows,
                        const float *restrict ref, int n_rows, int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int64_t in_panel = c % AFT_PANEL, panel_width = panel_channels(n_channels - (c - in_panel));
        int width = lanes_left(n_channels - c);
        vf den = vf_load_n(rows + 2 * n_channels + c, width);
        vf factor = exp_vector(vf_sub(vf_load_n(rows + c, width), vf_load_n(ref + c, width)));
        factor = vf_select(vf_eq(den, vf_zero()), vf_zero(), factor);
        vf num = vf_mul(vf_load_n(rows + n_channels + c, width), factor);
        den = vf_mul(den, factor);
        for (int r = 0; r < n_rows; r++) {
            float *sums = o + c / AFT_PANEL * panel_stride + r * o_stride + in_panel;
            vf_store_n(sums, num, width);
            vf_store_n(sums + panel_width, den, width);
        }
    }
}

int HEED_FN(aft_refer)(float *restrict state, const float *restrict ref, int64_t n_channels)
{
    vf zero = vf_zero(), one = vf_set1(1.0f), apart = zero;
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        float *row = state + c;
        vf den = sum_of_rows(row, AFT_DEN, AFT_NEW_DEN, n_channels, width), wanted = vf_load_n(ref + c, width);
        vf own = sum_of_rows(row, AFT_REF_K, AFT_REF_W, n_channels, width);
        vf factor = exp_vector(vf_sub(own, wanted));
        vm same = vf_eq(own, wanted), finite = vf_lt(vf_abs(wanted), vf_set1(__builtin_inff()));
        vf lost = vf_select(vf_lt(vf_mul(den, factor), vf_set1(AFT_LARGE_SUM)), one, zero);
        vf stays = vf_select(same, zero, vf_select(finite, lost, one));
        vm goes = vf_eq(stays, zero);
        factor = vf_select(goes, vf_select(same, one, factor), one);
        apart = vf_add(apart, stays);
        for (int sum = AFT_NUM; sum < AFT_STATE_ROWS; sum++)
            vf_store_n(row + sum * n_channels, vf_mul(vf_load_n(row + sum * n_channels, width), factor), width);
        vf_store_n(row + AFT_REF_K * n_channels,
                   vf_select(goes, wanted, vf_load_n(row + AFT_REF_K * n_channels, width)), width);
        vf_store_n(row + AFT_REF_W * n_channels, vf_select(goes, zero, vf_load_n(row + AFT_REF_W * n_channels, width)),
                   width);
    }
    return !vm_any(vf_lt(zero, apart));
}

void HEED_FN(aft_gather)(float *restrict state, const float *restrict e, int64_t panel_stride, int n_keys,
                         int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int64_t in_panel = c % AFT_PANEL, panel_width = panel_channels(n_channels - (c - in_panel));
        int width = lanes_left(n_channels - c);
        const float *rows = e + c / AFT_PANEL * panel_stride + in_panel;
        float *new_num = state + AFT_NEW_NUM * n_channels + c, *new_den = state + AFT_NEW_DEN * n_channels + c;
        vf num = vf_load_n(new_num, width), den = vf_load_n(new_den, width);
        for (int j = 0; j < n_keys; j++) {
            num = vf_add(num, vf_load_n(rows + j * 2 * AFT_PANEL, width));
            den = vf_add(den, vf_load_n(rows + j * 2 * AFT_PANEL + panel_width, width));
        }
        vf_store_n(new_num, num, width);
        vf_store_n(new_den, den, width);
    }
}

HEED_INLINE vm stands_above(vf key, vf ref)
{
    vf infinite = vf_set1(__builtin_inff());
    return vf_lt(vf_set1(AFT_MOVE_ABOVE), vf_select(vf_lt(key, infinite), vf_sub(key, ref), vf_zero()));
}

void HEED_FN(aft_move)(float *restrict ref, float *restrict factor, const float *k, int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        vf key = vf_load_n(k + c, width), before = vf_load_n(ref + c, width);
        vm moves = stands_above(key, before);
        vf_store_n(factor + c, vf_select(moves, exp_vector(vf_sub(before, key)), vf_set1(1.0f)), width);
        vf_store_n(ref + c, vf_select(moves, key, before), width);
    }
}

HEED_INLINE int key_moves(const float *ref, const float *k, int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        if (vm_any(stands_above(vf_load_n(k + c, width), vf_load_n(ref + c, width))))
            return 1;
    }
    return 0;
}

int HEED_FN(aft_weigh)(float *restrict e, int64_t panel_stride, const float *ref, const float *k, int64_t k_stride,
                       const float *v, int64_t v_stride, int n_keys, int64_t n_channels, int *n_clean)
{
    const vf low = vf_set1(-__builtin_inff()), zero = vf_zero(), limit = vf_set1(AFT_MOVE_ABOVE);
    int clean = n_keys, j = 0;
    for (; j < n_keys; j++) {
        vf highest = zero, unclean = zero;
        for (int64_t c = 0; c < n_channels; c += VF_LANES) {
            int64_t in_panel = c % AFT_PANEL, panel_width = panel_channels(n_channels - (c - in_panel));
            int width = lanes_left(n_channels - c);
            float *row = e + c / AFT_PANEL * panel_stride + j * 2 * AFT_PANEL + in_panel;
            prefetch(k + c, j + WEIGH_AHEAD, k_stride);
            prefetch(v + c, j + WEIGH_AHEAD, v_stride);
            vf key = vf_load_n(k + j * k_stride + c, width), above = vf_sub(key, vf_load_n(ref + c, width));
            highest = vf_max(above, highest);
            vm hidden = vf_eq(key, low);
            vf weight = vf_select(hidden, zero, exp_weight(above));
            vf product = vf_mul(weight, vf_select(hidden, zero, vf_load_n(v + j * v_stride + c, width)));
            vf finite = vf_fma(product, zero, vf_mul(weight, zero)); /* 0, or NaN */
            vm clear = vf_eq(finite, zero);
            unclean = vf_add(unclean, finite);
            vf_store_n(row, vf_select(clear, product, zero), width);
            vf_store_n(row + panel_width, vf_select(clear, weight, zero), width);
        }
        if (vm_any(vf_lt(limit, highest)) && key_moves(ref, k + j * k_stride, n_channels))
            break;
        if (clean == n_keys && vm_any(vf_unordered(unclean, unclean)))
            clean = j;
    }
    *n_clean = clean < j ? clean : j;
    return j;
}

HEED_INLINE void store_gated(float *out, const float *q, vf x, int width)
{
    vf_store_n(out, q ? vf_mul(sigmoid(vf_load_n(q, width)), x) : x, width);
}

void HEED_FN(gate_array)(float *out, const float *q, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + EXP_VECTORS * VF_LANES <= n; i += EXP_VECTORS * VF_LANES) {
        vf gate[EXP_VECTORS];
        load_each(gate, q + i);
        sigmoid_each(gate, EXP_VECTORS);
        HEED_UNROLL
        for (int v = 0; v < EXP_VECTORS; v++)
            vf_store(out + i + v * VF_LANES, vf_mul(gate[v], vf_load(x + i + v * VF_LANES)));
    }
    for (; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        store_gated(out + i, q + i, vf_load_n(x + i, width), width);
    }
}

void HEED_FN(stream_gate)(float *restrict out, const float *restrict q, const float *restrict x, int64_t n)
{
    int64_t i = 0;
    for (; vf_can_stream(out) && i + VF_LANES <= n; i += VF_LANES) {
        vf y = vf_load(x + i);
        vf_stream(out + i, q ? vf_mul(sigmoid(vf_load(q + i)), y) : y);
    }
    for (; i < n; i += VF_LANES) {
        int width = lanes_left(n - i);
        store_gated(out + i, q ? q + i : q, vf_load_n(x + i, width), width);
    }
}

void HEED_FN(stream_fence)(void) { vf_stream_fence(); }

void HEED_FN(aft_row)(float *restrict out, const float *restrict q, const float *restrict state, int64_t n_channels)
{
    vf zero = vf_zero();
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        const float *row = state + c;
        vf num = vf_add(vf_load_n(row + AFT_NUM * n_channels, width), vf_load_n(row + AFT_NEW_NUM * n_channels, width));
        vf den = vf_add(vf_load_n(row + AFT_DEN * n_channels, width), vf_load_n(row + AFT_NEW_DEN * n_channels, width));
        vm none = vf_eq(den, zero);
        den = vf_select(none, vf_set1(1.0f), den);
        vf ratio = vf_divide(num, den, vf_reciprocal(den));
        if (q)
            ratio = vf_mul(sigmoid(vf_load_n(q + c, width)), ratio);
        vf_store_n(out + c, vf_select(none, zero, ratio), width);
    }
}

int HEED_FN(aft_ratio)(float *restrict out, const float *restrict q, const float *restrict sums, int64_t panel_stride,
                       int64_t n_channels, int64_t ahead)
{
    float ones[VF_LANES];
    vf one = vf_set1(1.0f), smallest = vf_set1(AFT_SMALLEST_PROOF), doubt = vf_zero();
    vf_store(ones, one);
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int64_t in_panel = c % AFT_PANEL, panel_width = panel_channels(n_channels - (c - in_panel));
        int width = lanes_left(n_channels - c);
        const float *num = sums + c / AFT_PANEL * panel_stride + in_panel;
        prefetch(out + c, 1, ahead);
        prefetch(q ? q + c : out + c, 1, ahead);
        /* 1 where there is no channel */
        vf below = vf_add(vf_load_n(num + panel_width, width), vf_sub(one, vf_load_n(ones, width)));
        vf ratio = vf_divide(vf_load_n(num, width), below, vf_reciprocal(below));
        store_gated(out + c, q ? q + c : q, ratio, width);
        doubt = vf_add(doubt, vf_select(vf_lt(below, smallest), one, vf_sub(ratio, ratio)));
    }
    return vm_any(vf_lt(vf_zero(), doubt)) || vm_any(vf_unordered(doubt, doubt));
}

void HEED_FN(tap_rows)(float *restrict p, float *restrict den, int64_t den_stride, const float *restrict taps,
                       const float *restrict e, int n_keys, int n_rows)
{
    for (int t = 0; t < n_rows; t += VF_LANES) {
        int width = lanes_left(n_rows - t);
        float sums[VF_LANES];
        vf sum = vf_zero();
        for (int64_t j = 0; j < n_keys; j++) {
            vf weight = vf_mul(vf_load_n(taps + j * n_rows + t, width), vf_set1(e[j]));
            vf_store_n(p + j * n_rows + t, weight, width);
            sum = vf_add(sum, weight);
        }
        vf_store(sums, sum);
        for (int i = 0; i < width; i++)
            den[(t + i) * den_stride] += sums[i];
    }
}

HEED_INLINE int gate_row(float *restrict out, const float *restrict q, const float *restrict num, float den,
                         int64_t out_ahead, int64_t q_ahead, int64_t n_channels, const int has_gate)
{
    vf below = vf_set1(den), inverse = vf_reciprocal(below), doubt = vf_zero();
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        prefetch(out + c, 1, out_ahead);
        vf ratio = vf_divide(vf_load_n(num + c, width), below, inverse);
        doubt = vf_add(doubt, vf_sub(ratio, ratio));
        if (has_gate) {
            prefetch(q + c, 1, q_ahead);
            ratio = vf_mul(sigmoid(vf_load_n(q + c, width)), ratio);
        }
        vf_store_n(out + c, ratio, width);
    }
    return !(den >= AFT_SMALLEST_PROOF) || vm_any(vf_unordered(doubt, doubt));
}

unsigned HEED_FN(ratio_rows)(float *restrict out, int64_t out_stride, const float *restrict q, int64_t q_stride,
                             const float *restrict sums, int64_t stride, int n_rows, int64_t n_channels)
{
    unsigned doubtful = 0;
    for (int r = 0; r < n_rows; r++) {
        float *row = out + r * out_stride;
        const float *num = sums + r * stride;
        int64_t out_ahead = n_rows * out_stride, q_ahead = n_rows * q_stride;
        int doubt = q ? gate_row(row, q + r * q_stride, num, num[n_channels], out_ahead, q_ahead, n_channels, 1)
                      : gate_row(row, q, num, num[n_channels], out_ahead, q_ahead, n_channels, 0);
        doubtful |= (unsigned)doubt << r;
    }
    return doubtful;
}
