/* scores_rows, values_rows, values_careful_rows, output_rows: the products for a few query rows (decoding), where a
 * tile would leave most of its lanes empty. The lanes are channels here. K and V stream through once, each row read to
 * its end before the next, since that is what memory delivers fastest, and keys ahead are asked for, without which a
 * cache in L3 or memory is followed at 0.7 to 0.9 of the pace. Queries and outputs are plain rows that stay in L1.
 * Scores and weights keep the tile layout, lane r for row r, so that all between the products is the same code. */
#include "kernels/kernel.h"

enum {
    SCORES_ROWS = 4,   /* rows that share one pass over K */
    SCORES_CHUNK = 16, /* vectors of channels in a chunk */
    SCORES_LEVELS = 6, /* 2^6 chunks at most */
    VALUES_ROWS = 2,   /* rows that share one pass over V: VALUES_ROWS x ROW_VECTORS accumulators */
    GROUP_KEYS = 16    /* keys that all rows go over before the next ones: their K or V stays in L1 */
};

/* sum[r] = the lanes of sum_c q[r][c] key[c] over the channels of one chunk, in two running sums. */
HEED_INLINE void scores_chunk(vf sum[SCORES_ROWS], const float *restrict q, int64_t q_stride, const float *restrict key,
                              int64_t n_channels, const int n_rows)
{
    vf odd[SCORES_ROWS];
    HEED_UNROLL
    for (int r = 0; r < n_rows; r++)
        sum[r] = odd[r] = vf_zero();
    int64_t c = 0;
    for (; c + 2 * VF_LANES <= n_channels; c += 2 * VF_LANES) {
        vf first = vf_keep(vf_load(key + c)), second = vf_keep(vf_load(key + c + VF_LANES));
        HEED_UNROLL
        for (int r = 0; r < n_rows; r++) {
            sum[r] = vf_fma(first, vf_load(q + r * q_stride + c), sum[r]);
            odd[r] = vf_fma(second, vf_load(q + r * q_stride + c + VF_LANES), odd[r]);
        }
    }
    for (; c < n_channels; c += VF_LANES) {
        int width = lanes_left(n_channels - c);
        vf rest = vf_load_n(key + c, width);
        HEED_UNROLL
        for (int r = 0; r < n_rows; r++)
            sum[r] = vf_fma(rest, vf_load_n(q + r * q_stride + c, width), sum[r]);
    }
    HEED_UNROLL
    for (int r = 0; r < n_rows; r++)
        sum[r] = vf_add(sum[r], odd[r]);
}

HEED_INLINE void add_rows(vf sum[SCORES_ROWS], const vf other[SCORES_ROWS], const int n_rows)
{
    HEED_UNROLL
    for (int r = 0; r < n_rows; r++)
        sum[r] = vf_add(sum[r], other[r]);
}

/* Of a key with many channels. Chunks are added pairwise, for the reason that scores.c tells: chunk t joins the sums of
 * 1, 2, 4 ... chunks before it that the trailing ones of t stand for, as in a binary counter. */
HEED_INLINE void scores_chunks(vf sum[SCORES_ROWS], const float *restrict q, int64_t q_stride,
                               const float *restrict key, int64_t n_channels, const int n_rows)
{
    vf levels[SCORES_LEVELS][SCORES_ROWS];
    int64_t chunk_channels = SCORES_CHUNK * VF_LANES, chunk = 0, c = 0;
    while (chunk_channels << SCORES_LEVELS < n_channels)
        chunk_channels *= 2;
    for (; c + chunk_channels < n_channels; c += chunk_channels, chunk++) {
        int level = 0;
        scores_chunk(sum, q + c, q_stride, key + c, chunk_channels, n_rows);
        for (; chunk >> level & 1; level++)
            add_rows(sum, levels[level], n_rows);
        HEED_UNROLL
        for (int r = 0; r < n_rows; r++)
            levels[level][r] = sum[r];
    }
    scores_chunk(sum, q + c, q_stride, key + c, n_channels - c, n_rows);
    for (int level = 0; chunk >> level; level++) {
        if (chunk >> level & 1)
            add_rows(sum, levels[level], n_rows);
    }
}

HEED_INLINE void scores_block(float *restrict s, const float *restrict q, int64_t q_stride, const float *restrict k,
                              int64_t k_stride, int n_keys, int64_t n_channels, const int n_rows, const int in_chunks)
{
    vf sum[SCORES_ROWS];
    for (int j = 0; j < n_keys; j++) {
        for (int64_t c = 0; c < n_channels; c += LINE_FLOATS)
            prefetch(k + c, KEYS_AHEAD + j, k_stride);
        if (in_chunks)
            scores_chunks(sum, q, q_stride, k + j * k_stride, n_channels, n_rows);
        else
            scores_chunk(sum, q, q_stride, k + j * k_stride, n_channels, n_rows);
        HEED_UNROLL
        for (int r = 0; r < n_rows; r++)
            s[j * TILE_LANES + r] = vf_sum(sum[r]);
    }
}

