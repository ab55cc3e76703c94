#include "bench/aft_input.h"

#include "bench/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t aft_input_n_channels(const attention_input *input)
{
    return input->shape.n_query_heads * input->shape.n_channels;
}

/* ---- What goes together ----------------------------------------------------------------------------------------- */

static int check_conv(const attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    const aft_settings *aft = &input->settings.aft;
    const int64_t n_channels = aft_input_n_channels(input), n_tokens = aft->grid_height * aft->grid_width;
    if (n_channels % aft->conv_heads != 0) {
        snprintf(message, bytes,
                 "aft-conv: Hq D = %" PRId64 " channels cannot be cut into %" PRId64 " heads; see --conv-heads",
                 n_channels, aft->conv_heads);
        return -1;
    }
    if (n_tokens > 0 && (s->n_queries != n_tokens || s->n_keys != n_tokens)) {
        snprintf(message, bytes,
                 "aft-conv: Nq = Nk = %" PRId64 " expected, the places of the grid, got Nq %" PRId64 ", Nk %" PRId64,
                 n_tokens, s->n_queries, s->n_keys);
        return -1;
    }
    if (n_tokens > 0 && input->causal) {
        snprintf(message, bytes, "aft-conv: a grid has no causal form, and the input is causal");
        return -1;
    }
    if (!input->causal && (aft->filter_rows % 2 == 0 || aft->filter_columns % 2 == 0)) {
        snprintf(message, bytes, "aft-conv: odd sizes of the filter expected where it is not causal");
        return -1;
    }
    return 0;
}

static int check_step(const attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    if (aft_asks_for(input, ORACLE_AFT_LOCAL) && s->n_keys < input->settings.aft.window) {
        snprintf(message, bytes, "--step: at least as many keys as --aft-window expected, %" PRId64 ", got Nk %" PRId64,
                 input->settings.aft.window, s->n_keys);
        return -1;
    }
    return 0;
}

static int check(const attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    if (s->n_channels != s->n_value_channels) {
        snprintf(message, bytes, "aft: as many channels of keys as of values expected, got D %" PRId64 ", Dv %" PRId64,
                 s->n_channels, s->n_value_channels);
        return -1;
    }
    if (input->settings.steps && check_step(input, message, bytes) != 0)
        return -1;
    return aft_asks_for(input, ORACLE_AFT_CONV) ? check_conv(input, message, bytes) : 0;
}

/* ---- q, k and v ------------------------------------------------------------------------------------------------- */

/* The heads of a view beside each other, each as often as `n_repeats` query heads use it. */
static heed_tensor put_heads_side_by_side(const heed_tensor *from, int64_t n_repeats)
{
    const int64_t *size = from->shape;
    const int64_t n_heads = size[1] * n_repeats;
    float *data = memory_allocate_floats(size[0], size[2], n_heads, size[3]);
    float *to = data;
    for (int64_t b = 0; data && b < size[0]; b++) {
        for (int64_t n = 0; n < size[2]; n++) {
            const float *token = (const float *)from->data + b * from->stride[0] + n * from->stride[2];
            for (int64_t h = 0; h < n_heads; h++) {
                memcpy(to, token + h / n_repeats * from->stride[1], (size_t)size[3] * sizeof *to);
                to += size[3];
            }
        }
    }
    return heed_tensor_bnhd(data, HEED_FLOAT32, size[0], 1, size[2], n_heads * size[3]);
}

static heed_tensor cut_into_heads(const heed_tensor *t, int64_t n_heads)
{
    return heed_tensor_bnhd(t->data, HEED_FLOAT32, t->shape[0], n_heads, t->shape[2], t->shape[3] / n_heads);
}

static heed_tensor take_first_channels(const heed_tensor *k, int64_t n_heads)
{
    const int64_t batch = k->shape[0], n_tokens = k->shape[2];
    const heed_tensor heads = cut_into_heads(k, n_heads);
    float *data = memory_allocate_floats(batch, n_heads, n_tokens, 1);
    float *to = data;
    for (int64_t b = 0; data && b < batch; b++) {
        for (int64_t h = 0; h < n_heads; h++) {
            const float *from = (const float *)heads.data + b * heads.stride[0] + h * heads.stride[1];
            for (int64_t n = 0; n < n_tokens; n++)
                *to++ = from[n * heads.stride[2]];
        }
    }
    return heed_tensor_bhnd(data, HEED_FLOAT32, batch, n_heads, n_tokens, 1);
}

static int make_tokens(aft_input *aft, const attention_input *input)
{
    const int64_t n_repeats = input->shape.n_query_heads / input->shape.n_kv_heads;
    aft->q = put_heads_side_by_side(&input->q, 1);
    aft->k = put_heads_side_by_side(&input->k, n_repeats);
    aft->v = put_heads_side_by_side(&input->v, n_repeats);
    if (!aft->q.data || !aft->k.data || !aft->v.data)
        return -1;
    if (!aft_asks_for(input, ORACLE_AFT_CONV))
        return 0;
    const int64_t n_heads = input->settings.aft.conv_heads;
    aft->conv_q = cut_into_heads(&aft->q, n_heads);
    aft->conv_v = cut_into_heads(&aft->v, n_heads);
    aft->conv_k = take_first_channels(&aft->k, n_heads);
    return aft->conv_k.data ? 0 : -1;
}

