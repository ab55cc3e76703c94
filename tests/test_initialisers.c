/* Weights to begin with: the numbers behind them, what each kind promises, who may change whose bits, every argument. */
#include "core/context.h"
#include "core/random.h"
#include "mechanisms/initialisers.h"
#include "support/fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Both halves of a key. */
static const uint64_t seed = 0x0123456789abcdef;

/* By init_kind. */
static heed_status (*const initialise[])(heed_context *, uint64_t,
                                         const heed_tensor *) = {heed_init_orthogonal, heed_init_he, heed_init_favor};
static const char *const names[] = {"w", "w", "omega"};

enum { N_KINDS = 3 };

typedef struct weights {
    heed_tensor w;
    guarded memory;
} weights;

static weights open_weights(int64_t heads, int64_t rows, int64_t columns, tensor_layout layout)
{
    weights x;
    x.w = tensor_create(&x.memory, HEED_FLOAT32, 1, heads, rows, columns, layout, GUARD_END);
    return x;
}

/* What lies between the rows and around them is as it was. */
static void close_weights(weights *x)
{
    tensor_fill(&x->w, 0.0f);
    for (int64_t h = 0; h < x->w.shape[1]; h++) {
        for (int64_t i = 0; i < x->w.shape[2]; i++) {
            for (int64_t k = 0; k < x->w.shape[3]; k++) {
                const size_t at = (size_t)((char *)tensor_at(&x->w, 0, h, i, k) - (char *)x->memory.data);
                for (size_t byte = at; byte < at + sizeof(float); byte++)
                    x->memory.data[byte] = guarded_pattern(byte);
            }
        }
    }
    for (size_t byte = 0; byte < x->memory.bytes; byte++)
        assert_int_equal(x->memory.data[byte], guarded_pattern(byte));
    assert_true(guarded_intact(&x->memory));
    guarded_destroy(&x->memory);
}

static void make(heed_context *context, int kind, uint64_t from, const heed_tensor *w)
{
    const heed_status status = initialise[kind](context, from, w);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(context));
}

static weights made(int kind, int64_t heads, int64_t rows, int64_t columns, tensor_layout layout)
{
    weights x = open_weights(heads, rows, columns, layout);
    make(fixture_context, kind, seed, &x.w);
    return x;
}

static double value(const heed_tensor *w, int64_t h, int64_t i, int64_t k) { return (double)*tensor_at(w, 0, h, i, k); }

static double dot_of_rows(const heed_tensor *w, int64_t h, int64_t i, int64_t j)
{
    double sum = 0.0;
    for (int64_t k = 0; k < w->shape[3]; k++)
        sum += value(w, h, i, k) * value(w, h, j, k);
    return sum;
}

static double dot_of_columns(const heed_tensor *w, int64_t h, int64_t i, int64_t j)
{
    double sum = 0.0;
    for (int64_t k = 0; k < w->shape[2]; k++)
        sum += value(w, h, k, i) * value(w, h, k, j);
    return sum;
}

static void expect_near(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %.9g, wanted %.9g within %.2g", what, got, want, tolerance);
}

static void expect_bits(const heed_tensor *got, const heed_tensor *want, const char *what)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s: %s", what, r.text);
}

/* ---- the numbers ---- */

/* The three vectors for philox4x32 with 10 rounds in kat_vectors of Random123. */
static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t n = 0; n < N_OF(known); n++) {
        uint32_t words[4];
        heed_random_block(known[n].counter, known[n].key, words);
        assert_memory_equal(words, known[n].words, sizeof words);
    }
}

/* Each of stream, head, row, column and both halves of the seed makes another number. */
static void every_place_has_its_number(void **state)
{
    (void)state;
    const double x = heed_random_normal(seed, 1, 2, 3, 4);
    assert_true(x == heed_random_normal(seed, 1, 2, 3, 4));
    assert_true(x != heed_random_normal(seed + 1, 1, 2, 3, 4));
    assert_true(x != heed_random_normal(seed + ((uint64_t)1 << 32), 1, 2, 3, 4));
    assert_true(x != heed_random_normal(seed, 0, 2, 3, 4));
    assert_true(x != heed_random_normal(seed, 1, 3, 3, 4));
    assert_true(x != heed_random_normal(seed, 1, 2, 2, 4));
    assert_true(x != heed_random_normal(seed, 1, 2, 3, 5));
    assert_true(x != heed_random_normal(seed, 1, 2, 4, 3));
    assert_true(x != heed_random_normal(seed, 1, 2, 3, HEED_RANDOM_PLACES - 1));
}

