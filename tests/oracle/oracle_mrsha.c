/* softmax(scale q k^T + log n) v over groups of tokens: the definition at heed_mrsha_forward(). Every token has the
 * number of its group; what stands for a group is gathered over all tokens that count. */
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

/* The number of the group of a token. Groups of one token are the tokens themselves. */
static int64_t find_group(const heed_mrsha_options *o, int64_t size, int64_t token)
{
    const int64_t first = o->class_token ? 1 : 0, t = token - first, width = o->grid_width;
    if (size == 1 || t < 0)
        return token;
    if (width == 0)
        return first + t / size;
    const int64_t patches_in_band = width / size + (width % size != 0);
    return first + t / width / size * patches_in_band + t % width / size;
}

/* Its weight there: in LEARNED that of its place, row by row. A class token stands for itself. */
static double find_weight(const heed_mrsha_options *o, int64_t h, int64_t size, int64_t token)
{
    const int64_t t = token - (o->class_token ? 1 : 0), width = o->grid_width;
    if (o->pooling != HEED_POOLING_LEARNED || size == 1 || t < 0)
        return 1.0;
    return oracle_value(o->weights, 0, 0, h, width == 0 ? t % size : t / width % size * size + t % width % size);
}

/* What stands for the groups of the tokens before `end`. */
typedef struct group_list {
    int64_t n, end, n_channels;
    double *rows;    /* (n, n_channels) */
    double *sizes;   /* tokens that count; 0: there is no such group */
    double *centres; /* their mean position */
} group_list;

/* The rows of one head. Its lists of groups are kept from row to row as long as these see the same tokens. */
typedef struct coarse_head {
    const heed_tensor *q, *k, *v;
    const heed_mrsha_options *options;
    const heed_softmax_options *softmax; /* or NULL */
    int64_t b, h, kv_head, size;
    group_list queries, keys, values;
} coarse_head;

static void free_groups(group_list *groups)
{
    free(groups->rows);
    free(groups->sizes);
    free(groups->centres);
    *groups = (group_list){0};
}

/* Adds token t to its group; `weights` are the sums of those of the groups so far. */
static void gather_token(const coarse_head *head, group_list *groups, double *weights, const heed_tensor *x,
                         int64_t x_head, int64_t size, int64_t t)
{
    const int64_t g = find_group(head->options, size, t);
    const int is_first = groups->sizes[g] == 0.0;
    const double w = find_weight(head->options, head->h, size, t);
    groups->sizes[g] += 1.0;
    groups->centres[g] += (double)t;
    if (head->options->pooling == HEED_POOLING_FIRST && !is_first)
        return; /* whatever it holds */
    weights[g] += w;
    for (int64_t c = 0; c < groups->n_channels; c++)
        groups->rows[g * groups->n_channels + c] += w * oracle_value(x, head->b, x_head, t, c);
}

