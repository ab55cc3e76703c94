/* Scratch of AFT: the size that is asked for is the size that is needed, to the byte, and follows from channels, factors,
 * window and filter alone. */
#include "support/aft_forward.h"
#include "support/fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const oracle_aft_form forms[] = {ORACLE_AFT_FULL, ORACLE_AFT_LOCAL, ORACLE_AFT_SIMPLE, ORACLE_AFT_CONV};

typedef struct sizes {
    int64_t b, h, nq, nk, d;
} sizes;

/* Taps of a filter: columns; with a grid of Nq = height * width: rows and columns. */
typedef struct parameters {
    int64_t n_factors, window, rows, columns, height;
} parameters;

typedef struct tensors {
    heed_tensor q, k, v, filter, query_factors, key_factors, out;
    heed_aft_options options;
} tensors;

/* Shapes without data. `t` must stay where it is: the options point into it. */
static void make_shapes(tensors *t, oracle_aft_form form, const sizes *s, const parameters *p)
{
    const int conv = form == ORACLE_AFT_CONV;
    *t = (tensors){.options = HEED_AFT_OPTIONS_INIT};
    t->q = heed_tensor_bhnd(NULL, HEED_FLOAT32, s->b, s->h, s->nq, s->d);
    t->k = heed_tensor_bhnd(NULL, HEED_FLOAT32, s->b, s->h, s->nk, conv ? 1 : s->d);
    t->v = heed_tensor_bhnd(NULL, HEED_FLOAT32, s->b, s->h, s->nk, s->d);
    t->out = t->q;
    t->filter = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, p->rows, p->columns);
    t->query_factors = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, s->nq, p->n_factors);
    t->key_factors = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 1, s->nk, p->n_factors);
    if (form == ORACLE_AFT_LOCAL)
        t->options.window = p->window;
    if (p->n_factors > 0 && (form == ORACLE_AFT_FULL || form == ORACLE_AFT_LOCAL)) {
        t->options.query_factors = &t->query_factors;
        t->options.key_factors = &t->key_factors;
    }
    if (conv && p->height > 0) {
        t->options.grid_height = p->height;
        t->options.grid_width = s->nq / p->height;
    }
}

static int64_t bytes_of(oracle_aft_form form, const sizes *s, const parameters *p)
{
    tensors t;
    int64_t bytes = -1;
    make_shapes(&t, form, s, p);
    assert_int_equal(aft_scratch_bytes(form, &t.q, &t.k, &t.v, &t.filter, &t.options, &bytes), HEED_OK);
    assert_true(bytes > 0);
    return bytes;
}

static void constant(void **state)
{
    (void)state;
    const sizes shapes[] = {
        {1, 1, 1, 1, 700}, {7, 1, 4, 1, 700},       {1, 32, 3, 100000, 700}, {1, 1, 1 << 30, 1, 700},
        {0, 1, 9, 9, 700}, {64, 32, 384, 384, 700}, {1, 0, 0, 0, 700},       {2, 5, 100000, 1 << 20, 700},
    };
    const parameters p = {.n_factors = 17, .window = 100, .rows = 1, .columns = 33};
    for (int f = 0; f < 4; f++) {
        const int64_t bytes = bytes_of(forms[f], &shapes[0], &p);
        for (size_t i = 1; i < sizeof shapes / sizeof shapes[0]; i++)
            assert_true(bytes_of(forms[f], &shapes[i], &p) == bytes);
    }
}

/* ---- to the byte ---- */

enum { N_MEMORY = 8 };

typedef struct held {
    tensors t;
    guarded memory[N_MEMORY];
    int n;
} held;

static void give_data(held *x, heed_tensor *tensor, random_stream *random)
{
    const int64_t *size = tensor->shape;
    *tensor =
        tensor_create(&x->memory[x->n++], HEED_FLOAT32, size[0], size[1], size[2], size[3], LAYOUT_BHND, GUARD_END);
    tensor_fill_normal(tensor, random, 1.0f);
}

