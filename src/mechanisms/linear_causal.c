/* Causal linear attention: row i sees the keys up to its own position ("Transformers are RNNs", equations 9 to 12), in
 * chunks of rows: with S and z over the keys before the chunk, F = phi(q), G = phi(k) of the chunk,
 *
 *     out = (F S + tril(F G^T) v) / (F z + rowsum(tril(F G^T)) + eps),
 *
 * and then the chunk's keys join the sums. Nothing a row does not see meets it: hidden products are set to 0, and where a
 * value of the chunk is not finite, so that 0 times it would not be 0, rows stop one by one at their last key. */
#include "core/sizes.h"
#include "core/tensor.h"
#include "mechanisms/linear_chunk.h"

static void attend_rows(const linear_job *job, const linear_keys *keys, const linear_chunk *chunk,
                        const linear_block *block, int64_t head, const linear_scratch *s)
{
    const linear_plan *p = job->plan;
    const heed_kernels *kernels = job->kernels;
    feature_head phi = heed_linear_query_map(job, head);
    float *out = heed_row(&p->out, keys->b, head, chunk->first);
    int64_t stride = p->out.stride[2];
    heed_linear_queries(job, &phi, keys->b, head, chunk->first, chunk->n, s);
    heed_linear_read(job, s->total, chunk->n, out, stride, s);
    linear_mix values = heed_linear_mix(job, out, stride, block->v, job->n_values);
    for (int r = 0; r < chunk->n; r += kernels->tile_lanes) {
        linear_tile t = heed_linear_tile(job, chunk, r);
        heed_linear_products(&t, heed_panel_rows(s->query_features, chunk->n),
                             heed_panel_rows(block->features, block->k.n), job->n_features, s->tile, s);
        kernels->prefix_tile(s->tile, s->den + r, t.ends, t.n_keys, t.n_vectors);
        heed_linear_mix_keys(&t, &values, s->tile, s);
    }
    kernels->divide_rows(out, stride, out, stride, s->den, chunk->n, job->n_values);
    for (int t = 0; t < chunk->n && !heed_linear_has_past(p, keys->b); t++) {
        if (chunk->keys.begin + (int64_t)chunk->ends[t] > keys->first)
            break;
        heed_linear_store_nothing(job, keys->b, head, chunk->first + t, chunk->first + t + 1);
    }
}

void heed_linear_causal_task(void *argument, int64_t index, int worker)
{
    const linear_job *job = argument;
    const linear_plan *p = job->plan;
    int64_t b = index / p->k.shape[1], kv_head = index % p->k.shape[1];
    linear_scratch s = heed_linear_scratch(job, worker);
    linear_keys keys = heed_linear_keys(job, b, kv_head);
    int64_t n_rows = heed_query_length(&p->mask, b), summed = 0;
    heed_linear_start(job, b, kv_head, s.total);
    for (int64_t first = 0; first < n_rows;) {
        linear_chunk chunk = heed_linear_chunk(p, &keys, first, n_rows);
        heed_linear_add_keys(job, s.total, &keys, (heed_key_range){summed, chunk.keys.begin}, &s);
        linear_block block = heed_linear_block(job, &keys, chunk.keys, &s, NULL);
        for (int64_t g = 0; g < job->group; g++)
            attend_rows(job, &keys, &chunk, &block, kv_head * job->group + g, &s);
        if (block.k.n > 0)
            heed_linear_add_block(job, s.total, &block, &s);
        summed = chunk.keys.end;
        first += chunk.n;
    }
    if (p->has_state) {
        heed_linear_add_keys(job, s.total, &keys, (heed_key_range){summed, keys.n}, &s);
        heed_linear_store(job, &p->state, b, kv_head, s.total);
    }
    for (int64_t g = 0; g < job->group; g++)
        heed_linear_store_nothing(job, b, kv_head * job->group + g, n_rows, p->q.shape[2]);
}
