/* softmax(scale q k^T + log n) v over groups of tokens: the definition at heed_mrsha_forward(). Every token has the number
 * of its group; what stands for a group is gathered over all tokens that count. */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

/* ---- Groups ---- */

int64_t oracle_mrsha_group_size(const heed_mrsha_options *options, int64_t n_heads, int64_t h)
{
    if (options && options->group_sizes)
        return options->group_sizes[h];
    return h < (n_heads + 1) / 2 ? 1 : 2;
}

/* Where a token stands: the number of its group, and its place there. */
typedef struct token_place {
    int64_t group, place;
} token_place;

static token_place find_place(const heed_mrsha_options *o, int64_t size, int64_t token)
{
    const int64_t first = o->class_token ? 1 : 0, t = token - first;
    if (t < 0)
        return (token_place){0, 0};
    if (o->grid_width == 0)
        return (token_place){first + t / size, t % size};
    const int64_t row = t / o->grid_width, column = t % o->grid_width;
    const int64_t patches_in_band = (o->grid_width + size - 1) / size;
    return (token_place){first + row / size * patches_in_band + column / size, row % size * size + column % size};
}

/* What stands for the groups of the tokens before `end`. */
typedef struct group_list {
    int64_t n, n_channels;
    double *rows;    /* (n, n_channels) */
    double *sizes;   /* tokens that count; 0: there is no such group */
    double *centres; /* their mean position */
} group_list;

typedef struct coarse_head {
    const heed_tensor *q, *k, *v;
    const heed_mrsha_options *options;
    const heed_softmax_options *softmax; /* or NULL */
    int64_t b, h, kv_head, size;
} coarse_head;

/* Groups of one token are the tokens themselves. */
static group_list gather(const coarse_head *head, const heed_tensor *x, int64_t x_head, int64_t size, int64_t end)
{
    const int64_t n_channels = x->shape[3], n = end + 1;
    group_list groups = {n, n_channels, oracle_zeros(n * n_channels), oracle_zeros(n), oracle_zeros(n)};
    double *weights = oracle_zeros(n); /* sums */
    for (int64_t t = 0; t < end; t++) {
        const token_place at = size == 1 ? (token_place){t, 0} : find_place(head->options, size, t);
        const heed_pooling pooling = size == 1 ? HEED_POOLING_MEAN : head->options->pooling;
        const int is_first = groups.sizes[at.group] == 0.0;
        groups.sizes[at.group] += 1.0;
        groups.centres[at.group] += (double)t;
        if (pooling == HEED_POOLING_FIRST && !is_first)
            continue; /* whatever it holds */
        const double w =
            pooling == HEED_POOLING_LEARNED ? oracle_value(head->options->weights, 0, 0, head->h, at.place) : 1.0;
        weights[at.group] += w;
        for (int64_t c = 0; c < n_channels; c++)
            groups.rows[at.group * n_channels + c] += w * oracle_value(x, head->b, x_head, t, c);
    }
    for (int64_t g = 0; g < n; g++) {
        if (groups.sizes[g] == 0.0)
            continue;
        groups.centres[g] /= groups.sizes[g];
        for (int64_t c = 0; c < n_channels; c++)
            groups.rows[g * n_channels + c] /= weights[g];
    }
    free(weights);
    return groups;
}

static void free_groups(group_list *groups)
{
    free(groups->rows);
    free(groups->sizes);
    free(groups->centres);
}

/* ---- Attention ---- */

/* s without log n. */
static double score(const coarse_head *head, const double *query, const double *key)
{
    const heed_softmax_options *o = head->softmax;
    const int64_t n_channels = head->q->shape[3];
    double s = 0.0;
    for (int64_t c = 0; c < n_channels; c++)
        s += query[c] * key[c];
    s *= o && o->scale != 0.0f ? (double)o->scale : 1.0 / sqrt((double)n_channels);
    return o && o->softcap > 0.0f ? (double)o->softcap * tanh(s / (double)o->softcap) : s;
}

/* A query that sees the keys before key_end in groups of this size. */
static void attend(const coarse_head *head, const double *query, int64_t key_size, int64_t key_end, double *out,
                   double *lse)
{
    group_list keys = gather(head, head->k, head->kv_head, key_size, key_end);
    group_list values = gather(head, head->v, head->kv_head, key_size, key_end);
    const double sink = head->softmax && head->softmax->sinks ? (double)head->softmax->sinks[head->h] : -INFINITY;
    double m = sink; /* the largest score; a NaN is passed over here and shows in the sums */
    int n_seen = 0;
    for (int64_t g = 0; g < keys.n; g++) {
        if (keys.sizes[g] == 0.0)
            continue;
        const double s = score(head, query, keys.rows + g * keys.n_channels) + log(keys.sizes[g]);
        n_seen |= s != -INFINITY;
        m = s > m ? s : m;
    }
    double l = sink > -INFINITY ? exp(sink - m) : 0.0;
    for (int64_t c = 0; c < values.n_channels; c++)
        out[c] = 0.0;
    for (int64_t g = 0; n_seen && g < keys.n; g++) {
        if (keys.sizes[g] == 0.0)
            continue;
        const double s = score(head, query, keys.rows + g * keys.n_channels) + log(keys.sizes[g]);
        if (s == -INFINITY)
            continue; /* hidden: its value is not looked at, whatever it holds */
        const double p = exp(s - m);
        l += p;
        for (int64_t c = 0; c < values.n_channels; c++)
            out[c] += p * values.rows[g * values.n_channels + c];
    }
    for (int64_t c = 0; n_seen && c < values.n_channels; c++)
        out[c] /= l;
    *lse = l == 0.0 ? -INFINITY : m + log(l);
    free_groups(&keys);
    free_groups(&values);
}

