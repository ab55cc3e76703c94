/* Every argument of linear attention: what is refused, with which status and a message that names it, without a byte
 * written; and what is unusual and fine. */
#include "linear_check.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef enum call_verb { FORWARD, STEP, BACKWARD, N_VERBS } call_verb;

/* A call whose arguments may be spoilt one by one; NULL pointers where the call gets NULL. It stays where it is. */
typedef struct arguments {
    linear_problem *p;
    call_verb verb;
    heed_context *context;
    heed_tensor q, k, v, out; /* out: dout in a backward call */
    const heed_tensor *q_at, *k_at, *v_at, *out_at;
    heed_mask mask;
    heed_linear_options options;
    const heed_linear_options *options_at;
    heed_feature_map features;
    heed_feature_layer layers[ORACLE_MAX_LAYERS + 1];
    heed_tensor wf, wg, a, b, omega; /* of the first layer */
    heed_linear_state state;
    const heed_linear_state *state_at;
    heed_tensor dq, dk, dv;
    const heed_tensor *dq_at, *dk_at, *dv_at;
    heed_feature_map dfeatures;
    heed_feature_layer dlayers[ORACLE_MAX_LAYERS];
    heed_tensor dwf;
    const heed_feature_map *dfeatures_at, *dquery_features_at;
    heed_linear_state dstate_out, dstate_in;
    const heed_linear_state *dstate_out_at, *dstate_in_at;
} arguments;

/* What a call is made of, beside the problem itself. */
typedef struct bench {
    linear_problem *p;
    call_verb verb;
    heed_tensor dq, dk, dv;
    test_map dmap;
    heed_linear_state dstate_out, dstate_in;
    int64_t n_out[LINEAR_MAX_BATCH], n_in[LINEAR_MAX_BATCH];
} bench;

static void open_bench(bench *s, call_verb verb, map_kind map)
{
    memset(s, 0, sizeof *s);
    s->verb = verb;
    linear_problem *p = s->p = linear_create(&(linear_case){.batch = 2,
                                                            .q_heads = 4,
                                                            .kv_heads = 2,
                                                            .n_queries = 6,
                                                            .n_keys = verb == STEP ? 6 : 7,
                                                            .channels = 5,
                                                            .value_channels = 4,
                                                            .n_features = map_has_width(map) ? 8 : 0,
                                                            .map = map,
                                                            .causal = 1,
                                                            .has_state = 1,
                                                            .n_recent = verb == BACKWARD ? 0 : 3,
                                                            .map_eps = 0.1f});
    s->dq = linear_tensor_like(p, &p->q);
    s->dk = linear_tensor_like(p, &p->k);
    s->dv = linear_tensor_like(p, &p->v);
    map_create_like(&s->dmap, &p->key_map);
    s->dstate_out = linear_new_state(p, 0, s->n_out);
    s->dstate_in = linear_new_state(p, 0, s->n_in);
}

static void close_bench(bench *s)
{
    map_destroy(&s->dmap);
    linear_destroy(s->p);
}

static void set_good(arguments *x, bench *s)
{
    linear_problem *p = s->p;
    memset(x, 0, sizeof *x);
    x->p = p;
    x->verb = s->verb;
    x->context = fixture_context;
    x->q = p->q, x->k = p->k, x->v = p->v, x->out = p->out;
    x->q_at = &x->q, x->k_at = &x->k, x->v_at = &x->v, x->out_at = &x->out;
    x->mask = p->mask;
    x->options = p->options;
    x->options.mask = &x->mask;
    x->options_at = &x->options;
    x->features = p->key_map.map;
    memcpy(x->layers, p->key_map.layers, sizeof p->key_map.layers);
    x->features.layers = x->layers;
    x->options.features = &x->features;
    heed_feature_layer *first = &x->layers[0];
    const heed_tensor **parts[] = {&first->wf, &first->wg, &first->a, &first->b, &first->omega};
    heed_tensor *copies[] = {&x->wf, &x->wg, &x->a, &x->b, &x->omega};
    for (size_t n = 0; n < N_OF(parts); n++) {
        if (*parts[n]) {
            *copies[n] = **parts[n];
            *parts[n] = copies[n];
        }
    }
    x->state = p->state;
    x->state_at = &x->state;
    x->dq = s->dq, x->dk = s->dk, x->dv = s->dv;
    x->dq_at = &x->dq, x->dk_at = &x->dk, x->dv_at = &x->dv;
    x->dfeatures = s->dmap.map;
    memcpy(x->dlayers, s->dmap.layers, sizeof s->dmap.layers);
    x->dfeatures.layers = x->dlayers;
    if (x->dlayers[0].wf) {
        x->dwf = *x->dlayers[0].wf;
        x->dlayers[0].wf = &x->dwf;
    }
    x->dfeatures_at = s->dmap.map.n_layers > 0 ? &x->dfeatures : NULL;
    x->dstate_out = s->dstate_out, x->dstate_in = s->dstate_in;
    x->dstate_out_at = &x->dstate_out, x->dstate_in_at = &x->dstate_in;
}

