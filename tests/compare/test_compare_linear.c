/* What heed-compare reports of linear attention: figures, errors, steps, gradients, outputs, and weights from files. */
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
#include <unistd.h>

#include <cmocka.h>

/* All that take any number of features. */
#define LEARNED "linear-softplus,linear-oglu,linear-aoglu,linear-favor"

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* 2 batch elements, 4 query heads on 2, 20 tokens, D = 8, Dv = 6, C = 12. */
enum { B = 2, HQ = 4, HKV = 2, N = 20, D = 8, DV = 6, C = 12, FIRST_RANK = D / 4, RANK = C / 4 };

/* Multiply-adds of the map of each variant in LEARNED: softplus; 2 layers with gates; 3 with gates of rank D / 4 and C / 4;
 * projections. */
enum {
    SOFTPLUS_COST = D * C,
    OGLU_COST = 2 * D * C + 2 * C * C,
    AOGLU_COST = D * C + FIRST_RANK * (D + C) + 2 * (C * C + RANK * (C + C)),
    FAVOR_COST = D * C
};
static const double map_costs[] = {SOFTPLUS_COST, OGLU_COST, AOGLU_COST, FAVOR_COST};
static const double layers[] = {1, 2, 3, 1};

static double forward_flops(double map_cost)
{
    return 2.0 * B * N * (HQ * (map_cost + C * DV) + HKV * (map_cost + C * DV));
}

/* Three times the products of the map, and with C Dv multiply-adds two products of queries and three of keys. */
static double backward_flops(double map_cost)
{
    return 2.0 * B * N * (HQ * (3 * map_cost + 2 * C * DV) + HKV * (3 * map_cost + 3 * C * DV));
}

static void check_options(const cJSON *row, double features, double n_layers)
{
    const cJSON *options = report_object(row, "options");
    assert_true(report_number(options, "features") == features);
    assert_true(report_number(options, "layers") == n_layers);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(options, "params")));
}

static void linear_rows_tell_what_they_did(void **state)
{
    (void)state;
    static const char *const layouts[] = {"bhnd", "bnhd", "packed"};
    for (int i = 0; i < 6; ++i) {
        char line[256];
        snprintf(line, sizeof line,
                 "--variants " LEARNED " --backward --features %d --shape 2,4,2,20,20,8,6 --threads 1 --layout %s %s",
                 C, layouts[i % 3], i < 3 ? "" : "--causal");
        cJSON *json = report_run(line);
        report_check_rows(json, 8);
        for (int v = 0; v < 4; ++v) {
            const cJSON *forward = report_row(json, 2 * v), *backward = report_row(json, 2 * v + 1);
            report_expect_flops(forward, forward_flops(map_costs[v]));
            report_expect_flops(backward, backward_flops(map_costs[v]));
            assert_string_equal(report_text(forward, "mode"), "forward");
            assert_string_equal(report_text(backward, "mode"), "backward");
            assert_string_equal(report_text(forward, "variant"), report_text(backward, "variant"));
            report_expect_close(report_number(backward, "over_forward"),
                                report_number(backward, "ms") / report_number(forward, "ms"));
            assert_null(cJSON_GetObjectItemCaseSensitive(forward, "over_forward"));
            assert_true(report_number(backward, "rows_checked") == B * HQ * N);
            check_options(forward, C, layers[v]);
            check_options(backward, C, layers[v]);
        }
        /* q, k, v, out and W; for gradients both q, k, v and W, and dout. */
        const double inputs = B * N * (HQ * D + HKV * (D + DV)), outputs = B * N * HQ * DV, weights = HKV * D * C;
        report_expect_bytes(report_row(json, 0), 4 * (inputs + outputs + weights));
        report_expect_bytes(report_row(json, 1), 4 * (2 * (inputs + weights) + outputs));
        cJSON_Delete(json);
    }
}

