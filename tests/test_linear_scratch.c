/* Scratch of feature maps and linear attention: the size that is asked for is the size that is needed, to the byte, and
 * follows from channels, features and the widths of layers alone. */
#include "linear_check.h"
#include "support/fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef enum call_verb { FORWARD, STEP, BACKWARD, APPLY, N_VERBS } call_verb;
static const char *const verb_names[N_VERBS] = {"forward", "step", "backward", "apply"};

static heed_status ask(call_verb verb, const heed_tensor *q, const heed_tensor *k, const heed_tensor *v,
                       const heed_linear_options *options, int64_t *bytes)
{
    return verb == APPLY      ? heed_feature_map_scratch_bytes(q, options->features, bytes)
           : verb == BACKWARD ? heed_linear_backward_scratch_bytes(q, k, v, options, bytes)
                              : heed_linear_scratch_bytes(q, k, v, options, bytes);
}

/* Shapes alone decide: nothing has data here, but for every other shape the matrices. */
static void constant(void **state)
{
    (void)state;
    static const int64_t shapes[][5] = {{1, 1, 1, 1, 1},       {7, 1, 1, 4, 1},           {1, 32, 8, 3, 100000},
                                        {1, 1, 1, 1 << 30, 1}, {0, 1, 1, 9, 9},           {64, 32, 32, 384, 384},
                                        {1, 0, 0, 0, 0},       {2, 6, 3, 100000, 1 << 20}};
    for (int kind = 0; kind < N_MAP_KINDS; kind++) {
        for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
            int64_t first = -1;
            test_map map;
            heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
            map_create(&map, (map_kind)kind, 1, 70, 90, 0.1f, 3);
            options.features = kind == MAP_DEFAULT && verb_at != APPLY ? NULL : &map.map;
            void *data[MAP_MAX_TENSORS];
            for (int t = 0; t < map.n_tensors; t++)
                data[t] = map.tensors[t].data;
            for (size_t n = 0; n < N_OF(shapes); n++) {
                const int64_t *s = shapes[n];
                const heed_tensor q = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[1], s[3], 70);
                const heed_tensor k = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[2], s[4], 70);
                const heed_tensor v = heed_tensor_bhnd(NULL, HEED_FLOAT32, s[0], s[2], s[4], 50);
                int64_t bytes = -1;
                for (int t = 0; t < map.n_tensors; t++)
                    map.tensors[t].data = n % 2 ? data[t] : NULL;
                if (ask((call_verb)verb_at, &q, &k, &v, &options, &bytes) != HEED_OK)
                    fail_msg("%s, %s: refused", verb_names[verb_at], map_name((map_kind)kind));
                assert_true(bytes >= 0);
                first = n == 0 ? bytes : first;
                if (bytes != first)
                    fail_msg("%s, %s: %" PRId64 " bytes, then %" PRId64, verb_names[verb_at], map_name((map_kind)kind),
                             first, bytes);
            }
            for (int t = 0; t < map.n_tensors; t++)
                map.tensors[t].data = data[t];
            map_destroy(&map);
        }
    }
}

/* One call in a context with so much scratch. */
static heed_status run_with(int64_t scratch_bytes, call_verb verb, linear_problem *p, const heed_tensor *out,
                            heed_report *report, char *message, size_t n)
{
    heed_context *context = NULL;
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.scratch_bytes = scratch_bytes;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    heed_status status = HEED_OK;
    int64_t n_tokens[LINEAR_MAX_BATCH];
    switch (verb) {
    case STEP: {
        const heed_linear_state s = linear_new_state(p, 4, n_tokens);
        status = heed_linear_step(context, &p->q, &p->k, &p->v, &p->options, &s, out);
        break;
    }
    case BACKWARD:
        status = heed_linear_backward(context, &p->q, &p->k, &p->v, &p->options, &p->out, NULL, NULL, out, NULL, NULL,
                                      NULL, NULL, NULL);
        break;
    case APPLY:
        status = heed_feature_map_apply(context, &p->q, &p->key_map.map, HEED_FEATURES_OF_KEYS, out);
        break;
    case FORWARD:
    default:
        status = heed_linear_forward(context, &p->q, &p->k, &p->v, &p->options, NULL, out);
        break;
    }
    snprintf(message, n, "%s", heed_context_message(context));
    assert_int_equal(heed_context_report(context, report), HEED_OK);
    heed_context_destroy(context);
    return status;
}