static heed_status call(const arguments *x)
{
    switch (x->verb) {
    case STEP:
        return heed_linear_step(x->context, x->q_at, x->k_at, x->v_at, x->options_at, x->state_at, x->out_at);
    case BACKWARD:
        return heed_linear_backward(x->context, x->q_at, x->k_at, x->v_at, x->options_at, x->out_at, x->state_at,
                                    x->dstate_out_at, x->dq_at, x->dk_at, x->dv_at, x->dfeatures_at,
                                    x->dquery_features_at, x->dstate_in_at);
    case FORWARD:
    default:
        return heed_linear_forward(x->context, x->q_at, x->k_at, x->v_at, x->options_at, x->state_at, x->out_at);
    }
}

/* A copy of all that a call may touch. */
static unsigned char *snapshot(const bench *s, size_t *n)
{
    const guarded *all[LINEAR_MAX_TENSORS + MAP_MAX_TENSORS];
    size_t n_all = 0, total = 0;
    for (int i = 0; i < s->p->n_tensors; i++)
        all[n_all++] = &s->p->memory[i];
    for (int i = 0; i < s->dmap.n_tensors; i++)
        all[n_all++] = &s->dmap.memory[i];
    for (size_t i = 0; i < n_all; i++)
        total += all[i]->bytes;
    unsigned char *copy = malloc(total + sizeof s->p->n_tokens + 1);
    assert_non_null(copy);
    *n = 0;
    for (size_t i = 0; i < n_all; i++) {
        memcpy(copy + *n, all[i]->data, all[i]->bytes);
        *n += all[i]->bytes;
    }
    memcpy(copy + *n, s->p->n_tokens, sizeof s->p->n_tokens);
    *n += sizeof s->p->n_tokens;
    return copy;
}

static void refuse(bench *s, const arguments *x, heed_status want, const char *part_of_message, const char *change)
{
    static const char *const names[N_VERBS] = {"forward", "step", "backward"};
    size_t n;
    unsigned char *before = snapshot(s, &n);
    const heed_status status = call(x);
    const char *message = heed_context_message(x->context);
    if (status != want)
        fail_msg("%s, %s: %s: \"%s\"; wanted %s", names[s->verb], change, heed_status_text(status), message,
                 heed_status_text(want));
    if (!strstr(message, part_of_message) || !*message)
        fail_msg("%s, %s: the message does not name %s: \"%s\"", names[s->verb], change, part_of_message, message);
    unsigned char *after = snapshot(s, &n);
    if (memcmp(before, after, n) != 0)
        fail_msg("%s, %s: was refused and wrote", names[s->verb], change);
    free(before);
    free(after);
}

