/* What heed-compare reports: the keys of its JSON, figures that agree with each other, errors, files. */
#include "bench/npy.h"
#include "compare/program.h"
#include "oracle/oracle.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef HEED_HAVE_BLAS
enum { N_VARIANTS = 2 };
#else
enum { N_VARIANTS = 1 };
#endif

/* Runs with --json and returns what was written; freed with cJSON_Delete. */
static cJSON *run_json(const char *arguments)
{
    char line[512];
    snprintf(line, sizeof line, "--quick --json result.json %s", arguments);
    const program_result result = program_run("", line);
    program_expect(&result, 0, "");
    char *text = program_read_file("result.json");
    cJSON *json = cJSON_Parse(text);
    free(text);
    remove("result.json");
    assert_non_null(json);
    return json;
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item)) {
        fail_msg("%s is no number", key);
    }
    return item->valuedouble;
}

static double positive(const cJSON *object, const char *key)
{
    const double value = number(object, key);
    if (!(value > 0)) {
        fail_msg("%s = %g is not positive", key, value);
    }
    return value;
}

static const char *text(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsString(item)) {
        fail_msg("%s is no text", key);
    }
    return item->valuestring;
}

static int truth(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsBool(item)) {
        fail_msg("%s is neither true nor false", key);
    }
    return cJSON_IsTrue(item);
}

static const cJSON *get_object(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsObject(item)) {
        fail_msg("%s is no object", key);
    }
    return item;
}

/* Row i, which must be there. */
static const cJSON *get_row(const cJSON *json, int i)
{
    const cJSON *row = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "rows"), i);
    if (!cJSON_IsObject(row)) {
        fail_msg("row %d is missing", i);
    }
    return row;
}

static int count_rows(const cJSON *json) { return cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "rows")); }

/* Figures pass through 17 digits of text and a few divisions. */
static void expect_close(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fabs(want))) {
        fail_msg("%.17g expected, got %.17g", want, got);
    }
}

static void expect_flops(const cJSON *row, double want)
{
    expect_close(number(row, "gflops") * number(row, "ms") * 1e6, want);
}

static double shape_at(const cJSON *row, int i)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(row, "shape");
    assert_int_equal(cJSON_GetArraySize(shape), 7);
    return cJSON_GetArrayItem(shape, i)->valuedouble;
}

static int is_variant(const cJSON *row, const char *name) { return strcmp(text(row, "variant"), name) == 0; }

static int is_aft(const cJSON *row) { return strncmp(text(row, "variant"), "aft-", 4) == 0; }

/* All that holds for every row, whatever was asked. The error bound is for values up to a few units: float32 rounding
 * (6e-8) times a few units times the ten or so operations an output passes through. */
static void check_row(const cJSON *row)
{
    assert_non_null(strstr(" softmax gemm aft-full aft-local aft-simple aft-conv ", text(row, "variant")));
    assert_non_null(strstr(" forward step ", text(row, "mode")));
    assert_non_null(strstr(" scalar avx2 avx512 neon ", text(row, "isa")));
    const int simple = is_variant(row, "aft-simple");
    const char *kind = shape_at(row, 3) == 1 ? "bandwidth" : simple ? "streams" : "fma";
    const int fma = strcmp(kind, "fma") == 0;
    const double limit = positive(row, "limit_value"), value = positive(row, fma ? "gflops" : "gbytes");
    assert_string_equal(text(row, "limit"), kind);
    expect_close(number(row, "share"), value / limit);
    if (strcmp(kind, "streams") != 0) {
        expect_close(limit, number(row, fma ? "fma_gflops" : "bandwidth_gbytes"));
    }
    assert_true(positive(row, "threads") >= 1);
    positive(row, "ms");
    if (simple) {
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row, "gflops")));
    } else {
        positive(row, "gflops");
    }
    positive(row, "gbytes");
    positive(row, "fma_gflops");
    positive(row, "bandwidth_gbytes");
    positive(row, "scratch_bytes");
    positive(row, "rows_checked");
    assert_true(number(row, "max_abs_err") >= 0 && number(row, "max_abs_err") < 1e-5);
    assert_true(number(row, "rel_err") >= 0 && number(row, "rel_err") < 1e-5);
    assert_true(number(row, "softmax_distance") >= 0);
    assert_true((number(row, "softmax_distance") < 1e-5) == !is_aft(row)); /* AFT is another mechanism */
    assert_non_null(text(row, "input"));
    assert_non_null(text(row, "layout"));
    assert_true(truth(row, "causal") >= 0);
    get_object(row, "options");
}

