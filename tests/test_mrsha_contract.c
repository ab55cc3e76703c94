/* Every argument of multiresolution-head attention: what is refused, with which status and a message that names it,
 * without a byte written; what is unusual and fine; and scratch to the byte. */
#include "mrsha_problem.h"
#include "support/fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef enum call_verb { FORWARD, STEP, N_VERBS } call_verb;
static const char *const verb_names[N_VERBS] = {"forward", "step"};

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, TOKENS = 6, D = 5, DV = 4, MAX_TOKENS = 9, PAD = 256 };

/* A good call to copy from, with its memory: causal VALUE, learned weights, sinks. */
typedef struct bench {
    mrsha_problem *p;
    call_verb verb;
    heed_context *context;
    int64_t state_bytes;
    guarded state_memory;
    heed_mrsha_state state;
} bench;

/* Its arguments, to be spoilt one by one; NULL pointers where the call gets NULL. It stays where it is. */
typedef struct arguments {
    const bench *s;
    heed_context *context;
    heed_tensor q, k, v, out, lse, weights;
    const heed_tensor *q_at, *k_at, *v_at, *out_at, *lse_at;
    heed_mask mask, fine_mask;
    heed_softmax_options softmax, fine;
    heed_mrsha_options options;
    const heed_mrsha_options *options_at;
    int64_t sizes[HEADS];
    float sizes_pad[PAD]; /* so that an output that is moved to one array stays off the next one */
    int64_t lengths[BATCH];
    float lengths_pad[PAD], sinks[HEADS], sinks_pad[PAD], slopes[HEADS], slopes_pad[PAD];
    heed_mrsha_state state;
    const heed_mrsha_state *state_at;
} arguments;

static const int64_t good_sizes[HEADS] = {1, 2, 3, 1};

static void open_bench(bench *s, call_verb verb)
{
    mrsha_case c = {.shape = {BATCH, HEADS, KV_HEADS, TOKENS, TOKENS, D, DV},
                    .mode = HEED_MRSHA_VALUE,
                    .pooling = HEED_POOLING_LEARNED,
                    .causal = 1,
                    .has_sinks = 1};
    memcpy(c.group_sizes, good_sizes, sizeof good_sizes);
    *s = (bench){.p = mrsha_create(&c), .verb = verb, .context = fixture_context};
    assert_int_equal(heed_mrsha_state_bytes(&s->p->options, BATCH, HEADS, KV_HEADS, D, DV, MAX_TOKENS, &s->state_bytes),
                     HEED_OK);
    guarded_create(&s->state_memory, (size_t)s->state_bytes, GUARD_START);
    s->state = heed_mrsha_state_view(s->state_memory.data, &s->p->options, BATCH, HEADS, KV_HEADS, D, DV, MAX_TOKENS);
    assert_int_equal(heed_mrsha_state_reset(&s->state, -1), HEED_OK);
    s->state.n_tokens[0] = 3;
}

static void close_bench(bench *s)
{
    assert_true(guarded_intact(&s->state_memory));
    guarded_destroy(&s->state_memory);
    mrsha_destroy(s->p);
}

static void set_good(arguments *x, const bench *s)
{
    const mrsha_problem *p = s->p;
    memset(x, 0, sizeof *x);
    x->s = s;
    x->context = s->context;
    x->q = p->a.q, x->k = p->a.k, x->v = p->a.v, x->out = p->a.out, x->lse = p->a.lse;
    x->q_at = &x->q, x->k_at = &x->k, x->v_at = &x->v, x->out_at = &x->out, x->lse_at = &x->lse;
    x->weights = p->weights;
    x->mask = p->mask;
    x->fine_mask = (heed_mask)HEED_MASK_INIT;
    x->softmax = p->softmax;
    x->softmax.mask = &x->mask;
    x->softmax.sinks = x->sinks;
    x->fine = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    x->fine.mask = &x->fine_mask;
    x->options = p->options;
    x->options.softmax = &x->softmax;
    x->options.weights = &x->weights;
    x->options.group_sizes = x->sizes;
    x->options_at = &x->options;
    memcpy(x->sizes, good_sizes, sizeof good_sizes);
    x->lengths[0] = x->lengths[1] = TOKENS;
    x->state = s->state;
    x->state_at = &x->state;
}

static heed_status call(const arguments *x)
{
    return x->s->verb == STEP
               ? heed_mrsha_step(x->context, x->q_at, x->k_at, x->v_at, x->options_at, x->state_at, x->out_at)
               : heed_mrsha_forward(x->context, x->q_at, x->k_at, x->v_at, x->options_at, x->out_at, x->lse_at);
}

/* A copy of all that a call may touch. */
static unsigned char *snapshot(const bench *s, size_t *n)
{
    const attention *a = &s->p->a;
    const guarded *all[] = {&a->q_memory,   &a->k_memory,     &a->v_memory,    &a->out_memory,
                            &a->lse_memory, &s->p->memory[0], &s->state_memory};
    size_t total = 0;
    for (size_t i = 0; i < N_OF(all); i++)
        total += all[i]->bytes;
    unsigned char *copy = malloc(total);
    assert_non_null(copy);
    *n = 0;
    for (size_t i = 0; i < N_OF(all); i++) {
        memcpy(copy + *n, all[i]->data, all[i]->bytes);
        *n += all[i]->bytes;
    }
    return copy;
}

static void refuse(bench *s, const arguments *x, heed_status want, const char *part_of_message, const char *change)
{
    size_t n;
    unsigned char *before = snapshot(s, &n);
    const heed_status status = call(x);
    const char *message = heed_context_message(x->context);
    if (status != want)
        fail_msg("%s, %s: %s: \"%s\"; wanted %s", verb_names[s->verb], change, heed_status_text(status), message,
                 heed_status_text(want));
    if (!strstr(message, part_of_message) || !*message)
        fail_msg("%s, %s: the message does not name %s: \"%s\"", verb_names[s->verb], change, part_of_message, message);
    unsigned char *after = snapshot(s, &n);
    if (memcmp(before, after, n) != 0)
        fail_msg("%s, %s: was refused and wrote", verb_names[s->verb], change);
    free(before);
    free(after);
}