#define REFUSE(change, status, message)                                                                                \
    do {                                                                                                               \
        arguments x;                                                                                                   \
        set_good(&x, &s);                                                                                              \
        change;                                                                                                        \
        refuse(&s, &x, status, message, #change);                                                                      \
    } while (0)

/* The good call is good, so that it is the change which is refused. */
static void expect_good(bench *s)
{
    arguments x;
    set_good(&x, s);
    const heed_status status = call(&x);
    if (status != HEED_OK)
        fail_msg("verb %d: %s: %s", (int)s->verb, heed_status_text(status), heed_context_message(fixture_context));
    assert_string_equal(heed_context_message(fixture_context), "");
}

/* ---- Tensors ---- */

static void refused_tensors(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        bench s;
        open_bench(&s, (call_verb)verb_at, MAP_SOFTPLUS);
        const char *out = verb_at == BACKWARD ? "dout" : "out";
        expect_good(&s);
        REFUSE(x.q_at = NULL, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k_at = NULL, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.v_at = NULL, HEED_ERROR_ARGUMENT, "v");
        REFUSE(x.out_at = NULL, HEED_ERROR_ARGUMENT, out);
        REFUSE(x.q.data = NULL, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k.data = NULL, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.v.data = NULL, HEED_ERROR_ARGUMENT, "v");
        REFUSE(x.out.data = NULL, HEED_ERROR_ARGUMENT, out);
        REFUSE(x.k.data = (char *)x.k.data + 1, HEED_ERROR_ARGUMENT, "k");
        REFUSE(x.q.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "q");
        REFUSE(x.k.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "k");
        REFUSE(x.v.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "v");
        REFUSE(x.out.dtype = HEED_BOOL, HEED_ERROR_DTYPE, out);
        REFUSE(x.q.dtype = (heed_dtype)9, HEED_ERROR_ARGUMENT, "q");
        REFUSE(x.k.shape[0] = 1, HEED_ERROR_SHAPE, "k");
        REFUSE(x.v.shape[0] = 1, HEED_ERROR_SHAPE, "v");
        REFUSE((x.k.shape[1] = x.v.shape[1] = 3), HEED_ERROR_SHAPE, "");
        REFUSE(x.v.shape[1] = 1, HEED_ERROR_SHAPE, "v");
        REFUSE(x.v.shape[2] = 5, HEED_ERROR_SHAPE, "v");
        REFUSE(x.k.shape[3] = 4, HEED_ERROR_SHAPE, "k");
        REFUSE(x.v.shape[3] = 0, HEED_ERROR_SHAPE, "v");
        REFUSE(x.q.shape[2] = -1, HEED_ERROR_SHAPE, "q");
        REFUSE(x.out.shape[0] = 1, HEED_ERROR_SHAPE, out);
        REFUSE(x.out.shape[1] = 2, HEED_ERROR_SHAPE, out);
        REFUSE(x.out.shape[2] = 5, HEED_ERROR_SHAPE, out);
        REFUSE(x.out.shape[3] = 3, HEED_ERROR_SHAPE, out);
        REFUSE(x.q.stride[2] = -5, HEED_ERROR_STRIDE, "q");
        REFUSE(x.v.stride[3] = 2, HEED_ERROR_STRIDE, "v");
        REFUSE(x.q.stride[0] = (int64_t)1 << 60, HEED_ERROR_STRIDE, "q");
        if (verb_at != BACKWARD) {
            REFUSE(x.out.stride[2] = 0, HEED_ERROR_STRIDE, "out");
            REFUSE(x.out.data = x.q.data, HEED_ERROR_OVERLAP, "out");
            REFUSE(x.out.data = x.v.data, HEED_ERROR_OVERLAP, "out");
            REFUSE(x.k.data = x.out.data, HEED_ERROR_OVERLAP, "out");
            REFUSE(x.out.data = x.wf.data, HEED_ERROR_OVERLAP, "out");
        }
        arguments x;
        set_good(&x, &s);
        x.context = NULL;
        assert_int_equal(call(&x), HEED_ERROR_ARGUMENT);
        close_bench(&s);
    }
}