/* As many features as channels, and 256 of FAVOR+; layers as asked. */
static void features_and_layers_have_defaults(void **state)
{
    (void)state;
    cJSON *json = report_run("--variants linear-elu1," LEARNED " --layers 1 --shape 1,2,2,9,9,8,6 --threads 1");
    report_check_rows(json, 5);
    for (int v = 0; v < 5; ++v) {
        check_options(report_row(json, v), v == 4 ? 256 : 8, 1);
    }
    report_expect_flops(report_row(json, 0), 2.0 * 9 * 2 * 2 * 8 * 6); /* no matrix */
    cJSON_Delete(json);
}

/* Fewer and more queries than keys, one query; sizes that fill no vector. With one key, or one feature, there are no
 * gradients of q, but what rounding leaves of them. */
static void linear_edges_are_right(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--shape 1,6,3,12,30,4,5 --causal",      "--shape 1,6,3,30,12,4,5 --causal",
        "--shape 1,6,3,12,30,4,5 --layout bnhd", "--shape 2,8,2,1,50,4,7",
        "--shape 2,8,2,1,50,4,7 --causal",       "--shape 1,4,2,200,200,33,17 --causal",
        "--shape 1,1,1,130,130,16,16 --causal",  "--shape 3,2,2,65,65,2,1 --layout packed",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
        char line[256];
        snprintf(line, sizeof line, "--variants linear-elu1," LEARNED " --backward --threads 1 %s", lines[i]);
        cJSON *json = report_run(line);
        report_check_rows(json, 10);
        cJSON_Delete(json);
    }
    cJSON *json = report_run("--variants linear-elu1," LEARNED " --threads 1 --shape 2,2,1,50,1,4,7");
    report_check_rows(json, 5);
    cJSON_Delete(json);
}

#ifdef HEED_HAVE_BLAS
/* The same mathematics by other means: the shapes above, whole chunks and pieces of them, with one thread and several. */
static void blas_computes_the_same(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--shape 1,6,3,12,30,4,5 --causal",
        "--shape 1,6,3,150,80,4,5 --causal",
        "--shape 2,6,3,80,150,4,5 --causal --layout bnhd",
        "--shape 2,4,2,128,128,16,16 --causal --layout packed",
        "--shape 2,4,1,70,33,8,6 --features 20",
        "--shape 2,2,1,1,50,8,6",
        "--step --shape 2,2,1,1,50,8,6",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
        char line[256];
        snprintf(line, sizeof line, "--variants linear-blas,linear-softplus --threads %s %s",
#ifdef HEED_TEST_OPENMP
                 "1,2",
#else
                 "1",
#endif
                 lines[i]);
        cJSON *json = report_run(line);
        const int n_rows = strstr(line, "1,2 ") ? 4 : 2;
        report_check_rows(json, n_rows);
        for (int r = 0; r < n_rows; r += 2) {
            const double blas = report_number(report_row(json, r), "softmax_distance");
            assert_true(fabs(blas - report_number(report_row(json, r + 1), "softmax_distance")) < 1e-4);
        }
        cJSON_Delete(json);
    }
}
#endif

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

/* The last token of 2 sequences. Prefixes of no token, of less and of more than wait in a state. */
static void linear_steps_follow_their_prefix(void **state)
{
    (void)state;
    static const int n_keys[] = {1, 2, 17, 100};
    for (int i = 0; i < 8; ++i) {
        char line[256];
        snprintf(line, sizeof line,
                 "--step --variants softmax," LEARNED " --features %d --shape 2,4,2,1,%d,8,6 --threads 1 --layout %s",
                 C, n_keys[i / 2], i % 2 == 0 ? "bhnd" : "bnhd");
        cJSON *json = report_run(line);
        report_check_rows(json, 5);
        for (int v = 0; v < 4; ++v) {
            const cJSON *row = report_row(json, 1 + v);
            assert_string_equal(report_text(row, "mode"), "step");
            assert_true(report_truth(row, "causal"));
            assert_true(report_number(row, "rows_checked") == B * HQ);
            report_expect_flops(row, forward_flops(map_costs[v]) / N);
            report_expect_bytes(row, 2 * 4 * B * HKV * C * (DV + 1)); /* sums and norms, read and written */
        }
        cJSON_Delete(json);
    }
    cJSON *json =
        report_run("--step --variants linear-elu1,linear-favor --sweep 5,40 --shape 1,2,1,1,1,8,6 --threads 1");
    report_check_rows(json, 4);
    cJSON_Delete(json);
}

