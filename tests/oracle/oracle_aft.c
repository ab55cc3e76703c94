/* o_id = gate(q_id) sum_j exp(k_jd + w_ij) v_jd / sum_j exp(k_jd + w_ij) over the visible keys j of query i ("An
 * Attention Free Transformer", equation 2; with the w of equations 4 to 7). */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

static double matrix_bias(const heed_aft_options *options, int64_t b, int64_t h, int64_t i, int64_t j)
{
    double w = options->w ? oracle_broadcast_value(options->w, b, h, i, j) : 0.0;
    for (int64_t c = 0; options->query_factors && c < options->query_factors->shape[3]; c++)
        w += oracle_broadcast_value(options->query_factors, b, h, i, c) *
             oracle_broadcast_value(options->key_factors, b, h, j, c);
    return w;
}

/* The value of a filter at a distance from the middle (causal: from the last tap) along both dimensions, or 0. */
static double tap(const heed_tensor *filter, int64_t h, int64_t rows, int64_t columns, int causal)
{
    const int64_t r = rows + (filter->shape[2] - 1) / 2;
    const int64_t c = columns + (causal ? filter->shape[3] - 1 : (filter->shape[3] - 1) / 2);
    if (r < 0 || r >= filter->shape[2] || c < 0 || c >= filter->shape[3])
        return 0.0;
    return oracle_broadcast_value(filter, 0, h, r, c);
}

double oracle_aft_bias(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *filter,
                       const heed_aft_options *options, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const int64_t distance = oracle_distance(options->mask, b, i, j, q->shape[2], k->shape[2]);
    const int causal = options->mask && options->mask->causal;
    const int64_t width = options->grid_width;
    switch (form) {
    case ORACLE_AFT_FULL:
        return matrix_bias(options, b, h, i, j);
    case ORACLE_AFT_LOCAL:
        if (llabs((long long)distance) >= options->window)
            return options->nothing_outside ? -INFINITY : 0.0;
        return options->banded ? oracle_broadcast_value(options->w, b, h, i, distance + options->window - 1)
                               : matrix_bias(options, b, h, i, j);
    case ORACLE_AFT_CONV:
        return width > 0 ? tap(filter, h, j / width - i / width, j % width - i % width, 0)
                         : tap(filter, h, 0, distance, causal);
    case ORACLE_AFT_SIMPLE:
    default:
        return 0.0;
    }
}

enum { MAX_CHANNELS = 512 };

typedef struct aft_row {
    oracle_aft_form form;
    const heed_tensor *q, *k, *v, *filter;
    const heed_aft_options *options;
    int64_t b, h, i;
} aft_row;

/* Channels [first, end) of a row, MAX_CHANNELS at most: w is the same for all of them. */
static void find_channels(const aft_row *row, int64_t first, int64_t end, double *out, double *lse)
{
    const heed_aft_options *o = row->options;
    const int64_t b = row->b, h = row->h, i = row->i, n_queries = row->q->shape[2], n_keys = row->k->shape[2];
    const int has_one_key = row->form == ORACLE_AFT_CONV; /* for all channels */
    double m[MAX_CHANNELS], num[MAX_CHANNELS] = {0}, den[MAX_CHANNELS] = {0};
    for (int64_t d = first; d < end; d++)
        m[d - first] = -INFINITY; /* a NaN is passed over in m and shows in the sums */
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t j = 0; j < n_keys; j++) {
            if (!oracle_visible(o->mask, b, h, i, j, n_queries, n_keys))
                continue;
            const double w = oracle_aft_bias(row->form, row->q, row->k, row->filter, o, b, h, i, j);
            for (int64_t d = first; d < end; d++) {
                const double key = oracle_value(row->k, b, h, j, has_one_key ? 0 : d);
                const double a = key == -INFINITY || w == -INFINITY ? -INFINITY : key + w;
                if (a == -INFINITY)
                    continue; /* hidden: its value is not looked at, whatever it holds */
                if (pass == 0) {
                    m[d - first] = a > m[d - first] ? a : m[d - first];
                    continue;
                }
                const double e = isnan(a) ? NAN : exp(a - m[d - first]);
                den[d - first] += e;
                num[d - first] += e * oracle_value(row->v, b, h, j, d);
            }
        }
    }
    for (int64_t d = first; d < end; d++) {
        const double gate = o->gate == HEED_GATE_SIGMOID ? 1.0 / (1.0 + exp(-oracle_value(row->q, b, h, i, d))) : 1.0;
        const double sum = den[d - first];
        if (out)
            out[d] = sum == 0.0 ? 0.0 : gate * (num[d - first] / sum);
        if (lse && (d == 0 || !has_one_key))
            lse[d] = sum == 0.0 ? -INFINITY : m[d - first] + log(sum);
    }
}

void oracle_aft_row(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                    const heed_tensor *filter, const heed_aft_options *options, int64_t b, int64_t h, int64_t i,
                    double *out, double *lse)
{
    static const heed_aft_options defaults = HEED_AFT_OPTIONS_INIT;
    const aft_row row = {form, q, k, v, filter, options ? options : &defaults, b, h, i};
    for (int64_t first = 0; first < q->shape[3]; first += MAX_CHANNELS)
        find_channels(&row, first, first + MAX_CHANNELS < q->shape[3] ? first + MAX_CHANNELS : q->shape[3], out, lse);
}

void oracle_aft(oracle_aft_form form, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                const heed_tensor *filter, const heed_aft_options *options, double *out, double *lse)
{
    const int64_t n_heads = q->shape[1], n_queries = q->shape[2];
    for (int64_t row = 0; row < q->shape[0] * n_heads * n_queries; row++) {
        const int64_t i = row % n_queries, h = row / n_queries % n_heads, b = row / n_queries / n_heads;
        oracle_aft_row(form, q, k, v, filter, options, b, h, i, out ? out + row * q->shape[3] : NULL,
                       lse ? lse + row * k->shape[3] : NULL);
    }
}
