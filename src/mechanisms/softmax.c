/* Softmax attention: how rows of queries and ranges of keys are dealt to tiles (softmax_tile.c) and threads.
 *
 * Many query rows: a tile holds rows of one head, and a group of tiles is a task, which takes each block of keys through
 * all its tiles while it is in cache. Few query rows: a tile holds the rows of all heads that share keys, so that these
 * are read once, and the keys are cut into ranges whose results are merged, so that there is work for all threads. */
#include "mechanisms/softmax.h"

#include "core/parallel.h"
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/softmax_tile.h"

#include <math.h>
#include <string.h>

/* How the rows of all heads are dealt to tiles. Row r of unit u of batch element b is query r % Nq of head
 * u heads_per_unit + r / Nq. */
typedef struct row_cut {
    int few_rows;
    int64_t heads_per_unit, n_units, rows_per_unit, tiles_per_unit;
    int64_t n_items;                                    /* tiles of all units and batch elements */
    int64_t tiles_per_group, groups_per_unit, n_groups; /* many rows: tiles of one unit that share a task */
    int64_t max_ranges;                                 /* ranges that the keys of an item are cut into, at most */
} row_cut;

/* One worker's scratch. */
typedef struct softmax_scratch {
    float *queries[HEED_GROUP_TILES], *outputs[HEED_GROUP_TILES]; /* tiles [D], [Dv] */
    float *scores;                                                /* a tile [HEED_BLOCK_KEYS] */
    float *values;                                                /* rows [HEED_BLOCK_KEYS][heed_copied_row(Dv)] */
    float *partial_rows;                                          /* [HEED_PARTIAL_ROWS][Dv] */
    log_sum *partial_lse;                                         /* [HEED_PARTIAL_ROWS] */
} softmax_scratch;

typedef struct softmax_job {
    const softmax_plan *plan;
    const heed_kernels *kernels;
    row_cut cut;
    heed_context *context;
    int64_t wave_begin; /* few rows, ranges as tasks: the first (item, range) of this wave */
    int n_slices;       /* scratch slices that hold the wave's partial results */
    atomic_llong exact_recomputations;
} softmax_job;

/* ---- scratch ---- */

static int64_t carve(softmax_scratch *w, char *memory, int64_t d, int64_t dv)
{
    heed_arena arena = {memory, 0};
    int64_t row = HEED_MAX_TILE_LANES * (int64_t)sizeof(float);
    for (int i = 0; i < HEED_GROUP_TILES; i++) {
        w->queries[i] = heed_arena_take(&arena, d * row);
        w->outputs[i] = heed_arena_take(&arena, dv * row);
    }
    w->scores = heed_arena_take(&arena, HEED_BLOCK_KEYS * row);
    w->values = heed_arena_take(&arena, HEED_BLOCK_KEYS * heed_copied_row(dv) * (int64_t)sizeof(float));
    w->partial_rows = heed_arena_take(&arena, HEED_PARTIAL_ROWS * dv * (int64_t)sizeof(float));
    w->partial_lse = heed_arena_take(&arena, HEED_PARTIAL_ROWS * (int64_t)sizeof(log_sum));
    return arena.bytes;
}

int64_t heed_softmax_worker_bytes(int64_t d, int64_t dv)
{
    softmax_scratch w;
    if (heed_larger(d, dv) > HEED_MAX_SCRATCH_CHANNELS)
        return INT64_MAX;
    return carve(&w, NULL, d, dv);
}

static softmax_scratch slice_of(const softmax_job *job, int worker)
{
    softmax_scratch w;
    carve(&w, heed_scratch_slice(job->context, worker), job->plan->q.shape[3], job->plan->v.shape[3]);
    return w;
}

/* ---- which rows, which keys ---- */

/* Few query rows: the first key of range i. The borders stand at fixed keys, so that where a row's keys are cut follows
 * from these alone and not from what else its tile sees: even ranges first, then so many for each doubling; the last
 * one takes the rest. */
static int64_t range_start(int64_t i)
{
    if (i < HEED_EVEN_RANGES)
        return i * HEED_MIN_RANGE_KEYS;
    int64_t doubling = (i - HEED_EVEN_RANGES) / HEED_RANGES_PER_DOUBLING;
    int64_t part = (i - HEED_EVEN_RANGES) % HEED_RANGES_PER_DOUBLING;
    int64_t first = (int64_t)HEED_EVEN_RANGES * HEED_MIN_RANGE_KEYS << doubling;
    return i < HEED_MAX_RANGES ? first + part * (first / HEED_RANGES_PER_DOUBLING) : INT64_MAX;
}