static void open_problem(held *x, oracle_aft_form form, const sizes *s, const parameters *p)
{
    random_stream random = random_start((uint64_t)form);
    memset(x, 0, sizeof *x);
    make_shapes(&x->t, form, s, p);
    give_data(x, &x->t.q, &random);
    give_data(x, &x->t.k, &random);
    give_data(x, &x->t.v, &random);
    give_data(x, &x->t.out, &random);
    if (form == ORACLE_AFT_CONV)
        give_data(x, &x->t.filter, &random);
    if (x->t.options.query_factors) {
        give_data(x, &x->t.query_factors, &random);
        give_data(x, &x->t.key_factors, &random);
    }
}

static void close_problem(held *x)
{
    for (int n = 0; n < x->n; n++) {
        assert_true(guarded_intact(&x->memory[n]));
        guarded_destroy(&x->memory[n]);
    }
}

/* Runs in a context of its own with so much scratch. */
static heed_status run_with(int64_t scratch_bytes, oracle_aft_form form, const tensors *t, heed_report *report,
                            char *message, size_t n)
{
    heed_context *context = NULL;
    heed_config config = HEED_CONFIG_INIT;
    config.isa = runner_isa();
    config.scratch_bytes = scratch_bytes;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    const heed_status status = aft_forward(form, context, &t->q, &t->k, &t->v, &t->filter, &t->options, &t->out, NULL);
    snprintf(message, n, "%s", heed_context_message(context));
    assert_int_equal(heed_context_report(context, report), HEED_OK);
    heed_context_destroy(context);
    return status;
}

static void expect_exact(oracle_aft_form form, held *x, int whole, const char *name)
{
    char message[256], digits[32];
    heed_report report = HEED_REPORT_INIT;
    int64_t bytes = 0;
    const tensors *t = &x->t;
    assert_int_equal(aft_scratch_bytes(form, &t->q, &t->k, &t->v, &t->filter, &t->options, &bytes), HEED_OK);

    tensor_fill(&t->out, NAN);
    assert_int_equal(run_with(bytes - 1, form, t, &report, message, sizeof message), HEED_ERROR_SCRATCH);
    snprintf(digits, sizeof digits, "%" PRId64, bytes);
    if (strstr(message, digits) == NULL)
        fail_msg("form %d, %s: the message does not name %s bytes: \"%s\"", (int)form, name, digits, message);
    assert_true(isnan(*tensor_at(&t->out, 0, 0, 0, 0)));

    assert_int_equal(run_with(bytes, form, t, &report, message, sizeof message), HEED_OK);
    if (report.scratch_bytes > bytes || (whole && report.scratch_bytes != bytes))
        fail_msg("form %d, %s: %s carved %" PRId64 " bytes of %" PRId64, (int)form, name, report.path,
                 report.scratch_bytes, bytes);
    assert_true(!isnan(*tensor_at(&t->out, 0, 0, 0, 0)));
}

/* Every way: many rows, all of the scratch; few rows; rows by a window or by flags. */
static void check_ways(oracle_aft_form form, int64_t d, const parameters *p)
{
    held x;
    heed_mask mask = HEED_MASK_INIT;
    guarded flags_memory;
    open_problem(&x, form, &(sizes){1, 2, 60, 60, d}, p);
    heed_tensor flags = tensor_create(&flags_memory, HEED_BOOL, 1, 1, 60, 60, LAYOUT_BHND, GUARD_END);
    random_stream random = random_start(1);
    tensor_fill_flags(&flags, &random, 12);
    *tensor_flag_at(&flags, 0, 0, 0, 0) = 1;
    expect_exact(form, &x, form == ORACLE_AFT_SIMPLE, "60 rows");
    x.t.options.mask = &mask;
    mask.window_right = 5;
    expect_exact(form, &x, 0, "a window behind the query");
    mask.window_left = 7;
    expect_exact(form, &x, 0, "a window");
    mask.window_left = mask.window_right = -1;
    mask.visible = &flags;
    expect_exact(form, &x, 0, "flags");
    mask.visible = NULL;
    if (p->height == 0) {
        mask.causal = 1;
        expect_exact(form, &x, 0, "causal");
    }
    close_problem(&x);
    guarded_destroy(&flags_memory);
    if (p->height > 0)
        return;
    open_problem(&x, form, &(sizes){2, 1, 1, 70, d}, p);
    expect_exact(form, &x, 0, "one row");
    close_problem(&x);
}