static void check_rows(const cJSON *json, int n_rows)
{
    assert_int_equal(count_rows(json), n_rows);
    for (int i = 0; i < n_rows; ++i) {
        check_row(get_row(json, i));
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void json_describes_the_machine(void **state)
{
    (void)state;
    cJSON *json = run_json("--shape 1,1,1,8,8,8,8 --threads 1");
    const cJSON *machine = get_object(json, "machine");
    assert_true(text(machine, "cpu")[0] != '\0');
    assert_true(positive(machine, "cores") >= 1);
    assert_non_null(strstr(text(machine, "compiler"), "."));
    assert_true((strcmp(text(machine, "blas"), "none") == 0) == (N_VARIANTS == 1));
    positive(get_object(machine, "fma_gflops"), "scalar");
    positive(machine, "exp_gops");
    const cJSON *read = get_object(machine, "read_gbytes");
    positive(read, "l2");
    positive(read, "l3");
    positive(read, "dram");
    /* With one thread, a row's ceiling is that of its instruction set. */
    const cJSON *row = get_row(json, 0);
    expect_close(number(row, "fma_gflops"), number(get_object(machine, "fma_gflops"), text(row, "isa")));
    cJSON_Delete(json);
}

static npy_array read_array(const char *path)
{
    char message[512];
    npy_array array;
    if (npy_read(path, &array, message, sizeof message) != 0) {
        fail_msg("%s", message);
    }
    return array;
}

/* Files of three dimensions give outputs of three. */
static void check_output_shape(const char *path, int64_t heads, int64_t tokens, int64_t channels)
{
    npy_array out = read_array(path);
    assert_int_equal(out.rank, 3);
    assert_true(out.shape[0] == heads && out.shape[1] == tokens && out.shape[2] == channels);
    npy_free(&out);
}

/* Both samples where no input is named, every row checked, flops of visible pairs only; their outputs do not overwrite
 * each other. */
static void both_samples_run_by_default(void **state)
{
    (void)state;
    cJSON *json = run_json("--threads 1 --out two");
    check_rows(json, 2 * N_VARIANTS);
    check_output_shape("two/encoder/softmax.npy", 12, 512, 32);
    check_output_shape("two/decoder/softmax.npy", 9, 1024, 64);
    for (int i = 0; i < 2 * N_VARIANTS; ++i) {
        const cJSON *row = get_row(json, i);
        const int decoder = i >= N_VARIANTS;
        assert_string_equal(text(row, "input"), decoder ? "decoder" : "encoder");
        assert_int_equal(truth(row, "causal"), decoder);
        const double pairs = decoder ? 9.0 * 1024 * 1025 / 2 : 12.0 * 512 * 512;
        expect_flops(row, 2 * pairs * (decoder ? 128 : 64));
        expect_close(number(row, "rows_checked"), decoder ? 9 * 1024 : 12 * 512);
    }
    cJSON_Delete(json);
}

/* One query: memory is the limit; K and V count once for each of their heads. */
static void one_query_is_limited_by_bandwidth(void **state)
{
    (void)state;
    cJSON *json = run_json("--shape 3,6,2,1,300,32,16 --threads 1");
    check_rows(json, N_VARIANTS);
    const double floats = 3 * (32 + 16) * (6 * 1 + 2 * 300);
    for (int i = 0; i < N_VARIANTS; ++i) {
        const cJSON *row = get_row(json, i);
        expect_close(number(row, "gbytes") * number(row, "ms") * 1e6, 4 * floats);
        assert_string_equal(text(row, "limit"), "bandwidth");
    }
    cJSON_Delete(json);
}

static void options_reach_the_rows(void **state)
{
    (void)state;
    static const char *const layouts[] = {"bhnd", "bnhd", "packed"};
    for (int layout = 0; layout < 3; ++layout) {
        char line[256];
        snprintf(line, sizeof line,
                 "--shape 2,4,2,37,37,16,24 --threads 1 --causal --softmax-window 20,3 --bias --bool-mask --seed 7 "
                 "--layout %s",
                 layouts[layout]);
        cJSON *json = run_json(line);
        check_rows(json, N_VARIANTS);
        const cJSON *row = get_row(json, N_VARIANTS - 1);
        const double shape[] = {2, 4, 2, 37, 37, 16, 24};
        for (int i = 0; i < 7; ++i) {
            assert_true(shape_at(row, i) == shape[i]);
        }
        assert_string_equal(text(row, "layout"), layouts[layout]);
        assert_true(truth(row, "causal"));
        const cJSON *options = get_object(row, "options");
        assert_true(truth(options, "bias"));
        assert_true(truth(options, "bool_mask"));
        assert_true(number(options, "seed") == 7);
        const cJSON *window = cJSON_GetObjectItemCaseSensitive(options, "softmax_window");
        assert_int_equal(cJSON_GetArraySize(window), 2);
        assert_true(cJSON_GetArrayItem(window, 0)->valuedouble == 20);
        assert_true(cJSON_GetArrayItem(window, 1)->valuedouble == 3);
        /* Query i sees keys max(0, i - 20) .. i. */
        const double pairs = 21 * 11 + 16 * 21;
        expect_flops(row, 2 * pairs * 2 * 4 * (16 + 24));
        cJSON_Delete(json);
    }
}

/* More queries than keys: the first rows see nothing. Fewer: the last query sees the last key. One query, a window. */
static void edges_of_the_mask_are_right(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--shape 1,2,1,50,20,8,8 --threads 1 --causal --bool-mask",
        "--shape 1,2,1,20,50,8,8 --threads 1 --causal --bias",
        "--shape 1,4,2,33,33,8,8 --threads 1 --softmax-window 3,-1 --layout bnhd",
        "--shape 2,4,2,1,50,8,8 --threads 1 --softmax-window 9,0 --bias --bool-mask",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
        cJSON *json = run_json(lines[i]);
        check_rows(json, N_VARIANTS);
        cJSON_Delete(json);
    }
}

static void rows_follow_isa_and_threads(void **state)
{
    (void)state;
    cJSON *json = run_json("--shape 1,4,2,64,64,16,16 --isa scalar --threads 1 --variants softmax");
    check_rows(json, 1);
    assert_string_equal(text(get_row(json, 0), "isa"), "scalar");
    cJSON_Delete(json);
#ifdef HEED_TEST_OPENMP
    json = run_json("--shape 1,4,2,64,64,16,16 --isa scalar --threads 2,1");
    check_rows(json, 2 * N_VARIANTS);
    assert_true(number(get_row(json, 0), "threads") == 2);
    assert_true(number(get_row(json, N_VARIANTS), "threads") == 1);
    cJSON_Delete(json);
#endif
}

static void heed_isa_decides_where_no_option_does(void **state)
{
    (void)state;
    const program_result result = program_run(
        "HEED_ISA=scalar", "--quick --shape 1,1,1,8,8,8,8 --threads 1 --variants softmax --json result.json");
    program_expect(&result, 0, "");
    assert_non_null(strstr(result.output, "softmax    scalar"));
    remove("result.json");
}

/* 64 queries x 4 heads of 40000 keys and 128 channels are more than the oracle does in full. */
static void large_inputs_are_sampled(void **state)
{
    (void)state;
    cJSON *json = run_json("--shape 1,8,1,64,40000,64,64 --threads 1 --variants softmax --repeat 1");
    check_rows(json, 1);
    const double rows = number(get_row(json, 0), "rows_checked");
    assert_true(rows >= 64 && rows < 8 * 64);
    cJSON_Delete(json);
}

static void sweep_has_rows_for_every_n(void **state)
{
    (void)state;
    static const double n[] = {16, 33, 64};
    cJSON *json = run_json("--shape 1,2,1,1,1,8,8 --sweep 16,33,64 --threads 1 --variants softmax");
    check_rows(json, 3);
    for (int i = 0; i < 3; ++i) {
        assert_true(shape_at(get_row(json, i), 3) == n[i] && shape_at(get_row(json, i), 4) == n[i]);
        assert_true(shape_at(get_row(json, i), 1) == 2 && shape_at(get_row(json, i), 2) == 1);
    }
    cJSON_Delete(json);
}

/* ---- AFT --------------------------------------------------------------------------------------------------------- */

#define AFT_VARIANTS "--variants aft-full,aft-local,aft-simple,aft-conv "

static void check_option_pair(const cJSON *options, const char *key, double first, double second)
{
    const cJSON *pair = cJSON_GetObjectItemCaseSensitive(options, key);
    assert_int_equal(cJSON_GetArraySize(pair), 2);
    assert_true(cJSON_GetArrayItem(pair, 0)->valuedouble == first);
    assert_true(cJSON_GetArrayItem(pair, 1)->valuedouble == second);
}

/* 2 batch elements, 4 heads of 6 channels, 20 tokens. Visible pairs count for aft-full only; the others count as many
 * keys for each query as window and filter have. */
static void aft_rows_tell_what_they_did(void **state)
{
    (void)state;
    static const char *const layouts[] = {"bhnd", "bnhd", "packed"};
    enum { WINDOW = 5, TAPS = 7, N = 20, OUTPUTS = 2 * 4 * 6 * N };
    for (int i = 0; i < 6; ++i) {
        const int causal = i >= 3;
        char line[256];
        snprintf(line, sizeof line,
                 AFT_VARIANTS "--shape 2,4,2,%d,%d,6,6 --threads 1 --aft-window %d --conv-heads 3 --conv-filter %d "
                              "--aft-factors %d --layout %s %s",
                 N, N, WINDOW, TAPS, i % 2 * 3, layouts[i % 3], causal ? "--causal" : "");
        cJSON *json = run_json(line);
        check_rows(json, 4);
        expect_flops(get_row(json, 0), OUTPUTS * 4.0 * (causal ? (N + 1) / 2.0 : N));
        expect_flops(get_row(json, 1), OUTPUTS * 4.0 * (causal ? WINDOW : 2 * WINDOW - 1));
        expect_flops(get_row(json, 3), OUTPUTS * 2.0 * TAPS);
        const cJSON *row = get_row(json, 2);
        const double floats = 4.0 * OUTPUTS; /* q, k, v and out; k and v count for each query head */
        expect_close(number(row, "gbytes") * number(row, "ms") * 1e6, 4 * floats);
        const cJSON *options = get_object(row, "options");
        assert_true(number(options, "aft_window") == WINDOW && number(options, "aft_factors") == i % 2 * 3);
        assert_true(number(options, "conv_heads") == 3);
        check_option_pair(options, "conv_filter", 1, TAPS);
        check_option_pair(options, "grid", 0, 0);
        cJSON_Delete(json);
    }
}

/* Windows and filters wider than the tokens; heads of the convolution larger and smaller than those of the attention;
 * fewer and more queries than keys; one query. */
static void aft_edges_are_right(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--shape 1,4,2,9,9,6,6 --aft-window 40 --conv-heads 2",
        "--shape 1,4,1,9,9,6,6 --aft-window 1 --conv-heads 24 --conv-filter 1",
        "--shape 1,6,3,12,30,4,4 --causal --conv-heads 1 --conv-filter 4",
        "--shape 1,6,3,30,12,4,4 --causal --aft-window 3 --conv-heads 3",
        "--shape 2,8,2,1,50,4,4 --aft-factors 2",
        "--shape 2,4,2,15,15,6,6 --conv-heads 8 --grid 3x5",
        "--shape 1,4,2,15,15,6,6 --conv-heads 8 --grid 5x3 --conv-filter 3x1",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
        char line[256];
        snprintf(line, sizeof line, AFT_VARIANTS "--threads 1 %s", lines[i]);
        cJSON *json = run_json(line);
        check_rows(json, 4);
        cJSON_Delete(json);
    }
}