static void refused_options(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        bench s;
        open_bench(&s, (call_verb)verb_at, MAP_SOFTPLUS);
        const int64_t seven[] = {2, 8}, negative[] = {0, -1};
        const heed_tensor rows = linear_tensor(s.p, HEED_BOOL, 1, 1, 6, s.p->c.n_keys, LINEAR_BHND);
        const heed_tensor heads = linear_tensor(s.p, HEED_BOOL, 1, 4, 1, s.p->c.n_keys, LINEAR_BHND);
        const heed_tensor few = linear_tensor(s.p, HEED_BOOL, 1, 1, 1, s.p->c.n_keys - 1, LINEAR_BHND);
        REFUSE(x.options.struct_size--, HEED_ERROR_ARGUMENT, "options");
        REFUSE(x.options.eps = -1e-6f, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.options.eps = NAN, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.options.eps = INFINITY, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.mask.struct_size++, HEED_ERROR_ARGUMENT, "mask");
        REFUSE(x.mask.window_left = 3, HEED_ERROR_UNSUPPORTED, "window_left");
        REFUSE(x.mask.window_left = -2, HEED_ERROR_ARGUMENT, "window_left");
        REFUSE(x.mask.window_right = -2, HEED_ERROR_ARGUMENT, "window_right");
        REFUSE(x.mask.alignment = (heed_alignment)7, HEED_ERROR_ARGUMENT, "alignment");
        REFUSE(x.mask.query_lengths = seven, HEED_ERROR_ARGUMENT, "query_lengths");
        REFUSE(x.mask.query_lengths = negative, HEED_ERROR_ARGUMENT, "query_lengths");
        REFUSE(x.mask.visible = &rows, HEED_ERROR_UNSUPPORTED, "visible");
        REFUSE(x.mask.visible = &heads, HEED_ERROR_UNSUPPORTED, "visible");
        if (verb_at != STEP) {
            REFUSE(x.mask.visible = &few, HEED_ERROR_SHAPE, "visible");
            REFUSE(x.mask.visible = &x.q, HEED_ERROR_DTYPE, "visible");
            REFUSE(x.mask.key_lengths = seven, HEED_ERROR_ARGUMENT, "key_lengths");
            REFUSE(x.mask.key_lengths = negative, HEED_ERROR_ARGUMENT, "key_lengths");
            close_bench(&s);
            continue;
        }
        const int64_t ones[] = {1, 1};
        const heed_tensor flags = linear_tensor(s.p, HEED_BOOL, 1, 1, 1, 6, LINEAR_BHND);
        REFUSE(x.mask.causal = 0, HEED_ERROR_UNSUPPORTED, "causal");
        REFUSE(x.mask.window_right = 0, HEED_ERROR_UNSUPPORTED, "window_right");
        REFUSE(x.mask.key_lengths = ones, HEED_ERROR_UNSUPPORTED, "key_lengths");
        REFUSE(x.mask.alignment = HEED_ALIGN_TOP_LEFT, HEED_ERROR_UNSUPPORTED, "alignment");
        REFUSE(x.mask.visible = &flags, HEED_ERROR_UNSUPPORTED, "visible");
        REFUSE((x.k.shape[2] = x.v.shape[2] = 5), HEED_ERROR_SHAPE, "k");
        REFUSE(x.state_at = NULL, HEED_ERROR_ARGUMENT, "state");
        REFUSE((x.state.recent_features.shape[2] = x.state.recent_values.shape[2] = 0), HEED_ERROR_SHAPE, "recent");
        close_bench(&s);
    }
}

/* ---- Maps ---- */