static void exact(void **state)
{
    (void)state;
    const int64_t channels[] = {1, 17, 64, 300, 520};
    const parameters p[] = {
        {.n_factors = 0, .window = 1, .rows = 1, .columns = 1},
        {.n_factors = 3, .window = 9, .rows = 1, .columns = 31},
        {.n_factors = 40, .window = 513, .rows = 3, .columns = 5, .height = 6},
    };
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
        for (int f = 0; f < 4; f++) {
            for (size_t n = 0; n < sizeof p / sizeof p[0]; n++)
                check_ways(forms[f], channels[i], &p[n]);
        }
    }
}

/* Where one way needs the most, a call that takes it carves all that is asked for. */
static void all_of_it(void **state)
{
    (void)state;
    const parameters p = {.n_factors = 5, .window = 512, .rows = 1, .columns = 31};
    for (int f = 0; f < 4; f++) {
        held x;
        open_problem(&x, forms[f], &(sizes){1, 2, 60, 60, 64}, &p);
        if (forms[f] != ORACLE_AFT_LOCAL)
            expect_exact(forms[f], &x, 1, "all of it");
        close_problem(&x);
    }
}

/* The table of heed_context_create(). */
static void by_default(void **state)
{
    (void)state;
    const parameters p[] = {
        {.n_factors = 1024, .window = 512, .rows = 1, .columns = 511},
        {.n_factors = 1024, .window = 100000, .rows = 1, .columns = 1},
    };
    for (int f = 0; f < 4; f++) {
        for (size_t n = 0; n < sizeof p / sizeof p[0]; n++) {
            held x;
            heed_report report = HEED_REPORT_INIT;
            char message[256];
            open_problem(&x, forms[f], &(sizes){1, 1, 5, 7, 1024}, &p[n]);
            assert_int_equal(run_with(0, forms[f], &x.t, &report, message, sizeof message), HEED_OK);
            close_problem(&x);
        }
    }
    held x;
    heed_report report = HEED_REPORT_INIT;
    char message[256];
    open_problem(&x, ORACLE_AFT_CONV, &(sizes){1, 1, 512, 512, 1024},
                 &(parameters){.rows = 31, .columns = 31, .height = 2});
    assert_int_equal(run_with(0, ORACLE_AFT_CONV, &x.t, &report, message, sizeof message), HEED_OK);
    close_problem(&x);
}

/* ---- errors ---- */

static void expect_error(oracle_aft_form form, const tensors *t, const heed_aft_options *options, heed_status want)
{
    int64_t bytes = -12345;
    assert_int_equal(aft_scratch_bytes(form, &t->q, &t->k, &t->v, &t->filter, options, &bytes), want);
    assert_true(bytes == -12345);
}

static void errors(void **state)
{
    (void)state;
    const sizes s = {2, 4, 5, 7, 6};
    const parameters p = {.n_factors = 2, .window = 3, .rows = 1, .columns = 3};
    for (int f = 0; f < 4; f++) {
        const oracle_aft_form form = forms[f];
        tensors good;
        int64_t bytes = -12345;
        make_shapes(&good, form, &s, &p);
        const heed_aft_options *o = &good.options;
        assert_int_equal(aft_scratch_bytes(form, NULL, &good.k, &good.v, &good.filter, o, &bytes), HEED_ERROR_ARGUMENT);
        assert_int_equal(aft_scratch_bytes(form, &good.q, NULL, &good.v, &good.filter, o, &bytes), HEED_ERROR_ARGUMENT);
        assert_int_equal(aft_scratch_bytes(form, &good.q, &good.k, NULL, &good.filter, o, &bytes), HEED_ERROR_ARGUMENT);
        assert_int_equal(aft_scratch_bytes(form, &good.q, &good.k, &good.v, &good.filter, o, NULL),
                         HEED_ERROR_ARGUMENT);
        assert_true(bytes == -12345);
        heed_aft_options options = *o;
        options.struct_size += 8;
        expect_error(form, &good, &options, HEED_ERROR_ARGUMENT);
        options = *o;
        options.window = -1;
        expect_error(form, &good, &options, HEED_ERROR_ARGUMENT);
        for (int axis = 0; axis < 4; axis++) {
            tensors wrong = good;
            wrong.q.shape[axis] = -1;
            expect_error(form, &wrong, o, HEED_ERROR_SHAPE);
            wrong = good;
            wrong.v.shape[axis] = axis == 3 ? 0 : 9;
            expect_error(form, &wrong, o, HEED_ERROR_SHAPE);
            wrong = good;
            wrong.k.shape[axis] = INT64_MAX;
            expect_error(form, &wrong, o, HEED_ERROR_SHAPE);
        }
        tensors wrong = good;
        wrong.q.shape[3] = wrong.v.shape[3] = 0;
        if (form != ORACLE_AFT_CONV)
            wrong.k.shape[3] = 0;
        expect_error(form, &wrong, o, HEED_ERROR_SHAPE);
    }
}