static int64_t range_of(int64_t key)
{
    int64_t i = 0;
    while (range_start(i + 1) <= key)
        i++;
    return i;
}

/* So few that the heads which share keys share tiles. */
static int has_few_rows(const softmax_plan *p, int tile_lanes) { return p->q.shape[2] < tile_lanes; }

static row_cut cut_rows(const softmax_plan *p, int tile_lanes, int n_threads)
{
    int64_t n_queries = p->q.shape[2], group = p->q.shape[1] / heed_larger(p->k.shape[1], 1);
    row_cut cut = {.few_rows = has_few_rows(p, tile_lanes), .max_ranges = 1};
    cut.heads_per_unit = cut.few_rows ? group : 1;
    cut.n_units = p->q.shape[1] / heed_larger(cut.heads_per_unit, 1);
    cut.rows_per_unit = cut.heads_per_unit * n_queries;
    cut.tiles_per_unit = heed_divide_up(cut.rows_per_unit, tile_lanes);
    cut.n_items = p->q.shape[0] * cut.n_units * cut.tiles_per_unit;
    if (cut.few_rows && p->k.shape[2] > 0)
        cut.max_ranges = range_of(p->k.shape[2] - 1) + 1;
    int64_t fair = cut.n_items / (HEED_ITEMS_PER_THREAD * n_threads);
    cut.tiles_per_group = heed_larger(1, heed_smaller(fair, HEED_GROUP_TILES));
    cut.groups_per_unit = heed_divide_up(cut.tiles_per_unit, cut.tiles_per_group);
    cut.n_groups = p->q.shape[0] * cut.n_units * cut.groups_per_unit;
    return cut;
}

/* Whether any head of a unit is asked for. Few rows: then all of them are computed, since a row's tile decides on its
 * bits. */
static int takes_unit(const softmax_job *job, int64_t unit)
{
    const heed_resolutions *only_fine = job->plan->only_fine;
    int64_t n = job->cut.heads_per_unit;
    return !only_fine || heed_count_fine_heads(only_fine, unit % job->cut.n_units * n, n) > 0;
}

/* The tile of an item, with the keys that any of its rows sees; `place` is its place in the scratch. */
static void fill_tile(const softmax_job *job, int64_t item, const softmax_scratch *w, int place, query_tile *t)
{
    const softmax_plan *p = job->plan;
    const row_cut *cut = &job->cut;
    int lanes = job->kernels->tile_lanes;
    int64_t unit = item / cut->tiles_per_unit, first = item % cut->tiles_per_unit * lanes;
    int64_t first_head = unit % cut->n_units * cut->heads_per_unit;
    t->queries = w->queries[place];
    t->outputs = w->outputs[place];
    t->b = unit / cut->n_units;
    t->kv_head = first_head / (p->q.shape[1] / p->k.shape[1]);
    t->n_rows = (int)heed_smaller(lanes, cut->rows_per_unit - first);
    t->with_sinks = 1;
    for (int r = 0; r < t->n_rows; r++) {
        t->head[r] = first_head + (first + r) / p->q.shape[2];
        t->query[r] = (first + r) % p->q.shape[2];
        t->counts[r] = t->query[r] < heed_query_length(&p->mask, t->b);
        t->sees[r] = heed_visible_range(&p->mask, t->b, t->query[r]);
    }
    heed_tile_close(job->kernels, t, cut->few_rows);
}

/* Few query rows: ranges that hold the tile's keys: at least one, so that rows without keys are written too. */
static int64_t count_ranges(const query_tile *t)
{
    if (heed_range_is_empty(t->keys))
        return 1;
    return range_of(t->keys.end - 1) - range_of(t->keys.begin) + 1;
}

/* Narrows the tile to one of its ranges. The sinks go with the first. */
static void take_range(query_tile *t, int64_t range)
{
    int64_t i = range_of(t->keys.begin) + range;
    t->keys = heed_range_common(t->keys, (heed_key_range){range_start(i), range_start(i + 1)});
    t->with_sinks = range == 0;
}

/* ---- one tile over one range of keys ---- */

static softmax_attention attention_of(softmax_job *job, const softmax_scratch *w)
{
    return (softmax_attention){job->plan, job->kernels, &job->exact_recomputations, w->scores, w->values, NULL};
}

static void load_queries(const softmax_attention *a, const query_tile *t)
{
    const float *rows[HEED_MAX_TILE_LANES];
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = heed_row(&a->plan->q, t->b, t->head[r], t->query[r]);
    heed_tile_load(a, t, rows);
}

