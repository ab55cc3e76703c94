/* The coarse heads of MrsHA. With P the mean over each group, U its repetition and n the sizes of the groups of keys
 *
 *     BOTH    o = U softmax(scale Pq (Pk)^T + log n) Pv
 *     OUTPUT  o = U softmax(scale Pq k^T) v
 *     VALUE   o =   softmax(scale q (Pk)^T + log n) Pv
 *
 * which is softmax attention over rows that are formed on the way (math: docs/mrsha.md, derived). Query heads of a kv head
 * with the same S go together, like rows of one head: a group of their tiles is a task, and pools each block of keys and
 * values once for all of them. The logarithm of a whole group is the same for nearly all keys, so it is left out of the
 * scores and joins lse at the end; only what a shorter group lacks is added to its keys. */
#include "mechanisms/mrsha_parts.h"

#include "core/parallel.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

typedef struct coarse_job {
    const mrsha_plan *plan;
    const heed_kernels *kernels;
    heed_context *context;
    int is_causal;
    int64_t most_tiles; /* in one task */
    int64_t tasks_per_batch;
    atomic_llong exact_recomputations;
} coarse_job;

/* What the heads of one kv head with the same S compute in one way. */
typedef struct coarse_unit {
    int64_t b, leader, kv_head, n_heads;
    int pools_queries, pools_keys;
    int64_t first_row, rows_per_head; /* rows are groups of queries, or single ones */
    int64_t shift;                    /* row g has the query of group g - shift */
    group_pooling queries, keys;      /* of the tokens that count */
    heed_groups all_queries;          /* of all tokens */
    int64_t n_tiles, n_tasks, tiles_per_task;
} coarse_unit;

/* Causal BOTH has two ways: groups from the second one on, and the tokens of the first one, as in a fine head. */
enum { WAY_GROUPS, WAY_FIRST_GROUP, N_WAYS };

/* ---- which rows, which keys ---- */

static int64_t count_rows(const coarse_job *job, const coarse_unit *u, int way)
{
    int64_t n_queries = job->plan->coarse.q.shape[2];
    if (way == WAY_FIRST_GROUP)
        return heed_smaller(u->queries.groups.size, n_queries);
    return (u->pools_queries ? heed_count_groups(&u->all_queries) : n_queries) - u->first_row;
}

/* The unit of a head, which has no tasks where there is nothing to do. */
static coarse_unit open_unit(const coarse_job *job, int64_t b, int64_t head, int way)
{
    const mrsha_plan *plan = job->plan;
    const softmax_plan *p = &plan->coarse;
    mrsha_sharers sharers = heed_mrsha_sharers(&plan->heads, head);
    coarse_unit u = {.b = b, .leader = head, .kv_head = sharers.kv_head, .n_heads = sharers.n_heads};
    int shifts = job->is_causal && plan->mode == HEED_MRSHA_BOTH;
    if (sharers.size == 1 || sharers.n_heads == 0 || (way == WAY_FIRST_GROUP && !shifts))
        return u;
    u.pools_queries = way == WAY_GROUPS && plan->mode != HEED_MRSHA_VALUE;
    u.pools_keys = way == WAY_GROUPS && plan->mode != HEED_MRSHA_OUTPUT;
    u.queries = heed_mrsha_pooling(plan, head, heed_query_length(&p->mask, b));
    u.keys = heed_mrsha_pooling(plan, head, heed_key_length(&p->mask, b));
    if (job->is_causal)
        u.keys.groups.most_tokens = p->k.shape[2]; /* what a row sees does not end with the length */
    u.all_queries = u.queries.groups;
    u.all_queries.n_tokens = p->q.shape[2];
    u.first_row = u.shift = shifts && way == WAY_GROUPS;
    u.rows_per_head = heed_larger(0, count_rows(job, &u, way));
    u.n_tiles = heed_divide_up(u.n_heads * u.rows_per_head, job->kernels->tile_lanes);
    u.n_tasks = heed_divide_up(u.n_tiles, job->most_tiles);
    u.tiles_per_task = heed_divide_up(u.n_tiles, heed_larger(u.n_tasks, 1));
    return u;
}

/* The token of a row, or the first one of its group. */
static int64_t token_of(const coarse_unit *u, int64_t row)
{
    return u->pools_queries ? heed_group_at(&u->all_queries, row).first : row;
}

