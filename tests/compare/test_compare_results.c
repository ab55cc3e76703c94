/* What heed-compare reports: the keys of its JSON, figures that agree with each other, errors, files. */
#include "bench/npy.h"
#include "compare/program.h"
#include "compare/report.h"
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

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void json_describes_the_machine(void **state)
{
    (void)state;
    cJSON *json = report_run("--shape 1,1,1,8,8,8,8 --threads 1");
    const cJSON *machine = report_object(json, "machine");
    assert_true(report_text(machine, "cpu")[0] != '\0');
    assert_true(report_positive(machine, "cores") >= 1);
    assert_non_null(strstr(report_text(machine, "compiler"), "."));
    assert_true((strcmp(report_text(machine, "blas"), "none") == 0) == (N_VARIANTS == 1));
    report_positive(report_object(machine, "fma_gflops"), "scalar");
    report_positive(machine, "exp_gops");
    const cJSON *read = report_object(machine, "read_gbytes");
    report_positive(read, "l2");
    report_positive(read, "l3");
    report_positive(read, "dram");
    /* With one thread, a row's ceiling is that of its instruction set. */
    const cJSON *row = report_row(json, 0);
    report_expect_close(report_number(row, "fma_gflops"),
                        report_number(report_object(machine, "fma_gflops"), report_text(row, "isa")));
    cJSON_Delete(json);
}

/* Files of three dimensions give outputs of three. */
static void check_output_shape(const char *path, int64_t heads, int64_t tokens, int64_t channels)
{
    npy_array out = report_read_array(path);
    assert_int_equal(out.rank, 3);
    assert_true(out.shape[0] == heads && out.shape[1] == tokens && out.shape[2] == channels);
    npy_free(&out);
}

/* Both samples where no input is named, every row checked, flops of visible pairs only; their outputs do not overwrite
 * each other. */
static void both_samples_run_by_default(void **state)
{
    (void)state;
    cJSON *json = report_run("--threads 1 --out two");
    report_check_rows(json, 2 * N_VARIANTS);
    check_output_shape("two/encoder/softmax.npy", 12, 512, 32);
    check_output_shape("two/decoder/softmax.npy", 9, 1024, 64);
    for (int i = 0; i < 2 * N_VARIANTS; ++i) {
        const cJSON *row = report_row(json, i);
        const int decoder = i >= N_VARIANTS;
        assert_string_equal(report_text(row, "input"), decoder ? "decoder" : "encoder");
        assert_int_equal(report_truth(row, "causal"), decoder);
        const double pairs = decoder ? 9.0 * 1024 * 1025 / 2 : 12.0 * 512 * 512;
        report_expect_flops(row, 2 * pairs * (decoder ? 128 : 64));
        report_expect_close(report_number(row, "rows_checked"), decoder ? 9 * 1024 : 12 * 512);
    }
    cJSON_Delete(json);
}

/* One query: memory is the limit; K and V count once for each of their heads. */
static void one_query_is_limited_by_bandwidth(void **state)
{
    (void)state;
    cJSON *json = report_run("--shape 3,6,2,1,300,32,16 --threads 1");
    report_check_rows(json, N_VARIANTS);
    const double floats = 3 * (32 + 16) * (6 * 1 + 2 * 300);
    for (int i = 0; i < N_VARIANTS; ++i) {
        const cJSON *row = report_row(json, i);
        report_expect_close(report_number(row, "gbytes") * report_number(row, "ms") * 1e6, 4 * floats);
        assert_string_equal(report_text(row, "limit"), "bandwidth");
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
        cJSON *json = report_run(line);
        report_check_rows(json, N_VARIANTS);
        const cJSON *row = report_row(json, N_VARIANTS - 1);
        const double shape[] = {2, 4, 2, 37, 37, 16, 24};
        for (int i = 0; i < 7; ++i) {
            assert_true(report_shape_at(row, i) == shape[i]);
        }
        assert_string_equal(report_text(row, "layout"), layouts[layout]);
        assert_true(report_truth(row, "causal"));
        const cJSON *options = report_object(row, "options");
        assert_true(report_truth(options, "bias"));
        assert_true(report_truth(options, "bool_mask"));
        assert_true(report_number(options, "seed") == 7);
        const cJSON *window = cJSON_GetObjectItemCaseSensitive(options, "softmax_window");
        assert_int_equal(cJSON_GetArraySize(window), 2);
        assert_true(cJSON_GetArrayItem(window, 0)->valuedouble == 20);
        assert_true(cJSON_GetArrayItem(window, 1)->valuedouble == 3);
        /* Query i sees keys max(0, i - 20) .. i. */
        const double pairs = 21 * 11 + 16 * 21;
        report_expect_flops(row, 2 * pairs * 2 * 4 * (16 + 24));
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
        cJSON *json = report_run(lines[i]);
        report_check_rows(json, N_VARIANTS);
        cJSON_Delete(json);
    }
}

