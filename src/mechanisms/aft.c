/* out_id = gate(q_id) sum_j exp(k_jd + w_ij) v_jd / sum_j exp(k_jd + w_ij)     ("An Attention Free Transformer", eq. 2)
 *
 * w is a matrix or a product of factors (full), the same within a window and 0 outside (local, equation 4), 0 (simple,
 * equation 5), or a filter over the distance, with one key for all channels of a head (conv, equation 6, written as
 * equation 2: the sum over all keys plus the window's exp(w) - 1 would cancel where w is negative).
 *
 * aft_rows.c goes key by key, aft_blocks.c over blocks of keys as matrix products; aft_window.c, aft_conv.c and aft_grid.c
 * likewise over windows, with one set of sums for all that lies outside; here one is chosen. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

/* Whether each row sees the first so many keys. Only then is every key that a scan or a tile has taken before one that
 * the row sees, and what it does not see has no say in its bits. */
static int sees_first_keys(const aft_plan *p)
{
    return !p->mask.visible.data && p->mask.left < 0 && !p->nothing_outside;
}

/* One way to compute a plan. */
typedef struct aft_way {
    const char *path;
    heed_task *task;
    int64_t bytes;        /* scratch of a worker */
    int64_t heads, parts; /* a task has so many heads, over the batch, or a head so many tasks */
    double flops;         /* of the whole call, roughly */
} aft_way;

static aft_way choose(const aft_plan *p, int n_threads)
{
    int64_t n_queries = p->q.shape[2], d = p->q.shape[3], n_taps = p->filter.shape[2] * p->filter.shape[3];
    double rows = (double)(p->q.shape[0] * p->q.shape[1] * n_queries) * (double)d, pairs = rows * (double)p->k.shape[2];
    int see_first = sees_first_keys(p), see_all = see_first && p->mask.right < 0;
    int see_past = see_first && p->mask.right == 0, is_causal = see_past && p->mask.mask.causal;
    aft_way way = {.heads = 1};
    if (p->form == AFT_SIMPLE && see_first) {
        way.path = "aft-scan", way.task = heed_aft_scan_task, way.bytes = heed_aft_rows_bytes(p);
        way.parts = heed_divide_up(d, HEED_AFT_CHANNELS);
        way.flops = 2.0 * EXP_FLOPS * rows;
    } else if (p->form == AFT_CONV && (see_all || is_causal) && p->grid_width == 0) {
        way.path = "aft-conv", way.task = heed_aft_conv_task, way.bytes = heed_aft_conv_bytes(p);
        way.heads = heed_aft_conv_heads(p, n_threads), way.parts = heed_divide_up(d, HEED_AFT_SLICE);
        way.flops = 2.0 * rows * (double)n_taps;
    } else if (p->form == AFT_CONV && see_all && p->grid_width >= AFT_PARKED_ROWS) {
        way.path = "aft-grid", way.task = heed_aft_grid_task, way.bytes = heed_aft_grid_bytes(p);
        way.parts = heed_aft_grid_parts(p);
        way.flops = 2.0 * rows * (double)n_taps;
    } else if (p->form == AFT_CONV || n_queries < HEED_AFT_FEW_ROWS || !see_first) {
        way.path = "aft-rows", way.task = heed_aft_rows_task, way.bytes = heed_aft_rows_bytes(p);
        way.parts = heed_divide_up(n_queries, HEED_AFT_ROWS);
        way.flops = EXP_FLOPS * pairs;
    } else if (p->form == AFT_LOCAL && (see_all || see_past) && p->window <= HEED_AFT_WIDEST_WINDOW) {
        way.path = "aft-window", way.task = heed_aft_window_task, way.bytes = heed_aft_window_bytes(p);
        way.parts = heed_aft_window_parts(p);
        way.flops = 8.0 * rows * (double)p->window;
    } else {
        way.path = "aft-blocks", way.task = heed_aft_blocks_task, way.bytes = heed_aft_blocks_bytes(p);
        way.parts = heed_aft_blocks_parts(p);
        way.flops = 4.0 * pairs;
    }
    return way;
}