static void attend_and_store(const softmax_attention *a, query_tile *t, float *const *rows, log_sum *lse)
{
    load_queries(a, t);
    heed_tiles_attend(a, t, 1, 0);
    heed_tile_finish(a, t, rows, lse);
}

/* ---- tasks ---- */

static void point_at_output(const softmax_job *job, const query_tile *t, float **rows)
{
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = heed_row(&job->plan->out, t->b, t->head[r], t->query[r]);
}

static void store_lse(const softmax_job *job, const query_tile *t, const log_sum *lse)
{
    for (int r = 0; job->plan->lse.data && r < t->n_rows; r++)
        *heed_row(&job->plan->lse, t->b, t->head[r], t->query[r]) = (float)(lse[r].maximum + lse[r].log);
}

/* Joins the result of one more range to that of the ranges before it. */
static void merge_range(const softmax_job *job, const query_tile *t, float *const *rows, log_sum *lse,
                        const float *partial_rows, const log_sum *partial_lse)
{
    int64_t dv = job->plan->v.shape[3];
    for (int r = 0; r < t->n_rows; r++)
        lse[r] = heed_merge_rows(job->kernels, rows[r], rows[r], lse[r], partial_rows + r * dv, partial_lse[r], dv);
}

static void point_at_partial(const softmax_job *job, int n_rows, float *partial_rows, float **rows)
{
    for (int r = 0; r < n_rows; r++)
        rows[r] = partial_rows + r * job->plan->v.shape[3];
}

/* A task of many rows: the tiles of a group. */
static void run_group(void *argument, int64_t group, int worker)
{
    softmax_job *job = argument;
    const row_cut *cut = &job->cut;
    softmax_scratch w = slice_of(job, worker);
    softmax_attention a = attention_of(job, &w);
    query_tile tiles[HEED_GROUP_TILES];
    float *rows[HEED_MAX_TILE_LANES];
    log_sum lse[HEED_MAX_TILE_LANES];
    int64_t unit = group / cut->groups_per_unit, first = group % cut->groups_per_unit * cut->tiles_per_group;
    int n_tiles = (int)heed_smaller(cut->tiles_per_group, cut->tiles_per_unit - first);
    if (!takes_unit(job, unit))
        return;
    for (int i = 0; i < n_tiles; i++) {
        fill_tile(job, unit * cut->tiles_per_unit + first + i, &w, i, &tiles[i]);
        load_queries(&a, &tiles[i]);
    }
    heed_tiles_attend(&a, tiles, n_tiles, 0);
    for (int i = 0; i < n_tiles; i++) {
        point_at_output(job, &tiles[i], rows);
        heed_tile_finish(&a, &tiles[i], rows, lse);
        store_lse(job, &tiles[i], lse);
    }
}

/* A task of few rows: all ranges of an item, one after the other. */
static void run_item(void *argument, int64_t item, int worker)
{
    softmax_job *job = argument;
    softmax_scratch w = slice_of(job, worker);
    softmax_attention a = attention_of(job, &w);
    query_tile whole, t;
    float *rows[HEED_MAX_TILE_LANES], *partial[HEED_MAX_TILE_LANES];
    log_sum lse[HEED_MAX_TILE_LANES];
    if (!takes_unit(job, item / job->cut.tiles_per_unit))
        return;
    fill_tile(job, item, &w, 0, &whole);
    point_at_output(job, &whole, rows);
    point_at_partial(job, whole.n_rows, w.partial_rows, partial);
    t = whole;
    take_range(&t, 0);
    attend_and_store(&a, &t, rows, lse);
    for (int64_t range = 1; range < count_ranges(&whole); range++) {
        t = whole;
        take_range(&t, range);
        attend_and_store(&a, &t, partial, w.partial_lse);
        merge_range(job, &t, rows, lse, w.partial_rows, w.partial_lse);
    }
    store_lse(job, &whole, lse);
}

/* Where the partial result of a wave's task lies: slot s is in slice s % n_slices. */
typedef struct partial_slot {
    float *rows;
    log_sum *lse;
} partial_slot;

static partial_slot slot_of(const softmax_job *job, int64_t slot)
{
    softmax_scratch w = slice_of(job, (int)(slot % job->n_slices));
    int64_t at = slot / job->n_slices * heed_smaller(job->cut.rows_per_unit, job->kernels->tile_lanes);
    return (partial_slot){w.partial_rows + at * job->plan->v.shape[3], w.partial_lse + at};
}

/* Whether (item, range) number `at`, with the item's tile, has anything to do. */
static int has_range(const softmax_job *job, int64_t at, const query_tile *t)
{
    return takes_unit(job, at / job->cut.max_ranges / job->cut.tiles_per_unit) &&
           at % job->cut.max_ranges < count_ranges(t);
}

