/* What AFT-conv does for a head whose channels share one key: weights are numbers, values stay in place. */
#include "mechanisms/aft_head.h"

#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

/* ---- keys ---- */

void heed_aft_head_keys(const aft_head *h, heed_key_range keys, float *to)
{
    const float *k = heed_row(&h->job->plan->k, h->x.b, h->x.h, keys.begin);
    for (int64_t j = 0; j < keys.end - keys.begin; j++)
        to[j] = k[j * h->job->plan->k.stride[2]];
}

void heed_aft_head_weigh(const aft_head *h, const float *k, float *e, int64_t n_keys, float reference)
{
    for (int64_t j = 0; j < n_keys; j++)
        e[j] = k[j] - reference;
    h->job->kernels->exp_array(e, e, n_keys);
}

const float *heed_aft_head_value(const aft_head *h, int64_t j)
{
    return heed_row(&h->job->plan->v, h->x.b, h->x.h, j) + h->x.first;
}

heed_key_range heed_aft_next_run(const float *k, int64_t from, int64_t n_keys)
{
    while (from < n_keys && k[from] == -INFINITY)
        from++;
    heed_key_range run = {from, from};
    while (run.end < n_keys && k[run.end] != -INFINITY)
        run.end++;
    return run;
}

/* ---- sums ---- */

aft_head_sums heed_aft_head_empty(const aft_head *h, float *rows)
{
    memset(rows, 0, (size_t)(2 * h->row) * sizeof *rows);
    return (aft_head_sums){-INFINITY, rows, rows + h->row};
}

static void refer(const aft_head *h, aft_head_sums *o, float reference)
{
    float factor = o->reference == -INFINITY ? 0.0f : (float)exp((double)o->reference - (double)reference);
    for (int64_t c = 0; c < 2 * h->row; c++)
        o->added[c] *= factor; /* folded lies behind */
    o->reference = reference;
}

/* Keys from j on with the weights e. */
static void add_weighed(const aft_head *h, aft_head_sums *o, int64_t j, const float *k, const float *e, int64_t n_keys)
{
    static const float one = 1.0f;
    for (heed_key_range run = heed_aft_next_run(k, 0, n_keys); !heed_range_is_empty(run);
         run = heed_aft_next_run(k, run.end, n_keys)) {
        float den = 0.0f;
        for (int64_t i = run.begin; i < run.end; i++)
            den += e[i];
        o->added[h->x.n] += den;
        h->job->kernels->mix_rows(o->added, h->row, &one, e + run.begin, 0, 1, heed_aft_head_value(h, j + run.begin),
                                  h->job->plan->v.stride[2], (int)(run.end - run.begin), 1, h->x.n, NULL);
    }
}

/* At most HEED_FOLD_KEYS keys: with the weights held where there are, and the reference is the same. The sums take that
 * reference where they stay large against it. */
static void add_keys(const aft_head *h, aft_head_sums *o, heed_key_range keys)
{
    int64_t n_keys = keys.end - keys.begin, at = keys.begin - h->held.begin;
    int held = at >= 0 && keys.end <= h->held.end;
    const float *k = held ? h->held_k + at : h->k;
    if (held && o->reference == h->reference) {
        add_weighed(h, o, keys.begin, k, h->held_e + at, n_keys);
        return;
    }
    if (!held)
        heed_aft_head_keys(h, keys, h->k);
    float largest = o->reference;
    for (int64_t j = 0; j < n_keys; j++)
        largest = k[j] > largest ? k[j] : largest;
    if (largest > o->reference)
        refer(h, o, largest);
    heed_aft_head_weigh(h, k, h->e, n_keys, o->reference);
    add_weighed(h, o, keys.begin, k, h->e, n_keys);
    double den = (double)o->added[h->x.n] + (double)o->folded[h->x.n];
    if (held && isfinite(h->reference) && den * exp((double)o->reference - (double)h->reference) >= AFT_LARGE_SUM)
        refer(h, o, h->reference);
}

void heed_aft_head_fold(const aft_head *h, aft_head_sums *o)
{
    h->job->kernels->blend_rows(o->folded, o->folded, 1.0f, o->added, 1.0f, h->row);
    memset(o->added, 0, (size_t)h->row * sizeof *o->added);
}