static void refused_maps(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        bench s;
        open_bench(&s, (call_verb)verb_at, MAP_SOFTPLUS);
        REFUSE(x.features.struct_size = 0, HEED_ERROR_ARGUMENT, "features");
        REFUSE(x.features.n_layers = -1, HEED_ERROR_ARGUMENT, "n_layers");
        REFUSE(x.features.n_layers = 9, HEED_ERROR_ARGUMENT, "n_layers");
        REFUSE(x.features.layers = NULL, HEED_ERROR_ARGUMENT, "layers");
        REFUSE(x.layers[0].kind = (heed_feature_kind)0, HEED_ERROR_ARGUMENT, "kind");
        REFUSE(x.layers[0].kind = (heed_feature_kind)8, HEED_ERROR_ARGUMENT, "kind");
        REFUSE(x.layers[0].eps = 0.1f, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.layers[0].wf = NULL, HEED_ERROR_ARGUMENT, "wf");
        REFUSE(x.layers[0].wg = &x.wf, HEED_ERROR_ARGUMENT, "wg");
        REFUSE(x.layers[0].a = &x.wf, HEED_ERROR_ARGUMENT, "");
        REFUSE(x.layers[0].omega = &x.wf, HEED_ERROR_ARGUMENT, "omega");
        REFUSE(x.wf.data = NULL, HEED_ERROR_ARGUMENT, "wf");
        REFUSE(x.wf.data = (char *)x.wf.data + 2, HEED_ERROR_ARGUMENT, "wf");
        REFUSE(x.wf.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "wf");
        REFUSE(x.wf.shape[0] = 2, HEED_ERROR_SHAPE, "wf");
        REFUSE(x.wf.shape[1] = 3, HEED_ERROR_SHAPE, "wf");
        REFUSE(x.wf.shape[1] = 4, HEED_ERROR_SHAPE, "wf"); /* the heads of queries, in a map that keys share */
        REFUSE(x.wf.shape[2] = 4, HEED_ERROR_SHAPE, "wf");
        REFUSE(x.wf.shape[3] = 0, HEED_ERROR_SHAPE, "wf");
        REFUSE(x.wf.shape[3] = 7, HEED_ERROR_SHAPE, ""); /* the state has 8 features, the gradient too */
        REFUSE(x.wf.stride[2] = -1, HEED_ERROR_STRIDE, "wf");
        REFUSE(x.wf.stride[3] = 2, HEED_ERROR_STRIDE, "wf");
        REFUSE((x.features.n_layers = 2, x.layers[1] = x.layers[0]), HEED_ERROR_SHAPE, "wf"); /* 8 channels, not 5 */
        heed_feature_map few = HEED_FEATURE_MAP_INIT;
        REFUSE(x.options.query_features = &few, HEED_ERROR_SHAPE, ""); /* 5 features of queries, 8 of keys */
        REFUSE((few.struct_size++, x.options.query_features = &few), HEED_ERROR_ARGUMENT, "query_features");
        close_bench(&s);

        open_bench(&s, (call_verb)verb_at, MAP_GLU);
        expect_good(&s);
        REFUSE(x.layers[0].wg = NULL, HEED_ERROR_ARGUMENT, "wg");
        REFUSE((x.layers[0].a = &x.wf, x.layers[0].b = &x.wg), HEED_ERROR_ARGUMENT, "");
        REFUSE((x.layers[0].wg = NULL, x.layers[0].a = &x.wf), HEED_ERROR_ARGUMENT, "b");
        REFUSE((x.layers[0].wg = NULL, x.layers[0].b = &x.wf), HEED_ERROR_ARGUMENT, "a");
        REFUSE(x.wg.shape[3] = 7, HEED_ERROR_SHAPE, "wg");
        REFUSE(x.wg.shape[2] = 4, HEED_ERROR_SHAPE, "wg");
        close_bench(&s);

        open_bench(&s, (call_verb)verb_at, MAP_AOGLU3);
        expect_good(&s);
        REFUSE(x.a.shape[3] = 2, HEED_ERROR_SHAPE, "b");
        REFUSE(x.a.shape[3] = 0, HEED_ERROR_SHAPE, "a");
        REFUSE(x.a.shape[2] = 4, HEED_ERROR_SHAPE, "a");
        REFUSE(x.b.shape[3] = 4, HEED_ERROR_SHAPE, "b");
        close_bench(&s);

        open_bench(&s, (call_verb)verb_at, MAP_FAVOR);
        expect_good(&s);
        REFUSE(x.layers[0].omega = NULL, HEED_ERROR_ARGUMENT, "omega");
        REFUSE(x.layers[0].eps = -1.0f, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.layers[0].eps = NAN, HEED_ERROR_ARGUMENT, "eps");
        REFUSE(x.layers[0].wf = &x.omega, HEED_ERROR_ARGUMENT, "wf");
        REFUSE(x.omega.shape[2] = 4, HEED_ERROR_SHAPE, "omega");
        REFUSE((x.features.n_layers = 2, x.layers[1] = (heed_feature_layer){.kind = HEED_FEATURE_ELU1}),
               HEED_ERROR_UNSUPPORTED, "layers[0]");
        close_bench(&s);
    }
}

/* ---- States ---- */