/* ---- Outputs ----------------------------------------------------------------------------------------------------- */

/* phi.LAYER.NAME.npy of a folder as the matrix of a layer, where the file is there. */
typedef struct weight {
    npy_array array;
    heed_tensor tensor;
} weight;

static const heed_tensor *read_weight(weight *w, const char *folder, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.npy", folder, name);
    if (access(path, F_OK) != 0) {
        return NULL;
    }
    w->array = report_read_array(path);
    assert_int_equal(w->array.rank, 3);
    w->tensor =
        heed_tensor_bhnd(w->array.data, HEED_FLOAT32, 1, w->array.shape[0], w->array.shape[1], w->array.shape[2]);
    return &w->tensor;
}

enum { MAX_LAYERS = 3, N_NAMES = 5 };

/* The map of a variant from what --out wrote. */
typedef struct written_map {
    weight weights[MAX_LAYERS][N_NAMES];
    heed_feature_layer layers[MAX_LAYERS];
    heed_feature_map map;
} written_map;

static void read_map(written_map *m, const char *folder, const char *variant)
{
    const int oglu = strcmp(variant, "linear-oglu") == 0, aoglu = strcmp(variant, "linear-aoglu") == 0;
    const int favor = strcmp(variant, "linear-favor") == 0;
    const int n_layers = oglu ? 2 : aoglu ? 3 : 1;
    memset(m, 0, sizeof *m);
    for (int l = 0; l < n_layers; ++l) {
        char names[4][16];
        heed_feature_layer *layer = &m->layers[l];
        static const char *const kinds[] = {"wf", "wg", "a", "b"};
        for (int n = 0; n < 4; ++n) {
            snprintf(names[n], sizeof names[n], "phi.%d.%s", l, kinds[n]);
        }
        layer->kind = favor               ? HEED_FEATURE_FAVOR
                      : !oglu && !aoglu   ? HEED_FEATURE_SOFTPLUS
                      : l == n_layers - 1 ? HEED_FEATURE_GLU_LAST
                                          : HEED_FEATURE_GLU;
        layer->wf = favor ? NULL : read_weight(&m->weights[l][0], folder, names[0]);
        layer->wg = oglu ? read_weight(&m->weights[l][1], folder, names[1]) : NULL;
        layer->a = aoglu ? read_weight(&m->weights[l][2], folder, names[2]) : NULL;
        layer->b = aoglu ? read_weight(&m->weights[l][3], folder, names[3]) : NULL;
        layer->omega = favor ? read_weight(&m->weights[l][4], folder, "phi.omega") : NULL;
        assert_true(favor ? layer->omega != NULL : layer->wf != NULL);
        assert_true((layer->wg != NULL) == oglu && (layer->a != NULL && layer->b != NULL) == aoglu);
    }
    m->map = (heed_feature_map)HEED_FEATURE_MAP_INIT;
    m->map.layers = m->layers;
    m->map.n_layers = n_layers;
}

static void release_map(written_map *m)
{
    for (int l = 0; l < MAX_LAYERS; ++l) {
        for (int n = 0; n < N_NAMES; ++n) {
            free(m->weights[l][n].array.data);
        }
    }
}

static void expect_array(const char *path, const double *expected)
{
    npy_array a = report_read_array(path);
    const int64_t n = a.shape[0] * a.shape[1] * a.shape[2] * a.shape[3];
    assert_int_equal(a.rank, 4);
    for (int64_t i = 0; i < n; ++i) {
        if (!(fabs(a.data[i] - expected[i]) < 1e-5)) {
            fail_msg("%s: element %d: %g expected, got %g", path, (int)i, expected[i], (double)a.data[i]);
        }
    }
    npy_free(&a);
}

