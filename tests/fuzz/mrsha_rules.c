/* The rules of heed.h about the arguments of multiresolution-head attention, said a second time and in the plainest
 * way. */
#include "mrsha_case.h"
#include "oracle/oracle.h"

static const int64_t max_tokens = ((int64_t)1 << 60) - 1;

const heed_mrsha_options *options_of(const fuzz_case *c) { return c->has_options ? &c->options : NULL; }

const heed_softmax_options *softmax_of(const fuzz_case *c, int which)
{
    const heed_mrsha_options *o = options_of(c);
    return !o ? NULL : which == FINE ? o->fine : o->softmax;
}

int64_t size_of_head(const fuzz_case *c, int64_t h)
{
    return oracle_mrsha_group_size(options_of(c), c->tensor[Q].shape[1], h);
}

/* ---- What the call sees ---- */

int is_written(const fuzz_case *c, int t)
{
    (void)c;
    return t == OUT || t == LSE || t >= KEYS;
}

int is_used(const fuzz_case *c, int t)
{
    const heed_mrsha_options *o = options_of(c);
    const heed_softmax_options *softmax = softmax_of(c, t == FINE_BIAS || t == FINE_VISIBLE ? FINE : ALL);
    switch (t) {
    case LSE:
        return c->verb == FORWARD && c->has_lse;
    case WEIGHTS:
        return o && o->weights;
    case BIAS:
    case FINE_BIAS:
        return softmax && softmax->bias;
    case VISIBLE:
    case FINE_VISIBLE:
        return softmax && softmax->mask && softmax->mask->visible;
    case KEYS:
    case VALUES:
    case OPEN_KEYS:
    case OPEN_VALUES:
        return c->verb == STEP && c->has_state;
    default:
        return c->verb != SIZES;
    }
}

static void add_array(heed_tensor *arrays, int *n, const void *data, int64_t bytes)
{
    if (data)
        arrays[(*n)++] = heed_tensor_bhnd(data, HEED_BOOL, 1, 1, 1, bytes);
}

int list_arrays(const fuzz_case *c, heed_tensor arrays[MAX_ARRAYS])
{
    const int64_t *size = c->tensor[Q].shape, of_batch = size[0] * 8;
    int n = 0;
    if (c->verb == STEP && c->has_state)
        add_array(arrays, &n, c->n_tokens, of_batch);
    if (options_of(c))
        add_array(arrays, &n, c->options.group_sizes, size[1] * 8);
    for (int which = 0; which < N_OPTIONS; which++) {
        const heed_softmax_options *o = softmax_of(c, which);
        if (!o)
            continue;
        add_array(arrays, &n, o->sinks, size[1] * 4);
        add_array(arrays, &n, o->alibi_slopes, size[1] * 4);
        if (!o->mask)
            continue;
        add_array(arrays, &n, o->mask->query_lengths, of_batch);
        add_array(arrays, &n, o->mask->key_lengths, of_batch);
        add_array(arrays, &n, o->mask->query_start, of_batch);
        add_array(arrays, &n, o->mask->key_start, of_batch);
    }
    return n;
}

/* Nothing that is written shares a byte with anything else. */
static int is_all_apart(const fuzz_case *c)
{
    heed_tensor arrays[MAX_ARRAYS];
    const int n = list_arrays(c, arrays);
    for (int i = 0; i < n; i++) {
        for (int t = 0; t < N_TENSORS; t++)
            if (is_used(c, t) && is_written(c, t) && shares_elements(&c->tensor[t], &arrays[i]))
                return 0;
        if (i > 0 && c->verb == STEP && shares_elements(&arrays[0], &arrays[i]))
            return 0;
    }
    return are_outputs_apart(c);
}

/* ---- Options ---- */

static int are_valid_group_sizes(const fuzz_case *c)
{
    if ((uintptr_t)c->options.group_sizes % sizeof(int64_t) != 0)
        return 0;
    for (int64_t h = 0; h < c->tensor[Q].shape[1]; h++)
        if (size_of_head(c, h) < 1)
            return 0;
    return 1;
}

