#include "bench/mrsha_costs.h"

static double count_groups(int64_t n_tokens, int64_t group_size)
{
    const int64_t n_groups = (n_tokens + group_size - 1) / group_size;
    return (double)n_groups;
}

/* ---- Forward ---------------------------------------------------------------------------------------------------- */

/* Token i sees the groups before its own and its own: i / S + 1. */
static double count_causal_value_pairs(int64_t n_tokens, int64_t group_size)
{
    const int64_t n_whole = n_tokens / group_size;
    const double whole = (double)n_whole, rest = (double)(n_tokens % group_size);
    return (double)group_size * whole * (whole + 1) / 2 + rest * (whole + 1);
}

/* Group g sees the g groups before it; the tokens of the first group see each other. */
static double count_causal_group_pairs(int64_t n_tokens, int64_t group_size)
{
    const double n_groups = count_groups(n_tokens, group_size);
    const double first = (double)(n_tokens < group_size ? n_tokens : group_size);
    return n_groups * (n_groups - 1) / 2 + first * (first + 1) / 2;
}

/* Pairs of one coarse head in one batch element. */
static double count_coarse_pairs(const attention_input *input, int64_t group_size, heed_mrsha_mode mode)
{
    const int64_t n_queries = input->shape.n_queries, n_keys = input->shape.n_keys;
    if (input->causal)
        return mode == HEED_MRSHA_VALUE ? count_causal_value_pairs(n_keys, group_size)
                                        : count_causal_group_pairs(n_keys, group_size);
    const double rows = mode == HEED_MRSHA_VALUE ? (double)n_queries : count_groups(n_queries, group_size);
    const double keys = mode == HEED_MRSHA_OUTPUT ? (double)n_keys : count_groups(n_keys, group_size);
    return rows * keys;
}

/* Operations of so many pairs in every batch element. */
static double find_flops(const attention_shape *s, double n_pairs)
{
    return 2 * (double)s->batch * n_pairs * (double)(s->n_channels + s->n_value_channels);
}

double mrsha_flops(const attention_input *input, mrsha_kind kind)
{
    const attention_shape *s = &input->shape;
    const heed_mrsha_options options = mrsha_input_options(input, kind);
    const double fine_pairs = input_visible_pairs(input) / ((double)s->batch * (double)s->n_query_heads);
    double n_pairs = 0;
    for (int64_t h = 0; h < s->n_query_heads; h++) {
        const int64_t group_size = options.group_sizes[h];
        n_pairs += group_size == 1 ? fine_pairs : count_coarse_pairs(input, group_size, options.mode);
    }
    return find_flops(s, n_pairs);
}

/* ---- Steps ------------------------------------------------------------------------------------------------------ */

double mrsha_step_flops(const attention_input *input)
{
    const attention_shape *s = &input->shape;
    const heed_mrsha_options options = mrsha_input_options(input, MRSHA_ASKED);
    double n_pairs = 0;
    for (int64_t h = 0; h < s->n_query_heads; h++)
        n_pairs += count_groups(s->n_keys, options.group_sizes[h]);
    return find_flops(s, n_pairs);
}

double mrsha_step_bytes(const attention_input *input)
{
    const attention_shape *s = &input->shape;
    const heed_mrsha_options options = mrsha_input_options(input, MRSHA_ASKED);
    const double n_written = 1, n_sums = 2;
    double n_rows = (double)(s->n_query_heads + s->n_kv_heads);
    for (int64_t h = 0; h < s->n_query_heads; h++)
        if (mrsha_input_has_cache(input, h))
            n_rows += count_groups(s->n_keys, options.group_sizes[h]) + n_written + n_sums;
    return sizeof(float) * (double)s->batch * n_rows * (double)(s->n_channels + s->n_value_channels);
}