/* What --out wrote of a variant follows from the q, k, v, gradient and weights beside it. */
static void check_outputs(const char *variant, const char *folder, int causal)
{
    char path[128];
    const char *const names[] = {"q", "k", "v", "dout"};
    npy_array arrays[4];
    heed_tensor views[4];
    for (int i = 0; i < 4; ++i) {
        snprintf(path, sizeof path, "%s/%s.npy", folder, names[i]);
        arrays[i] = report_read_array(path);
        views[i] = report_view_array(&arrays[i]);
    }
    static written_map map;
    read_map(&map, folder, variant);
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = causal;
    heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
    options.features = &map.map;
    options.mask = &mask;
    options.eps = strcmp(variant, "linear-favor") == 0 ? 0 : options.eps;
    oracle_linear problem;
    oracle_linear_gradients gradients;
    oracle_linear_open(&problem, &views[0], &views[1], &views[2], &options, NULL);
    const int64_t n = problem.batch * problem.q_heads * problem.n_queries * problem.value_channels;
    double *out = oracle_zeros(n), *dout = oracle_zeros(n);
    for (int64_t i = 0; i < n; ++i) {
        dout[i] = arrays[3].data[i];
    }
    oracle_linear_forward(&problem, out);
    snprintf(path, sizeof path, "%s/%s.npy", folder, variant);
    expect_array(path, out);
    oracle_linear_backward(&problem, dout, NULL, NULL, &gradients);
    snprintf(path, sizeof path, "%s/%s.dq.npy", folder, variant);
    expect_array(path, gradients.q);
    free(out), free(dout);
    oracle_linear_gradients_free(&gradients);
    oracle_linear_close(&problem);
    release_map(&map);
    for (int i = 0; i < 4; ++i) {
        npy_free(&arrays[i]);
    }
}

static void linear_outputs_can_be_checked(void **state)
{
    (void)state;
    static const char *const variants[] = {"linear-softplus", "linear-oglu", "linear-aoglu", "linear-favor"};
    for (int causal = 0; causal < 2; ++causal) {
        const char *folder = causal ? "causal" : "plain";
        char line[256];
        snprintf(line, sizeof line,
                 "--quick --variants " LEARNED
                 " --backward --features 10 --shape 2,4,2,9,9,8,5 --threads 1 --out %s %s",
                 folder, causal ? "--causal" : "");
        const program_result result = program_run("", line);
        program_expect(&result, 0, "");
        for (int v = 0; v < 4; ++v) {
            check_outputs(variants[v], folder, causal);
        }
    }
}

/* ---- Weights from files ------------------------------------------------------------------------------------------ */

/* What --out wrote gives the same outputs again, and only with --params. */
static void weights_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *variants, *options;
    } cases[] = {
        {LEARNED, ""},
        {LEARNED, "--features 10"},
        {"linear-oglu,linear-aoglu", "--layers 2 --causal"},
        {"linear-aoglu", "--layers 1 --features 3"},
#ifdef HEED_HAVE_BLAS
        {"linear-blas,linear-softplus", ""},
#endif
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
    }
}

static void copy_file(const char *from, const char *to)
{
    npy_array a = report_read_array(from);
    char message[256];
    assert_int_equal(npy_write(to, a.rank, a.shape, a.data, message, sizeof message), 0);
    npy_free(&a);
}

/* Maps of keys and of queries that are the same give what one map for both gives; with other weights for the queries, the
 * outputs differ. */
static void queries_may_have_maps_of_their_own(void **state)
{
    (void)state;
    const program_result first = program_run(
        "", "--quick --threads 1 --shape 1,2,2,15,15,6,6 --out first --variants linear-softplus,linear-favor");
    program_expect(&first, 0, "");
    assert_int_equal(system("rm -rf own && mkdir own"), 0);
    copy_file("first/phi.0.wf.npy", "own/phi_q.0.wf.npy");
    copy_file("first/phi.0.wf.npy", "own/phi_k.0.wf.npy");
    copy_file("first/phi.omega.npy", "own/phi_q.omega.npy");
    copy_file("first/phi.omega.npy", "own/phi_k.omega.npy");
    report_expect_same_outputs("linear-softplus,linear-favor", "--params own");

    npy_array w = report_read_array("own/phi_q.0.wf.npy");
    char message[256];
    w.data[0] += 1;
    assert_int_equal(npy_write("own/phi_q.0.wf.npy", w.rank, w.shape, w.data, message, sizeof message), 0);
    npy_free(&w);
    cJSON *json = report_run("--params own --shape 1,2,2,15,15,6,6 --variants linear-softplus --backward --threads 1");
    report_check_rows(json, 2);
    cJSON_Delete(json);
}