static int are_valid_weights(const fuzz_case *c)
{
    const heed_mrsha_options *o = &c->options;
    const heed_tensor *w = o->weights;
    if (!w != (o->pooling != HEED_POOLING_LEARNED))
        return 0;
    if (!w)
        return 1;
    const int64_t n_heads = c->tensor[Q].shape[1];
    if (!is_valid_view(w, HEED_FLOAT32) || !has_shape(w, 1, 1, n_heads, w->shape[3]))
        return 0;
    for (int64_t h = 0; h < n_heads; h++) {
        const int64_t size = size_of_head(c, h);
        if (size > 1 && size > (o->grid_width > 0 ? w->shape[3] / size : w->shape[3]))
            return 0;
    }
    return 1;
}

static int is_valid_grid(const fuzz_case *c)
{
    const heed_mrsha_options *o = &c->options;
    if (o->grid_height < 0 || o->grid_width < 0 || !o->grid_height != !o->grid_width)
        return 0;
    for (int t = Q; t <= K && o->grid_width > 0; t++) {
        const int64_t n = c->tensor[t].shape[2] - (o->class_token ? 1 : 0);
        if (n < 1 || n % o->grid_width != 0 || n / o->grid_width != o->grid_height)
            return 0;
    }
    return 1;
}

/* Those of softmax attention, of which fine heads take everything. */
static int is_valid_softmax(const fuzz_case *c, int which)
{
    const heed_softmax_options *o = softmax_of(c, which);
    return !o || are_valid_softmax_options(o, &c->softmax[which].mask, &c->tensor[Q], &c->tensor[K]);
}

static int are_valid_options(const fuzz_case *c)
{
    const heed_mrsha_options *o = &c->options;
    const int mode = (int)o->mode, pooling = (int)o->pooling, upsampling = (int)o->upsampling;
    if (o->struct_size != sizeof *o || mode < 0 || mode > 2 || pooling < 0 || pooling > 2 || upsampling < 0 ||
        upsampling > 1)
        return 0;
    return are_valid_group_sizes(c) && is_valid_softmax(c, ALL) && is_valid_softmax(c, FINE) && are_valid_weights(c) &&
           is_valid_grid(c);
}

/* ---- What coarse heads take ---- */

static int has_coarse_heads(const fuzz_case *c)
{
    for (int64_t h = 0; h < c->tensor[Q].shape[1]; h++)
        if (size_of_head(c, h) > 1)
            return 1;
    return 0;
}

/* Of all heads or of coarse ones. */
static int has_slopes(const fuzz_case *c, const heed_softmax_options *o, int of_all)
{
    for (int64_t h = 0; o->alibi_slopes && h < c->tensor[Q].shape[1]; h++)
        if (o->alibi_slopes[h] != 0.0f && (of_all || size_of_head(c, h) > 1))
            return 1;
    return 0;
}

/* Token i of q stands where token i of k does. */
static int is_aligned(const fuzz_case *c, const heed_mask *mask)
{
    const int64_t n_queries = c->tensor[Q].shape[2], n_keys = c->tensor[K].shape[2];
    for (int64_t b = 0; b < c->tensor[Q].shape[0]; b++)
        if (oracle_distance(mask, b, 0, 0, n_queries, n_keys) != 0)
            return 0;
    return n_queries == n_keys;
}

static int is_valid_for_coarse_heads(const fuzz_case *c)
{
    const heed_softmax_options *o = softmax_of(c, ALL);
    const heed_mask *mask = o ? o->mask : NULL;
    if (!has_coarse_heads(c) || !o)
        return 1;
    if (o->bias || has_slopes(c, o, 0))
        return 0;
    if (mask && (mask->window_left != -1 || mask->window_right != -1 || mask->visible))
        return 0;
    if (!mask || !mask->causal)
        return 1;
    return c->options.mode != HEED_MRSHA_OUTPUT && c->options.grid_width == 0 && !c->options.class_token &&
           c->options.upsampling == HEED_UPSAMPLING_REPEAT && is_aligned(c, mask);
}

/* ---- Calls ---- */

