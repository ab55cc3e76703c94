/* AFT token by token, over a state instead of all keys.
 *
 * Token t needs every key j <= t, with the weight exp(k_j + w_tj), and w_tj is 0 beyond the window whatever t is. So the
 * keys that have left the window are one set of sums (a state of aft_keys) for all later tokens, and only those of the
 * window are kept, in a ring: token j in slot j % window. A token takes a copy of the sums through its window.
 * AFT-simple is the window of no key.
 *
 * Keys are taken in the order of their tokens and folded where aft_rows.c folds them, so a token's bits are those of its
 * row there, however the tokens came in. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <string.h>

typedef struct step_job {
    aft_job job;
    const aft_step_plan *plan;
} step_job;

typedef struct step_scratch {
    float *past, *row; /* [AFT_STATE_ROWS][channels of a slice]: the sums of the state, and with a window added */
    float *w;          /* [HEED_FOLD_KEYS] */
} step_scratch;

static int64_t carve(step_scratch *s, char *memory, int64_t d)
{
    heed_arena arena = {memory, 0};
    int64_t n = heed_smaller(d, HEED_AFT_CHANNELS);
    s->past = heed_arena_take_floats(&arena, AFT_STATE_ROWS * n);
    s->row = heed_arena_take_floats(&arena, AFT_STATE_ROWS * n);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    return arena.bytes;
}

int64_t heed_aft_step_bytes(const aft_step_plan *p)
{
    step_scratch s;
    return carve(&s, NULL, p->tokens.q.shape[3]);
}

/* New tokens of batch element b. */
static int64_t new_length(const aft_step_plan *p, int64_t b)
{
    return p->lengths ? p->lengths[b] : p->tokens.q.shape[2];
}

static void load_sums(const aft_step_plan *p, const aft_lane *x)
{
    for (int64_t r = 0; r < AFT_STATE_ROWS; r++)
        memcpy(x->state + r * x->n, heed_row(&p->sums, x->b, x->h, r) + x->first, (size_t)x->n * sizeof(float));
}

static void store_sums(const aft_step_plan *p, const aft_lane *x)
{
    for (int64_t r = 0; r < AFT_STATE_ROWS; r++)
        memcpy(heed_row(&p->sums, x->b, x->h, r) + x->first, x->state + r * x->n, (size_t)x->n * sizeof(float));
}

/* The keys from `begin` on that lie one behind the other: in the ring, or, from token `start` on, among the new tokens;
 * up to `end` or the next fold. */
static aft_run next_run(const aft_step_plan *p, int64_t start, int64_t begin, int64_t end)
{
    aft_run run = {.k = &p->tokens.k, .v = &p->tokens.v, .row = begin - start};
    if (begin < start) {
        run.k = &p->keys;
        run.v = &p->values;
        run.row = begin % p->window;
        end = heed_smaller(end, heed_smaller(start, begin - run.row + p->window));
    }
    run.keys = heed_next_block((heed_key_range){begin, begin}, end, HEED_FOLD_KEYS);
    return run;
}

/* Key t leaves the window for the sums. */
static void leave_window(const step_job *x, const aft_lane *past, int64_t start, int64_t t)
{
    static const float no_bias = 0.0f;
    if (t >= 0 && !x->plan->tokens.nothing_outside)
        heed_aft_add_run(&x->job, past, next_run(x->plan, start, t, t + 1), &no_bias);
}

/* Adds the window of new token i: the keys up to its own. */
static void add_window(const step_job *x, const aft_lane *row, int64_t start, int64_t i, float *w)
{
    const aft_step_plan *p = x->plan;
    int64_t first = start - p->window + 1, end = start + i + 1; /* first: what the bias counts from */
    for (int64_t j = heed_larger(0, first + i); j < end;) {
        aft_run run = next_run(p, start, j, end);
        heed_key_range keys = {run.keys.begin - first, run.keys.end - first};
        heed_aft_bias(&p->tokens, row->b, row->h, i, keys, w);
        heed_aft_add_run(&x->job, row, run, w);
        j = run.keys.end;
    }
}

/* Rows of new tokens, n channels from `first` on, into the ring; no more than it holds. */
static void remember(const aft_step_plan *p, const heed_tensor *ring, const heed_tensor *from, const aft_lane *x,
                     int64_t first, int64_t n)
{
    int64_t start = p->n_tokens[x->b], end = new_length(p, x->b);
    for (int64_t i = heed_larger(0, end - p->window); i < end; i++)
        memcpy(heed_row(ring, x->b, x->h, (start + i) % p->window) + first, heed_row(from, x->b, x->h, i) + first,
               (size_t)n * sizeof(float));
}

/* All new tokens of a slice of channels of a head. */
static void step_task(void *argument, int64_t index, int worker)
{
    const step_job *x = argument;
    const aft_step_plan *p = x->plan;
    step_scratch s;
    carve(&s, heed_scratch_slice(x->job.context, worker), p->tokens.q.shape[3]);
    aft_lane past = heed_aft_slice(&x->job, index / x->job.parts, index % x->job.parts, HEED_AFT_CHANNELS, s.past);
    aft_lane row = past; /* AFT-simple adds nothing to the sums: no copy */
    row.state = p->window > 0 ? s.row : s.past;
    int64_t start = p->n_tokens[past.b], end = new_length(p, past.b);
    load_sums(p, &past);
    for (int64_t i = 0; i < end; i++) {
        leave_window(x, &past, start, start + i - p->window);
        if (row.state != past.state)
            memcpy(row.state, past.state, (size_t)(AFT_STATE_ROWS * past.n) * sizeof(float));
        add_window(x, &row, start, i, s.w);
        heed_aft_store_row(&x->job, &row, i);
    }
    store_sums(p, &past);
    remember(p, &p->values, &p->tokens.v, &past, past.first, past.n);
    if (p->tokens.form == AFT_LOCAL)
        remember(p, &p->keys, &p->tokens.k, &past, past.first, past.n);
    heed_aft_reset(&row);
    for (int64_t i = end; i < p->tokens.q.shape[2]; i++)
        heed_aft_store_row(&x->job, &row, i);
}

/* What all tasks of a head read: its scalar keys, and the number of tokens. */
static void advance(const aft_step_plan *p)
{
    for (int64_t b = 0; b < p->tokens.q.shape[0]; b++) {
        for (int64_t h = 0; p->tokens.form == AFT_CONV && h < p->tokens.q.shape[1]; h++)
            remember(p, &p->keys, &p->tokens.k, &(aft_lane){.b = b, .h = h}, 0, 1);
        p->n_tokens[b] += new_length(p, b);
    }
}

void heed_aft_step_run(heed_context *context, const aft_step_plan *p)
{
    const int64_t *shape = p->tokens.q.shape;
    step_job x = {.job = {.plan = &p->tokens, .kernels = context->kernels, .context = context}, .plan = p};
    x.job.parts = heed_divide_up(shape[3], HEED_AFT_CHANNELS);
    int64_t n_tasks = shape[0] * shape[1] * x.job.parts;
    double rows = (double)(shape[0] * shape[1] * shape[2]) * (double)shape[3];
    heed_report_start(context, "aft-steps", heed_aft_step_bytes(p));
    heed_parallel_for(context, n_tasks,
                      heed_count_workers(context, n_tasks, EXP_FLOPS * rows * (double)(p->window + 1)), step_task, &x);
    advance(p);
}
