/* o_i = sum_j softmax_j(s_ij) v_j over the visible keys j of query i ("Attention Is All You Need", equation 1). */
#include "oracle.h"

#include <math.h>

static double default_scale(const heed_softmax_options *options, const heed_tensor *q)
{
    return options && options->scale != 0.0f ? (double)options->scale : 1.0 / sqrt((double)q->shape[3]);
}

double oracle_softmax_score(const heed_tensor *q, const heed_tensor *k, const heed_softmax_options *options, int64_t b,
                            int64_t h, int64_t i, int64_t j)
{
    const int64_t kv_head = h / (q->shape[1] / k->shape[1]);
    double s = 0.0;
    for (int64_t c = 0; c < q->shape[3]; c++)
        s += oracle_value(q, b, h, i, c) * oracle_value(k, b, kv_head, j, c);
    s *= default_scale(options, q);
    if (!options)
        return s;
    if (options->softcap > 0.0f)
        s = (double)options->softcap * tanh(s / (double)options->softcap);
    if (options->bias)
        s += oracle_broadcast_value(options->bias, b, h, i, j);
    if (options->alibi_slopes) {
        /* -|p| is p for every visible pair of a causal mask, so one form serves both. */
        const int64_t p = oracle_distance(options->mask, b, i, j, q->shape[2], k->shape[2]);
        s -= (double)options->alibi_slopes[h] * fabs((double)p);
    }
    return s;
}

void oracle_softmax_row(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                        const heed_softmax_options *options, int64_t b, int64_t h, int64_t i, double *out, double *lse)
{
    const heed_mask *mask = options ? options->mask : NULL;
    const int64_t n_queries = q->shape[2];
    const int64_t n_keys = k->shape[2];
    const int64_t n_channels = v->shape[3];
    const int64_t kv_head = k->shape[1] > 0 ? h / (q->shape[1] / k->shape[1]) : 0;
    const int padded = i >= oracle_query_length(mask, b, n_queries);

    double m = -INFINITY; /* the largest score; a NaN is passed over here and shows in the sums */
    int n_seen = 0;
    for (int64_t j = 0; j < n_keys; j++) {
        if (!oracle_visible(mask, b, h, i, j, n_queries, n_keys))
            continue;
        const double s = oracle_softmax_score(q, k, options, b, h, i, j);
        n_seen |= s != -INFINITY;
        m = s > m ? s : m;
    }
    const double sink = options && options->sinks && !padded ? (double)options->sinks[h] : -INFINITY;
    m = sink > m ? sink : m;

    double l = sink > -INFINITY ? exp(sink - m) : 0.0;
    for (int64_t c = 0; out && c < n_channels; c++)
        out[c] = 0.0;
    for (int64_t j = 0; n_seen && j < n_keys; j++) {
        if (!oracle_visible(mask, b, h, i, j, n_queries, n_keys))
            continue;
        const double s = oracle_softmax_score(q, k, options, b, h, i, j);
        if (s == -INFINITY)
            continue; /* hidden: its value is not looked at, whatever it holds */
        const double p = exp(s - m);
        l += p;
        for (int64_t c = 0; out && c < n_channels; c++)
            out[c] += p * oracle_value(v, b, kv_head, j, c);
    }
    for (int64_t c = 0; out && n_seen && c < n_channels; c++)
        out[c] /= l;
    if (lse)
        *lse = l == 0.0 ? -INFINITY : m + log(l);
}

void oracle_softmax(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                    const heed_softmax_options *options, double *out, double *lse)
{
    const int64_t n_heads = q->shape[1];
    const int64_t n_queries = q->shape[2];
    for (int64_t row = 0; row < q->shape[0] * n_heads * n_queries; row++) {
        const int64_t i = row % n_queries;
        const int64_t h = row / n_queries % n_heads;
        const int64_t b = row / n_queries / n_heads;
        oracle_softmax_row(q, k, v, options, b, h, i, out ? out + row * v->shape[3] : NULL, lse ? lse + row : NULL);
    }
}
