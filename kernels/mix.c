/* mix_rows: rows of weights times rows of values, O = O rescale + P E, with channels in the lanes: what one row of
 * weights mixes is one row of output, and nothing is ever transposed. MIX_ROWS x MIX_VECTORS accumulators fill the
 * registers; each vector of E is loaded once for all rows, each weight once for all vectors. ask_rows, scale_rows. */
#include "kernels/kernel.h"

HEED_INLINE vf load_lanes(const float *x, const int n_vectors, int width)
{
    return n_vectors > 1 ? vf_load(x) : vf_load_n(x, width);
}

/* n_rows, n_vectors and asks are literals at every call, or the accumulators would live in memory; a vector alone has
 * `width` lanes. Each block is summed from zero before it joins O, as in values_tile. Rows ahead are asked for a line of
 * each at a time: at each key the addresses would take up the ports of the products, and more lines than can be under way
 * at once would hold up everything behind them. */
HEED_INLINE void mix_block(float *restrict o, int64_t o_stride, const float *restrict rescale, const float *restrict p,
                           int64_t p_stride, int64_t p_step, const float *restrict e, int64_t e_stride, int n_keys,
                           const heed_ahead *ahead, int first, const int n_rows, const int n_vectors, int width,
                           const int asks)
{
    vf sum[MIX_ROWS][MIX_VECTORS];
    HEED_UNROLL
    for (int t = 0; t < n_rows; t++) {
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++)
            sum[t][v] = vf_zero();
    }
    for (int left = n_keys; left > 0;) {
        int together = asks && left > LINE_FLOATS ? LINE_FLOATS : left;
        if (asks) {
            HEED_UNROLL
            for (int t = 0; t < n_rows; t++) {
                prefetch(ahead->own + (n_keys - left), ahead->first + first + t, ahead->own_stride);
                prefetch(ahead->next + (n_keys - left), first + t, ahead->next_stride);
            }
        }
        left -= together;
        for (; together > 0; together--) {
            vf lanes[MIX_VECTORS];
            HEED_UNROLL
            for (int v = 0; v < n_vectors; v++)
                lanes[v] = vf_keep(load_lanes(e + v * VF_LANES, n_vectors, width));
            HEED_UNROLL
            for (int t = 0; t < n_rows; t++) {
                vf weight = vf_keep(vf_set1(p[t * p_stride]));
                HEED_UNROLL
                for (int v = 0; v < n_vectors; v++)
                    sum[t][v] = vf_fma(weight, lanes[v], sum[t][v]);
            }
            p += p_step;
            e += e_stride;
        }
    }
    HEED_UNROLL
    for (int t = 0; t < n_rows; t++) {
        vf factor = vf_set1(rescale ? rescale[t] : 0.0f);
        HEED_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            float *row = o + t * o_stride + v * VF_LANES;
            vf joined = rescale ? vf_fma(load_lanes(row, n_vectors, width), factor, sum[t][v]) : sum[t][v];
            if (n_vectors > 1)
                vf_store(row, joined);
            else
                vf_store_n(row, joined, width);
        }
    }
}

/* Function by function: with others beside it a block would not keep its registers. */
#define MIX_MICRO(suffix, n_rows, n_vectors, asks)                                                                     \
    static HEED_NOINLINE void mix_micro_##suffix(float *restrict o, int64_t o_stride, const float *restrict rescale,   \
                                                 const float *restrict p, int64_t p_stride, int64_t p_step,            \
                                                 const float *restrict e, int64_t e_stride, int n_keys, int width,     \
                                                 const heed_ahead *ahead, int first)                                   \
    {                                                                                                                  \
        mix_block(o, o_stride, rescale, p, p_stride, p_step, e, e_stride, n_keys, ahead, first, n_rows, n_vectors,     \
                  width, asks);                                                                                        \
    }

typedef void mix_micro(float *restrict o, int64_t o_stride, const float *restrict rescale, const float *restrict p,
                       int64_t p_stride, int64_t p_step, const float *restrict e, int64_t e_stride, int n_keys,
                       int width, const heed_ahead *ahead, int first);

MIX_MICRO(whole, MIX_ROWS, MIX_VECTORS, 0)
MIX_MICRO(whole_vector, MIX_ROWS, 1, 0)
MIX_MICRO(half, MIX_ROWS / 2, MIX_VECTORS, 0)
MIX_MICRO(half_vector, MIX_ROWS / 2, 1, 0)
MIX_MICRO(single, 1, MIX_VECTORS, 0)
MIX_MICRO(single_vector, 1, 1, 0)
MIX_MICRO(asking, MIX_ROWS, MIX_VECTORS, 1)

void HEED_FN(mix_rows)(float *restrict o, int64_t o_stride, const float *restrict rescale, const float *restrict p,
                       int64_t p_stride, int64_t p_step, const float *restrict e, int64_t e_stride, int n_keys,
                       int n_rows, int64_t n_channels, const heed_ahead *ahead)
{
    static const int rows[3] = {MIX_ROWS, MIX_ROWS / 2, 1};
    static mix_micro *const micros[3] = {mix_micro_whole, mix_micro_half, mix_micro_single};
    static mix_micro *const vector_micros[3] = {mix_micro_whole_vector, mix_micro_half_vector, mix_micro_single_vector};
    const int64_t whole = MIX_VECTORS * VF_LANES;
    int t = 0;
    for (int size = 0; size < 3; size++) {
        for (; t + rows[size] <= n_rows; t += rows[size]) {
            float *row = o + t * o_stride;
            const float *weights = p + t * p_stride;
            int64_t c = 0;
            const float *factors = rescale ? rescale + t : rescale;
            for (; c + whole <= n_channels; c += whole) {
                mix_micro *micro = ahead && size == 0 && c == 0 ? mix_micro_asking : micros[size];
                micro(row + c, o_stride, factors, weights, p_stride, p_step, e + c, e_stride, n_keys, VF_LANES, ahead,
                      t);
            }
            for (; c < n_channels; c += VF_LANES)
                vector_micros[size](row + c, o_stride, factors, weights, p_stride, p_step, e + c, e_stride, n_keys,
                                    lanes_left(n_channels - c), ahead, t);
        }
    }
}

void HEED_FN(ask_rows)(const float *x, int64_t x_stride, int n_rows, int64_t n_channels)
{
    for (int t = 0; t < n_rows; t++) {
        for (int64_t c = 0; c < n_channels; c += LINE_FLOATS)
            prefetch(x + c, t, x_stride);
    }
}

void HEED_FN(scale_rows)(float *restrict o, int64_t o_stride, const float *restrict factor, int n_rows,
                         int64_t n_channels)
{
    for (int64_t c = 0; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        vf scale = vf_load_n(factor + c, width);
        for (int t = 0; t < n_rows; t++) {
            float *row = o + t * o_stride + c;
            vf_store_n(row, vf_mul(vf_load_n(row, width), scale), width);
        }
    }
}