static int32_t bits_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Computed with another implementation of Philox, and 50 digits. */
static void known_weights(void **state)
{
    (void)state;
    static const struct {
        int kind, rows, columns;
        float weights[2][6];
    } known[] = {
        {INIT_ORTHOGONAL,
         2,
         3,
         {{0.709470687f, -0.697976807f, -0.0973638604f, 0.174756179f, 0.0404018098f, 0.983782482f},
          {-0.249264346f, -0.364731666f, 0.897127693f, -0.901671925f, -0.250593459f, -0.352406948f}}},
        {INIT_ORTHOGONAL,
         3,
         2,
         {{0.82990927f, 0.420592985f, -0.505050021f, 0.287276139f, -0.237012827f, 0.86056607f},
          {-0.105288221f, -0.703029805f, -0.988281256f, 0.152575611f, -0.110519451f, -0.694600444f}}},
        {INIT_HE,
         3,
         2,
         {{0.433539797f, -0.753952605f, 0.331869599f, -1.4568278f, 0.652014536f, 0.00344073461f},
          {-0.350555799f, -0.165641612f, 0.378887751f, -0.948713171f, 1.09594593f, 0.0580588885f}}},
        {INIT_FAVOR,
         2,
         3,
         {{-1.00781769f, 0.584759043f, 0.97676073f, -1.17480215f, -0.501642346f, -1.43445577f},
          {1.32134084f, 0.489241845f, -0.535810754f, 0.557664238f, -1.15921945f, -1.74845231f}}},
    };
    for (size_t n = 0; n < N_OF(known); n++) {
        weights x = made(known[n].kind, 2, known[n].rows, known[n].columns, LAYOUT_PADDED);
        for (int i = 0; i < 12; i++) {
            const float got = *tensor_at(&x.w, 0, i / 6, i % 6 / known[n].columns, i % 6 % known[n].columns);
            const float want = known[n].weights[i / 6][i % 6];
            if (abs(bits_of(got) - bits_of(want)) > 1)
                fail_msg("%s, number %d: %.9g, wanted %.9g", names[known[n].kind], i, (double)got, (double)want);
        }
        close_weights(&x);
    }
}

/* ---- orthogonal ---- */

static const int64_t shapes[][2] = {{1, 1},   {1, 9},  {9, 1},  {2, 2},    {16, 16},
                                    {65, 65}, {8, 33}, {33, 8}, {40, 100}, {100, 40}};

/* Two entries, each wrong by a relative 2^-24: a product of unit vectors is wrong by at most 2^-23. */
static const double rounding = 0x1p-23 + 1e-12;

static void orthonormal_rows_or_columns(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(shapes); n++) {
        weights x = made(INIT_ORTHOGONAL, 2, shapes[n][0], shapes[n][1], LAYOUT_BNHD);
        const int tall = shapes[n][0] > shapes[n][1];
        const int64_t n_vectors = shapes[n][tall];
        for (int64_t i = 0; i < 2 * n_vectors * n_vectors; i++) {
            const int64_t h = i / n_vectors / n_vectors, a = i / n_vectors % n_vectors, b = i % n_vectors;
            const double dot = tall ? dot_of_columns(&x.w, h, a, b) : dot_of_rows(&x.w, h, a, b);
            expect_near(dot, a == b ? 1.0 : 0.0, rounding, tall ? "columns" : "rows");
        }
        close_weights(&x);
    }
}

/* G = R w with R lower triangular and a positive diagonal: the one such w there is. */
static void orthogonalised_gaussians(void **state)
{
    (void)state;
    for (size_t n = 0; n < N_OF(shapes); n++) {
        const int64_t rows = shapes[n][0], columns = shapes[n][1];
        if (rows > columns)
            continue;
        weights x = made(INIT_ORTHOGONAL, 1, rows, columns, LAYOUT_BHND);
        for (int64_t i = 0; i < rows * rows; i++) {
            const int64_t gaussian = i / rows, row = i % rows;
            double r = 0.0, size = 0.0;
            for (int64_t k = 0; k < columns; k++) {
                const double g = heed_random_normal(seed, INIT_ORTHOGONAL, 0, gaussian, k);
                r += g * value(&x.w, 0, row, k);
                size += fabs(g * value(&x.w, 0, row, k));
            }
            if (row > gaussian)
                expect_near(r, 0.0, 0x1p-24 * size + 1e-12, "above the diagonal");
            else if (row == gaussian)
                assert_true(r > 0.0);
        }
        close_weights(&x);
    }
}

