#include "bench/input.h"

#include "bench/aft_input.h"
#include "bench/linear_input.h"
#include "bench/memory.h"
#include "bench/mrsha_input.h"
#include "bench/npy.h"
#include "tests/support/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of the random streams: what is made by chance does not depend on what else is made. */
enum { STREAM_Q = 1, STREAM_K, STREAM_V, STREAM_BIAS, STREAM_MASK };

/* q, k and v as they come: contiguous in the order batch, head, token, channel. */
typedef struct plain_arrays {
    float *q, *k, *v;
} plain_arrays;

const char *input_layout_name(input_layout layout)
{
    static const char *const names[] = {"bhnd", "bnhd", "packed"};
    return names[layout];
}

/* ---- Sources ---------------------------------------------------------------------------------------------------- */

float *input_make_normal(const int64_t sizes[4], uint64_t seed, uint64_t stream, float deviation)
{
    float *x = memory_allocate_floats(sizes[0], sizes[1], sizes[2], sizes[3]);
    if (x) {
        random_stream random = random_start_seeded(seed, stream);
        for (int64_t i = 0; i < sizes[0] * sizes[1] * sizes[2] * sizes[3]; i++)
            x[i] = deviation * random_normal(&random);
    }
    return x;
}

static int make_random(const attention_shape *s, uint64_t seed, plain_arrays *arrays, char *message, size_t bytes)
{
    const int64_t q_sizes[] = {s->batch, s->n_query_heads, s->n_queries, s->n_channels};
    const int64_t k_sizes[] = {s->batch, s->n_kv_heads, s->n_keys, s->n_channels};
    const int64_t v_sizes[] = {s->batch, s->n_kv_heads, s->n_keys, s->n_value_channels};
    arrays->q = input_make_normal(q_sizes, seed, STREAM_Q, 1);
    arrays->k = input_make_normal(k_sizes, seed, STREAM_K, 1);
    arrays->v = input_make_normal(v_sizes, seed, STREAM_V, 1);
    if (!arrays->q || !arrays->k || !arrays->v) {
        snprintf(message, bytes, "out of memory for a random input");
        return -1;
    }
    return 0;
}

/* Reads one file and gives its four sizes: batch, heads, tokens, channels. */
static int read_tensor(const char *path, float **data, int64_t sizes[4], int *rank, char *message, size_t bytes)
{
    npy_array array;
    if (npy_read(path, &array, message, bytes) != 0)
        return -1;
    *data = array.data;
    *rank = array.rank;
    if (array.rank != 3 && array.rank != 4) {
        snprintf(message, bytes, "%s: 3 dimensions (heads, tokens, channels) or 4 (with a batch) expected, got %d",
                 path, array.rank);
        return -1;
    }
    sizes[0] = 1;
    memcpy(sizes + 4 - array.rank, array.shape, (size_t)array.rank * sizeof sizes[0]);
    return 0;
}

/* One size of one file, and what it must be. */
typedef struct size_rule {
    const char *path, *what;
    int64_t got, expected;
    const char *why;
} size_rule;

static int check_sizes(const input_source *source, const int64_t q[4], const int64_t k[4], const int64_t v[4],
                       char *message, size_t bytes)
{
    const size_rule rules[] = {
        {source->k_path, "batch elements", k[0], q[0], "as in q"}, {source->k_path, "channels", k[3], q[3], "as in q"},
        {source->v_path, "batch elements", v[0], q[0], "as in q"}, {source->v_path, "heads", v[1], k[1], "as in k"},
        {source->v_path, "tokens", v[2], k[2], "as in k"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].got != rules[i].expected) {
            snprintf(message, bytes, "%s: %lld %s expected (%s), got %lld", rules[i].path, (long long)rules[i].expected,
                     rules[i].what, rules[i].why, (long long)rules[i].got);
            return -1;
        }
    }
    for (int i = 0; i < 4; i++) {
        if (q[i] == 0 || k[i] == 0 || v[i] == 0) {
            snprintf(message, bytes, "%s: an input without elements cannot be compared", source->q_path);
            return -1;
        }
    }
    if (q[1] % k[1] != 0) {
        snprintf(message, bytes, "%s: %lld query heads are no multiple of %lld key heads", source->q_path,
                 (long long)q[1], (long long)k[1]);
        return -1;
    }
    return 0;
}

static int read_files(const input_source *source, plain_arrays *arrays, attention_shape *shape, int *rank,
                      char *message, size_t bytes)
{
    int64_t q[4], k[4], v[4];
    int k_rank = 0, v_rank = 0;
    if (read_tensor(source->q_path, &arrays->q, q, rank, message, bytes) != 0 ||
        read_tensor(source->k_path, &arrays->k, k, &k_rank, message, bytes) != 0 ||
        read_tensor(source->v_path, &arrays->v, v, &v_rank, message, bytes) != 0)
        return -1;
    if (k_rank != *rank || v_rank != *rank) {
        snprintf(message, bytes, "%s: %d dimensions expected (as in q), got %d",
                 k_rank != *rank ? source->k_path : source->v_path, *rank, k_rank != *rank ? k_rank : v_rank);
        return -1;
    }
    if (check_sizes(source, q, k, v, message, bytes) != 0)
        return -1;
    *shape = (attention_shape){q[0], q[1], k[1], q[2], k[2], q[3], v[3]};
    return 0;
}