/* The good call is good, so that it is the change which is refused. */
#define REFUSE(change, status, message)                                                                                \
    do {                                                                                                               \
        arguments x;                                                                                                   \
        set_good(&x, &s);                                                                                              \
        change;                                                                                                        \
        refuse(&s, &x, status, message, #change);                                                                      \
    } while (0)

/* A changed call that is good as well; the sequences of a step then begin again. */
#define TAKE(change)                                                                                                   \
    do {                                                                                                               \
        arguments x;                                                                                                   \
        set_good(&x, &s);                                                                                              \
        change;                                                                                                        \
        const heed_status status = call(&x);                                                                           \
        if (status != HEED_OK)                                                                                         \
            fail_msg("%s, %s: %s: %s", verb_names[s.verb], #change, heed_status_text(status),                          \
                     heed_context_message(x.context));                                                                 \
        assert_string_equal(heed_context_message(x.context), "");                                                      \
        s.state.n_tokens[0] = 3;                                                                                       \
        s.state.n_tokens[1] = 0;                                                                                       \
        guarded_clear(&s.p->a.out_memory);                                                                             \
        guarded_clear(&s.p->a.lse_memory);                                                                             \
    } while (0)

/* ---- Tensors ---- */

static void refused_tensors(void **state)
{
    (void)state;
    for (int verb = 0; verb < N_VERBS; verb++) {
        bench s;
        open_bench(&s, (call_verb)verb);
        TAKE((void)0);
        REFUSE(x.q_at = NULL, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k_at = NULL, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.v_at = NULL, HEED_ERROR_ARGUMENT, "v");
        REFUSE(x.out_at = NULL, HEED_ERROR_ARGUMENT, "out");
        REFUSE(x.q.data = NULL, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k.data = NULL, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.v.data = NULL, HEED_ERROR_ARGUMENT, "v");
        REFUSE(x.out.data = NULL, HEED_ERROR_ARGUMENT, "out");
        REFUSE(x.k.data = (char *)x.k.data + 1, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.q.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "q");
        REFUSE(x.k.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "k");
        REFUSE(x.v.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "v");
        REFUSE(x.out.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "out");
        REFUSE(x.q.dtype = (heed_dtype)9, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k.shape[0] = 1, HEED_ERROR_SHAPE, "k");
        REFUSE(x.v.shape[0] = 1, HEED_ERROR_SHAPE, "v");
        REFUSE((x.k.shape[1] = x.v.shape[1] = 3), HEED_ERROR_SHAPE, "");
        REFUSE(x.v.shape[1] = 1, HEED_ERROR_SHAPE, "v");
        REFUSE(x.v.shape[2] = 5, HEED_ERROR_SHAPE, "v");
        REFUSE(x.k.shape[3] = 4, HEED_ERROR_SHAPE, "k");
        REFUSE((x.q.shape[3] = x.k.shape[3] = 0), HEED_ERROR_SHAPE, "");
        REFUSE(x.v.shape[3] = 0, HEED_ERROR_SHAPE, "v");
        REFUSE(x.q.shape[2] = -1, HEED_ERROR_SHAPE, "q");
        REFUSE(x.out.shape[0] = 1, HEED_ERROR_SHAPE, "out");
        REFUSE(x.out.shape[1] = 2, HEED_ERROR_SHAPE, "out");
        REFUSE(x.out.shape[2] = 5, HEED_ERROR_SHAPE, "out");
        REFUSE(x.out.shape[3] = 3, HEED_ERROR_SHAPE, "out");
        REFUSE(x.q.stride[2] = -5, HEED_ERROR_STRIDE, "q");
        REFUSE(x.v.stride[3] = 2, HEED_ERROR_STRIDE, "v");
        REFUSE(x.q.stride[0] = (int64_t)1 << 60, HEED_ERROR_STRIDE, "q");
        REFUSE(x.out.stride[2] = 0, HEED_ERROR_STRIDE, "out");
        arguments x;
        set_good(&x, &s);
        x.context = NULL;
        assert_int_equal(call(&x), HEED_ERROR_ARGUMENT);
        close_bench(&s);
    }
    bench s;
    open_bench(&s, FORWARD);
    REFUSE(x.lse.data = NULL, HEED_ERROR_ARGUMENT, "lse");
    REFUSE(x.lse.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "lse");
    REFUSE(x.lse.shape[0] = 1, HEED_ERROR_SHAPE, "lse");
    REFUSE(x.lse.shape[1] = 2, HEED_ERROR_SHAPE, "lse");
    REFUSE(x.lse.shape[2] = 5, HEED_ERROR_SHAPE, "lse");
    REFUSE(x.lse = x.out, HEED_ERROR_SHAPE, "lse");
    REFUSE(x.lse.stride[2] = 0, HEED_ERROR_STRIDE, "lse");
    TAKE(x.lse_at = NULL);
    close_bench(&s);
}

static void refused_overlaps(void **state)
{
    (void)state;
    for (int verb = 0; verb < N_VERBS; verb++) {
        bench s;
        open_bench(&s, (call_verb)verb);
        REFUSE(x.out.data = x.q.data, HEED_ERROR_OVERLAP, "out: overlaps q");
        REFUSE(x.out.data = x.k.data, HEED_ERROR_OVERLAP, "out: overlaps k");
        REFUSE(x.v.data = x.out.data, HEED_ERROR_OVERLAP, "out: overlaps v");
        REFUSE(x.out.data = x.weights.data, HEED_ERROR_OVERLAP, "out: overlaps options.weights");
        REFUSE(x.out.data = x.sizes, HEED_ERROR_OVERLAP, "out: overlaps options.group_sizes");
        REFUSE(x.out.data = x.sinks, HEED_ERROR_OVERLAP, "sinks");
        REFUSE((x.mask.query_lengths = x.lengths, x.out.data = x.lengths), HEED_ERROR_OVERLAP, "query_lengths");
        close_bench(&s);
    }
    bench s;
    open_bench(&s, FORWARD);
    const heed_tensor bias = mrsha_tensor(s.p, HEED_FLOAT32, 1, 1, TOKENS, TOKENS, LAYOUT_BHND);
    const heed_tensor flags = mrsha_tensor(s.p, HEED_BOOL, 1, 1, TOKENS, TOKENS, LAYOUT_BHND);
    REFUSE(x.lse.data = x.out.data, HEED_ERROR_OVERLAP, "lse: overlaps out");
    REFUSE(x.lse.data = x.q.data, HEED_ERROR_OVERLAP, "lse: overlaps q");
    REFUSE(x.lse.data = x.k.data, HEED_ERROR_OVERLAP, "lse: overlaps k");
    REFUSE(x.lse.data = x.v.data, HEED_ERROR_OVERLAP, "lse: overlaps v");
    REFUSE(x.lse.data = x.weights.data, HEED_ERROR_OVERLAP, "lse: overlaps options.weights");
    REFUSE(x.lse.data = x.sizes, HEED_ERROR_OVERLAP, "lse: overlaps options.group_sizes");
    REFUSE(x.lse.data = x.sinks, HEED_ERROR_OVERLAP, "lse");
    REFUSE((x.mask.query_lengths = x.mask.key_lengths = x.lengths, x.lse.data = x.lengths), HEED_ERROR_OVERLAP, "lse");
    REFUSE((x.mask.key_lengths = x.lengths, x.mask.alignment = HEED_ALIGN_TOP_LEFT, x.out.data = x.lengths),
           HEED_ERROR_OVERLAP, "key_lengths");
    /* What fine heads alone are given. */
    REFUSE((x.options.fine = &x.fine, x.fine.sinks = x.slopes, x.out.data = x.slopes), HEED_ERROR_OVERLAP, "sinks");
    REFUSE((x.options.fine = &x.fine, x.fine.alibi_slopes = x.slopes, x.lse.data = x.slopes), HEED_ERROR_OVERLAP,
           "alibi_slopes");
    REFUSE((x.options.fine = &x.fine, x.fine.bias = &bias, x.out.data = bias.data), HEED_ERROR_OVERLAP, "bias");
    REFUSE((x.options.fine = &x.fine, x.fine_mask.visible = &flags, x.lse.data = flags.data), HEED_ERROR_OVERLAP,
           "visible");
    REFUSE((x.options.fine = &x.fine, x.fine_mask.key_lengths = x.lengths, x.out.data = x.lengths), HEED_ERROR_OVERLAP,
           "key_lengths");
    close_bench(&s);
}

/* ---- Options ---- */

static void refused_options(void **state)
{
    (void)state;
    static const int64_t many[] = {2, 7}, negative[] = {0, -1};
    for (int verb = 0; verb < N_VERBS; verb++) {
        bench s;
        open_bench(&s, (call_verb)verb);
        REFUSE(x.options.struct_size--, HEED_ERROR_ARGUMENT, "options");
        REFUSE(x.options.struct_size = 0, HEED_ERROR_ARGUMENT, "options");
        REFUSE(x.softmax.struct_size++, HEED_ERROR_ARGUMENT, "softmax");
        REFUSE((x.options.fine = &x.fine, x.fine.struct_size = 0), HEED_ERROR_ARGUMENT, "fine");
        REFUSE(x.mask.struct_size = 1, HEED_ERROR_ARGUMENT, "mask");
        REFUSE((x.options.fine = &x.fine, x.fine_mask.struct_size = 1), HEED_ERROR_ARGUMENT, "mask");
        REFUSE(x.options.mode = (heed_mrsha_mode)3, HEED_ERROR_ARGUMENT, "mode");
        REFUSE(x.options.mode = (heed_mrsha_mode)-1, HEED_ERROR_ARGUMENT, "mode");
        REFUSE(x.options.pooling = (heed_pooling)3, HEED_ERROR_ARGUMENT, "pooling");
        REFUSE(x.options.upsampling = (heed_upsampling)2, HEED_ERROR_ARGUMENT, "upsampling");
        REFUSE(x.sizes[2] = 0, HEED_ERROR_ARGUMENT, "group_sizes[2]");
        REFUSE(x.sizes[0] = -1, HEED_ERROR_ARGUMENT, "group_sizes[0]");
        REFUSE(x.sizes[3] = INT64_MIN, HEED_ERROR_ARGUMENT, "group_sizes[3]");
        REFUSE(x.options.group_sizes = (int64_t *)(void *)((char *)x.sizes + 4), HEED_ERROR_ARGUMENT, "group_sizes");
        REFUSE(x.softmax.scale = NAN, HEED_ERROR_ARGUMENT, "scale");
        REFUSE(x.softmax.softcap = -1.0f, HEED_ERROR_ARGUMENT, "softcap");
        REFUSE(x.softmax.softcap = INFINITY, HEED_ERROR_ARGUMENT, "softcap");
        REFUSE((x.options.fine = &x.fine, x.fine.scale = INFINITY), HEED_ERROR_ARGUMENT, "fine");
        REFUSE(x.softmax.sinks = (float *)(void *)((char *)x.sinks + 1), HEED_ERROR_ARGUMENT, "sinks");
        REFUSE(x.mask.query_lengths = many, HEED_ERROR_ARGUMENT, "query_lengths");
        REFUSE(x.mask.query_lengths = negative, HEED_ERROR_ARGUMENT, "query_lengths");
        REFUSE(x.mask.alignment = (heed_alignment)7, HEED_ERROR_ARGUMENT, "alignment");
        REFUSE(x.mask.window_left = -2, HEED_ERROR_ARGUMENT, "window_left");
        close_bench(&s);
    }
    bench s;
    open_bench(&s, FORWARD);
    REFUSE(x.mask.key_lengths = many, HEED_ERROR_ARGUMENT, "key_lengths");
    REFUSE(x.mask.key_lengths = negative, HEED_ERROR_ARGUMENT, "key_lengths");
    const heed_tensor bias = mrsha_tensor(s.p, HEED_FLOAT32, 1, 1, TOKENS, TOKENS - 1, LAYOUT_BHND);
    REFUSE((x.options.fine = &x.fine, x.fine.bias = &bias), HEED_ERROR_SHAPE, "bias");
    close_bench(&s);
}

static void refused_weights(void **state)
{
    (void)state;
    for (int verb = 0; verb < N_VERBS; verb++) {
        bench s;
        open_bench(&s, (call_verb)verb);
        REFUSE(x.options.weights = NULL, HEED_ERROR_ARGUMENT, "weights");
        REFUSE(x.options.pooling = HEED_POOLING_MEAN, HEED_ERROR_ARGUMENT, "weights");
        REFUSE(x.options.pooling = HEED_POOLING_FIRST, HEED_ERROR_ARGUMENT, "weights");
        REFUSE(x.weights.data = NULL, HEED_ERROR_ARGUMENT, "weights");
        REFUSE(x.weights.data = (char *)x.weights.data + 2, HEED_ERROR_ARGUMENT, "weights");
        REFUSE(x.weights.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "weights");
        REFUSE(x.weights.shape[0] = 2, HEED_ERROR_SHAPE, "weights");
        REFUSE(x.weights.shape[1] = 4, HEED_ERROR_SHAPE, "weights");
        REFUSE(x.weights.shape[2] = 2, HEED_ERROR_SHAPE, "weights"); /* the heads of k */
        REFUSE(x.weights.shape[2] = 1, HEED_ERROR_SHAPE, "weights");
        REFUSE(x.weights.shape[3] = 2, HEED_ERROR_SHAPE, "weights"); /* S is 3 */
        REFUSE(x.weights.shape[3] = -1, HEED_ERROR_SHAPE, "weights");
        REFUSE(x.weights.stride[3] = 2, HEED_ERROR_STRIDE, "weights");
        TAKE((x.weights.shape[3] = 3));
        TAKE((x.weights.stride[2] = 0)); /* one row for all heads */
        TAKE((x.options.pooling = HEED_POOLING_MEAN, x.options.weights = NULL));
        close_bench(&s);
    }
    bench s;
    open_bench(&s, FORWARD);
    /* Nine tokens in a patch of 3 x 3. */
    REFUSE((x.options.grid_height = 2, x.options.grid_width = 3, x.mask.causal = 0), HEED_ERROR_SHAPE, "weights");
    REFUSE((x.sizes[1] = INT64_MAX, x.options.grid_height = 2, x.options.grid_width = 3, x.mask.causal = 0),
           HEED_ERROR_SHAPE, "weights");
    close_bench(&s);
}

static void refused_grids(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, FORWARD);
#define GRID(height, width)                                                                                            \
    (x.options.grid_height = (height), x.options.grid_width = (width), x.mask.causal = 0,                              \
     x.options.pooling = HEED_POOLING_MEAN, x.options.weights = NULL)
    TAKE(GRID(2, 3));
    TAKE(GRID(6, 1));
    TAKE((GRID(1, 5), x.options.class_token = 1));
    REFUSE(GRID(2, 2), HEED_ERROR_SHAPE, "grid");
    REFUSE(GRID(3, 3), HEED_ERROR_SHAPE, "grid");
    REFUSE((GRID(2, 3), x.options.class_token = 1), HEED_ERROR_SHAPE, "grid");
    REFUSE((GRID(2, 3), x.q.shape[2] = x.out.shape[2] = x.lse.shape[2] = 4), HEED_ERROR_SHAPE, "q");
    REFUSE((GRID(2, 3), x.k.shape[2] = x.v.shape[2] = 4), HEED_ERROR_SHAPE, "k");
    REFUSE(GRID(0, 6), HEED_ERROR_ARGUMENT, "grid");
    REFUSE(GRID(6, 0), HEED_ERROR_ARGUMENT, "grid");
    REFUSE(GRID(-2, -3), HEED_ERROR_ARGUMENT, "grid");
    REFUSE(GRID(-6, 1), HEED_ERROR_ARGUMENT, "grid");
    REFUSE(GRID(INT64_MAX, 2), HEED_ERROR_SHAPE, "grid");
    REFUSE(GRID((int64_t)1 << 32, (int64_t)1 << 32), HEED_ERROR_SHAPE, "grid");
    REFUSE(
        (GRID(2, 3), x.options.mode = HEED_MRSHA_BOTH, x.options.upsampling = HEED_UPSAMPLING_LINEAR, x.lse_at = NULL),
        HEED_ERROR_UNSUPPORTED, "upsampling");
#undef GRID
    close_bench(&s);
}