/* On a grid the filter has 11 x 11 taps where nothing else is asked. */
static void aft_grid_has_its_own_filter(void **state)
{
    (void)state;
    cJSON *json = run_json("--variants aft-conv --shape 1,2,2,15,15,8,8 --threads 1 --grid 3x5");
    check_rows(json, 1);
    const cJSON *row = get_row(json, 0), *options = get_object(row, "options");
    check_option_pair(options, "conv_filter", 11, 11);
    check_option_pair(options, "grid", 3, 5);
    expect_flops(row, 2.0 * 15 * 16 * 11 * 11);
    cJSON_Delete(json);
}

static void expect_bytes(const cJSON *row, double want)
{
    expect_close(number(row, "gbytes") * number(row, "ms") * 1e6, want);
}

/* The last token of 2 sequences, 4 heads of 6 channels. Every layout, with and without factors; prefixes of no token, of
 * less than a filter, and of more than what is taken at once. aft-full has no state. */
static void steps_follow_their_prefix(void **state)
{
    (void)state;
    static const char *const layouts[] = {"bhnd", "bnhd"};
    static const int n_keys[] = {1, 4, 20, 65, 200};
    enum { TAPS = 7, CHANNELS = 4 * 6, HEADS = 3 };
    for (int i = 0; i < 20; ++i) {
        const int n = n_keys[i / 4], window = n < 5 ? n : 5, n_factors = i % 2 * 3;
        char line[256];
        snprintf(line, sizeof line,
                 AFT_VARIANTS
                 "--step --shape 2,4,2,1,%d,6,6 --threads 1 --aft-window %d --conv-heads %d --conv-filter %d "
                 "--aft-factors %d --layout %s",
                 n, window, HEADS, TAPS, n_factors, layouts[i / 2 % 2]);
        cJSON *json = run_json(line);
        check_rows(json, 4);
        for (int v = 0; v < 4; ++v) {
            const cJSON *row = get_row(json, v);
            assert_string_equal(text(row, "mode"), v == 0 ? "forward" : "step");
            assert_true(truth(row, "causal"));
            assert_true(number(row, "rows_checked") == 2 * 4);
        }
        expect_flops(get_row(json, 1), 2 * 4.0 * CHANNELS * window);
        expect_flops(get_row(json, 3), 2 * 2.0 * CHANNELS * TAPS);
        /* For each sequence: q, k, v and out, the sums read and written, and the window's keys and values read and one of
         * them written; and the bias. */
        const double bias = n_factors > 0 ? (window + 1) * n_factors : window;
        expect_bytes(get_row(json, 1), 4 * (2.0 * CHANNELS * (4 + 12 + 2 * window + 2) + bias));
        expect_bytes(get_row(json, 2), 4 * (2.0 * CHANNELS * (4 + 12)));
        expect_bytes(get_row(json, 3),
                     4 * (2.0 * (CHANNELS * 15 + HEADS + (CHANNELS + HEADS) * (TAPS + 1)) + HEADS * TAPS));
        cJSON_Delete(json);
    }
}

