/* What heed-compare reports of multiresolution-head attention: figures, errors, resolutions, steps and outputs. */
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
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MRSHA_VARIANTS "--variants mrsha-2,mrsha-1248,mrsha "

static const char *const mode_names[] = {"both", "output", "value"};

static int count_groups(int n, int size) { return (n + size - 1) / size; }

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* 2 batch elements, 4 query heads on 2, 20 tokens, D = 8, Dv = 6. Groups of 3, 7 and 8 tokens leave a shorter one. */
enum { B = 2, HQ = 4, HKV = 2, N = 20, D = 8, DV = 6 };

/* Rows of attention times keys of one head, one row after the other. */
static double count_pairs(int size, heed_mrsha_mode mode, int causal)
{
    double pairs = 0;
    for (int i = 0; i < N; ++i) {
        const int begins_group = i % size == 0, before = i / size; /* groups before that of token i */
        if (size == 1) {
            pairs += causal ? i + 1 : N;
        } else if (mode == HEED_MRSHA_VALUE) {
            pairs += causal ? before + 1 : count_groups(N, size);
        } else if (!causal) {
            pairs += !begins_group ? 0 : mode == HEED_MRSHA_OUTPUT ? N : count_groups(N, size);
        } else {
            pairs += before == 0 ? i + 1 : begins_group ? before : 0;
        }
    }
    return pairs;
}

static void check_flops(const cJSON *row, const int sizes[HQ], heed_mrsha_mode mode, int causal)
{
    double pairs = 0;
    for (int h = 0; h < HQ; ++h) {
        pairs += count_pairs(sizes[h], mode, causal);
    }
    report_expect_flops(row, 2.0 * B * pairs * (D + DV));
}

/* S of each head, and the mode. */
static void check_options(const cJSON *row, const int *sizes, int n_heads, const char *mode)
{
    const cJSON *options = report_object(row, "options");
    const cJSON *group_sizes = cJSON_GetObjectItemCaseSensitive(options, "group_sizes");
    assert_int_equal(cJSON_GetArraySize(group_sizes), n_heads);
    for (int h = 0; h < n_heads; ++h) {
        assert_true(cJSON_GetArrayItem(group_sizes, h)->valuedouble == sizes[h]);
    }
    assert_string_equal(report_text(options, "mrsha_mode"), mode);
}

static void mrsha_rows_tell_what_they_did(void **state)
{
    (void)state;
    static const char *const layouts[] = {"bhnd", "bnhd", "packed"};
    static const int two[] = {2, 2, 2, 2}, preset[] = {1, 2, 4, 8}, asked[] = {3, 1, 7, 3};
    for (int i = 0; i < 18; ++i) {
        const heed_mrsha_mode mode = (heed_mrsha_mode)(i / 3 % 3);
        const int causal = i >= 9;
        if (causal && mode == HEED_MRSHA_OUTPUT) {
            continue;
        }
        char line[256];
        snprintf(line, sizeof line,
                 MRSHA_VARIANTS "--groups 3,1,7,3 --mrsha-mode %s --shape 2,4,2,20,20,8,6 --threads 1 --layout %s %s",
                 mode_names[mode], layouts[i % 3], causal ? "--causal" : "");
        cJSON *json = report_run(line);
        report_check_rows(json, 3);
        check_flops(report_row(json, 0), two, HEED_MRSHA_BOTH, causal);
        check_flops(report_row(json, 1), preset, HEED_MRSHA_BOTH, causal);
        check_flops(report_row(json, 2), asked, mode, causal);
        check_options(report_row(json, 0), two, HQ, "both");
        check_options(report_row(json, 1), preset, HQ, "both");
        check_options(report_row(json, 2), asked, HQ, mode_names[mode]);
        for (int r = 0; r < 3; ++r) {
            report_expect_bytes(report_row(json, r), 4 * B * N * (HQ + HKV) * (D + DV)); /* q, k, v and out */
            assert_true(report_number(report_row(json, r), "rows_checked") == B * HQ * N);
            assert_string_equal(report_text(report_row(json, r), "mode"), "forward");
        }
        cJSON_Delete(json);
    }
}