/* ---- He ---- */

/* Mean, second and fourth moment within five of their own deviations. */
static void normal_with_the_variance_of_he(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{8, 512}, {64, 64}, {512, 8}};
    for (size_t n = 0; n < N_OF(sizes); n++) {
        weights x = made(INIT_HE, 8, sizes[n][0], sizes[n][1], LAYOUT_BHND);
        const double variance = 2.0 / (double)sizes[n][0], count = 8 * 4096;
        double moment[5] = {0.0};
        for (int64_t i = 0; i < 8 * 4096; i++) {
            const double w = (double)((const float *)x.w.data)[i] / sqrt(variance);
            for (int power = 1; power <= 4; power++)
                moment[power] += pow(w, power) / count;
        }
        expect_near(moment[1], 0.0, 5.0 * sqrt(1.0 / count), "mean");
        expect_near(moment[2], 1.0, 5.0 * sqrt(2.0 / count), "variance");
        expect_near(moment[3], 0.0, 5.0 * sqrt(15.0 / count), "third moment");
        expect_near(moment[4], 3.0, 5.0 * sqrt(96.0 / count), "fourth moment");
        close_weights(&x);
    }
}

static void he_is_scaled_gaussians(void **state)
{
    (void)state;
    weights x = made(INIT_HE, 3, 5, 7, LAYOUT_PADDED);
    for (int64_t i = 0; i < 3 * 5 * 7; i++) {
        const double want = sqrt(2.0 / 5.0) * heed_random_normal(seed, INIT_HE, i / 35, i / 7 % 5, i % 7);
        expect_near(value(&x.w, i / 35, i / 7 % 5, i % 7), want, 0x1p-24 * fabs(want), "He");
    }
    close_weights(&x);
}

/* ---- FAVOR+ ---- */

static void orthogonal_columns_of_a_block(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 5}, {7, 1}, {7, 7}, {7, 23}, {16, 64}, {33, 50}};
    for (size_t n = 0; n < N_OF(sizes); n++) {
        const int64_t rows = sizes[n][0], columns = sizes[n][1];
        weights x = made(INIT_FAVOR, 2, rows, columns, LAYOUT_PADDED);
        for (int64_t i = 0; i < 2 * columns * columns; i++) {
            const int64_t h = i / columns / columns, a = i / columns % columns, b = i % columns;
            const double lengths = sqrt(dot_of_columns(&x.w, h, a, a) * dot_of_columns(&x.w, h, b, b));
            const double cosine = dot_of_columns(&x.w, h, a, b) / lengths;
            if (a != b && a / rows == b / rows)
                expect_near(cosine, 0.0, rounding, "columns of a block");
            else if (rows > 1 && a / rows != b / rows)
                assert_true(fabs(cosine) > rounding);
        }
        close_weights(&x);
    }
}

/* The square of a length has the mean n and the variance 2 n of chi^2 with n degrees of freedom; the lengths of one
 * block have nothing to do with each other. */
static void lengths_of_gaussian_vectors(void **state)
{
    (void)state;
    enum { ROWS = 8, HEADS = 4096 };
    weights x = made(INIT_FAVOR, HEADS, ROWS, ROWS, LAYOUT_BHND);
    const double count = HEADS * ROWS, pairs = HEADS;
    double mean = 0.0, variance = 0.0, covariance = 0.0;
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t c = 0; c < ROWS; c++) {
            const double off = dot_of_columns(&x.w, h, c, c) - ROWS;
            mean += off / count;
            variance += off * off / count;
        }
        covariance += (dot_of_columns(&x.w, h, 0, 0) - ROWS) * (dot_of_columns(&x.w, h, 1, 1) - ROWS) / pairs;
    }
    expect_near(mean, 0.0, 5.0 * sqrt(2.0 * ROWS / count), "mean of squared lengths");
    /* The fourth central moment of chi^2 is 12 n (n + 4). */
    expect_near(variance, 2.0 * ROWS, 5.0 * sqrt((12.0 * ROWS * (ROWS + 4) - 4.0 * ROWS * ROWS) / count),
                "their variance");
    expect_near(covariance, 0.0, 5.0 * 2.0 * ROWS / sqrt(pairs), "their covariance");
    close_weights(&x);
}