/* ---- The whole -------------------------------------------------------------------------------------------------- */

aft_input *aft_input_create(const attention_input *input, char *message, size_t message_bytes)
{
    if (check(input, message, message_bytes) != 0)
        return NULL;
    aft_input *aft = calloc(1, sizeof *aft);
    if (!aft || make_tokens(aft, input) != 0) {
        snprintf(message, message_bytes, "out of memory for the input of AFT");
        aft_input_destroy(aft);
        return NULL;
    }
    if (aft_parameters_make(&aft->parameters, input, message, message_bytes) != 0) {
        aft_input_destroy(aft);
        return NULL;
    }
    return aft;
}

void aft_input_destroy(aft_input *aft)
{
    if (!aft)
        return;
    free(aft->q.data);
    free(aft->k.data);
    free(aft->v.data);
    free(aft->conv_k.data);
    aft_parameters_release(&aft->parameters);
    free(aft);
}

heed_aft_options aft_input_options(const attention_input *input, oracle_aft_form form)
{
    const aft_parameters *p = &input->aft->parameters;
    heed_aft_options options = HEED_AFT_OPTIONS_INIT;
    options.mask = &input->mask;
    if (form == ORACLE_AFT_LOCAL) {
        options.window = input->settings.aft.window;
        options.banded = p->band.data != NULL;
    }
    if (form == ORACLE_AFT_FULL || form == ORACLE_AFT_LOCAL) {
        const heed_tensor *w = options.banded ? &p->band : &p->w;
        options.w = w->data ? w : NULL;
        options.query_factors = p->query_factors.data ? &p->query_factors : NULL;
        options.key_factors = p->key_factors.data ? &p->key_factors : NULL;
    }
    if (form == ORACLE_AFT_CONV) {
        options.grid_height = input->settings.aft.grid_height;
        options.grid_width = input->settings.aft.grid_width;
    }
    return options;
}

void aft_input_take_apart(const attention_input *input, const float *from, const heed_tensor *out)
{
    const attention_shape *shape = &input->shape;
    for (int64_t b = 0; b < shape->batch; b++) {
        for (int64_t n = 0; n < shape->n_queries; n++) {
            for (int64_t h = 0; h < shape->n_query_heads; h++) {
                float *to = (float *)out->data + b * out->stride[0] + h * out->stride[1] + n * out->stride[2];
                memcpy(to, from, (size_t)shape->n_channels * sizeof *to);
                from += shape->n_channels;
            }
        }
    }
}

/* ---- The reference ---------------------------------------------------------------------------------------------- */

/* Some channels of one head, as a view of one head. */
static heed_tensor take_channels(const heed_tensor *t, int64_t head, int64_t first, int64_t n)
{
    heed_tensor part = *t;
    part.data = (float *)t->data + head * t->stride[1] + first;
    part.shape[1] = 1;
    part.shape[3] = n;
    return part;
}

/* Head h holds channels h D .. h D + D - 1 of D'; several heads of the convolution may meet in it, or one may reach
 * beyond it, and then its key is a channel of another head. */
static void find_conv_row(const attention_input *input, int64_t b, int64_t h, int64_t i, double *out)
{
    const int64_t d = input->shape.n_channels, group = input->shape.n_query_heads / input->shape.n_kv_heads;
    const int64_t conv_channels = aft_input_n_channels(input) / input->settings.aft.conv_heads;
    const heed_aft_options options = aft_input_options(input, ORACLE_AFT_CONV);
    const heed_tensor *filters = &input->aft->parameters.filter;
    for (int64_t first = 0, n = 0; first < d; first += n) {
        const int64_t conv_head = (h * d + first) / conv_channels, key = conv_head * conv_channels;
        const int64_t left_in_head = key + conv_channels - (h * d + first);
        n = left_in_head < d - first ? left_in_head : d - first;
        const heed_tensor q = take_channels(&input->q, h, first, n), v = take_channels(&input->v, h / group, first, n);
        const heed_tensor k = take_channels(&input->k, key / d / group, key % d, 1);
        const heed_tensor filter = take_channels(filters, conv_head, 0, filters->shape[3]);
        oracle_aft_row(ORACLE_AFT_CONV, &q, &k, &v, &filter, &options, b, 0, i, out + first, NULL);
    }
}

/* Every channel is by itself, so that the channels of one head are enough. */
void aft_input_reference_row(const attention_input *input, oracle_aft_form form, int64_t b, int64_t h, int64_t i,
                             double *out)
{
    if (form == ORACLE_AFT_CONV) {
        find_conv_row(input, b, h, i, out);
        return;
    }
    const int64_t d = input->shape.n_channels, group = input->shape.n_query_heads / input->shape.n_kv_heads;
    const heed_tensor q = take_channels(&input->q, h, 0, d), k = take_channels(&input->k, h / group, 0, d),
                      v = take_channels(&input->v, h / group, 0, d);
    const heed_aft_options options = aft_input_options(input, form);
    oracle_aft_row(form, &q, &k, &v, NULL, &options, b, 0, i, out, NULL);
}