static void check_resolution(const cJSON *row, int i, double size, double n_heads)
{
    const cJSON *item = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(row, "resolutions"), i);
    assert_true(report_number(item, "group_size") == size);
    assert_true(report_number(item, "heads") == n_heads);
}

/* Half of the heads fine where nothing is asked; what is asked goes round the heads. */
static void heads_take_turns(void **state)
{
    (void)state;
    static const int half[] = {1, 1, 1, 2, 2}, preset[] = {1, 2, 4, 8, 1}, asked[] = {9, 1, 9, 1, 9};
    cJSON *json = report_run("--variants mrsha,mrsha-1248 --shape 1,5,1,30,30,8,8 --threads 1");
    report_check_rows(json, 2);
    check_options(report_row(json, 0), half, 5, "both");
    check_options(report_row(json, 1), preset, 5, "both");
    check_resolution(report_row(json, 0), 0, 1, 3);
    check_resolution(report_row(json, 0), 1, 2, 2);
    check_resolution(report_row(json, 1), 0, 1, 2);
    check_resolution(report_row(json, 1), 3, 8, 1);
    cJSON_Delete(json);
    json = report_run("--variants mrsha --groups 9,1 --shape 1,5,1,30,30,8,8 --threads 1");
    report_check_rows(json, 1);
    check_options(report_row(json, 0), asked, 5, "both");
    check_resolution(report_row(json, 0), 0, 1, 2);
    check_resolution(report_row(json, 0), 1, 9, 3);
    cJSON_Delete(json);
}

/* Fewer and more queries than keys, and one; groups larger than the input; heads that differ and share a kv head. */
static void mrsha_edges_are_right(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--shape 1,6,3,12,30,4,5 --groups 1,5",
        "--shape 1,6,3,30,12,4,5 --groups 5,1,30",
        "--shape 1,6,3,12,31,4,5 --groups 2,3 --mrsha-mode output --layout bnhd",
        "--shape 1,6,3,31,12,4,5 --groups 7,2 --mrsha-mode value",
        "--shape 2,8,2,1,50,4,7 --groups 1,3,64",
        "--shape 2,8,2,1,50,4,7 --groups 1,3,64 --mrsha-mode value",
        "--shape 2,2,1,50,1,4,7",
        "--shape 1,2,2,1,1,4,4 --causal",
        "--shape 1,4,2,9,9,33,17 --groups 1,9,10,1000000000000 --causal",
        "--shape 1,4,2,9,9,33,17 --groups 1,9,10,1000000000000 --causal --mrsha-mode value",
        "--shape 1,4,1,300,300,16,16 --groups 1,2,16,150 --causal --layout packed",
        "--shape 1,4,1,300,300,16,16 --groups 1,2,16,150 --causal --layout packed --mrsha-mode value",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
        char line[256];
        snprintf(line, sizeof line, "--variants mrsha --threads 1 %s", lines[i]);
        cJSON *json = report_run(line);
        report_check_rows(json, 1);
        cJSON_Delete(json);
    }
    cJSON *json = report_run("--variants softmax,mrsha --groups 1 --causal --shape 1,4,2,12,30,4,5 --threads 1");
    report_check_rows(json, 2); /* fine heads alone take what softmax attention takes */
    cJSON_Delete(json);
}

static void mrsha_rows_follow_isa_and_threads(void **state)
{
    (void)state;
    cJSON *json = report_run(MRSHA_VARIANTS "--shape 2,4,2,70,70,16,16 --isa scalar --threads 1");
    report_check_rows(json, 3);
    assert_string_equal(report_text(report_row(json, 2), "isa"), "scalar");
    cJSON_Delete(json);
#ifdef HEED_TEST_OPENMP
    json = report_run(MRSHA_VARIANTS "--sweep 16,70 --threads 2,1");
    report_check_rows(json, 12);
    assert_true(report_number(report_row(json, 2), "threads") == 2);
    cJSON_Delete(json);
#endif
}

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

/* Floats of one sequence: q, out, k and v of the token; of the cache of each kv head and size the rows of n tokens, one
 * row written, and a sum read and written. */
