/* AFT key by key, all channels side by side (aft_keys). Long sums are kept in two levels, folded every HEED_FOLD_KEYS
 * keys, or late small terms would vanish behind one large early sum. There is nothing to guard against: den is at least
 * e^-8 or so of the largest weight.
 *
 * Rows: each row goes over the keys it sees. Scan: where the rows of a head differ in nothing but how far they see, one
 * state that goes on serves them all. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <math.h>
#include <string.h>

typedef struct row_scratch {
    float *state;    /* [AFT_STATE_ROWS][D] */
    float *w;        /* [HEED_FOLD_KEYS] */
    float *quotient; /* [D]: a row before the gate */
} row_scratch;

static int64_t carve(row_scratch *s, char *memory, int64_t d)
{
    heed_arena arena = {memory, 0};
    s->state = heed_arena_take_floats(&arena, AFT_STATE_ROWS * d);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    s->quotient = heed_arena_take_floats(&arena, d);
    return arena.bytes;
}

int64_t heed_aft_rows_bytes(const aft_plan *p)
{
    row_scratch s;
    return carve(&s, NULL, p->q.shape[3]);
}

static row_scratch slice_of(const aft_job *job, int worker)
{
    row_scratch s;
    carve(&s, heed_scratch_slice(job->context, worker), job->plan->q.shape[3]);
    return s;
}

/* ---- one row ---- */

aft_lane heed_aft_slice(const aft_job *job, int64_t head, int64_t index, int64_t channels, float *state)
{
    const int64_t *shape = job->plan->q.shape;
    int64_t first = index * channels;
    return (aft_lane){head / shape[1], head % shape[1], first, heed_smaller(channels, shape[3] - first), state};
}

void heed_aft_reset(const aft_lane *x)
{
    for (int64_t i = 0; i < AFT_STATE_ROWS * x->n; i++)
        x->state[i] = i < x->n ? -INFINITY : 0.0f; /* AFT_REF_K is the first row */
}

heed_key_range heed_aft_take_part(heed_key_range *keys, int forward, int *folds)
{
    heed_key_range part = *keys;
    if (forward)
        part.end = keys->begin = heed_smaller(keys->end, (keys->begin / HEED_FOLD_KEYS + 1) * HEED_FOLD_KEYS);
    else
        part.begin = keys->end = heed_larger(keys->begin, (keys->end - 1) / HEED_FOLD_KEYS * HEED_FOLD_KEYS);
    *folds = (forward ? part.end : part.begin) % HEED_FOLD_KEYS == 0;
    return part;
}

float *heed_aft_parked_rows(const aft_plan *p, const aft_lane *x, int64_t first, int64_t n_rows, float *tail,
                            int64_t *stride)
{
    int fits = n_rows >= AFT_PARKED_ROWS;
    *stride = fits ? p->out.stride[2] : x->n;
    return fits ? heed_aft_out(p, x, first) : tail;
}

void heed_aft_load_state(const aft_lane *x, const float *rows, int64_t stride)
{
    static const int places[AFT_PARKED_ROWS] = {AFT_REF_K, AFT_NUM, AFT_DEN};
    heed_aft_reset(x);
    for (int row = 0; row < AFT_PARKED_ROWS; row++)
        memcpy(x->state + places[row] * x->n, rows + row * stride, (size_t)x->n * sizeof *rows);
}

void heed_aft_add_run(const aft_job *job, const aft_lane *x, aft_run run, const float *w)
{
    int scalar_keys = job->plan->form == AFT_CONV;
    const float *k = heed_row(run.k, x->b, x->h, run.row) + (scalar_keys ? 0 : x->first);
    const float *v = heed_row(run.v, x->b, x->h, run.row) + x->first;
    job->kernels->aft_keys(x->state, k, run.k->stride[2], v, run.v->stride[2], w, (int)(run.keys.end - run.keys.begin),
                           x->n, scalar_keys);
    if (run.keys.end % HEED_FOLD_KEYS == 0)
        job->kernels->aft_fold(x->state, x->n);
}

/* Adds keys of the plan. */
static void add_block(const aft_job *job, const aft_lane *x, heed_key_range keys, const float *w)
{
    heed_aft_add_run(job, x, (aft_run){&job->plan->k, &job->plan->v, keys.begin, keys}, w);
}

void heed_aft_add_keys(const aft_job *job, const aft_lane *x, int64_t i, heed_key_range keys, float *w)
{
    heed_key_range block = {keys.begin, keys.begin};
    while (block.end < keys.end) {
        block = heed_next_block(block, keys.end, HEED_FOLD_KEYS);
        heed_aft_bias(job->plan, x->b, x->h, i, block, w);
        add_block(job, x, block, w);
    }
}

void heed_aft_attend_row(const aft_job *job, const aft_lane *x, int64_t i, float *w)
{
    heed_aft_reset(x);
    heed_aft_add_keys(job, x, i, heed_visible_range(&job->plan->mask, x->b, i), w);
}

static float denominator(const aft_lane *x, int64_t c)
{
    return x->state[AFT_DEN * x->n + c] + x->state[AFT_NEW_DEN * x->n + c];
}

