/* What heed-compare reports of AFT: figures, errors, steps, outputs, and parameters from files. */
#include "bench/npy.h"
#include "compare/program.h"
#include "compare/report.h"
#include "oracle/oracle.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

#define AFT_VARIANTS "--variants aft-full,aft-local,aft-simple,aft-conv "

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
        cJSON *json = report_run(line);
        report_check_rows(json, 4);
        report_expect_flops(report_row(json, 0), OUTPUTS * 4.0 * (causal ? (N + 1) / 2.0 : N));
        report_expect_flops(report_row(json, 1), OUTPUTS * 4.0 * (causal ? WINDOW : 2 * WINDOW - 1));
        report_expect_flops(report_row(json, 3), OUTPUTS * 2.0 * TAPS);
        const cJSON *row = report_row(json, 2);
        const double floats = 4.0 * OUTPUTS; /* q, k, v and out; k and v count for each query head */
        report_expect_close(report_number(row, "gbytes") * report_number(row, "ms") * 1e6, 4 * floats);
        const cJSON *options = report_object(row, "options");
        assert_true(report_number(options, "aft_window") == WINDOW &&
                    report_number(options, "aft_factors") == i % 2 * 3);
        assert_true(report_number(options, "conv_heads") == 3);
        report_check_pair(options, "conv_filter", 1, TAPS);
        report_check_pair(options, "grid", 0, 0);
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
        cJSON *json = report_run(line);
        report_check_rows(json, 4);
        cJSON_Delete(json);
    }
}

/* On a grid the filter has 11 x 11 taps where nothing else is asked. */
static void aft_grid_has_its_own_filter(void **state)
{
    (void)state;
    cJSON *json = report_run("--variants aft-conv --shape 1,2,2,15,15,8,8 --threads 1 --grid 3x5");
    report_check_rows(json, 1);
    const cJSON *row = report_row(json, 0), *options = report_object(row, "options");
    report_check_pair(options, "conv_filter", 11, 11);
    report_check_pair(options, "grid", 3, 5);
    report_expect_flops(row, 2.0 * 15 * 16 * 11 * 11);
    cJSON_Delete(json);
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
        cJSON *json = report_run(line);
        report_check_rows(json, 4);
        for (int v = 0; v < 4; ++v) {
            const cJSON *row = report_row(json, v);
            assert_string_equal(report_text(row, "mode"), v == 0 ? "forward" : "step");
            assert_true(report_truth(row, "causal"));
            assert_true(report_number(row, "rows_checked") == 2 * 4);
        }
        report_expect_flops(report_row(json, 1), 2 * 4.0 * CHANNELS * window);
        report_expect_flops(report_row(json, 3), 2 * 2.0 * CHANNELS * TAPS);
        /* For each sequence: q, k, v and out, the sums read and written, and the window's keys and values read and one of
         * them written; and the bias. */
        const double bias = n_factors > 0 ? (window + 1) * n_factors : window;
        report_expect_bytes(report_row(json, 1), 4 * (2.0 * CHANNELS * (4 + 12 + 2 * window + 2) + bias));
        report_expect_bytes(report_row(json, 2), 4 * (2.0 * CHANNELS * (4 + 12)));
        report_expect_bytes(report_row(json, 3),
                            4 * (2.0 * (CHANNELS * 15 + HEADS + (CHANNELS + HEADS) * (TAPS + 1)) + HEADS * TAPS));
        cJSON_Delete(json);
    }
}

/* A sweep of steps is one over the keys. */
static void steps_go_through_a_sweep(void **state)
{
    (void)state;
    static const double n[] = {33, 64};
    cJSON *json = report_run("--step --variants softmax,aft-simple --shape 1,2,1,1,1,8,8 --sweep 33,64 --threads 1");
    report_check_rows(json, 4);
    for (int i = 0; i < 4; ++i) {
        const cJSON *row = report_row(json, i);
        assert_true(report_shape_at(row, 3) == 1 && report_shape_at(row, 4) == n[i / 2]);
        assert_string_equal(report_text(row, "mode"), i % 2 == 0 ? "forward" : "step");
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
    cJSON *json = report_run("--variants softmax,aft-simple --sample encoder --threads 1");
    report_check_rows(json, 2);
    assert_true(report_number(report_row(json, 0), "rows_checked") == 12 * 512);
    assert_true(report_number(report_row(json, 1), "rows_checked") >= 64);
    assert_null(cJSON_GetObjectItemCaseSensitive(report_object(report_row(json, 0), "options"), "aft_window"));
    cJSON_Delete(json);
}

/* ---- Outputs ----------------------------------------------------------------------------------------------------- */

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
    npy_array out = report_read_array(path);
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
    npy_array files[] = {report_read_array("q.npy"), report_read_array("k.npy"), report_read_array("v.npy")};
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
    npy_array filter = report_read_array("aft.filter.npy");
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

    npy_array w = report_read_array("aft.w.npy");
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
        report_expect_same_outputs(cases[i].variants, cases[i].options);
        snprintf(line, sizeof line, "--params first %s", cases[i].options);
        report_expect_same_outputs(cases[i].variants, line);
        if (i == 0) {
            report_expect_same_outputs("aft-local", "--params first --aft-window 3");
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aft_rows_tell_what_they_did), cmocka_unit_test(aft_edges_are_right),
        cmocka_unit_test(aft_grid_has_its_own_filter), cmocka_unit_test(steps_follow_their_prefix),
        cmocka_unit_test(steps_go_through_a_sweep),    cmocka_unit_test(softmax_beside_aft_stays_as_it_is),
        cmocka_unit_test(aft_outputs_can_be_checked),  cmocka_unit_test(aft_parameters_are_read),
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