/* What a row sees, in groups or in keys. */
static heed_key_range sees(const coarse_job *job, const coarse_unit *u, int64_t row)
{
    const heed_groups *keys = &u->keys.groups;
    int64_t end = u->pools_keys ? heed_count_groups(keys) : keys->n_tokens;
    if (job->is_causal) {
        if (u->pools_queries)
            end = heed_smaller(end, row);
        else
            end = heed_smaller(end, u->pools_keys ? row / keys->size : row + 1);
    }
    return token_of(u, row) < u->queries.groups.n_tokens ? (heed_key_range){0, end} : (heed_key_range){0, 0};
}

static void fill_tile(const coarse_job *job, const coarse_unit *u, int64_t index, query_tile *t)
{
    int lanes = job->kernels->tile_lanes;
    int64_t first = index * lanes, head = u->leader;
    t->b = u->b;
    t->kv_head = u->kv_head;
    t->n_rows = (int)heed_smaller(lanes, u->n_heads * u->rows_per_head - first);
    t->with_sinks = 1;
    for (int64_t n = first / u->rows_per_head; n > 0; n--)
        head = heed_mrsha_next_sharer(&job->plan->heads, head);
    for (int r = 0; r < t->n_rows; r++) {
        t->query[r] = u->first_row + (first + r) % u->rows_per_head;
        if (r > 0 && t->query[r] == u->first_row)
            head = heed_mrsha_next_sharer(&job->plan->heads, head);
        t->head[r] = head;
        t->counts[r] = token_of(u, t->query[r]) < u->queries.groups.n_tokens;
        t->sees[r] = sees(job, u, t->query[r]);
    }
    int has_own = job->is_causal && job->plan->mode == HEED_MRSHA_VALUE;
    heed_tile_close(job->kernels, t, !has_own && heed_mrsha_may_stay_rows(&job->plan->heads, u->rows_per_head));
}

/* ---- queries ---- */

/* Rows r to r + n of the tile, which are neighbouring groups of one head. */
static void pool_queries(const softmax_attention *a, const coarse_unit *u, const query_tile *t, int r, int n,
                         const mrsha_scratch *w)
{
    const heed_tensor *q = &a->plan->q;
    int64_t group = t->query[r] - u->shift, counted = heed_count_groups(&u->queries.groups) - group;
    int64_t n_counted = heed_larger(0, heed_smaller(n, counted));
    token_rows x = {heed_row(q, t->b, t->head[r], 0), q->stride[2], q->shape[3]};
    heed_pool_groups(a->kernels, &u->queries, x, group, n_counted, w->rows + r * w->row_stride, w->row_stride);
    for (int64_t i = r + n_counted; i < r + n; i++)
        memset(w->rows + i * w->row_stride, 0, (size_t)q->shape[3] * sizeof(float));
}

static void load_queries(const softmax_attention *a, const coarse_unit *u, const query_tile *t, const mrsha_scratch *w)
{
    const float *rows[HEED_MAX_TILE_LANES];
    for (int r = 0, n; u->pools_queries && r < t->n_rows; r += n) {
        for (n = 1; r + n < t->n_rows && t->head[r + n] == t->head[r];)
            n++;
        pool_queries(a, u, t, r, n, w);
    }
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = u->pools_queries ? w->rows + r * w->row_stride : heed_row(&a->plan->q, t->b, t->head[r], t->query[r]);
    heed_tile_load(a, t, rows);
}

/* ---- keys ---- */

typedef struct pooled_source {
    key_source source; /* first, so that one is the other */
    const coarse_job *job;
    const coarse_unit *unit;
    const mrsha_scratch *scratch;
} pooled_source;

/* log(n / largest) of each group of a block; NULL where all are whole. */
static const float *weigh_groups(const heed_groups *groups, heed_key_range block, float *shift)
{
    int64_t n = block.end - block.begin;
    if (heed_count_whole_groups(groups, block.begin, n) == n)
        return NULL;
    double largest = heed_log_largest_group(groups);
    for (int64_t j = 0; j < n; j++)
        shift[j] = (float)(log((double)heed_group_at(groups, block.begin + j).n_tokens) - largest);
    return shift;
}

