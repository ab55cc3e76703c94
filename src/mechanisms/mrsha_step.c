/* Steps of causal VALUE: the new token joins the row of its group in the cache, which is the mean of the group's tokens so
 * far, and then attends to all rows of the cache up to this one. */
#include "core/parallel.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "mechanisms/mrsha_parts.h"

#include <math.h>
#include <string.h>

typedef struct step_job {
    const mrsha_plan *plan;
    const heed_mrsha_state *state;
    heed_context *context;
    atomic_llong exact_recomputations;
} step_job;

/* The cache of one kv head and S, and where its latest token stands. */
typedef struct step_cache {
    key_source source; /* first, so that one is the other */
    int64_t b, leader, first_row, index;
    mrsha_sharers sharers;
    group_pooling pooling;
    int64_t group, place; /* of the latest token, and in the group */
    const heed_mrsha_state *state;
    float *score_shift; /* [HEED_BLOCK_KEYS] */
} step_cache;

static key_block open_cache(const softmax_attention *a, const query_tile *t, heed_key_range block)
{
    const step_cache *cache = (const step_cache *)a->source;
    const heed_tensor *keys = &cache->state->keys, *values = &cache->state->values;
    int64_t row = cache->first_row + block.begin, last = block.end - block.begin - 1;
    key_block rows = {.begin = block.begin, .k_stride = keys->stride[2], .v_stride = values->stride[2]};
    rows.k = heed_row(keys, t->b, 0, row);
    rows.v = heed_row(values, t->b, 0, row);
    if (block.end == cache->group + 1 && cache->place + 1 < cache->pooling.groups.size) {
        memset(cache->score_shift, 0, (size_t)last * sizeof(float));
        cache->score_shift[last] =
            (float)(log((double)(cache->place + 1)) - heed_log_largest_group(&cache->pooling.groups));
        rows.score_shift = cache->score_shift;
    }
    return rows;
}

static void begin_cache(const softmax_attention *a, query_tile *t)
{
    heed_mrsha_lower_sinks(a, t, &((const step_cache *)a->source)->pooling.groups);
}

/* The row of the latest token's group. */
static void add_to_cache(const heed_kernels *kernels, const step_cache *cache, const heed_tensor *rows,
                         const heed_tensor *open, const float *x)
{
    int64_t n_channels = rows->shape[3];
    prefix_sums sums = {heed_row(open, cache->b, 0, 2 * cache->index), open->stride[2]};
    heed_prefix_add(kernels, &cache->pooling, sums, x, n_channels, cache->place);
    heed_prefix_row(kernels, &cache->pooling, sums, n_channels, cache->place,
                    heed_row(rows, cache->b, 0, cache->first_row + cache->group));
}

/* Row n of the new tokens, of all heads that share the cache. */
static void attend(const step_job *job, const softmax_attention *a, const step_cache *cache, int64_t n,
                   const mrsha_scratch *w)
{
    query_tile *t = w->tiles;
    const float *queries[HEED_MAX_TILE_LANES];
    float *rows[HEED_MAX_TILE_LANES];
    log_sum lse[HEED_MAX_TILE_LANES];
    int64_t head = cache->leader;
    t->queries = w->queries;
    t->outputs = w->outputs;
    t->b = cache->b;
    t->kv_head = cache->sharers.kv_head;
    t->with_sinks = 1;
    for (int64_t left = cache->sharers.n_heads; left > 0; left -= t->n_rows) {
        t->n_rows = (int)heed_smaller(job->context->kernels->tile_lanes, left);
        for (int r = 0; r < t->n_rows; r++) {
            t->head[r] = head;
            t->query[r] = n;
            t->counts[r] = 1;
            t->sees[r] = (heed_key_range){0, cache->group + 1};
            queries[r] = heed_row(&a->plan->q, t->b, head, n);
            rows[r] = heed_row(&a->plan->out, t->b, head, n);
            head = heed_mrsha_next_sharer(&job->plan->heads, head);
        }
        heed_tile_close(a->kernels, t, heed_mrsha_may_stay_rows(&job->plan->heads, 1));
        heed_tile_load(a, t, queries);
        heed_tiles_attend(a, t, 1, 0);
        heed_tile_finish(a, t, rows, lse);
    }
}