static void errors_of_parameters(void **state)
{
    (void)state;
    const sizes s = {1, 4, 5, 7, 6};
    const parameters p = {.n_factors = 2, .window = 3, .rows = 1, .columns = 3};
    tensors t;
    make_shapes(&t, ORACLE_AFT_FULL, &s, &p);
    t.key_factors.shape[3] = 3;
    expect_error(ORACLE_AFT_FULL, &t, &t.options, HEED_ERROR_SHAPE);
    t.key_factors.shape[3] = t.query_factors.shape[3] = -1;
    expect_error(ORACLE_AFT_FULL, &t, &t.options, HEED_ERROR_SHAPE);
    t.options.key_factors = NULL;
    expect_error(ORACLE_AFT_FULL, &t, &t.options, HEED_ERROR_ARGUMENT);

    int64_t bytes = -12345;
    make_shapes(&t, ORACLE_AFT_CONV, &s, &p);
    assert_int_equal(heed_aft_conv_scratch_bytes(&t.q, &t.k, &t.v, NULL, NULL, &bytes), HEED_ERROR_ARGUMENT);
    assert_true(bytes == -12345);
    const int64_t wrong[][4] = {{2, 1, 1, 3}, {1, 3, 1, 3}, {1, 1, 2, 3}, {1, 1, 0, 3}, {1, 1, 1, 0}, {1, 1, 1, -1}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        memcpy(t.filter.shape, wrong[i], sizeof wrong[i]);
        expect_error(ORACLE_AFT_CONV, &t, &t.options, HEED_ERROR_SHAPE);
    }
}

/* More than fits in int64 is more than any context has, and no other number. */
static void far_too_large(void **state)
{
    (void)state;
    const int64_t huge = (int64_t)1 << 59;
    const parameters p[] = {{.n_factors = huge, .window = 1, .rows = 1, .columns = huge + 1}, {.window = INT64_MAX}};
    assert_true(bytes_of(ORACLE_AFT_FULL, &(sizes){1, 1, 0, 0, 4}, &p[0]) == INT64_MAX);
    assert_true(bytes_of(ORACLE_AFT_LOCAL, &(sizes){1, 1, 0, 0, 4}, &p[0]) == INT64_MAX);
    assert_true(bytes_of(ORACLE_AFT_CONV, &(sizes){1, 1, 0, 0, 4}, &p[0]) == INT64_MAX);
    assert_true(bytes_of(ORACLE_AFT_SIMPLE, &(sizes){1, 1, 0, 0, huge}, &p[0]) == INT64_MAX);
    assert_true(bytes_of(ORACLE_AFT_LOCAL, &(sizes){1, 1, 0, 0, 4}, &p[1]) < 1 << 24);
    const parameters grid = {.rows = 4097, .columns = huge / 8192 + 1, .height = 2};
    assert_true(bytes_of(ORACLE_AFT_CONV, &(sizes){1, 1, 20, 20, 4}, &grid) == INT64_MAX);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant),      cmocka_unit_test(exact),  cmocka_unit_test(all_of_it),
        cmocka_unit_test(by_default),    cmocka_unit_test(errors), cmocka_unit_test(errors_of_parameters),
        cmocka_unit_test(far_too_large),
    };
    return cmocka_run_group_tests(tests, print_seed, NULL);
}