/* Columns to the right change nothing: omega can be cut, at a block or not. */
static void fewer_columns_are_the_first_ones(void **state)
{
    (void)state;
    static const int64_t columns[] = {1, 5, 6, 7, 12, 19};
    weights all = made(INIT_FAVOR, 2, 6, 20, LAYOUT_BHND);
    for (size_t n = 0; n < N_OF(columns); n++) {
        weights some = made(INIT_FAVOR, 2, 6, columns[n], LAYOUT_BHND);
        const heed_tensor part = tensor_slice(&all.w, 3, 0, columns[n]);
        expect_bits(&some.w, &part, "fewer columns");
        close_weights(&some);
    }
    close_weights(&all);
}

typedef struct estimate {
    double mean, variance;
} estimate;

/* Of the mean over the columns of phi(q).phi(k), one for each head; omega is `factor` times w. */
static estimate estimate_kernel(const heed_tensor *w, double factor, const double *q, const double *k)
{
    const int64_t n_heads = w->shape[1], d = w->shape[2], n_features = w->shape[3];
    const double scale = pow((double)d, -0.25);
    double squares = 0.0, sum = 0.0, sum_of_squares = 0.0;
    for (int64_t i = 0; i < d; i++)
        squares += scale * scale * (q[i] * q[i] + k[i] * k[i]);
    for (int64_t h = 0; h < n_heads; h++) {
        double product = 0.0;
        for (int64_t c = 0; c < n_features; c++) {
            double u = 0.0;
            for (int64_t i = 0; i < d; i++)
                u += factor * value(w, h, i, c) * scale * (q[i] + k[i]);
            product += exp(u - squares / 2.0) / (double)n_features;
        }
        sum += product;
        sum_of_squares += product * product;
    }
    const double mean = sum / (double)n_heads;
    return (estimate){mean, sum_of_squares / (double)n_heads - mean * mean};
}

/* Lemma 1 of Choromanski et al. 2021: the features are unbiased, orthogonal ones vary less than independent ones
 * (theorem 2): by a fifth here, where |q + k|^2 / sqrt(D) is 0.8. */
static void features_estimate_the_kernel(void **state)
{
    (void)state;
    enum { HEADS = 16384, D = 8 };
    const double q[D] = {0.6, -0.3, 0.2, 0.6, -0.1, 0.4, -0.4, 0.1}, k[D] = {0.1, 0.2, 0.5, -0.1, -0.4, 0.4, 0.3, -0.2};
    double score = 0.0;
    for (int i = 0; i < D; i++)
        score += q[i] * k[i] / sqrt((double)D);
    weights orthogonal = made(INIT_FAVOR, HEADS, D, D, LAYOUT_BHND);
    weights independent = made(INIT_HE, HEADS, D, D, LAYOUT_BHND);
    const estimate few = estimate_kernel(&orthogonal.w, 1.0, q, k);
    const estimate iid = estimate_kernel(&independent.w, sqrt(D / 2.0), q, k);
    print_message("exp(q.k / sqrt(D)) = %.5f: orthogonal %.5f, variance %.5f; independent %.5f, variance %.5f\n",
                  exp(score), few.mean, few.variance, iid.mean, iid.variance);
    expect_near(few.mean, exp(score), 4.0 * sqrt(few.variance / HEADS), "orthogonal features");
    expect_near(iid.mean, exp(score), 4.0 * sqrt(iid.variance / HEADS), "independent features");
    assert_true(few.variance < 0.9 * iid.variance);
    close_weights(&orthogonal);
    close_weights(&independent);
}

/* ---- whose bits ---- */

static void heads_do_not_depend_on_their_number(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        weights many = made(kind, 5, 6, 10, LAYOUT_BHND), few = made(kind, 2, 6, 10, LAYOUT_PADDED);
        const heed_tensor first = tensor_slice(&many.w, 1, 0, 2), second = tensor_slice(&many.w, 1, 1, 1);
        const heed_tensor third = tensor_slice(&many.w, 1, 2, 1);
        expect_bits(&few.w, &first, "fewer heads");
        assert_false(compare_bits(&third, &second).equal);
        weights other = open_weights(2, 6, 10, LAYOUT_BNHD);
        make(fixture_context, kind, seed, &other.w);
        expect_bits(&other.w, &first, "another layout");
        make(fixture_context, kind, seed + 1, &other.w);
        assert_false(compare_bits(&other.w, &first).equal);
        close_weights(&many);
        close_weights(&few);
        close_weights(&other);
    }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    for (int n = 0; n < N_THREADINGS; n++) {
        heed_context *context = runner_context(runner_threadings[n].n_threads, runner_threadings[n].hook);
        for (int kind = 0; context && kind < N_KINDS; kind++) {
            weights alone = made(kind, 16, 32, 72, LAYOUT_BHND), x = open_weights(16, 32, 72, LAYOUT_BHND);
            make(context, kind, seed, &x.w);
            expect_bits(&x.w, &alone.w, runner_threadings[n].name);
            heed_report report = HEED_REPORT_INIT;
            assert_int_equal(heed_context_report(context, &report), HEED_OK);
            assert_int_equal(report.n_tasks, 16);
            assert_int_equal(report.n_workers, runner_threadings[n].n_threads);
            close_weights(&alone);
            close_weights(&x);
        }
        heed_context_destroy(context);
    }
}