float heed_aft_log_sum(const aft_lane *x, int64_t c)
{
    float den = denominator(x, c);
    if (den == 0.0f)
        return -INFINITY;
    return (float)((double)x->state[AFT_REF_K * x->n + c] + (double)x->state[AFT_REF_W * x->n + c] + log((double)den));
}

float *heed_aft_out(const aft_plan *p, const aft_lane *x, int64_t i)
{
    return heed_row(&p->out, x->b, x->h, i) + x->first;
}

float *heed_aft_lse(const aft_plan *p, const aft_lane *x, int64_t i)
{
    if (p->form == AFT_CONV)
        return x->first == 0 ? heed_row(&p->lse, x->b, x->h, i) : NULL; /* one for all channels */
    return p->lse.data ? heed_row(&p->lse, x->b, x->h, i) + x->first : NULL;
}

const float *heed_aft_query(const aft_plan *p, const aft_lane *x, int64_t i)
{
    return p->gate == HEED_GATE_SIGMOID ? heed_row(&p->q, x->b, x->h, i) + x->first : NULL;
}

static void store_lse(const aft_job *job, const aft_lane *x, int64_t i)
{
    float *lse = heed_aft_lse(job->plan, x, i);
    for (int64_t c = 0; c < (lse ? job->plan->form == AFT_CONV ? 1 : x->n : 0); c++)
        lse[c] = heed_aft_log_sum(x, c);
}

void heed_aft_store_row(const aft_job *job, const aft_lane *x, int64_t i)
{
    job->kernels->aft_row(heed_aft_out(job->plan, x, i), heed_aft_query(job->plan, x, i), x->state, x->n);
    store_lse(job, x, i);
}

void heed_aft_store_nothing(const aft_job *job, const aft_lane *x, int64_t i)
{
    float *out = heed_aft_out(job->plan, x, i), *lse = heed_aft_lse(job->plan, x, i);
    for (int64_t c = 0; c < x->n; c++)
        out[c] = 0.0f;
    for (int64_t c = 0; c < (lse ? job->plan->form == AFT_CONV ? 1 : x->n : 0); c++)
        lse[c] = -INFINITY;
}

/* ---- tasks ---- */

void heed_aft_rows_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    row_scratch s = slice_of(job, worker);
    int64_t first = index % job->parts * HEED_AFT_ROWS;
    aft_lane x = heed_aft_slice(job, index / job->parts, 0, p->q.shape[3], s.state);
    for (int64_t i = first; i < heed_smaller(first + HEED_AFT_ROWS, p->q.shape[2]); i++) {
        heed_aft_attend_row(job, &x, i, s.w);
        heed_aft_store_row(job, &x, i);
    }
}

/* Whether so much output would only drive everything else from the caches. */
static int is_long(const aft_plan *p)
{
    const int64_t *shape = p->out.shape;
    return (double)(shape[0] * shape[1] * shape[2]) * (double)shape[3] >= HEED_STREAM_FLOATS;
}

/* Whether every channel has seen a key: those that have not are 0 whatever their gate. */
static int sees_keys(const aft_lane *x)
{
    for (int64_t c = 0; c < x->n; c++) {
        if (denominator(x, c) == 0.0f)
            return 0;
    }
    return 1;
}

/* Row i, whose sums are those of the row before: x is their quotient. */
static void repeat_row(const aft_job *job, const aft_lane *lane, int64_t i, const float *x, int stream)
{
    float *out = heed_aft_out(job->plan, lane, i);
    const float *q = heed_aft_query(job->plan, lane, i);
    if (stream || !q)
        job->kernels->stream_gate(out, q, x, lane->n);
    else
        job->kernels->gate_array(out, q, x, lane->n);
    store_lse(job, lane, i);
}

void heed_aft_scan_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    row_scratch s = slice_of(job, worker);
    aft_lane x = heed_aft_slice(job, index / job->parts, index % job->parts, HEED_AFT_CHANNELS, s.state);
    heed_key_range keys = {0, 0};
    int repeats = 0, stream = is_long(p); /* repeats: s.quotient is the row before the gate */
    for (int64_t j = 0; j < HEED_FOLD_KEYS; j++)
        s.w[j] = 0.0f;
    heed_aft_reset(&x);
    for (int64_t i = 0; i < p->q.shape[2]; i++) {
        int64_t end = heed_visible_range(&p->mask, x.b, i).end, changes = i == 0 || keys.end < end;
        if (i >= heed_query_length(&p->mask, x.b)) {
            heed_aft_store_nothing(job, &x, i);
            continue;
        }
        while (keys.end < end) {
            keys = heed_next_block(keys, end, HEED_FOLD_KEYS);
            add_block(job, &x, keys, s.w);
        }
        if (!changes && !repeats && sees_keys(&x)) {
            job->kernels->aft_row(s.quotient, NULL, s.state, x.n);
            repeats = 1;
        }
        repeats &= !changes;
        if (repeats)
            repeat_row(job, &x, i, s.quotient, stream);
        else
            heed_aft_store_row(job, &x, i);
    }
    job->kernels->stream_fence();
}