static double count_step_floats(const int sizes[HQ], int n)
{
    double n_rows = HQ + HKV;
    for (int h = 0; h < HQ; ++h) {
        if (h % 2 == 0 || sizes[h] != sizes[h - 1]) {
            n_rows += count_groups(n, sizes[h]) + 3;
        }
    }
    return n_rows * (D + DV);
}

/* The last token of 2 sequences, beside softmax attention. Prefixes of no token, that end within a group or with one,
 * or with one of each head; kv heads with one cache and with two. */
static void mrsha_steps_follow_their_prefix(void **state)
{
    (void)state;
    static const int n_keys[] = {1, 2, 6, 7, 100}, sizes[2][HQ] = {{3, 1, 2, 3}, {2, 2, 5, 5}};
    for (int i = 0; i < 20; ++i) {
        const int n = n_keys[i / 4], *s = sizes[i % 2];
        char line[256];
        snprintf(line, sizeof line,
                 "--step --variants softmax,mrsha --mrsha-mode value --groups %d,%d,%d,%d --shape 2,4,2,1,%d,8,6 "
                 "--threads 1 --layout %s",
                 s[0], s[1], s[2], s[3], n, i / 2 % 2 == 0 ? "bhnd" : "bnhd");
        cJSON *json = report_run(line);
        report_check_rows(json, 2);
        const cJSON *row = report_row(json, 1);
        double n_groups = 0;
        for (int h = 0; h < HQ; ++h) {
            n_groups += count_groups(n, s[h]);
        }
        assert_string_equal(report_text(row, "mode"), "step");
        assert_true(report_truth(row, "causal"));
        assert_true(report_number(row, "rows_checked") == B * HQ);
        report_expect_flops(row, 2.0 * B * n_groups * (D + DV));
        report_expect_bytes(row, 4 * B * count_step_floats(s, n));
        cJSON_Delete(json);
    }
    cJSON *json =
        report_run("--step --variants mrsha --mrsha-mode value --sweep 5,40 --shape 1,2,1,1,1,8,6 --threads 1");
    report_check_rows(json, 2);
    cJSON_Delete(json);
}

/* ---- Outputs ----------------------------------------------------------------------------------------------------- */

/* What --out wrote of mrsha follows from the q, k and v beside it. */
static void check_output(const int64_t *group_sizes, heed_mrsha_mode mode, int causal)
{
    static const char *const names[] = {"q", "k", "v"};
    npy_array arrays[3];
    heed_tensor views[3];
    for (int i = 0; i < 3; ++i) {
        char path[64];
        snprintf(path, sizeof path, "written/%s.npy", names[i]);
        arrays[i] = report_read_array(path);
        views[i] = report_view_array(&arrays[i]);
    }
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = causal;
    heed_softmax_options softmax = HEED_SOFTMAX_OPTIONS_INIT;
    softmax.mask = &mask;
    heed_mrsha_options options = HEED_MRSHA_OPTIONS_INIT;
    options.group_sizes = group_sizes;
    options.mode = mode;
    options.softmax = &softmax;
    static double expected[2 * 4 * 11 * 5];
    oracle_mrsha(&views[0], &views[1], &views[2], &options, expected, NULL);
    npy_array out = report_read_array("written/mrsha.npy");
    const int64_t shape[] = {2, 4, 11, 5};
    assert_int_equal(out.rank, 4);
    assert_memory_equal(out.shape, shape, sizeof shape);
    for (int e = 0; e < 2 * 4 * 11 * 5; ++e) {
        assert_true(fabs(out.data[e] - expected[e]) < 1e-5);
    }
    npy_free(&out);
    for (int i = 0; i < 3; ++i) {
        npy_free(&arrays[i]);
    }
}

static void mrsha_outputs_can_be_checked(void **state)
{
    (void)state;
    static const int64_t group_sizes[] = {1, 3, 2, 4};
    for (int i = 0; i < 6; ++i) {
        const heed_mrsha_mode mode = (heed_mrsha_mode)(i % 3);
        const int causal = i >= 3;
        if (causal && mode == HEED_MRSHA_OUTPUT) {
            continue;
        }
        char line[256];
        snprintf(line, sizeof line,
                 "--quick --variants mrsha --groups 1,3,2,4 --mrsha-mode %s --shape 2,4,2,11,11,8,5 --threads 1 --out "
                 "written %s",
                 mode_names[mode], causal ? "--causal" : "");
        const program_result result = program_run("", line);
        program_expect(&result, 0, "");
        check_output(group_sizes, mode, causal);
    }
}