int64_t heed_aft_worker_bytes(const aft_plan *p)
{
    if (p->q.shape[3] > HEED_MAX_SCRATCH_CHANNELS || p->query_factors.shape[3] > HEED_MAX_SCRATCH_CHANNELS ||
        p->filter.shape[2] * p->filter.shape[3] > HEED_MAX_SCRATCH_CHANNELS)
        return INT64_MAX;
    int64_t bytes = heed_aft_rows_bytes(p);
    if (p->form == AFT_FULL || p->form == AFT_LOCAL)
        bytes = heed_larger(bytes, heed_aft_blocks_bytes(p));
    if (p->form == AFT_LOCAL && p->window <= HEED_AFT_WIDEST_WINDOW)
        bytes = heed_larger(bytes, heed_aft_window_bytes(p));
    if (p->form == AFT_CONV && p->grid_width == 0)
        bytes = heed_larger(bytes, heed_aft_conv_bytes(p));
    if (p->form == AFT_CONV && p->grid_width > 0)
        bytes = heed_larger(
            bytes, p->grid_width < HEED_MAX_SCRATCH_CHANNELS / p->filter.shape[2] ? heed_aft_grid_bytes(p) : INT64_MAX);
    return bytes;
}

int64_t heed_aft_default_bytes(int64_t d, int64_t n_factors, int64_t n_taps, int64_t grid_width, int64_t grid_taps)
{
    aft_plan local = {.form = AFT_LOCAL, .q.shape[3] = d, .query_factors.shape[3] = n_factors};
    aft_plan conv = {.form = AFT_CONV, .q.shape[3] = d, .filter.shape = {1, 1, 1, n_taps}};
    aft_plan grid = {.form = AFT_CONV, .q.shape[3] = d, .filter.shape = {1, 1, grid_taps, grid_taps}};
    local.window = HEED_AFT_WIDEST_WINDOW;
    grid.grid_width = grid_width;
    return heed_larger(heed_aft_worker_bytes(&local),
                       heed_larger(heed_aft_worker_bytes(&conv), heed_aft_worker_bytes(&grid)));
}

void heed_aft_run(heed_context *context, const aft_plan *p)
{
    aft_way way = choose(p, context->n_threads);
    aft_job job = {.plan = p, .kernels = context->kernels, .context = context, .heads = way.heads, .parts = way.parts};
    atomic_init(&job.exact_recomputations, 0);
    int64_t n_tasks = heed_divide_up(p->q.shape[0] * p->q.shape[1], way.heads) * way.parts;
    heed_report_start(context, way.path, way.bytes);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, way.flops), way.task, &job);
    context->report.exact_recomputations = atomic_load_explicit(&job.exact_recomputations, memory_order_relaxed);
}

/* ---- the gate alone ---- */

typedef struct gate_job {
    const heed_kernels *kernels;
    heed_tensor q, x, out;
} gate_job;

static void run_gate(void *argument, int64_t index, int worker)
{
    const gate_job *job = argument;
    const int64_t *shape = job->out.shape;
    (void)worker;
    for (int64_t n = 0; n < shape[2]; n++) {
        int64_t b = index / shape[1], h = index % shape[1];
        job->kernels->gate_array(heed_row(&job->out, b, h, n), heed_row(&job->q, b, h, n), heed_row(&job->x, b, h, n),
                                 shape[3]);
    }
}

void heed_aft_gate_run(heed_context *context, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out)
{
    gate_job job = {context->kernels, *q, *x, *out};
    int64_t n_tasks = out->shape[0] * out->shape[1];
    double flops = EXP_FLOPS * (double)(n_tasks * out->shape[2]) * (double)out->shape[3];
    heed_report_start(context, "aft-gate", 0);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), run_gate, &job);
}