static void rows_follow_isa_and_threads(void **state)
{
    (void)state;
    cJSON *json = report_run("--shape 1,4,2,64,64,16,16 --isa scalar --threads 1 --variants softmax");
    report_check_rows(json, 1);
    assert_string_equal(report_text(report_row(json, 0), "isa"), "scalar");
    cJSON_Delete(json);
#ifdef HEED_TEST_OPENMP
    json = report_run("--shape 1,4,2,64,64,16,16 --isa scalar --threads 2,1");
    report_check_rows(json, 2 * N_VARIANTS);
    assert_true(report_number(report_row(json, 0), "threads") == 2);
    assert_true(report_number(report_row(json, N_VARIANTS), "threads") == 1);
    cJSON_Delete(json);
#endif
}

static void heed_isa_decides_where_no_option_does(void **state)
{
    (void)state;
    const program_result result = program_run(
        "HEED_ISA=scalar", "--quick --shape 1,1,1,8,8,8,8 --threads 1 --variants softmax --json result.json");
    program_expect(&result, 0, "");
    assert_non_null(strstr(result.output, "softmax         forward  scalar"));
    remove("result.json");
}

/* 64 queries x 4 heads of 40000 keys and 128 channels are more than the oracle does in full. */
static void large_inputs_are_sampled(void **state)
{
    (void)state;
    cJSON *json = report_run("--shape 1,8,1,64,40000,64,64 --threads 1 --variants softmax --repeat 1");
    report_check_rows(json, 1);
    const double rows = report_number(report_row(json, 0), "rows_checked");
    assert_true(rows >= 64 && rows < 8 * 64);
    cJSON_Delete(json);
}

static void sweep_has_rows_for_every_n(void **state)
{
    (void)state;
    static const double n[] = {16, 33, 64};
    cJSON *json = report_run("--shape 1,2,1,1,1,8,8 --sweep 16,33,64 --threads 1 --variants softmax");
    report_check_rows(json, 3);
    for (int i = 0; i < 3; ++i) {
        assert_true(report_shape_at(report_row(json, i), 3) == n[i] && report_shape_at(report_row(json, i), 4) == n[i]);
        assert_true(report_shape_at(report_row(json, i), 1) == 2 && report_shape_at(report_row(json, i), 2) == 1);
    }
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

/* What --out writes is enough to check a variant: its output follows from the q, k and v beside it. */
static void outputs_can_be_checked(const char *layout)
{
    char line[256];
    snprintf(line, sizeof line, "--quick --shape 2,4,2,9,9,8,5 --threads 1 --out new/folder --layout %s", layout);
    const program_result result = program_run("", line);
    program_expect(&result, 0, "");
    npy_array q = report_read_array("new/folder/q.npy"), k = report_read_array("new/folder/k.npy"),
              v = report_read_array("new/folder/v.npy");
    const heed_tensor q_view = report_view_array(&q), k_view = report_view_array(&k), v_view = report_view_array(&v);
    double expected[2 * 4 * 9 * 5];
    oracle_softmax(&q_view, &k_view, &v_view, NULL, expected, NULL);
    static const char *const files[] = {"new/folder/softmax.npy", "new/folder/gemm.npy"};
    for (int i = 0; i < N_VARIANTS; ++i) {
        npy_array out = report_read_array(files[i]);
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
        cmocka_unit_test(table_names_units_and_variants),
        cmocka_unit_test(outputs_of_all_layouts_can_be_checked),
        cmocka_unit_test(progress_shows_on_a_terminal_only),
        cmocka_unit_test(charts_are_drawn),
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