/* |a - b| / |b| over the heads of a size. */
static double find_distance(const npy_array *a, const npy_array *b, const int *sizes, int size)
{
    const int64_t n_heads = a->shape[1], head_floats = a->shape[2] * a->shape[3];
    double difference = 0, norm = 0;
    for (int64_t head = 0; head < a->shape[0] * n_heads; ++head) {
        for (int64_t i = head * head_floats; sizes[head % n_heads] == size && i < (head + 1) * head_floats; ++i) {
            difference += pow((double)a->data[i] - b->data[i], 2);
            norm += pow(b->data[i], 2);
        }
    }
    return sqrt(difference / norm);
}

/* Fine heads have the bits of softmax attention. The distance of each resolution follows from the outputs of its heads;
 * the error of float32 in those is what 1e-4 is for. */
static void resolutions_tell_their_distance(void **state)
{
    (void)state;
    static const int sizes[] = {2, 1, 5, 2, 1, 2}, distinct[] = {1, 2, 5}, n_heads[] = {2, 3, 1};
    cJSON *json = report_run("--variants softmax,mrsha --groups 2,1,5,2,1,2 --shape 2,6,3,40,40,8,8 --threads 1 --out "
                             "distances");
    report_check_rows(json, 2);
    npy_array softmax = report_read_array("distances/softmax.npy"), mrsha = report_read_array("distances/mrsha.npy");
    const cJSON *row = report_row(json, 1);
    for (int i = 0; i < 3; ++i) {
        const cJSON *item = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(row, "resolutions"), i);
        const double got = report_number(item, "softmax_distance");
        const double want = find_distance(&mrsha, &softmax, sizes, distinct[i]);
        check_resolution(row, i, distinct[i], n_heads[i]);
        if (distinct[i] == 1) {
            assert_true(want == 0);
        } else {
            assert_true(want > 1e-2 && fabs(got - want) <= 1e-4 * want);
        }
    }
    npy_free(&softmax);
    npy_free(&mrsha);
    cJSON_Delete(json);
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static void expect_words(const program_result *result, const char *const *words, size_t n)
{
    program_expect(result, 0, "");
    for (size_t i = 0; i < n; ++i) {
        if (strstr(result->output, words[i]) == NULL) {
            fail_msg("\"%s\" expected in\n%s", words[i], result->output);
        }
    }
}

static void table_lists_resolutions(void **state)
{
    (void)state;
    static const char *const mixed[] = {", mrsha 1,4, mode value;", "mrsha           forward ", "S = 1: 2 of 4 heads",
                                        "S = 4: 2 of 4 heads", "S: tokens in a group"};
    static const char *const default_words[] = {", mrsha half 1, half 2, mode both;", "S = 2: 2 of 4 heads"};
    program_result result = program_run(
        "", "--quick --variants softmax,mrsha --groups 1,4 --mrsha-mode value --shape 1,4,2,16,16,8,8 --threads 1");
    expect_words(&result, mixed, sizeof mixed / sizeof mixed[0]);
    result = program_run("", "--quick --variants mrsha --shape 1,4,2,16,16,8,8 --threads 1");
    expect_words(&result, default_words, sizeof default_words / sizeof default_words[0]);
    result = program_run("", "--quick --variants mrsha-2 --shape 1,4,2,16,16,8,8 --threads 1");
    expect_words(&result, NULL, 0);
    assert_null(strstr(result.output, "S = 2")); /* what all heads have is in the row itself */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mrsha_rows_tell_what_they_did),   cmocka_unit_test(heads_take_turns),
        cmocka_unit_test(mrsha_edges_are_right),           cmocka_unit_test(mrsha_rows_follow_isa_and_threads),
        cmocka_unit_test(mrsha_steps_follow_their_prefix), cmocka_unit_test(mrsha_outputs_can_be_checked),
        cmocka_unit_test(resolutions_tell_their_distance), cmocka_unit_test(table_lists_resolutions),
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