static void refused_states(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        bench s;
        open_bench(&s, (call_verb)verb_at, MAP_SOFTPLUS);
        int64_t negative[] = {0, -1}, many[] = {((int64_t)1 << 60) + 1, 0};
        REFUSE(x.state.sums.shape[0] = 1, HEED_ERROR_SHAPE, "sums");
        REFUSE(x.state.sums.shape[1] = 1, HEED_ERROR_SHAPE, "sums");
        REFUSE(x.state.sums.shape[2] = 7, HEED_ERROR_SHAPE, "sums");
        REFUSE(x.state.sums.shape[3] = 3, HEED_ERROR_SHAPE, "sums");
        REFUSE(x.state.norms.shape[2] = 0, HEED_ERROR_SHAPE, "norms");
        REFUSE(x.state.norms.shape[3] = 7, HEED_ERROR_SHAPE, "norms");
        REFUSE(x.state.sums.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "sums");
        REFUSE(x.state.norms.data = NULL, HEED_ERROR_ARGUMENT, "norms");
        REFUSE(x.state.recent_features.shape[2]--, HEED_ERROR_SHAPE, "recent");
        if (verb_at == BACKWARD) {
            close_bench(&s);
            continue;
        }
        REFUSE(x.state.recent_values.shape[3]--, HEED_ERROR_SHAPE, "recent_values");
        REFUSE(x.state.sums.stride[1] = 0, HEED_ERROR_STRIDE, "sums");
        REFUSE(x.state.recent_values.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "recent_values");
        REFUSE(x.state.recent_features.data = NULL, HEED_ERROR_ARGUMENT, "recent_features");
        REFUSE(x.state.n_tokens = NULL, HEED_ERROR_ARGUMENT, "n_tokens");
        REFUSE(x.state.n_tokens = (int64_t *)(void *)((char *)x.state.n_tokens + 4), HEED_ERROR_ARGUMENT, "n_tokens");
        REFUSE(x.state.n_tokens = negative, HEED_ERROR_ARGUMENT, "n_tokens");
        REFUSE(x.state.n_tokens = many, HEED_ERROR_ARGUMENT, "n_tokens");
        REFUSE(x.state.norms.data = x.state.sums.data, HEED_ERROR_OVERLAP, "norms");
        REFUSE(x.state.recent_values.data = x.state.recent_features.data, HEED_ERROR_OVERLAP, "recent_values");
        REFUSE(x.out.data = x.state.sums.data, HEED_ERROR_OVERLAP, "out");
        REFUSE(x.k.data = x.state.sums.data, HEED_ERROR_OVERLAP, "k");
        REFUSE(x.wf.data = x.state.sums.data, HEED_ERROR_OVERLAP, "wf");
        REFUSE(x.mask.query_lengths = (x.state.n_tokens[0] = x.state.n_tokens[1] = 3, x.state.n_tokens),
               HEED_ERROR_OVERLAP, "n_tokens");
        close_bench(&s);
    }
}

static void refused_gradients(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, BACKWARD, MAP_SOFTPLUS);
    REFUSE(x.dq.shape[2] = 5, HEED_ERROR_SHAPE, "dq");
    REFUSE(x.dk.shape[1] = 1, HEED_ERROR_SHAPE, "dk");
    REFUSE(x.dv.shape[3] = 3, HEED_ERROR_SHAPE, "dv");
    REFUSE(x.dq.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "dq");
    REFUSE(x.dk.data = NULL, HEED_ERROR_ARGUMENT, "dk");
    REFUSE(x.dv.stride[2] = 0, HEED_ERROR_STRIDE, "dv");
    REFUSE(x.dq.data = x.q.data, HEED_ERROR_OVERLAP, "dq");
    REFUSE(x.dk.data = x.dv.data, HEED_ERROR_OVERLAP, "dv");
    REFUSE(x.dv.data = x.out.data, HEED_ERROR_OVERLAP, "dv");
    REFUSE(x.dwf.data = x.wf.data, HEED_ERROR_OVERLAP, "wf");
    REFUSE(x.dwf.data = x.dk.data, HEED_ERROR_OVERLAP, "wf");
    REFUSE(x.dwf.shape[3] = 7, HEED_ERROR_SHAPE, "wf");
    REFUSE(x.dwf.shape[1] = 1, HEED_ERROR_SHAPE, "wf");
    REFUSE(x.dwf.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "wf");
    REFUSE(x.dwf.stride[2] = 0, HEED_ERROR_STRIDE, "wf");
    REFUSE(x.dlayers[0].kind = HEED_FEATURE_GLU_LAST, HEED_ERROR_ARGUMENT, "kind");
    REFUSE(x.dlayers[0].wg = &x.dwf, HEED_ERROR_ARGUMENT, "wg");
    REFUSE(x.dfeatures.n_layers = 0, HEED_ERROR_ARGUMENT, "n_layers");
    REFUSE(x.dfeatures.struct_size = 1, HEED_ERROR_ARGUMENT, "dfeatures");
    REFUSE(x.options.features = NULL, HEED_ERROR_SHAPE, ""); /* 5 features now, and 8 in the state */
    REFUSE(x.dquery_features_at = &x.dfeatures, HEED_ERROR_ARGUMENT, "dquery_features");
    REFUSE(x.dstate_in.sums.shape[2] = 7, HEED_ERROR_SHAPE, "dstate_in");
    REFUSE(x.dstate_in.norms.stride[1] = 0, HEED_ERROR_STRIDE, "dstate_in");
    REFUSE(x.dstate_in.sums.data = x.state.sums.data, HEED_ERROR_OVERLAP, "dstate_in");
    REFUSE(x.dstate_in.sums.data = x.dstate_out.sums.data, HEED_ERROR_OVERLAP, "dstate_in");
    REFUSE(x.dstate_out.norms.shape[3] = 7, HEED_ERROR_SHAPE, "dstate_out");
    REFUSE(x.dstate_out.sums.data = NULL, HEED_ERROR_ARGUMENT, "dstate_out");
    int64_t n_tokens[LINEAR_MAX_BATCH];
    const heed_linear_state waiting = linear_new_state(s.p, 2, n_tokens);
    REFUSE(x.state = waiting, HEED_ERROR_SHAPE, "recent");
    close_bench(&s);
}