static void refused_upsampling(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, FORWARD);
#define LINEAR(at) (x.options.mode = (at), x.options.upsampling = HEED_UPSAMPLING_LINEAR, x.mask.causal = 0)
    TAKE((LINEAR(HEED_MRSHA_BOTH), x.lse_at = NULL));
    TAKE((LINEAR(HEED_MRSHA_OUTPUT), x.lse_at = NULL, x.options.class_token = 1));
    REFUSE(LINEAR(HEED_MRSHA_BOTH), HEED_ERROR_UNSUPPORTED, "lse");
    REFUSE(LINEAR(HEED_MRSHA_OUTPUT), HEED_ERROR_UNSUPPORTED, "lse");
#undef LINEAR
    close_bench(&s);
}

/* What has no causal form, where there is a coarse head. */
static void refused_causal_calls(void **state)
{
    (void)state;
    static const int64_t shorter[] = {6, 5}, starts[] = {7, 7}, others[] = {7, 8};
    bench s;
    open_bench(&s, FORWARD);
    TAKE(x.options.mode = HEED_MRSHA_BOTH);
    TAKE((x.mask.query_lengths = x.mask.key_lengths = shorter));
    TAKE((x.mask.key_lengths = shorter, x.mask.alignment = HEED_ALIGN_TOP_LEFT));
    TAKE((x.mask.alignment = HEED_ALIGN_POSITIONS, x.mask.query_start = x.mask.key_start = starts));
    REFUSE(x.options.mode = HEED_MRSHA_OUTPUT, HEED_ERROR_UNSUPPORTED, "mode");
    REFUSE(x.options.class_token = 1, HEED_ERROR_UNSUPPORTED, "class_token");
    REFUSE((x.options.mode = HEED_MRSHA_BOTH, x.options.upsampling = HEED_UPSAMPLING_LINEAR, x.lse_at = NULL),
           HEED_ERROR_UNSUPPORTED, "upsampling");
    REFUSE((x.options.pooling = HEED_POOLING_MEAN, x.options.weights = NULL, x.options.grid_height = 2,
            x.options.grid_width = 3),
           HEED_ERROR_UNSUPPORTED, "grid");
    REFUSE((x.k.shape[2] = x.v.shape[2] = 5), HEED_ERROR_UNSUPPORTED, "k");
    REFUSE((x.k.shape[2] = x.v.shape[2] = 5, x.mask.alignment = HEED_ALIGN_TOP_LEFT), HEED_ERROR_UNSUPPORTED, "k");
    REFUSE(x.mask.key_lengths = shorter, HEED_ERROR_UNSUPPORTED, "alignment");
    REFUSE(x.mask.query_lengths = shorter, HEED_ERROR_UNSUPPORTED, "alignment");
    REFUSE((x.mask.alignment = HEED_ALIGN_POSITIONS, x.mask.query_start = starts), HEED_ERROR_UNSUPPORTED, "alignment");
    REFUSE((x.mask.alignment = HEED_ALIGN_POSITIONS, x.mask.query_start = starts, x.mask.key_start = others),
           HEED_ERROR_UNSUPPORTED, "alignment");
    close_bench(&s);
}

