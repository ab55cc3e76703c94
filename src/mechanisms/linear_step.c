/* Linear attention token by token ("Transformers are RNNs", equations 16 to 20), and the sum of two states.
 *
 * A step is bound by memory: S is large, and a token touches all of it. So a token does not write it. Its phi(k) and v
 * wait in the state's recent rows, which the read-out takes along,
 *
 *     out = (F S + sum_r (F g_r) v_r) / (F z + sum_r F g_r + eps),
 *
 * and all P of them join S together: 1 + 2 / P passes over S for a token instead of 2. Each joins at a token that is
 * counted from the first one, so the bits do not depend on how tokens come in. */
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/linear_parts.h"

#include <string.h>

/* The rows of query heads first .. first + n, n <= HEED_MAX_PLAIN_ROWS, of new token i; n_recent rows count. */
static void read_token(const linear_job *job, int64_t b, int64_t first, int n, int64_t i, int n_recent,
                       const feature_head *phi, const linear_scratch *s)
{
    const linear_plan *p = job->plan;
    const heed_kernels *kernels = job->kernels;
    const heed_linear_state *state = &p->state;
    int64_t kv_head = first / job->group, lanes = kernels->tile_lanes;
    float rescale[HEED_MAX_TILE_LANES] = {0};
    memset(s->rows, 0, (size_t)(n * job->n_values) * sizeof *s->rows);
    for (int r = 0; r < n; r++) {
        float *f = s->query_features + r * job->n_features;
        heed_features(&phi[r], heed_feature_rows(&p->q, b, first + r, i, 1), f, &s->layers);
        for (int64_t c = 0; c < job->n_features; c++)
            s->packed[c * lanes + r] = f[c];
    }
    kernels->values_rows(s->rows, s->sums, s->packed, heed_row(&state->sums, b, kv_head, 0), state->sums.stride[2],
                         rescale, (int)job->n_features, job->n_values, n);
    for (int r = 0; r < n; r++) {
        const float *f = s->query_features + r * job->n_features, *g = heed_row(&state->recent_features, b, kv_head, 0);
        float *row = s->rows + r * job->n_values, den = p->eps, *out = heed_row(&p->out, b, first + r, i);
        memset(s->weights, 0, (size_t)n_recent * sizeof *s->weights);
        kernels->dot_rows(&den, f, 0, heed_row(&state->norms, b, kv_head, 0), 0, 1, job->n_features);
        kernels->dot_rows(s->weights, g, state->recent_features.stride[2], f, 0, n_recent, job->n_features);
        for (int j = 0; j < n_recent; j++)
            den += s->weights[j];
        kernels->mix_rows(row, 0, s->ones, s->weights, 0, 1, heed_row(&state->recent_values, b, kv_head, 0),
                          state->recent_values.stride[2], n_recent, 1, job->n_values, NULL);
        kernels->divide_rows(row, 0, row, 0, &den, 1, job->n_values);
        memcpy(out, row, (size_t)job->n_values * sizeof *out);
    }
}

/* What a head needs lies scattered, and each place would be waited for: n_recent rows of this head, and what head
 * `next` of all batch elements starts with. */
static void ask_for_heads(const linear_job *job, int64_t b, int64_t kv_head, int64_t next, int n_recent)
{
    const linear_plan *p = job->plan;
    const heed_kernels *kernels = job->kernels;
    const heed_tensor *features = &p->state.recent_features, *values = &p->state.recent_values;
    int group = (int)job->group;
    int64_t next_b = next / p->k.shape[1], next_head = next % p->k.shape[1];
    kernels->ask_rows(heed_row(&p->state.norms, b, kv_head, 0), 0, 1, job->n_features);
    kernels->ask_rows(heed_row(features, b, kv_head, 0), features->stride[2], n_recent, job->n_features);
    kernels->ask_rows(heed_row(values, b, kv_head, 0), values->stride[2], n_recent, job->n_values);
    kernels->ask_rows(heed_row(&p->k, next_b, next_head, 0), 0, 1, p->k.shape[3]);
    kernels->ask_rows(heed_row(&p->v, next_b, next_head, 0), 0, 1, job->n_values);
    kernels->ask_rows(heed_row(&p->q, next_b, next_head * group, 0), p->q.stride[1], group, p->q.shape[3]);
    kernels->ask_rows(heed_row(&p->out, next_b, next_head * group, 0), p->out.stride[1], group, job->n_values);
}