static void sizes_of_states(void **state)
{
    (void)state;
    int64_t bytes = -1;
    assert_int_equal(heed_linear_state_bytes(2, 3, 4, 5, 6, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 2 + 4 * 2 * 3 * (4 * 5 + 4 + 6 * (4 + 5)));
    assert_int_equal(heed_linear_state_bytes(2, 3, 4, 5, 0, &bytes), HEED_OK);
    assert_int_equal(bytes, 8 * 2 + 4 * 2 * 3 * (4 * 5 + 4));
    bytes = -1;
    assert_int_equal(heed_linear_state_bytes(2, 3, 4, 5, 6, NULL), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_bytes(-1, 3, 4, 5, 6, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes(2, -3, 4, 5, 6, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes(2, 3, 0, 5, 6, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes(2, 3, 4, 0, 6, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes(2, 3, 4, 5, -6, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes((int64_t)1 << 40, 3, 1 << 20, 5, 0, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(heed_linear_state_bytes(1, 1, INT64_MAX, INT64_MAX, INT64_MAX, &bytes), HEED_ERROR_SHAPE);
    assert_int_equal(bytes, -1);
}

static void refused_merges_and_resets(void **state)
{
    (void)state;
    bench s;
    open_bench(&s, STEP, MAP_SOFTPLUS);
    int64_t n[3][LINEAR_MAX_BATCH];
    heed_linear_state good[3], x[3];
    for (int m = 0; m < 3; m++)
        good[m] = linear_new_state(s.p, m, n[m]);
#define MERGE(change, want)                                                                                            \
    do {                                                                                                               \
        memcpy(x, good, sizeof x);                                                                                     \
        change;                                                                                                        \
        tensor_fill(&good[2].sums, 7.0f);                                                                              \
        const heed_status status = heed_linear_state_merge(fixture_context, &x[0], &x[1], &x[2]);                      \
        if (status != want || !*heed_context_message(fixture_context) ||                                               \
            *tensor_at(&good[2].sums, 1, 1, 3, 2) != 7.0f)                                                             \
            fail_msg("%s: %s: %s", #change, heed_status_text(status), heed_context_message(fixture_context));          \
    } while (0)
    MERGE(x[0].sums.shape[2] = 7, HEED_ERROR_SHAPE);
    MERGE(x[1].sums.shape[3] = 3, HEED_ERROR_SHAPE);
    MERGE(x[2].norms.shape[3] = 3, HEED_ERROR_SHAPE);
    MERGE(x[1].norms.shape[0] = 1, HEED_ERROR_SHAPE);
    MERGE(x[0].sums.dtype = HEED_BOOL, HEED_ERROR_DTYPE);
    MERGE(x[2].sums.stride[2] = 0, HEED_ERROR_STRIDE);
    MERGE(x[1].n_tokens = NULL, HEED_ERROR_ARGUMENT);
    MERGE(x[2].sums.data = NULL, HEED_ERROR_ARGUMENT);
    MERGE(x[2].sums = x[0].sums, HEED_ERROR_OVERLAP); /* a part of a, not all of it */
    MERGE(x[2].norms.data = x[1].norms.data, HEED_ERROR_OVERLAP);
    MERGE(x[2].norms.data = x[2].sums.data, HEED_ERROR_OVERLAP);
#undef MERGE
    assert_int_equal(heed_linear_state_merge(fixture_context, NULL, &good[1], &good[2]), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_merge(fixture_context, &good[0], NULL, &good[2]), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_merge(fixture_context, &good[0], &good[1], NULL), HEED_ERROR_ARGUMENT);
    assert_int_equal(heed_linear_state_merge(NULL, &good[0], &good[1], &good[2]), HEED_ERROR_ARGUMENT);

    memcpy(x, good, sizeof x);
    x[2].sums.shape[0] = 1;
    assert_int_equal(heed_linear_state_reset(&x[2], 0), HEED_ERROR_SHAPE);
    x[2] = good[2];
    x[2].n_tokens = NULL;
    assert_int_equal(heed_linear_state_reset(&x[2], 0), HEED_ERROR_ARGUMENT);
    x[2] = good[2];
    x[2].norms.dtype = HEED_BOOL;
    assert_int_equal(heed_linear_state_reset(&x[2], 0), HEED_ERROR_DTYPE);
    assert_true(*tensor_at(&good[2].sums, 0, 0, 0, 0) == 7.0f);
    close_bench(&s);
}

/* ---- Unusual and fine ---- */

/* No options are the defaults; no mask shows everything. */
static void defaults(void **state)
{
    (void)state;
    linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                     .q_heads = 2,
                                                     .kv_heads = 1,
                                                     .n_queries = 50,
                                                     .n_keys = 60,
                                                     .channels = 9,
                                                     .value_channels = 7,
                                                     .map = MAP_ELU1,
                                                     .eps = 1e-6f});
    const heed_tensor first = linear_tensor_like(p, &p->out);
    linear_run(p, fixture_context);
    tensor_copy(&first, &p->out);
    tensor_fill(&p->out, NAN);
    assert_int_equal(heed_linear_forward(fixture_context, &p->q, &p->k, &p->v, NULL, NULL, &p->out), HEED_OK);
    linear_expect_bits(&p->out, &first, "no options");
    p->options.mask = NULL;
    p->options.features = NULL;
    linear_run(p, fixture_context);
    linear_expect_bits(&p->out, &first, "no mask and no map");
    linear_destroy(p);
}

/* Inputs may repeat rows and share memory; flags may be one for a query that stands alone. */
static void repeated_inputs(void **state)
{
    (void)state;
    linear_problem *p = linear_create(&(linear_case){.batch = 2,
                                                     .q_heads = 2,
                                                     .kv_heads = 2,
                                                     .n_queries = 50,
                                                     .n_keys = 50,
                                                     .channels = 8,
                                                     .value_channels = 8,
                                                     .map = MAP_SOFTPLUS,
                                                     .causal = 1});
    const heed_tensor q = p->q;
    p->k = p->v = q; /* one tensor thrice */
    linear_expect_match(p, fixture_context, "q, k and v are one");
    p->k.stride[0] = p->k.stride[1] = 0;
    p->v.stride[2] = 0;
    linear_expect_match(p, fixture_context, "repeated");
    linear_destroy(p);

    p = linear_create(&(linear_case){.batch = 2,
                                     .q_heads = 2,
                                     .kv_heads = 2,
                                     .n_queries = 1,
                                     .n_keys = 70,
                                     .channels = 8,
                                     .value_channels = 8,
                                     .map = MAP_ELU1,
                                     .hiding = HIDE_FLAGS_OF_HEADS});
    p->visible.stride[1] = 0;
    linear_expect_match(p, fixture_context, "flags");
    linear_destroy(p);
}

/* A map of queries with as many features from another number of heads and other layers. */
static void another_map_for_queries(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 6,
                                                         .kv_heads = 3,
                                                         .n_queries = 30,
                                                         .n_keys = 40,
                                                         .channels = 10,
                                                         .value_channels = 6,
                                                         .n_features = 10,
                                                         .map = MAP_SOFTPLUS,
                                                         .causal = n / 2});
        test_map other;
        map_create(&other, n % 2 ? MAP_AOGLU3 : MAP_ELU1, n % 2 ? 6 : 1, 10, 10, 0.0f, 17);
        p->options.query_features = &other.map;
        linear_expect_match(p, fixture_context, "another map");
        p->options.features = NULL;
        linear_expect_match(p, fixture_context, "another map, none of keys");
        map_destroy(&other);
        linear_destroy(p);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_tensors),   cmocka_unit_test(refused_options),
        cmocka_unit_test(refused_maps),      cmocka_unit_test(refused_states),
        cmocka_unit_test(refused_gradients), cmocka_unit_test(sizes_of_states),
        cmocka_unit_test(defaults),          cmocka_unit_test(refused_merges_and_resets),
        cmocka_unit_test(repeated_inputs),   cmocka_unit_test(another_map_for_queries),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