/* ---- arguments ---- */

static void no_heads(void **state)
{
    (void)state;
    static const char *const paths[] = {"init-orthogonal", "init-he", "init-favor"};
    for (int kind = 0; kind < N_KINDS; kind++) {
        const heed_tensor w = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 0, 3, 4);
        make(fixture_context, kind, seed, &w);
        heed_report report = HEED_REPORT_INIT;
        assert_int_equal(heed_context_report(fixture_context, &report), HEED_OK);
        assert_string_equal(report.path, paths[kind]);
        assert_int_equal(report.n_tasks, 0);
    }
}

/* One changed tensor: the status, a message that begins with the name and holds `part`, and no byte written. */
static void refuse(heed_context *context, int kind, const heed_tensor *w, heed_status status, const char *part)
{
    const size_t length = strlen(names[kind]);
    assert_int_equal(initialise[kind](context, seed, w), status);
    const char *message = heed_context_message(context);
    if (strncmp(message, names[kind], length) != 0 || message[length] != ':' || !strstr(message, part))
        fail_msg("\"%s\"; wanted \"%s: ...%s\"", message, names[kind], part);
}

static void refused_tensors(void **state)
{
    (void)state;
#define REFUSE(change, status, part)                                                                                   \
    do {                                                                                                               \
        heed_tensor w = good.w;                                                                                        \
        change;                                                                                                        \
        refuse(fixture_context, kind, &w, status, part);                                                               \
    } while (0)
    for (int kind = 0; kind < N_KINDS; kind++) {
        weights good = open_weights(2, 4, 6, LAYOUT_PADDED);
        refuse(fixture_context, kind, NULL, HEED_ERROR_ARGUMENT, "is NULL");
        REFUSE(w.data = NULL, HEED_ERROR_ARGUMENT, "data is NULL");
        REFUSE(w.data = (char *)w.data + 1, HEED_ERROR_ARGUMENT, "aligned");
        REFUSE(w.dtype = (heed_dtype)77, HEED_ERROR_ARGUMENT, "unknown dtype 77");
        REFUSE(w.dtype = HEED_BOOL, HEED_ERROR_DTYPE, "HEED_FLOAT32 expected, got HEED_BOOL");
        REFUSE((w.shape[0] = 2, w.shape[1] = 1), HEED_ERROR_SHAPE, "1 batches expected (weights have no batch), got 2");
        REFUSE(w.shape[0] = 0, HEED_ERROR_SHAPE, "1 batches expected (weights have no batch), got 0");
        REFUSE(w.shape[1] = -1, HEED_ERROR_SHAPE, "-1 heads");
        REFUSE(w.shape[2] = 0, HEED_ERROR_SHAPE, "1 row or more expected, got 0");
        REFUSE(w.shape[3] = 0, HEED_ERROR_SHAPE, "1 column or more expected, got 0");
        REFUSE((w.shape[2] = w.shape[3] = (int64_t)1 << 30), HEED_ERROR_SHAPE, "2^60 elements or more");
        REFUSE((w.shape[1] = 0, w.shape[2] = HEED_RANDOM_PLACES + 1), HEED_ERROR_SHAPE,
               "at most 2^32 rows expected, got 4294967297");
        REFUSE((w.shape[1] = 0, w.shape[3] = HEED_RANDOM_PLACES + 1), HEED_ERROR_SHAPE, "at most 2^32 columns");
        REFUSE((w.shape[1] = HEED_RANDOM_PLACES + 1, w.stride[1] = 100), HEED_ERROR_SHAPE, "at most 2^32 heads");
        REFUSE(w.stride[2] = -w.stride[2], HEED_ERROR_STRIDE, "negative");
        REFUSE(w.stride[3] = 2, HEED_ERROR_STRIDE, "stride 1 between channels expected, got 2");
        REFUSE(w.stride[1] = 0, HEED_ERROR_STRIDE, "an output cannot repeat");
        REFUSE(w.stride[2] = 5, HEED_ERROR_OVERLAP, "overlaps itself");
        assert_int_equal(initialise[kind](NULL, seed, &good.w), HEED_ERROR_ARGUMENT);

        atomic_flag_test_and_set(&fixture_context->busy);
        assert_int_equal(initialise[kind](fixture_context, seed, &good.w), HEED_ERROR_BUSY);
        atomic_flag_clear(&fixture_context->busy);

        for (size_t byte = 0; byte < good.memory.bytes; byte++)
            assert_int_equal(good.memory.data[byte], guarded_pattern(byte));
        close_weights(&good);
    }
#undef REFUSE
}