/* A sweep of steps is one over the keys. */
static void steps_go_through_a_sweep(void **state)
{
    (void)state;
    static const double n[] = {33, 64};
    cJSON *json = run_json("--step --variants softmax,aft-simple --shape 1,2,1,1,1,8,8 --sweep 33,64 --threads 1");
    check_rows(json, 4);
    for (int i = 0; i < 4; ++i) {
        const cJSON *row = get_row(json, i);
        assert_true(shape_at(row, 3) == 1 && shape_at(row, 4) == n[i / 2]);
        assert_string_equal(text(row, "mode"), i % 2 == 0 ? "forward" : "step");
    }
    cJSON_Delete(json);
    const program_result result =
        program_run("", "--quick --step --variants aft-simple --shape 1,2,1,1,9,8,8 --threads 1");
    program_expect(&result, 0, "");
    assert_non_null(strstr(result.output, "one token with a state"));
}

/* Rows of other variants say nothing of AFT, and lose no checked row to it. */
static void softmax_beside_aft_stays_as_it_is(void **state)
{
    (void)state;
    cJSON *json = run_json("--variants softmax,aft-simple --sample encoder --threads 1");
    check_rows(json, 2);
    assert_true(number(get_row(json, 0), "rows_checked") == 12 * 512);
    assert_true(number(get_row(json, 1), "rows_checked") >= 64);
    assert_null(cJSON_GetObjectItemCaseSensitive(get_object(get_row(json, 0), "options"), "aft_window"));
    cJSON_Delete(json);
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static void table_names_units_and_variants(void **state)
{
    (void)state;
    const program_result result = program_run("", "--quick --shape 1,2,1,16,16,8,8 --threads 1");
    program_expect(&result, 0, "");
    static const char *const words[] = {"GFLOP/s", "GB/s",      " ms",       "x softmax", "share",
                                        "scratch", "max error", "rel error", "softmax",   "errors of 32 of 32 rows"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) {
        if (strstr(result.output, words[i]) == NULL) {
            fail_msg("\"%s\" expected in\n%s", words[i], result.output);
        }
    }
    assert_true((strstr(result.output, "gemm") != NULL) == (N_VARIANTS == 2));
}

/* ---- Outputs ----------------------------------------------------------------------------------------------------- */

static heed_tensor view_array(const npy_array *a)
{
    assert_int_equal(a->rank, 4);
    return heed_tensor_bhnd(a->data, HEED_FLOAT32, a->shape[0], a->shape[1], a->shape[2], a->shape[3]);
}

/* What --out writes is enough to check a variant: its output follows from the q, k and v beside it. */
static void outputs_can_be_checked(const char *layout)
{
    char line[256];
    snprintf(line, sizeof line, "--quick --shape 2,4,2,9,9,8,5 --threads 1 --out new/folder --layout %s", layout);
    const program_result result = program_run("", line);
    program_expect(&result, 0, "");
    npy_array q = read_array("new/folder/q.npy"), k = read_array("new/folder/k.npy"),
              v = read_array("new/folder/v.npy");
    const heed_tensor q_view = view_array(&q), k_view = view_array(&k), v_view = view_array(&v);
    double expected[2 * 4 * 9 * 5];
    oracle_softmax(&q_view, &k_view, &v_view, NULL, expected, NULL);
    static const char *const files[] = {"new/folder/softmax.npy", "new/folder/gemm.npy"};
    for (int i = 0; i < N_VARIANTS; ++i) {
        npy_array out = read_array(files[i]);
        assert_int_equal(out.rank, 4);
        const int64_t shape[] = {2, 4, 9, 5};
        assert_memory_equal(out.shape, shape, sizeof shape);
        for (int e = 0; e < 2 * 4 * 9 * 5; ++e) {
            assert_true(fabs(out.data[e] - expected[e]) < 1e-5);
        }
        npy_free(&out);
        remove(files[i]);
    }
    npy_free(&q);
    npy_free(&k);
    npy_free(&v);
}

static void outputs_of_all_layouts_can_be_checked(void **state)
{
    (void)state;
    outputs_can_be_checked("bhnd");
    outputs_can_be_checked("bnhd");
    outputs_can_be_checked("packed");
}

#define AFT_OUTPUTS                                                                                                    \
    "--variants aft-full,aft-local,aft-conv --shape 1,4,2,7,7,6,6 --threads 1 --aft-window 3 --conv-heads 3 "          \
    "--conv-filter 5 --out "

enum { AFT_HEADS = 4, AFT_TOKENS = 7, AFT_D = 6, AFT_CHANNELS = AFT_HEADS * AFT_D, CONV_HEADS = 3 };

/* Head h, token n, channel c of an array of `heads` heads that AFT_HEADS heads share. */
static float shared_value(const npy_array *a, int64_t channel, int64_t n)
{
    const int64_t h = channel / AFT_D / (AFT_HEADS / a->shape[1]);
    return a->data[(h * AFT_TOKENS + n) * AFT_D + channel % AFT_D];
}

/* All channels side by side: (1, 1, N, D'). */
static void put_side_by_side(const npy_array *a, float *to)
{
    for (int64_t n = 0; n < AFT_TOKENS; ++n) {
        for (int64_t c = 0; c < AFT_CHANNELS; ++c) {
            to[n * AFT_CHANNELS + c] = shared_value(a, c, n);
        }
    }
}

/* What --out wrote against what the oracle makes of all channels. `expected` is (1, heads, N, D' / heads). */
static void expect_aft_output(const char *path, const double *expected, int64_t heads)
{
    npy_array out = read_array(path);
    const int64_t per_head = AFT_CHANNELS / heads;
    for (int64_t c = 0; c < AFT_CHANNELS; ++c) {
        for (int64_t n = 0; n < AFT_TOKENS; ++n) {
            const double want = expected[(c / per_head * AFT_TOKENS + n) * per_head + c % per_head];
            if (!(fabs(shared_value(&out, c, n) - want) < 1e-5)) {
                fail_msg("%s: channel %d of token %d: %g expected", path, (int)c, (int)n, want);
            }
        }
    }
    npy_free(&out);
}

/* The oracle gets the parameters that were written and the channels side by side, put so here once more. aft-local runs
 * with a band, the oracle with the matrix that the band is a part of. */
static void check_aft_outputs(int causal)
{
    const program_result result =
        program_run("", causal ? "--quick --causal " AFT_OUTPUTS "causal" : "--quick " AFT_OUTPUTS "plain");
    program_expect(&result, 0, "");
    assert_int_equal(chdir(causal ? "causal" : "plain"), 0);
    npy_array files[] = {read_array("q.npy"), read_array("k.npy"), read_array("v.npy")};
    static float data[3][AFT_TOKENS * AFT_CHANNELS], keys[CONV_HEADS * AFT_TOKENS];
    static double expected[AFT_TOKENS * AFT_CHANNELS];
    heed_tensor whole[3], heads[3];
    for (int i = 0; i < 3; ++i) {
        put_side_by_side(&files[i], data[i]);
        whole[i] = heed_tensor_bhnd(data[i], HEED_FLOAT32, 1, 1, AFT_TOKENS, AFT_CHANNELS);
        heads[i] = heed_tensor_bnhd(data[i], HEED_FLOAT32, 1, CONV_HEADS, AFT_TOKENS, AFT_CHANNELS / CONV_HEADS);
        npy_free(&files[i]);
    }

    heed_mask mask = HEED_MASK_INIT;
    mask.causal = causal;
    heed_aft_options options = HEED_AFT_OPTIONS_INIT;
    options.mask = &mask;
    npy_array filter = read_array("aft.filter.npy");
    assert_true(filter.rank == 2 && filter.shape[0] == CONV_HEADS && filter.shape[1] == 5);
    const heed_tensor filter_view = heed_tensor_bhnd(filter.data, HEED_FLOAT32, 1, CONV_HEADS, 1, 5);
    for (int h = 0; h < CONV_HEADS; ++h) {
        for (int n = 0; n < AFT_TOKENS; ++n) {
            keys[h * AFT_TOKENS + n] = data[1][n * AFT_CHANNELS + h * (AFT_CHANNELS / CONV_HEADS)];
        }
    }
    const heed_tensor key_view = heed_tensor_bhnd(keys, HEED_FLOAT32, 1, CONV_HEADS, AFT_TOKENS, 1);
    oracle_aft(ORACLE_AFT_CONV, &heads[0], &key_view, &heads[2], &filter_view, &options, expected, NULL);
    expect_aft_output("aft-conv.npy", expected, CONV_HEADS);
    npy_free(&filter);

    npy_array w = read_array("aft.w.npy");
    assert_true(w.rank == 2 && w.shape[0] == AFT_TOKENS && w.shape[1] == AFT_TOKENS);
    const heed_tensor w_view = heed_tensor_bhnd(w.data, HEED_FLOAT32, 1, 1, AFT_TOKENS, AFT_TOKENS);
    options.w = &w_view;
    oracle_aft(ORACLE_AFT_FULL, &whole[0], &whole[1], &whole[2], NULL, &options, expected, NULL);
    expect_aft_output("aft-full.npy", expected, 1);
    options.window = 3;
    oracle_aft(ORACLE_AFT_LOCAL, &whole[0], &whole[1], &whole[2], NULL, &options, expected, NULL);
    expect_aft_output("aft-local.npy", expected, 1);
    npy_free(&w);
    assert_int_equal(chdir(".."), 0);
}

static void aft_outputs_can_be_checked(void **state)
{
    (void)state;
    check_aft_outputs(0);
    check_aft_outputs(1);
}

/* ---- Parameters of AFT from files -------------------------------------------------------------------------------- */

/* The largest difference of two arrays of one shape. */
static double find_difference(const char *path_a, const char *path_b)
{
    npy_array a = read_array(path_a), b = read_array(path_b);
    assert_int_equal(a.rank, b.rank);
    assert_memory_equal(a.shape, b.shape, (size_t)a.rank * sizeof a.shape[0]);
    int64_t n = 1;
    for (int i = 0; i < a.rank; ++i) {
        n *= a.shape[i];
    }
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        largest = fmax(largest, fabs((double)a.data[i] - b.data[i]));
    }
    npy_free(&a);
    npy_free(&b);
    return largest;
}