static void step_head(const linear_job *job, int64_t b, int64_t kv_head, int64_t next, const linear_scratch *s)
{
    const linear_plan *p = job->plan;
    const heed_linear_state *state = &p->state;
    int64_t n_recent = state->recent_features.shape[2];
    int64_t head = kv_head * job->group, n_tokens = heed_query_length(&p->mask, b);
    int64_t together = heed_smaller(HEED_MAX_PLAIN_ROWS, job->kernels->tile_lanes);
    if (n_tokens > 0)
        ask_for_heads(job, b, kv_head, next, (int)(state->n_tokens[b] % n_recent) + 1);
    feature_head key_phi = heed_feature_head(job->kernels, &p->key_map, kv_head, HEED_FEATURES_OF_KEYS);
    for (int64_t i = 0; i < n_tokens; i++) {
        int64_t slot = (state->n_tokens[b] + i) % n_recent;
        heed_features(&key_phi, heed_feature_rows(&p->k, b, kv_head, i, 1),
                      heed_row(&state->recent_features, b, kv_head, slot), &s->layers);
        memcpy(heed_row(&state->recent_values, b, kv_head, slot), heed_row(&p->v, b, kv_head, i),
               (size_t)job->n_values * sizeof(float));
        for (int64_t g = 0; g < job->group; g += together) {
            int n = (int)heed_smaller(job->group - g, together);
            feature_head phi[HEED_MAX_PLAIN_ROWS];
            for (int r = 0; r < n; r++)
                phi[r] = heed_linear_query_map(job, head + g + r);
            read_token(job, b, head + g, n, i, (int)slot + 1, phi, s);
        }
        if (slot == n_recent - 1) {
            heed_linear_fold(job->kernels, state, state, b, kv_head);
            heed_linear_forget_recent(state, b, kv_head);
        }
    }
    for (int64_t g = 0; g < job->group; g++)
        heed_linear_store_nothing(job, b, head + g, n_tokens, p->q.shape[2]);
}

/* A worker's heads. After an odd number of tokens they go in reverse: what the caches kept of the last ones' sums is met
 * first. */
static void step_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    const linear_plan *p = job->plan;
    linear_scratch s = heed_linear_scratch(job, worker);
    int64_t n_heads = p->k.shape[1], n = p->k.shape[0] * n_heads;
    int64_t begin = n * index / job->parts, end = n * (index + 1) / job->parts;
    int64_t floats = (end - begin) * job->n_features * job->n_values;
    int64_t step = n > 0 && p->state.n_tokens[0] % 2 && floats < HEED_LINEAR_CACHED_FLOATS ? -1 : 1,
            at = step > 0 ? begin : end - 1;
    for (int64_t left = end - begin; left > 0; left--, at += step) {
        int64_t next = left > 1 ? at + step : at;
        step_head(job, at / n_heads, at % n_heads, next, &s);
    }
}

void heed_linear_step_run(heed_context *context, const linear_plan *p)
{
    linear_job job = heed_linear_job(context, p);
    int64_t n_heads = p->k.shape[0] * p->k.shape[1];
    job.parts = heed_count_workers(context, n_heads, heed_linear_flops(p));
    heed_report_start(context, "linear-steps", heed_linear_worker_bytes(p));
    heed_parallel_for(context, job.parts, (int)job.parts, step_task, &job);
    for (int64_t b = 0; b < p->k.shape[0]; b++)
        p->state.n_tokens[b] += heed_query_length(&p->mask, b);
}

/* ---- merge ---- */

typedef struct merge_job {
    const heed_kernels *kernels;
    const heed_linear_state *a, *b, *out;
} merge_job;

static void merge_task(void *argument, int64_t index, int worker)
{
    const merge_job *job = argument;
    const int64_t *shape = job->out->sums.shape;
    int64_t b = index / shape[1], head = index % shape[1];
    (void)worker;
    for (int64_t c = 0; c < shape[2]; c++)
        job->kernels->blend_rows(heed_row(&job->out->sums, b, head, c), heed_row(&job->a->sums, b, head, c), 1.0f,
                                 heed_row(&job->b->sums, b, head, c), 1.0f, shape[3]);
    job->kernels->blend_rows(heed_row(&job->out->norms, b, head, 0), heed_row(&job->a->norms, b, head, 0), 1.0f,
                             heed_row(&job->b->norms, b, head, 0), 1.0f, shape[2]);
    heed_linear_fold(job->kernels, job->a, job->out, b, head);
    heed_linear_fold(job->kernels, job->b, job->out, b, head);
    heed_linear_forget_recent(job->out, b, head);
}

void heed_linear_merge_run(heed_context *context, const heed_linear_state *a, const heed_linear_state *b,
                           const heed_linear_state *out)
{
    merge_job job = {context->kernels, a, b, out};
    const int64_t *shape = out->sums.shape;
    int64_t n_tasks = shape[0] * shape[1];
    double flops = 2.0 * (double)(n_tasks * shape[2]) * (double)shape[3];
    heed_report_start(context, "linear-merge", 0);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), merge_task, &job);
    for (int64_t i = 0; i < shape[0]; i++)
        out->n_tokens[i] = a->n_tokens[i] + b->n_tokens[i];
}