#define SCORES_ROWS_INSTANCE(name, n_rows, in_chunks)                                                                  \
    static HEED_NOINLINE void name(float *restrict s, const float *restrict q, int64_t q_stride,                       \
                                   const float *restrict k, int64_t k_stride, int n_keys, int64_t n_channels)          \
    {                                                                                                                  \
        scores_block(s, q, q_stride, k, k_stride, n_keys, n_channels, n_rows, in_chunks);                              \
    }

SCORES_ROWS_INSTANCE(scores_rows_micro_1, 1, 0)
SCORES_ROWS_INSTANCE(scores_rows_micro_2, 2, 0)
SCORES_ROWS_INSTANCE(scores_rows_micro_3, 3, 0)
SCORES_ROWS_INSTANCE(scores_rows_micro_4, 4, 0)
SCORES_ROWS_INSTANCE(scores_rows_chunks_1, 1, 1)
SCORES_ROWS_INSTANCE(scores_rows_chunks_2, 2, 1)
SCORES_ROWS_INSTANCE(scores_rows_chunks_3, 3, 1)
SCORES_ROWS_INSTANCE(scores_rows_chunks_4, 4, 1)

typedef void scores_rows_micro(float *restrict s, const float *restrict q, int64_t q_stride, const float *restrict k,
                               int64_t k_stride, int n_keys, int64_t n_channels);

static scores_rows_micro *const scores_rows_micros[2][SCORES_ROWS] = {
    {scores_rows_micro_1, scores_rows_micro_2, scores_rows_micro_3, scores_rows_micro_4},
    {scores_rows_chunks_1, scores_rows_chunks_2, scores_rows_chunks_3, scores_rows_chunks_4},
};

void HEED_FN(scores_rows)(float *restrict s, const float *restrict q, int64_t q_stride, const float *restrict k,
                          int64_t k_stride, int n_keys, int64_t n_channels, int n_rows)
{
    int step = n_rows <= SCORES_ROWS ? n_keys : GROUP_KEYS, in_chunks = n_channels > SCORES_CHUNK * VF_LANES;
    for (int j = 0; j < n_keys; j += step) {
        int keys = n_keys - j < step ? n_keys - j : step;
        for (int r = 0; r < n_rows; r += SCORES_ROWS) {
            int rows = n_rows - r < SCORES_ROWS ? n_rows - r : SCORES_ROWS;
            scores_rows_micros[in_chunks][rows - 1](s + j * TILE_LANES + r, q + r * q_stride, q_stride,
                                                    k + j * k_stride, k_stride, keys, n_channels);
        }
    }
}

/* sums[r][c] += sum_j p[j][r] v[j][c] for n_vectors whole vectors of channels, or for `width` channels of one. */
HEED_INLINE void values_block(float *restrict sums, int64_t stride, const float *restrict p, const float *restrict v,
                              int64_t v_stride, int n_keys, int width, const int n_rows, const int n_vectors,
                              const int careful)
{
    vf sum[VALUES_ROWS][ROW_VECTORS];
    HEED_UNROLL
    for (int r = 0; r < n_rows; r++) {
        HEED_UNROLL
        for (int i = 0; i < n_vectors; i++) {
            const float *row = sums + r * stride + i * VF_LANES;
            sum[r][i] = n_vectors == 1 ? vf_load_n(row, width) : vf_load(row);
        }
    }
    for (int j = 0; j < n_keys; j++) {
        vf value[ROW_VECTORS];
        HEED_UNROLL
        for (int c = 0; c < n_vectors * VF_LANES; c += LINE_FLOATS)
            prefetch(v + c, KEYS_AHEAD + j, v_stride);
        HEED_UNROLL
        for (int i = 0; i < n_vectors; i++) {
            const float *row = v + j * v_stride + i * VF_LANES;
            value[i] = vf_keep(n_vectors == 1 ? vf_load_n(row, width) : vf_load(row));
        }
        HEED_UNROLL
        for (int r = 0; r < n_rows; r++) {
            float weight = p[j * TILE_LANES + r];
            if (careful && weight < 0.0f)
                continue;
            HEED_UNROLL
            for (int i = 0; i < n_vectors; i++)
                sum[r][i] = vf_fma(vf_set1(weight), value[i], sum[r][i]);
        }
    }
    HEED_UNROLL
    for (int r = 0; r < n_rows; r++) {
        HEED_UNROLL
        for (int i = 0; i < n_vectors; i++) {
            float *row = sums + r * stride + i * VF_LANES;
            if (n_vectors == 1)
                vf_store_n(row, sum[r][i], width);
            else
                vf_store(row, sum[r][i]);
        }
    }
}