static void expect_exact(call_verb verb, const linear_case *c)
{
    char message[256], digits[32];
    heed_report report = HEED_REPORT_INIT;
    int64_t bytes = 0;
    linear_problem *p = linear_create(c);
    tensor_fill(&p->out, 0.5f); /* the gradient of a backward call */
    const int64_t width = verb == BACKWARD ? c->channels : verb == APPLY ? p->n_features : c->value_channels;
    const heed_tensor out = linear_tensor(p, HEED_FLOAT32, c->batch, c->q_heads, c->n_queries, width, LINEAR_BHND);
    heed_linear_options options = p->options;
    options.features = verb == APPLY ? &p->key_map.map : options.features;
    assert_int_equal(ask(verb, &p->q, &p->k, &p->v, &options, &bytes), HEED_OK);

    tensor_fill(&out, NAN);
    if (bytes > 0) {
        assert_int_equal(run_with(bytes - 1 > 0 ? bytes - 1 : 1, verb, p, &out, &report, message, sizeof message),
                         HEED_ERROR_SCRATCH);
        snprintf(digits, sizeof digits, "%" PRId64, bytes);
        if (strstr(message, digits) == NULL)
            fail_msg("%s, %s: the message does not name %s bytes: \"%s\"", verb_names[verb], linear_describe(p), digits,
                     message);
        assert_true(isnan(*tensor_at(&out, 0, 0, 0, 0)));
    }
    const heed_status status = run_with(bytes > 0 ? bytes : 1, verb, p, &out, &report, message, sizeof message);
    if (status != HEED_OK)
        fail_msg("%s, %s: %s: %s", verb_names[verb], linear_describe(p), heed_status_text(status), message);
    if (report.scratch_bytes > bytes)
        fail_msg("%s, %s: %s carved %" PRId64 " bytes of %" PRId64, verb_names[verb], linear_describe(p), report.path,
                 report.scratch_bytes, bytes);
    assert_true(!isnan(*tensor_at(&out, 0, 0, 0, 0)));
    linear_destroy(p);
}

static void exact(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1}, {17, 5, 33}, {64, 64, 64}, {130, 300, 70}, {300, 17, 128}};
    static const int64_t tokens[][2] = {{1, 60}, {60, 60}, {200, 130}};
    for (int n = 0; n < 5 * N_MAP_KINDS * 3; n++) {
        if (!runner_takes(n))
            continue;
        const int64_t *s = sizes[n % 5], *t = tokens[n / 5 / N_MAP_KINDS];
        for (int verb_at = 0; verb_at < N_VERBS; verb_at++)
            expect_exact((call_verb)verb_at, &(linear_case){.batch = 1,
                                                            .q_heads = 2,
                                                            .kv_heads = verb_at == APPLY ? 2 : 1,
                                                            .n_queries = t[0],
                                                            .n_keys = verb_at == STEP ? t[0] : t[1],
                                                            .channels = s[0],
                                                            .value_channels = s[1],
                                                            .n_features = s[2],
                                                            .map = (map_kind)(n / 5 % N_MAP_KINDS),
                                                            .causal = verb_at == STEP || n % 2,
                                                            .has_query_map = n % 3 == 0 && verb_at != APPLY,
                                                            .one_head_for_all = n % 2,
                                                            .map_eps = 0.1f});
    }
}

/* The scratch of a context made without saying how much. */
static void by_default(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        for (int deep = 0; deep < 2; deep++) {
            const int64_t n = verb_at == BACKWARD ? 256 : 1024;
            heed_report report = HEED_REPORT_INIT;
            char message[256];
            linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                             .q_heads = 1,
                                                             .kv_heads = 1,
                                                             .n_queries = 5,
                                                             .n_keys = 5,
                                                             .channels = n,
                                                             .value_channels = n,
                                                             .map = MAP_DEFAULT,
                                                             .causal = 1});
            heed_feature_layer layers[4] = {{0}};
            const heed_tensor w = linear_tensor(p, HEED_FLOAT32, 1, 1, n, n, LINEAR_BHND);
            tensor_fill(&w, 0.01f);
            tensor_fill(&p->out, 0.5f);
            for (int l = 0; l < 4; l++) {
                layers[l].kind = l == 3 ? HEED_FEATURE_GLU_LAST : HEED_FEATURE_GLU;
                layers[l].wf = layers[l].wg = &w;
            }
            p->key_map.map.layers = layers + (deep ? 0 : 3);
            p->key_map.map.n_layers = deep ? 4 : 1;
            p->options.features = &p->key_map.map;
            const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 1, 1, 5, n, LINEAR_BHND);
            const heed_status status = run_with(0, (call_verb)verb_at, p, &out, &report, message, sizeof message);
            if (status != HEED_OK)
                fail_msg("%s, %d layers: %s: %s", verb_names[verb_at], deep ? 4 : 1, heed_status_text(status), message);
            linear_destroy(p);
        }
    }
}

