/* out_i = phi(q_i) S / (phi(q_i) z + eps),  S = sum_j phi(k_j)^T v_j,  z = sum_j phi(k_j)
 *                                                              ("Transformers are RNNs", equations 4 and 5)
 *
 * Where all rows see the same keys, these are summed up first, in blocks, blocks in parts, and parts in their order, so
 * that long sums lose nothing; then the rows are read out. Heads go to threads, or, where there are too few, the parts of
 * a head, and then its rows; the bits are the same. Causal rows go through linear_causal.c. */
#include "mechanisms/linear_parts.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

int64_t heed_linear_worker_bytes(const linear_plan *p)
{
    linear_scratch s;
    if (!heed_linear_fits(p))
        return INT64_MAX;
    return heed_linear_carve(&s, NULL, p);
}

/* ---- keys ---- */

/* Keys of a part of so many: whole blocks. */
static int64_t part_keys(int64_t n_keys)
{
    int64_t least = heed_divide_up(n_keys, HEED_LINEAR_PARTS);
    return heed_divide_up(heed_larger(least, HEED_LINEAR_PART_KEYS), HEED_LINEAR_BLOCK) * HEED_LINEAR_BLOCK;
}

static void sum_part(const linear_job *job, const linear_keys *keys, int64_t part, linear_sums sums,
                     const linear_scratch *s)
{
    int64_t size = part_keys(keys->n);
    heed_linear_clear(job, sums);
    heed_linear_add_keys(job, sums, keys, (heed_key_range){part * size, heed_smaller(keys->n, (part + 1) * size)}, s);
}

/* ---- rows ---- */

static void read_rows(const linear_job *job, const linear_keys *keys, int64_t head, heed_key_range rows,
                      linear_sums total, const linear_scratch *s)
{
    const linear_plan *p = job->plan;
    int64_t end = heed_smaller(rows.end, heed_query_length(&p->mask, keys->b));
    if (keys->first == keys->n && !heed_linear_has_past(p, keys->b))
        end = rows.begin;
    if (rows.begin < end) {
        feature_head phi = heed_linear_query_map(job, head);
        for (int64_t i = rows.begin; i < end; i += HEED_LINEAR_BLOCK) {
            int n = (int)heed_smaller(end - i, HEED_LINEAR_BLOCK);
            float *out = heed_row(&p->out, keys->b, head, i);
            heed_linear_queries(job, &phi, keys->b, head, i, n, s);
            heed_linear_read(job, total, n, out, p->out.stride[2], s);
            job->kernels->divide_rows(out, p->out.stride[2], out, p->out.stride[2], s->den, n, job->n_values);
        }
    }
    heed_linear_store_nothing(job, keys->b, head, heed_larger(rows.begin, end), rows.end);
}

/* ---- a head for each thread ---- */

static void head_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    const linear_plan *p = job->plan;
    int64_t b = index / p->k.shape[1], kv_head = index % p->k.shape[1];
    linear_scratch s = heed_linear_scratch(job, worker);
    linear_keys keys = heed_linear_keys(job, b, kv_head);
    heed_linear_start(job, b, kv_head, s.total);
    for (int64_t part = 0; part * part_keys(keys.n) < keys.n; part++) {
        sum_part(job, &keys, part, s.part, &s);
        heed_linear_add(job, s.total, s.part);
    }
    for (int64_t g = 0; g < job->group; g++)
        read_rows(job, &keys, kv_head * job->group + g, (heed_key_range){0, p->q.shape[2]}, s.total, &s);
    if (p->has_state)
        heed_linear_store(job, &p->state, b, kv_head, s.total);
}

/* ---- a head for all threads ---- */

/* Where task `index` leaves its part: no two tasks at a time have one index. */
static linear_scratch shared_scratch(const linear_job *job, int64_t index)
{
    linear_scratch s;
    heed_linear_carve(&s, heed_scratch_slice(job->context, (int)index), job->plan);
    return s;
}

static void part_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    linear_scratch s = heed_linear_scratch(job, worker);
    linear_keys keys = heed_linear_keys(job, job->b, job->kv_head);
    sum_part(job, &keys, job->first_part + index, shared_scratch(job, index).part, &s);
}

static void rows_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    int64_t n_rows = job->plan->q.shape[2], begin = index % job->parts * HEED_LINEAR_ROWS;
    linear_scratch s = heed_linear_scratch(job, worker);
    linear_keys keys = heed_linear_keys(job, job->b, job->kv_head);
    read_rows(job, &keys, job->kv_head * job->group + index / job->parts,
              (heed_key_range){begin, heed_smaller(n_rows, begin + HEED_LINEAR_ROWS)}, shared_scratch(job, 0).total,
              &s);
}

static void run_head(heed_context *context, linear_job *job, int n_workers)
{
    const linear_plan *p = job->plan;
    int64_t n_keys = heed_linear_keys(job, job->b, job->kv_head).n, n_parts = heed_divide_up(n_keys, part_keys(n_keys));
    linear_scratch s = heed_linear_scratch(job, 0);
    heed_linear_start(job, job->b, job->kv_head, s.total);
    for (job->first_part = 0; job->first_part < n_parts; job->first_part += n_workers) {
        int64_t n_tasks = heed_smaller(n_workers, n_parts - job->first_part);
        heed_parallel_for(context, n_tasks, (int)n_tasks, part_task, job);
        for (int64_t i = 0; i < n_tasks; i++)
            heed_linear_add(job, s.total, shared_scratch(job, i).part);
    }
    job->parts = heed_divide_up(p->q.shape[2], HEED_LINEAR_ROWS);
    int64_t n_tasks = job->parts * job->group;
    heed_parallel_for(context, n_tasks, (int)heed_smaller(n_workers, n_tasks), rows_task, job);
    if (p->has_state)
        heed_linear_store(job, &p->state, job->b, job->kv_head, s.total);
}

/* ---- the call ---- */

double heed_linear_flops(const linear_plan *p)
{
    double sums = 2.0 * (double)p->key_map.out * (double)p->v.shape[3];
    double queries = (double)(p->q.shape[0] * p->q.shape[1]) * (double)p->q.shape[2];
    double keys = (double)(p->k.shape[0] * p->k.shape[1]) * (double)p->k.shape[2];
    return queries * (heed_feature_flops(&p->query_map) + sums) + keys * (heed_feature_flops(&p->key_map) + sums);
}

void heed_linear_run(heed_context *context, const linear_plan *p)
{
    linear_job job = heed_linear_job(context, p);
    int64_t n_heads = p->k.shape[0] * p->k.shape[1];
    int causal = p->mask.right >= 0;
    double flops = heed_linear_flops(p);
    int n_workers = heed_count_workers(context, context->n_threads, flops);
    heed_report_start(context, causal ? "linear-chunks" : "linear-sums", heed_linear_worker_bytes(p));
    if (causal || n_workers == 1 || n_heads % n_workers == 0 || n_heads > 4 * n_workers) {
        heed_parallel_for(context, n_heads, heed_count_workers(context, n_heads, flops),
                          causal ? heed_linear_causal_task : head_task, &job);
    } else {
        for (int64_t head = 0; head < n_heads; head++) {
            job.b = head / p->k.shape[1];
            job.kv_head = head % p->k.shape[1];
            run_head(context, &job, n_workers);
        }
    }
    for (int64_t b = 0; p->has_state && b < p->k.shape[0]; b++)
        p->state.n_tokens[b] += heed_key_length(&p->mask, b);
}