#define VALUES_ROWS_MICRO(suffix, n_rows, n_vectors, careful)                                                          \
    static HEED_NOINLINE void values_rows_micro_##suffix(float *restrict sums, int64_t stride,                         \
                                                         const float *restrict p, const float *restrict v,             \
                                                         int64_t v_stride, int n_keys, int width)                      \
    {                                                                                                                  \
        values_block(sums, stride, p, v, v_stride, n_keys, width, n_rows, n_vectors, careful);                         \
    }

VALUES_ROWS_MICRO(whole_1, 1, ROW_VECTORS, 0)
VALUES_ROWS_MICRO(whole_2, 2, ROW_VECTORS, 0)
VALUES_ROWS_MICRO(single_1, 1, 1, 0)
VALUES_ROWS_MICRO(single_2, 2, 1, 0)
VALUES_ROWS_MICRO(careful, 1, 1, 1)

typedef void values_rows_micro(float *restrict sums, int64_t stride, const float *restrict p, const float *restrict v,
                               int64_t v_stride, int n_keys, int width);

/* One group of keys: all channels of all rows. */
HEED_INLINE void values_of_keys(float *restrict sums, const float *restrict p, const float *restrict v,
                                int64_t v_stride, int n_keys, int64_t n_channels, int n_rows)
{
    static values_rows_micro *const whole[VALUES_ROWS] = {values_rows_micro_whole_1, values_rows_micro_whole_2};
    static values_rows_micro *const single[VALUES_ROWS] = {values_rows_micro_single_1, values_rows_micro_single_2};
    for (int r = 0; r < n_rows; r += VALUES_ROWS) {
        int rows = n_rows - r < VALUES_ROWS ? n_rows - r : VALUES_ROWS;
        int64_t c = 0;
        for (; c + ROW_VECTORS * VF_LANES <= n_channels; c += ROW_VECTORS * VF_LANES)
            whole[rows - 1](sums + r * n_channels + c, n_channels, p + r, v + c, v_stride, n_keys, VF_LANES);
        for (; c < n_channels; c += VF_LANES)
            single[rows - 1](sums + r * n_channels + c, n_channels, p + r, v + c, v_stride, n_keys,
                             lanes_left(n_channels - c));
    }
}

HEED_INLINE void clear_sums(float *restrict sums, int64_t n)
{
    for (int64_t i = 0; i < n; i += VF_LANES)
        vf_store_n(sums + i, vf_zero(), lanes_left(n - i));
}

HEED_INLINE void join_sums(float *restrict o, const float *restrict sums, const float *restrict rescale,
                           int64_t n_channels, int n_rows)
{
    for (int r = 0; r < n_rows; r++) {
        for (int64_t c = 0; c < n_channels; c += VF_LANES) {
            int width = lanes_left(n_channels - c);
            float *row = o + r * n_channels + c;
            vf sum = vf_load_n(sums + r * n_channels + c, width);
            vf_store_n(row, vf_fma(vf_load_n(row, width), vf_set1(rescale[r]), sum), width);
        }
    }
}

void HEED_FN(values_rows)(float *restrict o, float *restrict sums, const float *restrict p, const float *restrict v,
                          int64_t v_stride, const float *restrict rescale, int n_keys, int64_t n_channels, int n_rows)
{
    clear_sums(sums, n_rows * n_channels);
    int step = n_rows <= VALUES_ROWS && n_channels <= ROW_VECTORS * VF_LANES ? n_keys : GROUP_KEYS;
    for (int j = 0; j < n_keys; j += step) {
        int keys = n_keys - j < step ? n_keys - j : step;
        values_of_keys(sums, p + j * TILE_LANES, v + j * v_stride, v_stride, keys, n_channels, n_rows);
    }
    join_sums(o, sums, rescale, n_channels, n_rows);
}

void HEED_FN(values_careful_rows)(float *restrict o, float *restrict sums, const float *restrict p,
                                  const float *restrict v, int64_t v_stride, const float *restrict rescale, int n_keys,
                                  int64_t n_channels, int n_rows)
{
    clear_sums(sums, n_rows * n_channels);
    for (int r = 0; r < n_rows; r++) {
        for (int64_t c = 0; c < n_channels; c += VF_LANES)
            values_rows_micro_careful(sums + r * n_channels + c, n_channels, p + r, v + c, v_stride, n_keys,
                                      lanes_left(n_channels - c));
    }
    join_sums(o, sums, rescale, n_channels, n_rows);
}

int HEED_FN(output_rows)(float *const *rows, const float *restrict o, const float *restrict l, int n_rows,
                         int64_t n_channels)
{
    int nan = 0;
    for (int r = 0; r < n_rows; r++) {
        vf total = vf_set1(l[r]);
        vm empty = vf_eq(total, vf_zero());
        for (int64_t c = 0; c < n_channels; c += VF_LANES) {
            int width = lanes_left(n_channels - c);
            vf y = vf_select(empty, vf_zero(), vf_div(vf_load_n(o + r * n_channels + c, width), total));
            vf_store_n(rows[r] + c, y, width);
            nan |= vm_any(vf_unordered(y, y));
        }
    }
    return nan;
}