/* A task of a wave: one range of one item, its result into a slot. */
static void run_range(void *argument, int64_t index, int worker)
{
    softmax_job *job = argument;
    int64_t at = job->wave_begin + index, range = at % job->cut.max_ranges;
    softmax_scratch w = slice_of(job, worker);
    softmax_attention a = attention_of(job, &w);
    query_tile t;
    fill_tile(job, at / job->cut.max_ranges, &w, 0, &t);
    if (!has_range(job, at, &t))
        return;
    take_range(&t, range);
    partial_slot slot = slot_of(job, index);
    float *rows[HEED_MAX_TILE_LANES];
    point_at_partial(job, t.n_rows, slot.rows, rows);
    attend_and_store(&a, &t, rows, slot.lse);
}

/* Joins one slot of a finished wave; lse is that of the item under way. */
static void collect_range(const softmax_job *job, int64_t index, log_sum *lse)
{
    int64_t at = job->wave_begin + index, range = at % job->cut.max_ranges;
    softmax_scratch w = slice_of(job, 0);
    query_tile t;
    fill_tile(job, at / job->cut.max_ranges, &w, 0, &t);
    if (!has_range(job, at, &t))
        return;
    partial_slot slot = slot_of(job, index);
    float *rows[HEED_MAX_TILE_LANES];
    point_at_output(job, &t, rows);
    for (int r = 0; range == 0 && r < t.n_rows; r++) {
        int64_t dv = job->plan->v.shape[3];
        memcpy(rows[r], slot.rows + r * dv, (size_t)dv * sizeof(float));
        lse[r] = slot.lse[r];
    }
    if (range > 0)
        merge_range(job, &t, rows, lse, slot.rows, slot.lse);
    if (range == count_ranges(&t) - 1)
        store_lse(job, &t, lse);
}

/* Ranges as tasks, in waves of as many as have a slot for their result; merged in order by the calling thread. */
static void run_waves(softmax_job *job, int n_workers)
{
    log_sum lse[HEED_MAX_TILE_LANES] = {{-INFINITY, 0.0}};
    int64_t slots_per_slice = HEED_PARTIAL_ROWS / heed_smaller(job->cut.rows_per_unit, job->kernels->tile_lanes);
    int64_t n_ranges = job->cut.n_items * job->cut.max_ranges;
    job->n_slices = n_workers;
    for (job->wave_begin = 0; job->wave_begin < n_ranges; job->wave_begin += slots_per_slice * n_workers) {
        int64_t n_tasks = heed_smaller(slots_per_slice * n_workers, n_ranges - job->wave_begin);
        heed_parallel_for(job->context, n_tasks, n_workers, run_range, job);
        for (int64_t index = 0; index < n_tasks; index++)
            collect_range(job, index, lse);
    }
}

void heed_softmax_add(heed_context *context, const softmax_plan *plan)
{
    softmax_job job = {.plan = plan, .kernels = context->kernels, .context = context};
    int64_t n_heads = plan->only_fine ? heed_count_fine_heads(plan->only_fine, 0, plan->q.shape[1]) : plan->q.shape[1];
    double flops = 2.0 * (double)(plan->q.shape[0] * n_heads * plan->q.shape[2]) * (double)plan->k.shape[2] *
                   (double)(plan->q.shape[3] + plan->v.shape[3]);
    job.cut = cut_rows(plan, context->kernels->tile_lanes, heed_count_workers(context, INT64_MAX, flops));
    atomic_init(&job.exact_recomputations, 0);
    const row_cut *cut = &job.cut;
    int64_t n_tasks = cut->few_rows ? cut->n_items * cut->max_ranges : cut->n_groups;
    int n_workers = heed_count_workers(context, n_tasks, flops);
    if (!cut->few_rows)
        heed_parallel_for(context, n_tasks, n_workers, run_group, &job);
    else if (n_workers > 1 && cut->max_ranges > 1 && cut->n_items < (int64_t)HEED_ITEMS_PER_THREAD * n_workers)
        run_waves(&job, n_workers);
    else
        heed_parallel_for(context, cut->n_items, n_workers, run_item, &job);
    context->report.exact_recomputations += atomic_load_explicit(&job.exact_recomputations, memory_order_relaxed);
}

void heed_softmax_run(heed_context *context, const softmax_plan *plan)
{
    heed_report_start(context, has_few_rows(plan, context->kernels->tile_lanes) ? "softmax-ranges" : "softmax-tiles",
                      heed_softmax_worker_bytes(plan->q.shape[3], plan->v.shape[3]));
    heed_softmax_add(context, plan);
}
