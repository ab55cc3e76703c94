#include "compare/report.h"

#include "compare/program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Runs with --json and returns what was written; freed with cJSON_Delete. */
cJSON *report_run(const char *arguments)
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

double report_number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item)) {
        fail_msg("%s is no number", key);
    }
    return item->valuedouble;
}

double report_positive(const cJSON *object, const char *key)
{
    const double value = report_number(object, key);
    if (!(value > 0)) {
        fail_msg("%s = %g is not positive", key, value);
    }
    return value;
}

const char *report_text(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsString(item)) {
        fail_msg("%s is no text", key);
    }
    return item->valuestring;
}

int report_truth(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsBool(item)) {
        fail_msg("%s is neither true nor false", key);
    }
    return cJSON_IsTrue(item);
}

const cJSON *report_object(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsObject(item)) {
        fail_msg("%s is no object", key);
    }
    return item;
}

/* Row i, which must be there. */
const cJSON *report_row(const cJSON *json, int i)
{
    const cJSON *row = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "rows"), i);
    if (!cJSON_IsObject(row)) {
        fail_msg("row %d is missing", i);
    }
    return row;
}

/* Figures pass through 17 digits of text and a few divisions. */
void report_expect_close(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fabs(want))) {
        fail_msg("%.17g expected, got %.17g", want, got);
    }
}

void report_expect_flops(const cJSON *row, double want)
{
    report_expect_close(report_number(row, "gflops") * report_number(row, "ms") * 1e6, want);
}

double report_shape_at(const cJSON *row, int i)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(row, "shape");
    assert_int_equal(cJSON_GetArraySize(shape), 7);
    return cJSON_GetArrayItem(shape, i)->valuedouble;
}

int report_is_variant(const cJSON *row, const char *name) { return strcmp(report_text(row, "variant"), name) == 0; }

static int is_of_family(const cJSON *row, const char *prefix)
{
    return strncmp(report_text(row, "variant"), prefix, strlen(prefix)) == 0;
}

/* What the time of a row is held against. */
static const char *find_limit(const cJSON *row)
{
    if (is_of_family(row, "linear-")) {
        return strcmp(report_text(row, "mode"), "step") == 0 ? "update" : "fma";
    }
    if (report_shape_at(row, 3) == 1) {
        return "bandwidth";
    }
    return report_is_variant(row, "aft-simple") ? "streams" : "fma";
}

static void check_limit(const cJSON *row)
{
    const char *limit = find_limit(row);
    const int fma = strcmp(limit, "fma") == 0;
    const double most = report_positive(row, "limit_value"), value = report_positive(row, fma ? "gflops" : "gbytes");
    assert_string_equal(report_text(row, "limit"), limit);
    report_expect_close(report_number(row, "share"), value / most);
    if (fma || strcmp(limit, "bandwidth") == 0) {
        report_expect_close(most, report_number(row, fma ? "fma_gflops" : "bandwidth_gbytes"));
    }
}

/* Fine heads are those of softmax attention; all heads together lie between the nearest and the farthest of them. */
static void check_resolutions(const cJSON *row)
{
    const cJSON *resolutions = cJSON_GetObjectItemCaseSensitive(row, "resolutions");
    double n_heads = 0, last_size = 0, nearest = INFINITY, farthest = 0;
    assert_true(cJSON_GetArraySize(resolutions) >= 1);
    for (int i = 0; i < cJSON_GetArraySize(resolutions); ++i) {
        const cJSON *resolution = cJSON_GetArrayItem(resolutions, i);
        const double size = report_positive(resolution, "group_size");
        const double distance = report_number(resolution, "softmax_distance");
        assert_true(size > last_size);
        assert_true(size > 1 || distance < 1e-5);
        last_size = size;
        n_heads += report_positive(resolution, "heads");
        nearest = fmin(nearest, distance);
        farthest = fmax(farthest, distance);
    }
    assert_true(n_heads == report_shape_at(row, 1));
    const double distance = report_number(row, "softmax_distance");
    assert_true(distance >= nearest * (1 - 1e-12) && distance <= farthest * (1 + 1e-12));
}