/* New tokens that do not count. */
static void store_nothing(const mrsha_plan *plan, const step_cache *cache, int64_t first)
{
    const heed_tensor *out = &plan->coarse.out;
    int64_t head = cache->leader;
    for (int64_t i = 0; i < cache->sharers.n_heads; i++) {
        for (int64_t n = first; n < out->shape[2]; n++)
            memset(heed_row(out, cache->b, head, n), 0, (size_t)out->shape[3] * sizeof(float));
        head = heed_mrsha_next_sharer(&plan->heads, head);
    }
}

/* The cache that `head` is the first one to use; without heads where it is not. */
static step_cache find_cache(const step_job *job, int64_t b, int64_t head, float *score_shift)
{
    step_cache cache = {
        {open_cache, begin_cache}, .b = b, .leader = head, .state = job->state, .score_shift = score_shift};
    for (int64_t h = 0; h < head; h++) {
        mrsha_sharers sharers = heed_mrsha_sharers(&job->plan->heads, h);
        if (sharers.n_heads > 0) {
            cache.first_row += heed_divide_up(job->state->max_tokens, sharers.size);
            cache.index++;
        }
    }
    cache.sharers = heed_mrsha_sharers(&job->plan->heads, head);
    cache.pooling = heed_mrsha_pooling(job->plan, head, 0);
    return cache;
}

/* A task: the new tokens of one cache of a batch element. */
static void step_task(void *argument, int64_t index, int worker)
{
    step_job *job = argument;
    const softmax_plan *p = &job->plan->coarse;
    const heed_mrsha_state *state = job->state;
    int64_t b = index / p->q.shape[1], n_new = heed_query_length(&p->mask, b);
    mrsha_scratch w = heed_mrsha_carve(heed_scratch_slice(job->context, worker), p->q.shape[3], p->v.shape[3], NULL);
    step_cache cache = find_cache(job, b, index % p->q.shape[1], w.score_shift);
    if (cache.sharers.n_heads == 0)
        return;
    softmax_attention a = {p, job->context->kernels, &job->exact_recomputations, w.scores, w.values, &cache.source};
    for (int64_t n = 0; n < n_new; n++) {
        int64_t token = state->n_tokens[b] + n;
        cache.group = token / cache.sharers.size;
        cache.place = token % cache.sharers.size;
        cache.pooling.groups.most_tokens = token + 1;
        add_to_cache(a.kernels, &cache, &state->keys, &state->open_keys, heed_row(&p->k, b, cache.sharers.kv_head, n));
        add_to_cache(a.kernels, &cache, &state->values, &state->open_values,
                     heed_row(&p->v, b, cache.sharers.kv_head, n));
        attend(job, &a, &cache, n, &w);
    }
    store_nothing(job->plan, &cache, n_new);
}

/* Roughly: every head over the keys that it sees. */
static double count_flops(const step_job *job)
{
    const softmax_plan *p = &job->plan->coarse;
    double flops = 0.0, channels = (double)(p->q.shape[3] + p->v.shape[3]);
    for (int64_t b = 0; b < p->q.shape[0]; b++) {
        for (int64_t h = 0; h < p->q.shape[1]; h++) {
            int64_t rows = job->state->n_tokens[b] / heed_group_size(&job->plan->heads.resolutions, h) + 1;
            flops += 2.0 * channels * (double)heed_query_length(&p->mask, b) * (double)rows;
        }
    }
    return flops;
}

void heed_mrsha_step_run(heed_context *context, const mrsha_plan *plan, const heed_mrsha_state *state)
{
    const softmax_plan *p = &plan->coarse;
    step_job job = {.plan = plan, .state = state, .context = context};
    int64_t n_tasks = heed_is_empty(&p->q) ? 0 : p->q.shape[0] * p->q.shape[1];
    atomic_init(&job.exact_recomputations, 0);
    heed_report_start(context, "mrsha-steps", heed_mrsha_worker_bytes(p->q.shape[3], p->v.shape[3]));
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, count_flops(&job)), step_task, &job);
    for (int64_t b = 0; b < p->q.shape[0]; b++)
        state->n_tokens[b] += heed_query_length(&p->mask, b);
    context->report.exact_recomputations += atomic_load_explicit(&job.exact_recomputations, memory_order_relaxed);
}