static void gather(const coarse_head *head, group_list *groups, const heed_tensor *x, int64_t x_head, int64_t size,
                   int64_t end)
{
    const int64_t n_channels = x->shape[3], n = end + 1;
    if (groups->rows && groups->end == end)
        return;
    free_groups(groups);
    *groups = (group_list){n, end, n_channels, oracle_zeros(n * n_channels), oracle_zeros(n), oracle_zeros(n)};
    double *weights = oracle_zeros(n);
    for (int64_t t = 0; t < end; t++)
        gather_token(head, groups, weights, x, x_head, size, t);
    for (int64_t g = 0; g < n; g++) {
        if (groups->sizes[g] == 0.0)
            continue;
        groups->centres[g] /= groups->sizes[g];
        for (int64_t c = 0; c < n_channels; c++)
            groups->rows[g * n_channels + c] /= weights[g];
    }
    free(weights);
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
static void attend(coarse_head *head, const double *query, int64_t key_size, int64_t key_end, double *out, double *lse)
{
    const group_list *keys = &head->keys, *values = &head->values;
    gather(head, &head->keys, head->k, head->kv_head, key_size, key_end);
    gather(head, &head->values, head->v, head->kv_head, key_size, key_end);
    const double sink = head->softmax && head->softmax->sinks ? (double)head->softmax->sinks[head->h] : -INFINITY;
    double m = sink; /* the largest score; a NaN is passed over here and shows in the sums */
    int n_seen = 0;
    for (int64_t g = 0; g < keys->n; g++) {
        if (keys->sizes[g] == 0.0)
            continue;
        const double s = score(head, query, keys->rows + g * keys->n_channels) + log(keys->sizes[g]);
        n_seen |= s != -INFINITY;
        m = s > m ? s : m;
    }
    double l = sink > -INFINITY ? exp(sink - m) : 0.0;
    for (int64_t c = 0; c < values->n_channels; c++)
        out[c] = 0.0;
    for (int64_t g = 0; n_seen && g < keys->n; g++) {
        if (keys->sizes[g] == 0.0)
            continue;
        const double s = score(head, query, keys->rows + g * keys->n_channels) + log(keys->sizes[g]);
        if (s == -INFINITY)
            continue; /* hidden: its value is not looked at, whatever it holds */
        const double p = exp(s - m);
        l += p;
        for (int64_t c = 0; c < values->n_channels; c++)
            out[c] += p * values->rows[g * values->n_channels + c];
    }
    for (int64_t c = 0; n_seen && c < values->n_channels; c++)
        out[c] /= l;
    *lse = l == 0.0 ? -INFINITY : m + log(l);
}

/* Token i by its own query. */
static void attend_token(coarse_head *head, int64_t i, int64_t key_end, double *out, double *lse)
{
    double *query = oracle_zeros(head->q->shape[3]);
    for (int64_t c = 0; c < head->q->shape[3]; c++)
        query[c] = oracle_value(head->q, head->b, head->h, i, c);
    attend(head, query, head->size, key_end, out, lse);
    free(query);
}

/* Group g of the queries, which have been gathered. */
static void attend_group(coarse_head *head, int64_t g, int64_t key_end, double *out, double *lse)
{
    const int64_t key_size = head->options->mode == HEED_MRSHA_OUTPUT ? 1 : head->size;
    attend(head, head->queries.rows + g * head->queries.n_channels, key_size, key_end, out, lse);
}

/* The row of the token on the straight line between the centres around it. A class token is not among them. */
static void interpolate(coarse_head *head, int64_t i, int64_t key_end, double *out)
{
    const group_list *queries = &head->queries;
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
    attend_group(head, before < 0 ? behind : before, key_end, out, &lse);
    if (before >= 0 && behind >= 0 && before != behind) {
        const double part = (at - centres[before]) / (centres[behind] - centres[before]);
        attend_group(head, behind, key_end, other, &lse);
        for (int64_t c = 0; c < n_channels; c++)
            out[c] = (1.0 - part) * out[c] + part * other[c];
    }
    free(other);
}

/* Causal, query i and key j stand at i and j. */
static void causal_row(coarse_head *head, int64_t i, int64_t key_length, double *out, double *lse)
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
    gather(head, &head->queries, head->q, head->h, head->size, first);
    attend_group(head, i / head->size - 1, first < key_length ? first : key_length, out, lse);
}

static void coarse_row(coarse_head *head, int64_t i, double *out, double *lse)
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
    gather(head, &head->queries, head->q, head->h, head->size, query_length);
    if (head->options->upsampling == HEED_UPSAMPLING_LINEAR)
        interpolate(head, i, key_length, out);
    else
        attend_group(head, find_group(head->options, head->size, i), key_length, out, lse);
}

/* ---- Rows ---- */

/* Rows first to end - 1 of head h. */
static void head_rows(coarse_head *head, int64_t first, int64_t end, double *out, double *lse)
{
    const int64_t d = head->v->shape[3];
    double *row = oracle_zeros(d), row_lse;
    for (int64_t i = first; i < end; i++) {
        if (head->size == 1)
            oracle_softmax_row(head->q, head->k, head->v, head->options->fine ? head->options->fine : head->softmax,
                               head->b, head->h, i, row, &row_lse);
        else
            coarse_row(head, i, row, &row_lse);
        for (int64_t c = 0; out && c < d; c++)
            out[(i - first) * d + c] = row[c];
        if (lse)
            lse[i - first] = row_lse;
    }
    free_groups(&head->queries);
    free_groups(&head->keys);
    free_groups(&head->values);
    free(row);
}

static coarse_head open_head(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                             const heed_mrsha_options *options, int64_t b, int64_t h)
{
    static const heed_mrsha_options defaults = HEED_MRSHA_OPTIONS_INIT;
    coarse_head head = {.q = q, .k = k, .v = v, .options = options ? options : &defaults, .b = b, .h = h};
    head.softmax = head.options->softmax;
    head.kv_head = k->shape[1] > 0 ? h / (q->shape[1] / k->shape[1]) : 0;
    head.size = oracle_mrsha_group_size(options, q->shape[1], h);
    return head;
}

void oracle_mrsha_row(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                      const heed_mrsha_options *options, int64_t b, int64_t h, int64_t i, double *out, double *lse)
{
    coarse_head head = open_head(q, k, v, options, b, h);
    head_rows(&head, i, i + 1, out, lse);
}

void oracle_mrsha(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v, const heed_mrsha_options *options,
                  double *out, double *lse)
{
    const int64_t n_heads = q->shape[1], n_queries = q->shape[2];
    for (int64_t at = 0; at < q->shape[0] * n_heads; at++) {
        coarse_head head = open_head(q, k, v, options, at / n_heads, at % n_heads);
        head_rows(&head, 0, n_queries, out ? out + at * n_queries * v->shape[3] : NULL,
                  lse ? lse + at * n_queries : NULL);
    }
}