/* AFT and linear attention are other mechanisms than softmax, but not where linear attention sees one key; gradients are
 * no output. */
static void check_distance(const cJSON *row)
{
    if (strcmp(report_text(row, "mode"), "backward") == 0) {
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row, "softmax_distance")));
        return;
    }
    if (is_of_family(row, "mrsha")) {
        check_resolutions(row);
        return;
    }
    assert_null(cJSON_GetObjectItemCaseSensitive(row, "resolutions"));
    const double distance = report_number(row, "softmax_distance");
    const int is_linear = is_of_family(row, "linear-") && report_shape_at(row, 4) > 1;
    assert_true(distance >= 0);
    assert_true((distance < 1e-5) == !(is_of_family(row, "aft-") || is_linear));
}

/* All that holds for every row, whatever was asked. The error bound is for values up to a few units: float32 rounding
 * (6e-8) times a few units times the ten or so operations an output passes through. */
static void check_row(const cJSON *row)
{
    assert_non_null(
        strstr(" softmax gemm aft-full aft-local aft-simple aft-conv linear-elu1 linear-softplus linear-oglu "
               "linear-aoglu linear-favor linear-blas mrsha-2 mrsha-1248 mrsha ",
               report_text(row, "variant")));
    assert_non_null(strstr(" forward step backward ", report_text(row, "mode")));
    assert_non_null(strstr(" scalar avx2 avx512 neon ", report_text(row, "isa")));
    check_limit(row);
    check_distance(row);
    assert_true(report_positive(row, "threads") >= 1);
    report_positive(row, "ms");
    if (report_is_variant(row, "aft-simple")) {
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row, "gflops")));
    } else {
        report_positive(row, "gflops");
    }
    report_positive(row, "gbytes");
    report_positive(row, "fma_gflops");
    report_positive(row, "bandwidth_gbytes");
    assert_true(report_number(row, "scratch_bytes") >= 0);
    report_positive(row, "rows_checked");
    assert_true(report_number(row, "max_abs_err") >= 0 && report_number(row, "max_abs_err") < 1e-5);
    assert_true(report_number(row, "rel_err") >= 0 && report_number(row, "rel_err") < 1e-5);
    assert_non_null(report_text(row, "input"));
    assert_non_null(report_text(row, "layout"));
    assert_true(report_truth(row, "causal") >= 0);
    report_object(row, "options");
}

void report_check_rows(const cJSON *json, int n_rows)
{
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "rows")), n_rows);
    for (int i = 0; i < n_rows; ++i) {
        check_row(report_row(json, i));
    }
}

void report_expect_bytes(const cJSON *row, double want)
{
    report_expect_close(report_number(row, "gbytes") * report_number(row, "ms") * 1e6, want);
}

void report_check_pair(const cJSON *options, const char *key, double first, double second)
{
    const cJSON *pair = cJSON_GetObjectItemCaseSensitive(options, key);
    assert_int_equal(cJSON_GetArraySize(pair), 2);
    assert_true(cJSON_GetArrayItem(pair, 0)->valuedouble == first);
    assert_true(cJSON_GetArrayItem(pair, 1)->valuedouble == second);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

npy_array report_read_array(const char *path)
{
    char message[512];
    npy_array array;
    if (npy_read(path, &array, message, sizeof message) != 0) {
        fail_msg("%s", message);
    }
    return array;
}

heed_tensor report_view_array(const npy_array *a)
{
    assert_int_equal(a->rank, 4);
    return heed_tensor_bhnd(a->data, HEED_FLOAT32, a->shape[0], a->shape[1], a->shape[2], a->shape[3]);
}

/* The largest difference of two arrays of one shape. */
static double find_difference(const char *path_a, const char *path_b)
{
    npy_array a = report_read_array(path_a), b = report_read_array(path_b);
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
void report_expect_same_outputs(const char *variants, const char *arguments)
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