/* What heads take only where all of them are fine, or as options of fine heads. */
static void options_of_fine_heads(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, FORWARD);
    const heed_tensor bias = mrsha_tensor(s.p, HEED_FLOAT32, 1, 1, TOKENS, TOKENS, LAYOUT_BHND);
    const heed_tensor flags = mrsha_tensor(s.p, HEED_BOOL, 1, 1, TOKENS, TOKENS, LAYOUT_BHND);
    tensor_fill(&bias, 0.0f);
#define ALL_FINE(change) (x.sizes[1] = x.sizes[2] = 1, (change))
#define OF_FINE(change) (x.options.fine = &x.fine, (change))
    REFUSE(x.softmax.bias = &bias, HEED_ERROR_UNSUPPORTED, "bias");
    REFUSE((x.slopes[1] = 0.5f, x.slopes[2] = -0.5f, x.softmax.alibi_slopes = x.slopes), HEED_ERROR_UNSUPPORTED,
           "alibi_slopes");
    REFUSE(x.mask.window_left = 3, HEED_ERROR_UNSUPPORTED, "window_left");
    REFUSE(x.mask.window_left = 0, HEED_ERROR_UNSUPPORTED, "window_left");
    REFUSE(x.mask.window_right = 3, HEED_ERROR_UNSUPPORTED, "window_right");
    REFUSE(x.mask.visible = &flags, HEED_ERROR_UNSUPPORTED, "visible");
    REFUSE((x.mask.visible = &flags, x.mask.causal = 0), HEED_ERROR_UNSUPPORTED, "visible");
    TAKE(x.softmax.alibi_slopes = x.slopes); /* all of them 0 */
    TAKE(ALL_FINE(x.softmax.bias = &bias));
    TAKE(ALL_FINE((x.slopes[1] = 0.5f, x.softmax.alibi_slopes = x.slopes)));
    TAKE(ALL_FINE(x.mask.window_left = 3));
    TAKE(ALL_FINE(x.mask.visible = &flags));
    TAKE(ALL_FINE(x.k.shape[2] = x.v.shape[2] = 5));
    TAKE(ALL_FINE(x.options.mode = HEED_MRSHA_OUTPUT));
    TAKE(OF_FINE(x.fine.bias = &bias));
    TAKE(OF_FINE((x.slopes[1] = 0.5f, x.fine.alibi_slopes = x.slopes)));
    TAKE(OF_FINE(x.fine_mask.window_left = 3));
    TAKE(OF_FINE(x.fine_mask.visible = &flags));