static heed_context *context_with(int64_t scratch_bytes)
{
    heed_config config = HEED_CONFIG_INIT;
    heed_context *context;
    config.isa = runner_isa();
    config.scratch_bytes = scratch_bytes;
    assert_int_equal(heed_context_create(&config, &context, NULL, 0), HEED_OK);
    return context;
}

/* To the byte. What the header says of it, and 64 bytes for a red zone under AddressSanitizer. */
static void too_little_scratch(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{8, 8}, {3, 5}, {9, 4}, {1, 1}};
    for (size_t n = 0; n < 4 * N_KINDS; n++) {
        const int kind = (int)(n / 4);
        const int64_t rows = sizes[n % 4][0], columns = sizes[n % 4][1];
        weights want = made(kind, 2, rows, columns, LAYOUT_BHND), x = open_weights(2, rows, columns, LAYOUT_BHND);
        const int64_t bytes = heed_init_worker_bytes((init_kind)kind, &x.w);
        const int64_t doubles = 8 * rows * (kind == INIT_FAVOR && columns > rows ? rows : columns);
        if (kind == INIT_HE) {
            assert_int_equal(bytes, 0);
        } else {
            assert_true(bytes >= doubles && bytes < doubles + 128);
            heed_context *small = context_with(bytes - 1);
            assert_int_equal(initialise[kind](small, seed, &x.w), HEED_ERROR_SCRATCH);
            assert_non_null(strstr(heed_context_message(small), "scratch: "));
            for (size_t byte = 0; byte < x.memory.bytes; byte++)
                assert_int_equal(x.memory.data[byte], guarded_pattern(byte));
            heed_context_destroy(small);
        }
        heed_context *enough = context_with(bytes ? bytes : 1);
        make(enough, kind, seed, &x.w);
        expect_bits(&x.w, &want.w, "just enough scratch");
        heed_context_destroy(enough);
        close_weights(&want);
        close_weights(&x);
    }
}

/* The default holds what heed.h says. */
static void room_by_default(void **state)
{
    (void)state;
    weights x = made(INIT_ORTHOGONAL, 1, 512, 512, LAYOUT_BHND);
    close_weights(&x);
}

/* More than any context has, and more bytes than an int64_t counts. */
static void far_too_much_scratch(void **state)
{
    (void)state;
    heed_tensor w = heed_tensor_bhnd(NULL, HEED_FLOAT32, 1, 0, (int64_t)1 << 28, ((int64_t)1 << 32) - 1);
    w.stride[2] = 1; /* nowhere near 2^60 bytes: that would be another error */
    assert_int_equal(heed_init_orthogonal(fixture_context, seed, &w), HEED_ERROR_SCRATCH);
    assert_int_equal(heed_init_favor(fixture_context, seed, &w), HEED_ERROR_SCRATCH);
    assert_int_equal(heed_init_he(fixture_context, seed, &w), HEED_OK);
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(every_place_has_its_number),
        cmocka_unit_test(known_weights),
        cmocka_unit_test(orthonormal_rows_or_columns),
        cmocka_unit_test(orthogonalised_gaussians),
        cmocka_unit_test(normal_with_the_variance_of_he),
        cmocka_unit_test(he_is_scaled_gaussians),
        cmocka_unit_test(orthogonal_columns_of_a_block),
        cmocka_unit_test(lengths_of_gaussian_vectors),
        cmocka_unit_test(fewer_columns_are_the_first_ones),
        cmocka_unit_test(features_estimate_the_kernel),
        cmocka_unit_test(heads_do_not_depend_on_their_number),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(no_heads),
        cmocka_unit_test(refused_tensors),
        cmocka_unit_test(too_little_scratch),
        cmocka_unit_test(room_by_default),
        cmocka_unit_test(far_too_much_scratch),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