/* Runs the q, k and v of folder "first" with another seed, so that parameters by chance would be others, and compares
 * its outputs with those of "first". `variants` separates names by commas. */
static void expect_same_outputs(const char *variants, const char *arguments)
{
    char line[512], names[64];
    snprintf(
        line, sizeof line,
        "--quick --threads 1 --seed 2 --q first/q.npy --k first/k.npy --v first/v.npy --out again --variants %s %s",
        variants, arguments);
    const program_result result = program_run("", line);
    program_expect(&result, 0, "");
    snprintf(names, sizeof names, "%s", variants);
    const int read = strstr(arguments, "--params") != NULL;
    for (const char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        char first[64], again[64];
        snprintf(first, sizeof first, "first/%s.npy", name);
        snprintf(again, sizeof again, "again/%s.npy", name);
        const double difference = find_difference(first, again);
        if ((difference == 0) != read) {
            fail_msg("%s %s: outputs differ by %g", name, arguments, difference);
        }
    }
}

/* What --out wrote gives the same outputs again, and only with --params; a band of w serves aft-local as well as the
 * matrix it is a part of. */
static void aft_parameters_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *variants, *options;
    } cases[] = {
        {"aft-full,aft-local,aft-conv", "--aft-window 3 --conv-heads 3 --conv-filter 5"},
        {"aft-full,aft-local", "--aft-window 3 --aft-factors 4"},
        {"aft-local", "--aft-window 3"},
        {"aft-local", "--aft-window 3 --causal"},
        {"aft-conv", "--grid 3x5 --conv-heads 4 --conv-filter 1x3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        char line[256];
        snprintf(line, sizeof line, "--quick --threads 1 --shape 1,4,2,15,15,6,6 --out first --variants %s %s",
                 cases[i].variants, cases[i].options);
        const program_result result = program_run("", line);
        program_expect(&result, 0, "");
        expect_same_outputs(cases[i].variants, cases[i].options);
        snprintf(line, sizeof line, "--params first %s", cases[i].options);
        expect_same_outputs(cases[i].variants, line);
        if (i == 0) {
            expect_same_outputs("aft-local", "--params first --aft-window 3");
        }
    }
}