/* Token i by its own query. */
static void attend_token(const coarse_head *head, int64_t i, int64_t key_end, double *out, double *lse)
{
    double *query = oracle_zeros(head->q->shape[3]);
    for (int64_t c = 0; c < head->q->shape[3]; c++)
        query[c] = oracle_value(head->q, head->b, head->h, i, c);
    attend(head, query, head->size, key_end, out, lse);
    free(query);
}

/* Group g of the queries. */
static void attend_group(const coarse_head *head, const group_list *queries, int64_t g, int64_t key_end, double *out,
                         double *lse)
{
    const int64_t key_size = head->options->mode == HEED_MRSHA_OUTPUT ? 1 : head->size;
    attend(head, queries->rows + g * queries->n_channels, key_size, key_end, out, lse);
}

/* The row of the token on the straight line between the centres around it. A class token is not among them. */
static void interpolate(const coarse_head *head, const group_list *queries, int64_t i, int64_t key_end, double *out)
{
    const double *centres = queries->centres, at = (double)i;
    const int64_t n_channels = head->v->shape[3];
    int64_t before = -1, behind = -1;
    for (int64_t g = i > 0 && head->options->class_token; g < queries->n; g++) {
        if (queries->sizes[g] == 0.0)
            continue;
        if (centres[g] <= at && (before < 0 || centres[g] > centres[before]))
            before = g;
        if (centres[g] >= at && (behind < 0 || centres[g] < centres[behind]))
            behind = g;
    }
    double lse, *other = oracle_zeros(n_channels);
    attend_group(head, queries, before < 0 ? behind : before, key_end, out, &lse);
    if (before >= 0 && behind >= 0 && before != behind) {
        const double part = (at - centres[before]) / (centres[behind] - centres[before]);
        attend_group(head, queries, behind, key_end, other, &lse);
        for (int64_t c = 0; c < n_channels; c++)
            out[c] = (1.0 - part) * out[c] + part * other[c];
    }
    free(other);
}

/* Causal, query i and key j stand at i and j. */
static void causal_row(const coarse_head *head, int64_t i, int64_t key_length, double *out, double *lse)
{
    if (head->options->mode == HEED_MRSHA_VALUE) {
        attend_token(head, i, i + 1 < key_length ? i + 1 : key_length, out, lse);
        return;
    }
    const int64_t first = i / head->size * head->size; /* of the group of i: all before it are seen */
    if (first == 0) {
        oracle_softmax_row(head->q, head->k, head->v, head->softmax, head->b, head->h, i, out, lse);
        return;
    }
    group_list queries = gather(head, head->q, head->h, head->size, first);
    attend_group(head, &queries, i / head->size - 1, first < key_length ? first : key_length, out, lse);
    free_groups(&queries);
}

static void coarse_row(const coarse_head *head, int64_t i, double *out, double *lse)
{
    const heed_mask *mask = head->softmax ? head->softmax->mask : NULL;
    const int64_t query_length = oracle_query_length(mask, head->b, head->q->shape[2]);
    const int64_t key_length = oracle_key_length(mask, head->b, head->k->shape[2]);
    *lse = -INFINITY;
    for (int64_t c = 0; c < head->v->shape[3]; c++)
        out[c] = 0.0;
    if (i >= query_length)
        return;
    if (mask && mask->causal) {
        causal_row(head, i, key_length, out, lse);
        return;
    }
    if (head->options->mode == HEED_MRSHA_VALUE) {
        attend_token(head, i, key_length, out, lse);
        return;
    }
    group_list queries = gather(head, head->q, head->h, head->size, query_length);
    if (head->options->upsampling == HEED_UPSAMPLING_LINEAR)
        interpolate(head, &queries, i, key_length, out);
    else
        attend_group(head, &queries, find_place(head->options, head->size, i).group, key_length, out, lse);
    free_groups(&queries);
}

void oracle_mrsha_row(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                      const heed_mrsha_options *options, int64_t b, int64_t h, int64_t i, double *out, double *lse)
{
    static const heed_mrsha_options defaults = HEED_MRSHA_OPTIONS_INIT;
    const heed_mrsha_options *o = options ? options : &defaults;
    const int64_t kv_head = k->shape[1] > 0 ? h / (q->shape[1] / k->shape[1]) : 0;
    const coarse_head head = {q, k, v, o, o->softmax, b, h, kv_head, oracle_mrsha_group_size(o, q->shape[1], h)};
    if (head.size == 1) {
        oracle_softmax_row(q, k, v, o->fine ? o->fine : o->softmax, b, h, i, out, lse);
        return;
    }
    double *row = oracle_zeros(v->shape[3]), row_lse;
    coarse_row(&head, i, row, &row_lse);
    for (int64_t c = 0; out && c < v->shape[3]; c++)
        out[c] = row[c];
    if (lse)
        *lse = row_lse;
    free(row);
}

void oracle_mrsha(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v, const heed_mrsha_options *options,
                  double *out, double *lse)
{
    const int64_t n_heads = q->shape[1], n_queries = q->shape[2];
    for (int64_t row = 0; row < q->shape[0] * n_heads * n_queries; row++) {
        const int64_t i = row % n_queries, h = row / n_queries % n_heads, b = row / n_queries / n_heads;
        oracle_mrsha_row(q, k, v, options, b, h, i, out ? out + row * v->shape[3] : NULL, lse ? lse + row : NULL);
    }
}