/* Tokens of the next block of groups; on a grid these are about the ones. */
static void look_ahead(const group_pooling *pooling, token_rows keys, token_rows values, key_block *rows, int64_t end)
{
    int64_t step = pooling->kind == HEED_POOLING_FIRST ? pooling->groups.size : 1;
    if (end >= heed_count_groups(&pooling->groups))
        return;
    int64_t first = heed_group_at(&pooling->groups, end).first;
    rows->next_k = keys.data + first * keys.stride;
    rows->next_v = values.data + first * values.stride;
    rows->next_k_stride = step * keys.stride;
    rows->next_v_stride = step * values.stride;
    int64_t last = heed_smaller(end + HEED_BLOCK_KEYS, heed_count_groups(&pooling->groups)) - 1;
    rows->n_next = heed_divide_up(heed_group_at(&pooling->groups, last).first + 1 - first, step);
}

static key_block open_pooled(const softmax_attention *a, const query_tile *t, heed_key_range block)
{
    const pooled_source *source = (const pooled_source *)a->source;
    const mrsha_scratch *w = source->scratch;
    const group_pooling *pooling = &source->unit->keys;
    const heed_tensor *k = &a->plan->k, *v = &a->plan->v;
    int64_t n = block.end - block.begin;
    key_block rows = {.k = w->keys, .v = w->values, .begin = block.begin};
    rows.k_stride = w->key_stride;
    rows.v_stride = w->value_stride;
    token_rows keys = {heed_row(k, t->b, t->kv_head, 0), k->stride[2], k->shape[3]};
    token_rows values = {heed_row(v, t->b, t->kv_head, 0), v->stride[2], v->shape[3]};
    heed_pool_groups(a->kernels, pooling, keys, block.begin, n, w->keys, w->key_stride);
    heed_pool_groups(a->kernels, pooling, values, block.begin, n, w->values, w->value_stride);
    rows.score_shift = weigh_groups(&pooling->groups, block, w->score_shift);
    look_ahead(pooling, keys, values, &rows, block.end);
    return rows;
}

static void begin_pooled(const softmax_attention *a, query_tile *t)
{
    const pooled_source *source = (const pooled_source *)a->source;
    heed_mrsha_lower_sinks(a, t, &source->unit->keys.groups);
    if (source->job->is_causal && source->job->plan->mode == HEED_MRSHA_VALUE)
        heed_mrsha_begin_with_own(a, t, &source->unit->keys, source->scratch);
}

/* ---- results ---- */

static void store_lse(const softmax_plan *p, const coarse_unit *u, const query_tile *t, int r, log_sum lse)
{
    if (p->lse.data)
        *heed_row(&p->lse, t->b, t->head[r], token_of(u, t->query[r])) =
            u->pools_keys ? heed_mrsha_raise_lse(p, t, r, lse, &u->keys.groups) : (float)(lse.maximum + lse.log);
}

/* The other tokens of a group get the row of the first one, or 0 and -inf where they do not count. */
static void repeat_row(const softmax_plan *p, const coarse_unit *u, const query_tile *t, int r)
{
    heed_group group = heed_group_at(&u->all_queries, t->query[r]);
    const float *row = heed_row(&p->out, t->b, t->head[r], group.first);
    size_t row_bytes = (size_t)p->out.shape[3] * sizeof *row;
    for (int64_t i = 1; i < group.n_tokens; i++) {
        int64_t token = group.first + i / group.n_columns * group.pitch + i % group.n_columns;
        int counts = token < u->queries.groups.n_tokens;
        float *out = heed_row(&p->out, t->b, t->head[r], token);
        if (counts)
            memcpy(out, row, row_bytes);
        else
            memset(out, 0, row_bytes);
        if (p->lse.data)
            *heed_row(&p->lse, t->b, t->head[r], token) =
                counts ? *heed_row(&p->lse, t->b, t->head[r], group.first) : -INFINITY;
    }
}

static void store_tile(const coarse_job *job, const softmax_attention *a, const coarse_unit *u, query_tile *t)
{
    const softmax_plan *p = a->plan;
    float *rows[HEED_MAX_TILE_LANES];
    log_sum lse[HEED_MAX_TILE_LANES];
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = heed_row(&p->out, t->b, t->head[r], token_of(u, t->query[r]));
    heed_tile_finish(a, t, rows, lse);
    for (int r = 0; r < t->n_rows; r++) {
        store_lse(p, u, t, r, lse[r]);
        if (u->pools_queries && !job->plan->interpolates)
            repeat_row(p, u, t, r);
    }
}

/* ---- tasks ---- */