#undef ALL_FINE
#undef OF_FINE
    close_bench(&s);
}

/* ---- Steps ---- */

static void refused_steps(void **state)
{
    (void)state;
    static const int64_t ones[] = {1, 1};
    bench s;
    open_bench(&s, STEP);
    const heed_tensor bias = mrsha_tensor(s.p, HEED_FLOAT32, 1, 1, TOKENS, TOKENS, LAYOUT_BHND);
    const heed_tensor flags = mrsha_tensor(s.p, HEED_BOOL, 1, 1, 1, TOKENS, LAYOUT_BHND);
    tensor_fill(&bias, 0.0f);
    REFUSE(x.options_at = NULL, HEED_ERROR_UNSUPPORTED, "mode");
    REFUSE(x.options.mode = HEED_MRSHA_BOTH, HEED_ERROR_UNSUPPORTED, "mode");
    REFUSE(x.options.mode = HEED_MRSHA_OUTPUT, HEED_ERROR_UNSUPPORTED, "mode");
    REFUSE((x.options.pooling = HEED_POOLING_MEAN, x.options.weights = NULL, x.options.grid_height = 2,
            x.options.grid_width = 3),
           HEED_ERROR_UNSUPPORTED, "grid");
    REFUSE(x.options.class_token = 1, HEED_ERROR_UNSUPPORTED, "class_token");
    REFUSE(x.options.fine = &x.fine, HEED_ERROR_UNSUPPORTED, "fine");
    REFUSE(x.softmax.bias = &bias, HEED_ERROR_UNSUPPORTED, "bias");
    REFUSE((x.slopes[1] = 0.5f, x.softmax.alibi_slopes = x.slopes), HEED_ERROR_UNSUPPORTED, "alibi_slopes");
    REFUSE((x.slopes[0] = 0.5f, x.softmax.alibi_slopes = x.slopes), HEED_ERROR_UNSUPPORTED, "alibi_slopes");
    REFUSE(x.mask.causal = 0, HEED_ERROR_UNSUPPORTED, "causal");
    REFUSE(x.mask.window_left = 3, HEED_ERROR_UNSUPPORTED, "window_left");
    REFUSE(x.mask.window_right = 0, HEED_ERROR_UNSUPPORTED, "window_right");
    REFUSE(x.mask.key_lengths = ones, HEED_ERROR_UNSUPPORTED, "key_lengths");
    REFUSE(x.mask.visible = &flags, HEED_ERROR_UNSUPPORTED, "visible");
    REFUSE(x.mask.alignment = HEED_ALIGN_TOP_LEFT, HEED_ERROR_UNSUPPORTED, "alignment");
    REFUSE((x.k.shape[2] = x.v.shape[2] = 5), HEED_ERROR_SHAPE, "k");
    TAKE(x.softmax.mask = NULL);
    TAKE(x.options.softmax = NULL);
    TAKE(x.softmax.alibi_slopes = x.slopes);
    TAKE(x.mask.query_lengths = ones);
    close_bench(&s);
}