/* ---- Layouts ---------------------------------------------------------------------------------------------------- */

/* Copies a contiguous (batch, head, token, channel) array to where a view of the same shape says. */
static void copy_to_view(const float *from, const heed_tensor *view)
{
    const int64_t n_channels = view->shape[3];
    float *data = view->data;
    for (int64_t b = 0; b < view->shape[0]; b++) {
        for (int64_t h = 0; h < view->shape[1]; h++) {
            for (int64_t n = 0; n < view->shape[2]; n++) {
                memcpy(data + b * view->stride[0] + h * view->stride[1] + n * view->stride[2], from,
                       (size_t)n_channels * sizeof(float));
                from += n_channels;
            }
        }
    }
}

/* A view of `heads` heads inside the rows of a packed buffer. */
static heed_tensor view_packed(float *data, const attention_shape *s, int64_t heads, int64_t channels,
                               int64_t row_floats)
{
    heed_tensor view = heed_tensor_bnhd(data, HEED_FLOAT32, s->batch, heads, s->n_keys, channels);
    view.stride[0] = s->n_keys * row_floats;
    view.stride[1] = channels;
    view.stride[2] = row_floats;
    return view;
}

static int lay_out_packed(attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    if (s->n_queries != s->n_keys) {
        snprintf(message, bytes, "layout packed: %lld keys expected (as many as queries), got %lld",
                 (long long)s->n_queries, (long long)s->n_keys);
        return -1;
    }
    const int64_t q_floats = s->n_query_heads * s->n_channels, k_floats = s->n_kv_heads * s->n_channels;
    const int64_t row_floats = q_floats + k_floats + s->n_kv_heads * s->n_value_channels;
    float *data = memory_allocate_floats(1, s->batch, s->n_keys, row_floats);
    if (!data) {
        snprintf(message, bytes, "out of memory for the packed layout");
        return -1;
    }
    input->buffers[0] = data;
    input->q = view_packed(data, s, s->n_query_heads, s->n_channels, row_floats);
    input->k = view_packed(data + q_floats, s, s->n_kv_heads, s->n_channels, row_floats);
    input->v = view_packed(data + q_floats + k_floats, s, s->n_kv_heads, s->n_value_channels, row_floats);
    return 0;
}

static int lay_out_apart(attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    heed_tensor (*make_view)(const void *, heed_dtype, int64_t, int64_t, int64_t, int64_t) =
        input->settings.layout == LAYOUT_BHND ? heed_tensor_bhnd : heed_tensor_bnhd;
    input->q = make_view(NULL, HEED_FLOAT32, s->batch, s->n_query_heads, s->n_queries, s->n_channels);
    input->k = make_view(NULL, HEED_FLOAT32, s->batch, s->n_kv_heads, s->n_keys, s->n_channels);
    input->v = make_view(NULL, HEED_FLOAT32, s->batch, s->n_kv_heads, s->n_keys, s->n_value_channels);
    heed_tensor *const views[] = {&input->q, &input->k, &input->v};
    for (int i = 0; i < 3; i++) {
        const int64_t *size = views[i]->shape;
        views[i]->data = memory_allocate_floats(size[0], size[1], size[2], size[3]);
        input->buffers[i] = views[i]->data;
        if (!views[i]->data) {
            snprintf(message, bytes, "out of memory for an input");
            return -1;
        }
    }
    return 0;
}

heed_tensor input_take_tokens(const heed_tensor *t, int64_t first, int64_t n)
{
    heed_tensor part = *t;
    part.data = (float *)t->data + first * t->stride[2];
    part.shape[2] = n;
    return part;
}

/* ---- Bias and masks --------------------------------------------------------------------------------------------- */

static int make_bias(attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    const int64_t sizes[] = {1, s->n_query_heads, s->n_queries, s->n_keys};
    float *data = input_make_normal(sizes, input->settings.seed, STREAM_BIAS, 1);
    if (!data) {
        snprintf(message, bytes, "out of memory for the bias");
        return -1;
    }
    input->buffers[3] = data;
    input->bias = heed_tensor_bhnd(data, HEED_FLOAT32, 1, s->n_query_heads, s->n_queries, s->n_keys);
    input->options.bias = &input->bias;
    return 0;
}