void heed_aft_head_add(const aft_head *h, aft_head_sums *o, heed_key_range keys, int forward)
{
    while (!heed_range_is_empty(keys)) {
        int folds;
        heed_key_range part = heed_aft_take_part(&keys, forward, &folds);
        add_keys(h, o, part);
        if (folds)
            heed_aft_head_fold(h, o);
    }
}

void heed_aft_head_total(const aft_head *h, const aft_head_sums *o, float *row)
{
    h->job->kernels->blend_rows(row, o->folded, 1.0f, o->added, 1.0f, h->row);
}

float heed_aft_head_factor(const aft_head *h, float reference)
{
    if (reference == -INFINITY)
        return 0.0f;
    return (float)exp((double)reference - (double)h->reference - (double)h->m);
}

/* ---- parked sums ---- */

void heed_aft_head_park(const aft_head *h, const aft_head_sums *o, int64_t first, int64_t n_rows, float *tail)
{
    int64_t stride;
    float *rows = heed_aft_parked_rows(h->job->plan, &h->x, first, n_rows, tail, &stride);
    heed_aft_head_total(h, o, h->total);
    memcpy(rows, h->total, (size_t)h->x.n * sizeof *rows);
    rows[stride] = h->total[h->x.n];
    rows[2 * stride] = o->reference;
}

void heed_aft_head_unpark(const aft_head *h, aft_head_sums *o, int64_t first, int64_t n_rows, float *tail)
{
    int64_t stride;
    const float *rows = heed_aft_parked_rows(h->job->plan, &h->x, first, n_rows, tail, &stride);
    memset(o->added, 0, (size_t)h->row * sizeof *rows);
    memcpy(o->folded, rows, (size_t)h->x.n * sizeof *rows);
    o->folded[h->x.n] = rows[stride];
    o->reference = rows[2 * stride];
}

/* ---- results ---- */

unsigned heed_aft_head_store(const aft_head *h, int64_t i, const float *rows, int n_rows)
{
    const aft_plan *p = h->job->plan;
    for (int r = 0; r < n_rows && heed_aft_lse(p, &h->x, i); r++)
        *heed_aft_lse(p, &h->x, i + r) =
            (float)((double)h->reference + (double)h->m + log((double)rows[r * h->row + h->x.n]));
    return h->job->kernels->ratio_rows(heed_aft_out(p, &h->x, i), p->out.stride[2], heed_aft_query(p, &h->x, i),
                                       p->q.stride[2], rows, h->row, n_rows, h->x.n);
}

/* Rows ref, num, den of sums that all channels share. */
static void spread(const aft_head *h, const float *row, float reference, float *rows)
{
    memcpy(rows + h->x.n, row, (size_t)h->x.n * sizeof *row);
    for (int64_t c = 0; c < h->x.n; c++) {
        rows[c] = reference;
        rows[2 * h->x.n + c] = row[h->x.n];
    }
}

void heed_aft_head_recompute(const aft_head *h, int64_t i, const aft_outside *before, const aft_outside *behind,
                             heed_key_range keys, float *w)
{
    int64_t n = h->x.n;
    spread(h, before->row, before->reference, h->spread[0]);
    heed_aft_load_state(&h->x, h->spread[0], n);
    spread(h, behind->row, behind->reference, h->spread[1]);
    h->job->kernels->aft_join(h->spread[0], n, h->x.state, h->spread[1], n, n);
    heed_aft_load_state(&h->x, h->spread[0], n);
    heed_aft_add_keys(h->job, &h->x, i, keys, w);
    heed_aft_store_row(h->job, &h->x, i);
    atomic_fetch_add_explicit(&h->job->exact_recomputations, 1, memory_order_relaxed);
}

/* ---- scratch ---- */

void heed_aft_head_carve(aft_head *h, heed_arena *arena, int64_t n)
{
    *h = (aft_head){0};
    h->k = heed_arena_take_floats(arena, HEED_FOLD_KEYS);
    h->e = heed_arena_take_floats(arena, HEED_FOLD_KEYS);
    h->total = heed_arena_take_floats(arena, heed_aft_head_row(n));
    for (int i = 0; i < 2; i++)
        h->spread[i] = heed_arena_take_floats(arena, AFT_PARKED_ROWS * n);
    h->x.state = heed_arena_take_floats(arena, AFT_STATE_ROWS * n);
}