static void errors(void **state)
{
    (void)state;
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        int64_t bytes = -12345;
        test_map map;
        map_create(&map, MAP_SOFTPLUS, 2, 6, 8, 0.0f, 1);
        heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
        options.features = &map.map;
        const heed_tensor q = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, verb_at == APPLY ? 2 : 4, 5, 6);
        const heed_tensor k = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 2, 7, 6);
        const heed_tensor v = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 2, 7, 3);
        const call_verb at = (call_verb)verb_at;
        assert_int_equal(ask(at, NULL, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
        assert_int_equal(ask(at, &q, &k, &v, &options, NULL), HEED_ERROR_ARGUMENT);
        heed_tensor wrong = q;
        wrong.shape[3] = 5;
        assert_int_equal(ask(at, &wrong, &k, &v, &options, &bytes), HEED_ERROR_SHAPE);
        wrong = q;
        wrong.shape[2] = -1;
        assert_int_equal(ask(at, &wrong, &k, &v, &options, &bytes), HEED_ERROR_SHAPE);
        wrong = q;
        wrong.shape[1] = INT64_MAX;
        assert_int_equal(ask(at, &wrong, &k, &v, &options, &bytes), HEED_ERROR_SHAPE);
        map.tensors[0].shape[2] = 5;
        assert_int_equal(ask(at, &q, &k, &v, &options, &bytes), HEED_ERROR_SHAPE);
        map.tensors[0].shape[2] = 6;
        map.layers[0].wf = NULL;
        assert_int_equal(ask(at, &q, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
        map.layers[0] = (heed_feature_layer){.kind = HEED_FEATURE_FAVOR, .omega = &map.tensors[0]};
        map.layers[1] = (heed_feature_layer){.kind = HEED_FEATURE_ELU1};
        map.map.n_layers = 2;
        assert_int_equal(ask(at, &q, &k, &v, &options, &bytes), HEED_ERROR_UNSUPPORTED);
        map.map.n_layers = 9;
        assert_int_equal(ask(at, &q, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
        if (at != APPLY) {
            map.map.n_layers = 1;
            options.struct_size++;
            assert_int_equal(ask(at, &q, &k, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
            options.struct_size--;
            assert_int_equal(ask(at, &q, NULL, &v, &options, &bytes), HEED_ERROR_ARGUMENT);
            assert_int_equal(ask(at, &q, &k, NULL, &options, &bytes), HEED_ERROR_ARGUMENT);
            wrong = v;
            wrong.shape[3] = 0;
            assert_int_equal(ask(at, &q, &k, &wrong, &options, &bytes), HEED_ERROR_SHAPE);
        }
        assert_true(bytes == -12345);
        map_destroy(&map);
    }
}

/* ---- Sizes that are legal, and beyond what any context has ---- */

/* Far from all other memory: nothing may be read there. */
static heed_tensor far_matrix(int64_t in, int64_t out)
{
    return heed_tensor_bhnd((void *)((uintptr_t)1 << 60), HEED_FLOAT32, 1, 1, in, out);
}

typedef struct large_sizes {
    heed_feature_kind kind; /* of all layers */
    int64_t n_layers, channels, n_features, value_channels, rank;
    int fits[N_VERBS];
} large_sizes;

/* More than fits in int64 is more than any context has, and no other number. */
static void far_too_large(void **state)
{
    (void)state;
    static const int64_t wide = (int64_t)1 << 31, most = (int64_t)1 << 57;
    const large_sizes table[] = {
        {HEED_FEATURE_ELU1, 1, wide, wide, wide, 0, {0, 0, 0, 1}},
        {HEED_FEATURE_ELU1, 1, most, most, 1, 0, {0, 0, 0, 0}},
        {HEED_FEATURE_ELU1, 1, 1, 1, most, 0, {0, 0, 0, 1}},
        {HEED_FEATURE_ELU1, 0, wide, wide, wide, 0, {0, 0, 0, 1}},
        {HEED_FEATURE_ELU1, 8, (int64_t)1 << 43, (int64_t)1 << 43, 1, 0, {1, 1, 1, 1}},
        {HEED_FEATURE_SOFTPLUS, 1, 1, most, 1, 0, {0, 0, 0, 0}},
        {HEED_FEATURE_SOFTPLUS, 1, most, 1, 1, 0, {0, 0, 0, 0}},
        {HEED_FEATURE_SOFTPLUS, 1, 2, wide, wide, 0, {0, 0, 0, 1}},
        {HEED_FEATURE_SOFTPLUS, 1, 1 << 22, 1 << 22, 1 << 22, 0, {1, 1, 1, 1}},
        {HEED_FEATURE_GLU_LAST, 1, wide / 16, wide / 16, 1, 0, {0, 0, 0, 0}},
        {HEED_FEATURE_GLU_LAST, 1, 1, 1, 1, most, {0, 0, 0, 0}},
        {HEED_FEATURE_FAVOR, 1, 1, most, 1, 0, {0, 0, 0, 0}},
    };
    for (size_t n = 0; n < N_OF(table); n++) {
        const large_sizes *s = &table[n];
        const heed_tensor q = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 0, s->channels);
        const heed_tensor v = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, 0, s->value_channels);
        const heed_tensor w = far_matrix(s->channels, s->n_features), a = far_matrix(s->channels, s->rank),
                          b = far_matrix(s->rank, s->n_features);
        heed_feature_layer layers[8] = {{0}};
        heed_feature_map map = {sizeof map, layers, s->n_layers};
        heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
        options.features = &map;
        for (int l = 0; l < 8; l++)
            layers[l].kind = s->kind;
        if (s->kind == HEED_FEATURE_FAVOR)
            layers[0].omega = &w;
        else if (s->kind != HEED_FEATURE_ELU1)
            layers[0].wf = &w;
        if (s->kind == HEED_FEATURE_GLU_LAST) {
            layers[0].wg = s->rank ? NULL : &w;
            layers[0].a = s->rank ? &a : NULL;
            layers[0].b = s->rank ? &b : NULL;
        }
        for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
            int64_t bytes = -1;
            assert_int_equal(ask((call_verb)verb_at, &q, &q, &v, &options, &bytes), HEED_OK);
            if (bytes < 0 || (bytes < INT64_MAX) != s->fits[verb_at])
                fail_msg("%s, row %d: %" PRId64 " bytes", verb_names[verb_at], (int)n, bytes);
        }
    }
}

/* A layer far too wide between narrow ones: the call says so, and writes nothing. */
static void far_too_wide(void **state)
{
    (void)state;
    static const int64_t wide = (int64_t)1 << 50;
    const heed_tensor first = far_matrix(3, wide), last = far_matrix(wide, 4);
    for (int verb_at = 0; verb_at < N_VERBS; verb_at++) {
        const call_verb verb = (call_verb)verb_at;
        heed_report report = HEED_REPORT_INIT;
        char message[256];
        linear_problem *p = linear_create(&(linear_case){.batch = 1,
                                                         .q_heads = 1,
                                                         .kv_heads = 1,
                                                         .n_queries = 5,
                                                         .n_keys = 5,
                                                         .channels = 3,
                                                         .value_channels = 4,
                                                         .n_features = 4,
                                                         .map = MAP_GLU2,
                                                         .causal = 1});
        p->key_map.layers[0].wf = p->key_map.layers[0].wg = &first;
        p->key_map.layers[1].wf = p->key_map.layers[1].wg = &last;
        tensor_fill(&p->out, 0.5f);
        const heed_tensor out = linear_tensor(p, HEED_FLOAT32, 1, 1, 5, verb == BACKWARD ? 3 : 4, LINEAR_BHND);
        tensor_fill(&out, NAN);
        const heed_status status = run_with(1 << 20, verb, p, &out, &report, message, sizeof message);
        if (status != HEED_ERROR_SCRATCH || strstr(message, "scratch") == NULL)
            fail_msg("%s: %s: %s", verb_names[verb], heed_status_text(status), message);
        for (int64_t i = 0; i < 5; i++) {
            for (int64_t c = 0; c < out.shape[3]; c++)
                assert_true(isnan(*tensor_at(&out, 0, 0, i, c)));
        }
        linear_destroy(p);
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant), cmocka_unit_test(exact),         cmocka_unit_test(by_default),
        cmocka_unit_test(errors),   cmocka_unit_test(far_too_large), cmocka_unit_test(far_too_wide),
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