/* The key that stays visible in each row is drawn from those that causality and window leave. */
static int make_bool_mask(attention_input *input, char *message, size_t bytes)
{
    const attention_shape *s = &input->shape;
    const int64_t n_rows = s->n_query_heads * s->n_queries;
    int64_t n_elements;
    uint8_t *data = __builtin_mul_overflow(n_rows, s->n_keys, &n_elements) ? NULL : memory_allocate(n_elements);
    if (!data) {
        snprintf(message, bytes, "out of memory for the boolean mask");
        return -1;
    }
    random_stream random = random_start_seeded(input->settings.seed, STREAM_MASK);
    for (int64_t row = 0; row < n_rows; row++) {
        uint8_t *visible = data + row * s->n_keys;
        for (int64_t j = 0; j < s->n_keys; j++)
            visible[j] = random_below(&random, 10) != 0;
        int64_t begin, end;
        input_visible_range(input, row % s->n_queries, &begin, &end);
        if (begin < end)
            visible[begin + random_below(&random, end - begin)] = 1;
    }
    input->buffers[4] = data;
    input->visible = heed_tensor_bhnd(data, HEED_BOOL, 1, s->n_query_heads, s->n_queries, s->n_keys);
    input->mask.visible = &input->visible;
    return 0;
}

void input_visible_range(const attention_input *input, int64_t i, int64_t *begin, int64_t *end)
{
    const int64_t n_keys = input->shape.n_keys;
    const int64_t position = i + n_keys - input->shape.n_queries;
    const int64_t left = input->settings.window_left, right = input->causal ? 0 : input->settings.window_right;
    *begin = left < 0 || position < left ? 0 : position - left;
    *end = right < 0 || position + right >= n_keys ? n_keys : position + right + 1;
}

double input_visible_pairs(const attention_input *input)
{
    const attention_shape *s = &input->shape;
    double pairs = 0;
    for (int64_t i = 0; i < s->n_queries; i++) {
        int64_t begin, end;
        input_visible_range(input, i, &begin, &end);
        pairs += begin < end ? (double)(end - begin) : 0;
    }
    return pairs * (double)s->batch * (double)s->n_query_heads;
}

/* ---- Inputs ----------------------------------------------------------------------------------------------------- */

static int fill(attention_input *input, const input_source *source, plain_arrays *arrays, char *message, size_t bytes)
{
    const input_settings *settings = &input->settings;
    const int found = input->random ? make_random(&input->shape, settings->seed, arrays, message, bytes)
                                    : read_files(source, arrays, &input->shape, &input->rank, message, bytes);
    if (found != 0)
        return -1;
    const int laid_out = settings->layout == LAYOUT_PACKED ? lay_out_packed(input, message, bytes)
                                                           : lay_out_apart(input, message, bytes);
    if (laid_out != 0)
        return -1;
    copy_to_view(arrays->q, &input->q);
    copy_to_view(arrays->k, &input->k);
    copy_to_view(arrays->v, &input->v);
    input->mask.causal = input->causal;
    input->mask.window_left = settings->window_left;
    input->mask.window_right = settings->window_right;
    input->options.mask = &input->mask;
    if (settings->bias && make_bias(input, message, bytes) != 0)
        return -1;
    if (settings->bool_mask && make_bool_mask(input, message, bytes) != 0)
        return -1;
    if (settings->steps && input->shape.n_queries != 1) {
        snprintf(message, bytes, "--step: one query expected, got Nq %lld", (long long)input->shape.n_queries);
        return -1;
    }
    if (settings->aft.forms != 0)
        input->aft = aft_input_create(input, message, bytes);
    if (settings->aft.forms != 0 && !input->aft)
        return -1;
    if (settings->linear.kinds != 0)
        input->linear = linear_input_create(input, message, bytes);
    if (settings->linear.kinds != 0 && !input->linear)
        return -1;
    if (settings->mrsha.kinds != 0)
        input->mrsha = mrsha_input_create(input, message, bytes);
    return settings->mrsha.kinds == 0 || input->mrsha ? 0 : -1;
}

attention_input *input_create(const input_source *source, const input_settings *settings, char *message,
                              size_t message_bytes)
{
    attention_input *input = malloc(sizeof *input);
    if (!input) {
        snprintf(message, message_bytes, "out of memory");
        return NULL;
    }
    *input = (attention_input){.shape = source->shape,
                               .rank = 4,
                               .random = !source->q_path,
                               .causal = source->causal,
                               .settings = *settings,
                               .mask = HEED_MASK_INIT,
                               .options = HEED_SOFTMAX_OPTIONS_INIT};
    snprintf(input->name, sizeof input->name, "%s", source->name);
    plain_arrays arrays = {NULL, NULL, NULL};
    if (fill(input, source, &arrays, message, message_bytes) != 0) {
        input_destroy(input);
        input = NULL;
    }
    free(arrays.q);
    free(arrays.k);
    free(arrays.v);
    return input;
}

void input_destroy(attention_input *input)
{
    if (!input)
        return;
    aft_input_destroy(input->aft);
    linear_input_destroy(input->linear);
    mrsha_input_destroy(input->mrsha);
    for (size_t i = 0; i < sizeof input->buffers / sizeof input->buffers[0]; i++)
        free(input->buffers[i]);
    free(input);
}

heed_tensor input_output_view(const attention_input *input, int64_t n_channels, float *data)
{
    const attention_shape *s = &input->shape;
    return (input->settings.layout == LAYOUT_BHND ? heed_tensor_bhnd : heed_tensor_bnhd)(
        data, HEED_FLOAT32, s->batch, s->n_query_heads, s->n_queries, n_channels);
}