static void refused_states(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, STEP);
    int64_t negative[] = {0, -1}, too_many[] = {4, 0}, enough[] = {3, 3}, far[] = {0, ((int64_t)1 << 60) + 1};
    REFUSE(x.state_at = NULL, HEED_ERROR_ARGUMENT, "state");
    REFUSE(x.state.n_tokens = NULL, HEED_ERROR_ARGUMENT, "n_tokens");
    REFUSE(x.state.n_tokens = (int64_t *)(void *)((char *)x.state.n_tokens + 4), HEED_ERROR_ARGUMENT, "n_tokens");
    REFUSE(x.state.n_tokens = negative, HEED_ERROR_ARGUMENT, "n_tokens[1]");
    REFUSE(x.state.n_tokens = far, HEED_ERROR_ARGUMENT, "n_tokens[1]");
    REFUSE(x.state.n_tokens = too_many, HEED_ERROR_ARGUMENT, "n_tokens[0]"); /* 4 and 6 of 9 */
    REFUSE(x.state.max_tokens = -1, HEED_ERROR_ARGUMENT, "max_tokens");
    REFUSE(x.state.max_tokens = MAX_TOKENS - 1, HEED_ERROR_SHAPE, "state.");
    REFUSE(x.state.max_tokens = 60, HEED_ERROR_SHAPE, "state.");
    REFUSE(x.state.max_tokens = INT64_MAX, HEED_ERROR_ARGUMENT, "max_tokens");
    REFUSE(x.sizes[1] = 3, HEED_ERROR_SHAPE, "state."); /* other resolutions than at the beginning */
    REFUSE((x.sizes[1] = 1, x.sizes[2] = 1), HEED_ERROR_SHAPE, "state.");
    REFUSE(x.state.keys.data = NULL, HEED_ERROR_ARGUMENT, "state.keys");
    REFUSE(x.state.values.data = NULL, HEED_ERROR_ARGUMENT, "state.values");
    REFUSE(x.state.open_keys.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "state.open_keys");
    REFUSE(x.state.keys.shape[0] = 1, HEED_ERROR_SHAPE, "state.keys");
    REFUSE(x.state.keys.shape[1] = 2, HEED_ERROR_SHAPE, "state.keys");
    REFUSE(x.state.keys.shape[2]--, HEED_ERROR_SHAPE, "state.keys");
    REFUSE(x.state.values.shape[2]++, HEED_ERROR_SHAPE, "state.values");
    REFUSE(x.state.open_keys.shape[2]--, HEED_ERROR_SHAPE, "state.open_keys");
    REFUSE(x.state.open_values.shape[2]--, HEED_ERROR_SHAPE, "state.open_values");
    REFUSE(x.state.keys.shape[3] = DV, HEED_ERROR_SHAPE, "state.keys");
    REFUSE(x.state.values.shape[3] = DV - 1, HEED_ERROR_SHAPE, "state.values");
    REFUSE(x.state.open_keys.shape[3] = DV, HEED_ERROR_SHAPE, "state.open_keys");
    REFUSE(x.state.keys.stride[2] = 0, HEED_ERROR_STRIDE, "state.keys");
    REFUSE(x.state.values.data = x.state.keys.data, HEED_ERROR_OVERLAP, "state.");
    REFUSE(x.state.open_keys.data = x.state.keys.data, HEED_ERROR_OVERLAP, "state.");
    REFUSE(x.state.open_values.data = x.state.open_keys.data, HEED_ERROR_OVERLAP, "state.");
    REFUSE(x.out.data = x.state.keys.data, HEED_ERROR_OVERLAP, "overlaps out");
    REFUSE(x.q.data = x.state.values.data, HEED_ERROR_OVERLAP, "overlaps q");
    REFUSE(x.k.data = x.state.open_keys.data, HEED_ERROR_OVERLAP, "overlaps k");
    REFUSE(x.v.data = x.state.open_values.data, HEED_ERROR_OVERLAP, "overlaps v");
    REFUSE(x.weights.data = x.state.keys.data, HEED_ERROR_OVERLAP, "overlaps options.weights");
    REFUSE(x.softmax.sinks = x.state.values.data, HEED_ERROR_OVERLAP, "sinks");
    REFUSE((x.state.n_tokens = x.lengths, x.mask.query_lengths = x.lengths, x.lengths[0] = x.lengths[1] = 1),
           HEED_ERROR_OVERLAP, "query_lengths");
    REFUSE((x.state.n_tokens = x.sizes), HEED_ERROR_OVERLAP, "group_sizes");
    TAKE(x.state.n_tokens = enough);
    close_bench(&s);
}