static int is_valid_forward(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *lse = &c->tensor[LSE];
    const heed_mrsha_options *o = options_of(c);
    if (o && o->upsampling == HEED_UPSAMPLING_LINEAR && (o->grid_width > 0 || c->has_lse))
        return 0;
    if (c->has_lse && (!is_valid_output(lse) || !has_shape(lse, q->shape[0], q->shape[1], q->shape[2], 1)))
        return 0;
    return is_valid_for_coarse_heads(c);
}

/* Query heads a and b of one kv head have one cache. */
static int shares_cache(const heed_mrsha_options *o, int64_t hq, int64_t a, int64_t b)
{
    return oracle_mrsha_group_size(o, hq, a) == oracle_mrsha_group_size(o, hq, b) &&
           (oracle_mrsha_group_size(o, hq, a) == 1 || !o || o->pooling != HEED_POOLING_LEARNED);
}

cache_counts count_caches(const heed_mrsha_options *o, int64_t hq, int64_t hkv, int64_t tokens)
{
    cache_counts counts = {0, 0};
    for (int64_t h = 0; h < hq; h++) {
        const int64_t first = h - h % (hq / hkv), size = oracle_mrsha_group_size(o, hq, h);
        int is_new = 1;
        for (int64_t other = first; other < h; other++)
            is_new &= !shares_cache(o, hq, other, h);
        if (!is_new)
            continue;
        counts.n_caches++;
        counts.n_rows += tokens / size + (tokens % size != 0);
        counts.n_rows = counts.n_rows > max_tokens ? max_tokens + 1 : counts.n_rows;
    }
    return counts;
}

/* How many of the new tokens of batch element b count. */
static int has_room(const fuzz_case *c)
{
    const heed_softmax_options *o = softmax_of(c, ALL);
    for (int64_t b = 0; b < c->tensor[Q].shape[0]; b++) {
        const int64_t n = oracle_query_length(o ? o->mask : NULL, b, c->tensor[Q].shape[2]);
        if (c->n_tokens[b] > c->max_tokens - n)
            return 0;
    }
    return 1;
}

static int is_valid_state(const fuzz_case *c)
{
    const int64_t b = c->tensor[Q].shape[0];
    if (!c->has_state || c->max_tokens < 0 || c->max_tokens > max_tokens || !are_valid_tokens(c->n_tokens, b))
        return 0;
    const cache_counts n = count_caches(options_of(c), c->tensor[Q].shape[1], c->tensor[K].shape[1], c->max_tokens);
    for (int t = KEYS; t <= OPEN_VALUES; t++) {
        const int64_t channels = c->tensor[t == KEYS || t == OPEN_KEYS ? K : V].shape[3];
        if (!is_valid_output(&c->tensor[t]) ||
            !has_shape(&c->tensor[t], b, 1, t < OPEN_KEYS ? n.n_rows : 2 * n.n_caches, channels))
            return 0;
    }
    return has_room(c);
}

static int is_valid_step(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K];
    const heed_mrsha_options *o = options_of(c);
    const heed_softmax_options *softmax = softmax_of(c, ALL);
    if (!o || o->mode != HEED_MRSHA_VALUE || o->grid_width != 0 || o->class_token || o->fine ||
        o->upsampling != HEED_UPSAMPLING_REPEAT || q->shape[2] != k->shape[2])
        return 0;
    if (softmax && (softmax->bias || has_slopes(c, softmax, 1)))
        return 0;
    if (softmax && softmax->mask && !is_valid_step_mask(&c->softmax[ALL].mask, q, k))
        return 0;
    return is_valid_state(c);
}

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *v = &c->tensor[V], *out = &c->tensor[OUT];
    if (c->verb == SIZES) /* right or wrong, check_numbers() judges it */
        return 1;
    if (c->missing < N_TENSORS || !are_valid_softmax_inputs(q, &c->tensor[K], v) ||
        (c->has_options && !are_valid_options(c)))
        return 0;
    if (!is_valid_output(out) || !has_shape(out, q->shape[0], q->shape[1], q->shape[2], v->shape[3]))
        return 0;
    return (c->verb == STEP ? is_valid_step(c) : is_valid_forward(c)) && is_all_apart(c);
}