/* Tiles [first, first + n) of a unit. */
static void run_tiles(coarse_job *job, const coarse_unit *u, int64_t first, int64_t n, const mrsha_scratch *w)
{
    const softmax_plan *p = &job->plan->coarse;
    pooled_source pooled = {{open_pooled, begin_pooled}, job, u, w};
    softmax_attention a = {p, job->kernels, &job->exact_recomputations, w->scores, w->values, NULL};
    if (u->pools_keys)
        a.source = &pooled.source;
    for (int64_t i = 0; i < n; i++) {
        query_tile *t = &w->tiles[i];
        t->queries = w->queries + i * p->q.shape[3] * HEED_MAX_TILE_LANES;
        t->outputs = w->outputs + i * p->v.shape[3] * HEED_MAX_TILE_LANES;
        fill_tile(job, u, first + i, t);
        load_queries(&a, u, t, w);
    }
    heed_tiles_attend(&a, w->tiles, (int)n, 0);
    for (int64_t i = 0; i < n; i++)
        store_tile(job, &a, u, &w->tiles[i]);
}

/* Unit i of a batch element. */
static coarse_unit unit_at(const coarse_job *job, int64_t b, int64_t i)
{
    return open_unit(job, b, i / N_WAYS, (int)(i % N_WAYS));
}

static void run_task(void *argument, int64_t index, int worker)
{
    coarse_job *job = argument;
    const softmax_plan *p = &job->plan->coarse;
    mrsha_scratch w = heed_mrsha_carve(heed_scratch_slice(job->context, worker), p->q.shape[3], p->v.shape[3], NULL);
    int64_t b = index / job->tasks_per_batch, task = index % job->tasks_per_batch, i = 0;
    coarse_unit u = unit_at(job, b, 0);
    while (task >= u.n_tasks) {
        task -= u.n_tasks;
        u = unit_at(job, b, ++i);
    }
    int64_t first = task * u.tiles_per_task;
    run_tiles(job, &u, first, heed_smaller(u.tiles_per_task, u.n_tiles - first), &w);
}

/* Of one batch element. */
typedef struct coarse_work {
    int64_t n_tiles, n_tasks;
    double flops; /* roughly: products and means */
} coarse_work;

static coarse_work measure_work(const coarse_job *job)
{
    const softmax_plan *p = &job->plan->coarse;
    double channels = (double)(p->q.shape[3] + p->v.shape[3]);
    coarse_work work = {0};
    for (int64_t i = 0; i < p->q.shape[1] * N_WAYS; i++) {
        coarse_unit u = unit_at(job, 0, i);
        if (u.n_tiles == 0)
            continue;
        int64_t n_keys = u.pools_keys ? heed_divide_up(p->k.shape[2], u.keys.groups.size) : p->k.shape[2];
        work.n_tiles += u.n_tiles;
        work.n_tasks += u.n_tasks;
        work.flops += channels * (2.0 * (double)(u.n_heads * u.rows_per_head) * (double)n_keys +
                                  (double)(p->q.shape[2] + p->k.shape[2]));
    }
    return work;
}

void heed_mrsha_add_coarse(heed_context *context, const mrsha_plan *plan)
{
    const softmax_plan *p = &plan->coarse;
    int64_t n_batches = p->q.shape[0];
    coarse_job job = {.plan = plan, .kernels = context->kernels, .context = context, .most_tiles = 1};
    if (heed_is_empty(&p->out))
        return;
    job.is_causal = p->mask.right == 0;
    atomic_init(&job.exact_recomputations, 0);
    coarse_work work = measure_work(&job);
    double flops = (double)n_batches * work.flops;
    int64_t n_tiles = n_batches * work.n_tiles;
    int n_workers = heed_count_workers(context, n_tiles, flops);
    job.most_tiles = heed_mrsha_carve(NULL, p->q.shape[3], p->v.shape[3], NULL).n_tiles;
    if (n_workers > 1)
        job.most_tiles =
            heed_larger(1, heed_smaller(job.most_tiles, n_tiles / (HEED_MRSHA_TASKS_PER_THREAD * n_workers)));
    job.tasks_per_batch = measure_work(&job).n_tasks;
    int64_t n_tasks = n_batches * job.tasks_per_batch;
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), run_task, &job);
    context->report.exact_recomputations += atomic_load_explicit(&job.exact_recomputations, memory_order_relaxed);
}