static void sizes_of_states(void **state)
{
    (void)state;
    static const int64_t sizes[] = {2, 2, 2, 0};
    static const int64_t far = (int64_t)1 << 59;
    heed_mrsha_options options = HEED_MRSHA_OPTIONS_INIT;
    int64_t bytes = -1;
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, 5, 4, 9, NULL), HEED_ERROR_ARGUMENT);
    options.struct_size = 1;
    assert_int_equal(heed_mrsha_state_bytes(&options, 1, 4, 2, 5, 4, 9, &bytes), HEED_ERROR_ARGUMENT);
    options.struct_size = sizeof options;
    options.pooling = (heed_pooling)7;
    assert_int_equal(heed_mrsha_state_bytes(&options, 1, 4, 2, 5, 4, 9, &bytes), HEED_ERROR_ARGUMENT);
    options.pooling = HEED_POOLING_MEAN;
    options.group_sizes = sizes;
    assert_int_equal(heed_mrsha_state_bytes(&options, 1, 4, 2, 5, 4, 9, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_state_bytes(NULL, -1, 4, 2, 5, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, -4, 2, 5, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, -2, 5, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 3, 5, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 0, 5, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, 0, 4, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, 5, 0, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, 5, 4, -9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, far, far, 9, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 1, 4, 2, 5, 4, INT64_MAX, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_state_bytes(NULL, (int64_t)1 << 40, 4, 2, 5, 4, (int64_t)1 << 40, &bytes),
                     HEED_ERROR_SHAPE);
    assert_int_equal(bytes, -1);
    /* Of the options nothing else is looked at. */
    options = (heed_mrsha_options)HEED_MRSHA_OPTIONS_INIT;
    options.pooling = HEED_POOLING_LEARNED;
    assert_int_equal(heed_mrsha_state_bytes(&options, 3, 4, 2, 5, 4, 9, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 3 + 4 * 3 * (9 + 5 + 5 + 2 * 3) * 9); /* one fine cache, two coarse ones */
    assert_int_equal(heed_mrsha_state_bytes(NULL, 3, 4, 2, 5, 4, 9, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 3 + 4 * 3 * (9 + 5 + 2 * 2) * 9);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 3, 0, 0, 5, 4, 9, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 3);
    assert_int_equal(heed_mrsha_state_bytes(NULL, 0, 4, 2, 5, 4, 9, &bytes), HEED_OK);
    assert_int_equal(bytes, 0);
}

static void refused_resets(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, STEP);
    heed_mrsha_state x = s.state;
    assert_int_equal(heed_mrsha_state_reset(NULL, 0), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_state_reset(&x, BATCH), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_state_reset(&x, -2), HEED_ERROR_ARGUMENT);
    x.n_tokens = NULL;
    assert_int_equal(heed_mrsha_state_reset(&x, 0), HEED_ERROR_ARGUMENT);
    assert_int_equal(s.state.n_tokens[0], 3);
    assert_int_equal(heed_mrsha_state_reset(&s.state, 1), HEED_OK);
    assert_int_equal(s.state.n_tokens[0], 3);
    assert_int_equal(heed_mrsha_state_reset(&s.state, 0), HEED_OK);
    assert_int_equal(s.state.n_tokens[0], 0);
    close_bench(&s);
}

/* ---- Presets ---- */

static void presets(void **state)
{
    (void)state;
    int64_t sizes[9];
    for (int64_t n = 0; n <= 8; n++) {
        memset(sizes, 0, sizeof sizes);
        assert_int_equal(heed_mrsha_group_sizes(HEED_MRSHA_HALF, n, sizes), HEED_OK);
        for (int64_t h = 0; h < 9; h++)
            assert_int_equal(sizes[h], h >= n ? 0 : h < (n + 1) / 2 ? 1 : 2);
        memset(sizes, 0, sizeof sizes);
        assert_int_equal(heed_mrsha_group_sizes(HEED_MRSHA_1248, n, sizes), HEED_OK);
        for (int64_t h = 0; h < 9; h++)
            assert_int_equal(sizes[h], h >= n ? 0 : 1 << (h % 4));
    }
    memset(sizes, 0, sizeof sizes);
    assert_int_equal(heed_mrsha_group_sizes(HEED_MRSHA_HALF, 4, NULL), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_group_sizes((heed_mrsha_preset)0, 4, sizes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_group_sizes((heed_mrsha_preset)3, 4, sizes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_group_sizes(HEED_MRSHA_1248, -1, sizes), HEED_ERROR_SHAPE);
    assert_int_equal(sizes[0], 0);
}

/* ---- Reports ---- */

static void paths_in_the_report(void **state)
{
    (void)state;
    bench s;
    heed_report report = HEED_REPORT_INIT;
    open_bench(&s, FORWARD);
    TAKE((void)0);
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_string_equal(report.path, "mrsha");
    assert_int_equal(report.isa, runner_isa());
    assert_true(report.n_tasks > 0 && report.scratch_bytes > 0);
    TAKE((x.sizes[1] = x.sizes[2] = 1)); /* all fine */
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_int_equal(strncmp(report.path, "softmax-", 8), 0);
    close_bench(&s);
    open_bench(&s, STEP);
    TAKE((void)0);
    assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
    assert_string_equal(report.path, "mrsha-steps");
    close_bench(&s);
}

/* ---- Calls within calls ---- */

typedef struct nested {
    mrsha_problem *p;
    heed_context *context;
    heed_mrsha_state state; /* not looked at */
    heed_status forward, step;
    int n_hooks;
} nested;

static void hook_that_calls(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job)
{
    nested *x = pool;
    const attention *a = &x->p->a;
    x->n_hooks++;
    x->forward = heed_mrsha_forward(x->context, &a->q, &a->k, &a->v, &x->p->options, &a->out, &a->lse);
    x->step = heed_mrsha_step(x->context, &a->q, &a->k, &a->v, &x->p->options, &x->state, &a->out);
    for (int64_t index = 0; index < n_tasks; index++)
        task(job, index, 0);
}

static void a_context_that_is_busy(void **state)
{
    (void)state;
    mrsha_case c = {.shape = {2, 4, 2, 300, 300, 64, 64}};
    nested x = {.p = mrsha_create(&c), .forward = HEED_OK, .step = HEED_OK};
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.n_threads = 2;
    config.parallel_for = hook_that_calls;
    config.pool = &x;
    assert_int_equal(heed_context_create(&config, &x.context, NULL, 0), HEED_OK);
    mrsha_expect_match(x.p, x.context, "around calls that are refused");
    assert_true(x.n_hooks > 0);
    assert_int_equal(x.forward, HEED_ERROR_BUSY);
    assert_int_equal(x.step, HEED_ERROR_BUSY);
    heed_context_destroy(x.context);
    mrsha_destroy(x.p);
}

/* ---- Scratch ---- */

/* It follows from D and Dv, and from nothing else. */
static void scratch_is_constant(void **state)
{
    (void)state;
    static const int64_t shapes[][5] = {{1, 1, 1, 1, 1},       {7, 1, 1, 4, 1},           {1, 32, 8, 3, 100000},
                                        {1, 1, 1, 1 << 30, 1}, {0, 1, 1, 9, 9},           {64, 32, 32, 384, 384},
                                        {1, 0, 0, 0, 0},       {2, 6, 3, 100000, 1 << 20}};
    static const int64_t sizes[32] = {1000, 1, 3};
    for (int n = 0; n < (int)N_OF(shapes) * 3 * 3; n++) {
        const int64_t *s = shapes[n % (int)N_OF(shapes)];
        const heed_tensor q = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[1], s[3], 70);
        const heed_tensor k = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[2], s[4], 70);
        const heed_tensor v = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[2], s[4], 50);
        heed_mrsha_options options = HEED_MRSHA_OPTIONS_INIT;
        int64_t bytes = -1, plain = -2;
        options.mode = (heed_mrsha_mode)(n / 8 % 3);
        options.pooling = (heed_pooling)(n / 24);
        options.group_sizes = n % 2 ? sizes : NULL;
        assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, &v, &options, &bytes), HEED_OK);
        const heed_tensor one = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 1, 70);
        const heed_tensor one_v = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 1, 50);
        assert_int_equal(heed_mrsha_scratch_bytes(&one, &one, &one_v, NULL, &plain), HEED_OK);
        assert_true(bytes > 0 && bytes == plain);
    }
}