static void write_weight(const char *name, int64_t heads, int64_t in, int64_t out)
{
    static float numbers[1024];
    const int64_t shape[] = {heads, in, out};
    char message[256];
    assert_true(heads * in * out <= 1024);
    for (int i = 0; i < 1024; ++i) {
        numbers[i] = (float)(i * 37 % 64 - 32) / 64;
    }
    assert_int_equal(npy_write(name, 3, shape, numbers, message, sizeof message), 0);
}

/* One matrix for all heads; hidden layers and gates as wide as their files; grouped heads with maps of their own. */
static void shapes_follow_the_files(void **state)
{
    (void)state;
    assert_int_equal(system("rm -rf wide && mkdir wide"), 0);
    write_weight("wide/phi.0.wf.npy", 1, 6, 11);
    write_weight("wide/phi.0.a.npy", 2, 6, 3);
    write_weight("wide/phi.0.b.npy", 1, 3, 11);
    write_weight("wide/phi.1.wf.npy", 2, 11, 6);
    write_weight("wide/phi.1.a.npy", 1, 11, 1);
    write_weight("wide/phi.1.b.npy", 2, 1, 6);
    cJSON *json = report_run("--params wide --variants linear-aoglu --layers 2 --backward --shape 1,4,2,15,15,6,5 "
                             "--threads 1");
    report_check_rows(json, 2);
    const double map_cost = 6 * 11 + 6 * 3 + 3 * 11 + 11 * 6 + 11 + 6;
    report_expect_flops(report_row(json, 0), 2 * 15 * (4 + 2) * (map_cost + 6 * 5));
    assert_string_equal(report_text(report_object(report_row(json, 0), "options"), "params"), "wide");
    cJSON_Delete(json);

    assert_int_equal(system("rm -rf grouped && mkdir grouped"), 0);
    write_weight("grouped/phi_k.0.wf.npy", 2, 6, 7);
    write_weight("grouped/phi_q.0.wf.npy", 4, 6, 7);
    json = report_run("--params grouped --variants linear-softplus --features 7 --backward --shape 2,4,2,15,15,6,5 "
                      "--threads 1 --causal");
    report_check_rows(json, 2);
    cJSON_Delete(json);
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static void table_says_what_linear_attention_is_held_against(void **state)
{
    (void)state;
    const program_result result =
        program_run("", "--quick --variants softmax,linear-softplus,linear-oglu --backward --features 10 --layers 1 "
                        "--shape 1,2,1,16,16,8,8 --threads 1");
    program_expect(&result, 0, "");
    static const char *const words[] = {"linear C 10", "1 layer", "linear-softplus backward", " fwd ", "not trained"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) {
        if (strstr(result.output, words[i]) == NULL) {
            fail_msg("\"%s\" expected in\n%s", words[i], result.output);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_rows_tell_what_they_did),
        cmocka_unit_test(features_and_layers_have_defaults),
        cmocka_unit_test(linear_edges_are_right),
#ifdef HEED_HAVE_BLAS
        cmocka_unit_test(blas_computes_the_same),
#endif
        cmocka_unit_test(linear_steps_follow_their_prefix),
        cmocka_unit_test(linear_outputs_can_be_checked),
        cmocka_unit_test(weights_are_read),
        cmocka_unit_test(queries_may_have_maps_of_their_own),
        cmocka_unit_test(shapes_follow_the_files),
        cmocka_unit_test(table_says_what_linear_attention_is_held_against),
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