/* ---- Progress and charts ----------------------------------------------------------------------------------------- */

static void progress_shows_on_a_terminal_only(void **state)
{
    (void)state;
    const char *arguments = "--quick --shape 1,1,1,8,8,8,8 --threads 1 --variants softmax";
    const program_result piped = program_run("", arguments);
    program_expect(&piped, 0, "");
    assert_string_equal(piped.errors, "");
    const program_result shown = program_run_on_terminal(arguments);
    program_expect(&shown, 0, "warming up");
    assert_non_null(strstr(shown.errors, "[###"));
    assert_null(strstr(shown.output, "[###"));
}

static void check_svg(const char *arguments)
{
    char line[256];
    snprintf(line, sizeof line, "--quick --threads 1 --svg \"it's a chart.svg\" %s", arguments);
    const program_result result = program_run("", line);
    program_expect(&result, 0, "");
    assert_string_equal(result.errors, "");
    char *svg = program_read_file("it's a chart.svg");
    assert_non_null(strstr(svg, "<svg"));
    assert_non_null(strstr(svg, "</svg>"));
    assert_non_null(strstr(svg, "Largest error against float64"));
    assert_non_null(strstr(svg, "softmax"));
    free(svg);
    remove("it's a chart.svg");
}

static void charts_are_drawn(void **state)
{
    (void)state;
    if (system("command -v gnuplot > /dev/null") != 0) {
        skip();
    }
    check_svg("--shape 1,1,1,8,8,8,8");
    check_svg("--sweep 8,16,32");
    check_svg("--sweep 8,16,32 --step --variants softmax,aft-simple");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_describes_the_machine),
        cmocka_unit_test(both_samples_run_by_default),
        cmocka_unit_test(one_query_is_limited_by_bandwidth),
        cmocka_unit_test(options_reach_the_rows),
        cmocka_unit_test(edges_of_the_mask_are_right),
        cmocka_unit_test(rows_follow_isa_and_threads),
        cmocka_unit_test(heed_isa_decides_where_no_option_does),
        cmocka_unit_test(large_inputs_are_sampled),
        cmocka_unit_test(sweep_has_rows_for_every_n),
        cmocka_unit_test(aft_rows_tell_what_they_did),
        cmocka_unit_test(aft_edges_are_right),
        cmocka_unit_test(aft_grid_has_its_own_filter),
        cmocka_unit_test(steps_follow_their_prefix),
        cmocka_unit_test(steps_go_through_a_sweep),
        cmocka_unit_test(softmax_beside_aft_stays_as_it_is),
        cmocka_unit_test(table_names_units_and_variants),
        cmocka_unit_test(outputs_of_all_layouts_can_be_checked),
        cmocka_unit_test(aft_outputs_can_be_checked),
        cmocka_unit_test(aft_parameters_are_read),
        cmocka_unit_test(progress_shows_on_a_terminal_only),
        cmocka_unit_test(charts_are_drawn),
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