static void refused_scratch_bytes(void **state)
{
    (void)state;
    const heed_tensor q = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 4, 6, 5),
                      v = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 2, 6, 3);
    const heed_tensor k = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 2, 6, 5);
    heed_mrsha_options options = HEED_MRSHA_OPTIONS_INIT;
    heed_tensor wrong = k;
    int64_t bytes = -1;
    wrong.shape[3] = 4;
    assert_int_equal(heed_mrsha_scratch_bytes(NULL, &k, &v, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_scratch_bytes(&q, NULL, &v, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, NULL, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, &v, NULL, NULL), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &wrong, &v, NULL, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, &q, NULL, &bytes), HEED_ERROR_SHAPE);
    wrong.shape[3] = 5;
    wrong.shape[2] = -1;
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &wrong, &v, NULL, &bytes), HEED_ERROR_SHAPE);
    options.struct_size--;
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
    options.struct_size++;
    options.mode = (heed_mrsha_mode)3;
    assert_int_equal(heed_mrsha_scratch_bytes(&q, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
    assert_int_equal(bytes, -1);
}

static heed_context *make_context(int64_t scratch_bytes)
{
    heed_context *context = NULL;
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.scratch_bytes = scratch_bytes;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    return context;
}

/* A byte less than what is asked for is refused, with the number of bytes, and that many are enough for every way. */
static void scratch_to_the_byte(void **state)
{
    (void)state;
    static const int64_t widths[][2] = {{1, 1}, {17, 5}, {64, 80}, {300, 17}, {130, 520}};
    static const int64_t sizes[] = {1, 2, 100, 7};
    for (int n = 0; n < 5 * 5; n++) {
        mrsha_case c = {.shape = {1, 4, 2, 203, 203, widths[n / 5][0], widths[n / 5][1]}, .causal = n % 5 > 2};
        c.mode = n % 5 == 3 ? HEED_MRSHA_BOTH : n % 5 == 4 ? HEED_MRSHA_VALUE : (heed_mrsha_mode)(n % 5);
        memcpy(c.group_sizes, sizes, sizeof sizes);
        if (c.mode == HEED_MRSHA_BOTH && !c.causal)
            c.upsampling = HEED_UPSAMPLING_LINEAR;
        mrsha_problem *p = mrsha_create(&c);
        const attention *a = &p->a;
        heed_report report = HEED_REPORT_INIT;
        char digits[32];
        int64_t bytes = 0;
        assert_int_equal(heed_mrsha_scratch_bytes(&a->q, &a->k, &a->v, &p->options, &bytes), HEED_OK);
        heed_context *small = make_context(bytes - 1), *exact = make_context(bytes);
        assert_int_equal(heed_mrsha_forward(small, &a->q, &a->k, &a->v, &p->options, &a->out, mrsha_lse(p)),
                         HEED_ERROR_SCRATCH);
        snprintf(digits, sizeof digits, "%" PRId64, bytes);
        assert_non_null(strstr(heed_context_message(small), digits));
        assert_true(isnan(*tensor_at(&a->out, 0, 0, 0, 0)));
        mrsha_run(p, exact);
        assert_int_equal(heed_context_report(exact, &report), HEED_OK);
        assert_true(report.scratch_bytes <= bytes);
        const heed_tensor out = mrsha_keep(p, &a->out);
        mrsha_run(p, fixture_context);
        mrsha_expect_bits(p, &a->out, &out, "exact scratch");
        heed_context_destroy(small);
        heed_context_destroy(exact);
        mrsha_destroy(p);
    }
}

static void scratch_of_steps(void **state)
{
    (void)state;
    bench s;
    int64_t bytes = 0;
    open_bench(&s, STEP);
    assert_int_equal(heed_mrsha_scratch_bytes(&s.p->a.q, &s.p->a.k, &s.p->a.v, &s.p->options, &bytes), HEED_OK);
    heed_context *small = make_context(bytes - 1), *exact = make_context(bytes);
    REFUSE(x.context = small, HEED_ERROR_SCRATCH, "");
    TAKE(x.context = exact);
    heed_context_destroy(small);
    heed_context_destroy(exact);
    close_bench(&s);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_tensors),
        cmocka_unit_test(refused_overlaps),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(refused_weights),
        cmocka_unit_test(refused_grids),
        cmocka_unit_test(refused_upsampling),
        cmocka_unit_test(refused_causal_calls),
        cmocka_unit_test(options_of_fine_heads),
        cmocka_unit_test(refused_steps),
        cmocka_unit_test(refused_states),
        cmocka_unit_test(sizes_of_states),
        cmocka_unit_test(refused_resets),
        cmocka_unit_test(presets),
        cmocka_unit_test(paths_in_the_report),
        cmocka_unit_test(a_context_that_is_busy),
        cmocka_unit_test(scratch_is_constant),
        cmocka_unit_test(refused_scratch_bytes),
        cmocka_unit_test(scratch_to_the_byte),
        cmocka_unit_test(scratch_of_steps),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
