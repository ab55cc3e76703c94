/* What heed-compare refuses: exit code 1 and a message for inputs and runs that fail, 2 for a command line that makes
 * no sense; nothing on stdout either way. */
#include "bench/npy.h"
#include "compare/program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A command line, how it ends, and what the message must say. */
typedef struct refusal {
    const char *arguments;
    int exit_code;
    const char *reason;
} refusal;

static void check_refusals(const refusal *refusals, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        char line[1024];
        snprintf(line, sizeof line, "--quick --threads 1 %s", refusals[i].arguments);
        const program_result result = program_run("", line);
        program_expect(&result, refusals[i].exit_code, refusals[i].reason);
    }
}

static void write_zeros(const char *path, int rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    static const float zeros[4096];
    const int64_t shape[] = {a, b, c, d};
    char message[256];
    assert_true(a * b * c * d <= 4096);
    assert_int_equal(npy_write(path, rank, shape + 4 - rank, zeros, message, sizeof message), 0);
}

/* A well-formed set q, k, v of 4 query heads on 2, 6 queries on 5 keys, 8 channels, and files that do not fit it. The
 * files that NumPy wrote come from tests/data, HEED_TEST_DATA. */
static void make_files(void)
{
    write_zeros("q.npy", 3, 1, 4, 6, 8);
    write_zeros("k.npy", 3, 1, 2, 5, 8);
    write_zeros("v.npy", 3, 1, 2, 5, 3);
    write_zeros("k_channels.npy", 3, 1, 2, 5, 7);
    write_zeros("k_heads.npy", 3, 1, 3, 5, 8);
    write_zeros("v_heads.npy", 3, 1, 4, 5, 3);
    write_zeros("v_tokens.npy", 3, 1, 2, 6, 3);
    write_zeros("k_batch.npy", 4, 2, 2, 5, 8);
    write_zeros("q_batch.npy", 4, 3, 4, 6, 8);
    write_zeros("v_batch.npy", 4, 2, 2, 5, 3);
    write_zeros("v_three_heads.npy", 3, 1, 3, 5, 3);
    write_zeros("empty.npy", 3, 1, 2, 0, 8);
    write_zeros("matrix.npy", 2, 1, 1, 6, 8);
}

static void files_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    make_files();
    const program_result fits = program_run("", "--quick --threads 1 --q q.npy --k k.npy --v v.npy");
    program_expect(&fits, 0, "");
    static const refusal refusals[] = {
        {"--q q.npy --k nowhere.npy --v v.npy", 1, "heed-compare: nowhere.npy: No such file"},
        {"--q " HEED_TEST_DATA "/float64.npy --k k.npy --v v.npy", 1, "float64.npy: float32 expected"},
        {"--q q.npy --k " HEED_TEST_DATA "/truncated_data.npy --v v.npy", 1, "truncated_data.npy: truncated"},
        {"--q q.npy --k k.npy --v " HEED_TEST_DATA "/fortran.npy", 1, "fortran.npy: C order expected"},
        {"--q matrix.npy --k k.npy --v v.npy", 1, "matrix.npy: 3 dimensions (heads, tokens, channels) or 4"},
        {"--q q.npy --k k_channels.npy --v v.npy", 1, "k_channels.npy: 8 channels expected (as in q), got 7"},
        {"--q q.npy --k k_heads.npy --v v_three_heads.npy", 1, "q.npy: 4 query heads are no multiple of 3 key heads"},
        {"--q q.npy --k k.npy --v v_heads.npy", 1, "v_heads.npy: 2 heads expected (as in k), got 4"},
        {"--q q.npy --k k.npy --v v_tokens.npy", 1, "v_tokens.npy: 5 tokens expected (as in k), got 6"},
        {"--q q.npy --k k_batch.npy --v v.npy", 1, "k_batch.npy: 3 dimensions expected (as in q), got 4"},
        {"--q q_batch.npy --k k_batch.npy --v v_batch.npy", 1, "k_batch.npy: 3 batch elements expected (as in q)"},
        {"--q q.npy --k empty.npy --v empty.npy", 1, "q.npy: an input without elements"},
        {"--q q.npy --k k.npy", 2, "--q, --k and --v belong together"},
        {"--q q.npy --k k.npy --v v.npy --layout packed", 1, "layout packed: 6 keys expected"},
        {"--sample encoder --data nowhere", 1, "nowhere/encoder_q.npy: No such file"},
    };
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

static void command_lines_without_sense_are_refused(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"--nonsense", 2, "unrecognized option"},
        {"word", 2, "unexpected argument \"word\""},
        {"--variants sofmax", 2, "there is no variant \"sofmax\""},
        {"--variants softmax,softmax", 2, "softmax is named twice"},
        {"--isa sse", 2, "scalar, avx2, avx512, neon or auto expected, got \"sse\""},
        {"--isa scalar,scalar", 2, "scalar is named twice"},
        {"--sample dekoder", 2, "encoder or decoder expected, got \"dekoder\""},
        {"--layout nhbd", 2, "bhnd, bnhd or packed expected, got \"nhbd\""},
        {"--threads 0", 2, "--threads: 0 is not in 1..1024"},
        {"--threads one", 2, "\"one\" is no list of integers"},
        {"--rounds 0", 2, "--rounds: 0 is not in"},
        {"--repeat 1,2", 2, "--repeat: at most 1 values expected"},
        {"--shape 1,2,3", 2, "seven sizes expected"},
        {"--shape 1,2,1,4,0,8,8", 2, "--shape: 0 is not in"},
        {"--shape 1,3,2,4,4,8,8", 2, "Hq = 3 is no multiple of Hkv = 2"},
        {"--softmax-window 3", 2, "two sizes expected"},
        {"--softmax-window 3,-2", 2, "-2 is not in"},
        {"--sample encoder --shape 1,1,1,8,8,8,8", 2, "one kind of input expected"},
        {"--sweep 8,,16", 2, "is no list of integers"},
        {"--json", 2, "requires an argument"},
    };
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

static void what_aft_cannot_do_is_refused(void **state)
{
    (void)state;
    write_zeros("aft.w.npy", 2, 1, 1, 8, 9);
    write_zeros("aft.u.npy", 3, 1, 8, 3, 1);
    write_zeros("aft.filter.npy", 2, 1, 1, 8, 31);
    static const refusal refusals[] = {
        {"--variants aft-full --bias", 2, "--bias: not with aft-full"},
        {"--variants softmax,aft-simple --bool-mask", 2, "--bool-mask: not with aft-simple"},
        {"--variants aft-conv --softmax-window 3,-1", 2, "--softmax-window: not with aft-conv"},
        {"--variants aft-full --shape 1,1,1,8,8,8,4", 1, "got D 8, Dv 4"},
        {"--variants aft-conv --shape 1,3,1,8,8,5,5", 1, "Hq D = 15 channels cannot be cut into 8 heads"},
        {"--variants aft-conv --shape 1,1,1,8,8,8,8 --conv-filter 4", 1, "odd sizes of the filter expected"},
        {"--variants aft-conv --shape 1,1,1,9,9,8,8 --grid 3x4", 1, "Nq = Nk = 12 expected, the places of the grid"},
        {"--variants aft-conv --shape 1,1,1,12,12,8,8 --grid 3x4 --causal", 1, "a grid has no causal form"},
        {"--variants aft-conv --grid 3", 2, "--grid: two sizes expected: HxW"},
        {"--variants aft-conv --grid 3x4x5", 2, "--grid: at most 2 values expected"},
        {"--variants aft-conv --grid 3x4 --conv-filter 3", 2, "--conv-filter: two sizes expected with --grid"},
        {"--variants aft-conv --conv-filter 3x3", 2, "--conv-filter: two sizes only with --grid"},
        {"--variants aft-conv --conv-filter 0", 2, "--conv-filter: 0 is not in"},
        {"--variants aft-conv --conv-heads 0", 2, "--conv-heads: 0 is not in"},
        {"--variants aft-local --aft-window 0", 2, "--aft-window: 0 is not in"},
        {"--variants aft-full --aft-factors -1", 2, "--aft-factors: -1 is not in"},
        {"--variants aft-conv --shape 1,1,1,8,8,8,8 --params nowhere", 1, "nowhere/aft.filter.npy: No such file"},
        {"--variants aft-full --shape 1,1,1,8,8,8,8 --params .", 1, "./aft.w.npy: 8 x 8 expected, got 8 x 9"},
        {"--variants aft-local --shape 1,1,1,8,8,8,8 --aft-window 3 --params .", 1, "8 x 5 or 8 expected, got 8 x 9"},
        {"--variants aft-full --shape 1,1,1,8,8,8,8 --aft-factors 2 --params .", 1, "8 x 2 expected, got 8 x 3 x 1"},
        {"--variants aft-conv --shape 1,1,1,9,9,8,8 --grid 3x3 --params .", 1, "8 x 11 x 11 expected, got 8 x 31"},
        {"--variants aft-simple --params .", 2, "--params: only with aft-full, aft-local, aft-conv, linear-"},
        {"--variants aft-simple --step --shape 1,1,1,8,8,8,8", 1, "--step: one query expected, got Nq 8"},
        {"--variants aft-local --step --shape 1,1,1,1,8,8,8", 1, "--aft-window expected, 32, got Nk 8"},
        {"--variants aft-conv --step --grid 3x4 --shape 1,1,1,1,12,8,8", 2, "--step: not with --grid"},
        {"--variants softmax,aft-full --step", 2, "--step: only with aft-local, aft-simple, aft-conv, linear-"},
        {"--aft-window 3", 2, "--aft-window: only with aft-local in --variants"},
        {"--variants aft-simple --aft-factors 3", 2, "--aft-factors: only with aft-full or aft-local in --variants"},
        {"--variants aft-full --conv-heads 3", 2, "--conv-heads: only with aft-conv in --variants"},
    };
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

static void what_linear_attention_cannot_do_is_refused(void **state)
{
    (void)state;
    write_zeros("phi.0.wf.npy", 3, 1, 2, 8, 5);
    write_zeros("phi.0.wg.npy", 3, 1, 3, 8, 5);
    write_zeros("phi.1.wf.npy", 2, 1, 1, 5, 5);
    write_zeros("phi.omega.npy", 3, 1, 1, 7, 5);
    assert_int_equal(
        system("mkdir -p both empty queries && cp phi.0.wf.npy both && cp phi.0.wf.npy both/phi_q.0.wf.npy && "
               "cp phi.0.wf.npy queries/phi_q.0.wf.npy"),
        0);
#define SMALL "--shape 1,2,2,8,8,8,4 "
    static const refusal refusals[] = {
        {"--variants linear-elu1 --bias", 2, "--bias: not with linear-elu1"},
        {"--variants softmax,linear-favor --bool-mask", 2, "--bool-mask: not with linear-favor"},
        {"--variants linear-oglu --softmax-window 3,-1", 2, "--softmax-window: not with linear-oglu"},
        {"--variants linear-softplus --features 0", 2, "--features: 0 is not in"},
        {"--variants linear-oglu --layers 9", 2, "--layers: 9 is not in 1..8"},
        {"--variants linear-elu1 --features 5 " SMALL, 1, "linear-elu1: it has D = 8 features, got --features 5"},
        {"--variants linear-softplus --layers 2", 2, "--layers: only with linear-oglu or linear-aoglu in --variants"},
        {"--variants softmax --features 8", 2, "--features: only with linear-elu1, linear-softplus, "},
        {"--variants aft-full --backward", 2, "--backward: only with linear-elu1, linear-softplus, "},
        {"--variants linear-elu1 --backward --step", 2, "--backward: not with --step"},
        {"--variants linear-elu1 --step " SMALL, 1, "--step: one query expected, got Nq 8"},
        {"--variants linear-elu1 --params .", 2, "--params: only with "},
        {"--variants linear-softplus --params nowhere " SMALL, 1, "nowhere/phi.0.wf.npy: No such file"},
        {"--variants linear-favor --params empty " SMALL, 1, "empty/phi.omega.npy: No such file"},
        {"--variants linear-softplus --params . " SMALL, 1, "./phi.0.wf.npy: 2 or 1 x 8 x 8 expected, got 2 x 8 x 5"},
        {"--variants linear-softplus --features 5 --params . --shape 1,4,4,8,8,8,4", 1,
         "./phi.0.wf.npy: 4 or 1 x 8 x 5 expected, got 2 x 8 x 5"},
        {"--variants linear-oglu --params . " SMALL, 1, "./phi.0.wg.npy: 2 or 1 x 8 x 5 expected, got 3 x 8 x 5"},
        {"--variants linear-aoglu --params . " SMALL, 1, "./phi.0.a.npy: No such file"},
        {"--variants linear-favor --features 5 --params . " SMALL, 1, "2 or 1 x 8 x 5 expected, got 1 x 7 x 5"},
        {"--variants linear-softplus,linear-oglu --params . " SMALL, 1, "2 or 1 x 8 x 8 expected, got 2 x 8 x 5"},
        {"--variants linear-softplus --params both " SMALL, 1, "both: files phi.* expected, or phi_q.* and phi_k.*"},
        {"--variants linear-softplus --params queries " SMALL, 1, "queries/phi_k.0.wf.npy: No such file"},
    };
#undef SMALL
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

static void what_mrsha_cannot_do_is_refused(void **state)
{
    (void)state;
#define SMALL "--shape 1,2,2,8,8,8,4 "
    static const refusal refusals[] = {
        {"--variants mrsha --bias", 2, "--bias: not with mrsha"},
        {"--variants softmax,mrsha-2 --bool-mask", 2, "--bool-mask: not with mrsha-2"},
        {"--variants mrsha-1248 --softmax-window 3,-1", 2, "--softmax-window: not with mrsha-1248"},
        {"--variants mrsha --groups 2,0", 2, "--groups: 0 is not in"},
        {"--variants mrsha --groups 2,", 2, "--groups: \"2,\" is no list of integers"},
        {"--variants mrsha --groups "
         "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
         "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
         2, "--groups: at most 64 values expected"},
        {"--variants mrsha --mrsha-mode neither", 2, "--mrsha-mode: both, output or value expected, got \"neither\""},
        {"--variants softmax,mrsha-2 --groups 2", 2, "--groups: only with mrsha in --variants"},
        {"--variants mrsha-1248 --mrsha-mode both", 2, "--mrsha-mode: only with mrsha in --variants"},
        {"--variants mrsha --mrsha-mode output", 2, "output has no causal form, and the input decoder is causal"},
        {"--variants mrsha --mrsha-mode output --causal " SMALL, 2, "and the input random is causal"},
        {"--variants mrsha --causal --shape 1,2,2,8,9,8,4", 1, "mrsha: k: as many tokens as in q expected"},
        {"--variants mrsha-2 --causal --shape 1,2,2,9,8,8,4", 1, "mrsha-2: k: as many tokens as in q"},
        {"--variants aft-simple,mrsha-2 --step", 2, "--step: mrsha-2 has no state"},
        {"--variants mrsha,mrsha-1248 --mrsha-mode value --step", 2, "--step: mrsha-1248 has no state"},
        {"--variants mrsha --step", 2, "--step: mrsha has a state in --mrsha-mode value only"},
        {"--variants mrsha --mrsha-mode output --step", 2, "--step: mrsha has a state in --mrsha-mode value only"},
        {"--variants mrsha --mrsha-mode value --step " SMALL, 1, "--step: one query expected, got Nq 8"},
        {"--variants mrsha --params .", 2, "--params: only with "},
        {"--variants mrsha --backward", 2, "--backward: only with "},
    };
#undef SMALL
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

/* A machine has AVX or NEON, never both: one of the two must be refused, and never replaced by another one. */
static void absent_isa_is_refused(void **state)
{
    (void)state;
#ifdef __aarch64__
    static const refusal absent = {"--isa avx2", 2, "avx2"};
#else
    static const refusal absent = {"--isa neon", 2, "neon"};
#endif
    check_refusals(&absent, 1);
    const program_result forced = program_run("HEED_ISA=sse", "--quick --threads 1");
    program_expect(&forced, 2, "sse");
}

static void inputs_beyond_memory_are_refused(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"--shape 2147483648,2147483648,1,2147483648,8,8,8", 1, "out of memory"},
        {"--shape 1,2147483648,1,1,1,64,64 --sweep 2147483648", 1, "out of memory"},
    };
    check_refusals(refusals, sizeof refusals / sizeof refusals[0]);
}

static void results_that_cannot_be_written_are_reported(void **state)
{
    (void)state;
    const char *const lines[] = {
        "--quick --threads 1 --variants softmax --shape 1,1,1,8,8,8,8 --json nowhere/result.json",
        "--quick --threads 1 --variants softmax --shape 1,1,1,8,8,8,8 --out /proc/nowhere",
    };
    for (int i = 0; i < 2; ++i) {
        const program_result result = program_run("", lines[i]);
        assert_int_equal(result.exit_code, 1);
        assert_non_null(strstr(result.errors, "No such file"));
        assert_non_null(strstr(result.errors, "nowhere"));
    }
}

static void charts_need_gnuplot(void **state)
{
    (void)state;
    const program_result result =
        program_run("PATH=/nowhere", "--quick --threads 1 --shape 1,1,1,8,8,8,8 --svg chart.svg");
    program_expect(&result, 1, "--svg draws with gnuplot, which is not on PATH");
    assert_int_equal(access("chart.svg", F_OK), -1);
}

static void help_lists_the_variants(void **state)
{
    (void)state;
    const program_result result = program_run("", "--help");
    program_expect(&result, 0, "");
    static const char *const words[] = {"--sample", "--sweep",      "--softmax-window", "--aft-window", "--conv-filter",
                                        "--step",   "Variants:",    "softmax ",         "gemm ",        "aft-full",
                                        "aft-conv", "--features",   "--backward",       "linear-elu1",  "linear-blas",
                                        "--groups", "--mrsha-mode", "mrsha-1248",       "Exit codes:"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) {
        if (strstr(result.output, words[i]) == NULL) {
            fail_msg("\"%s\" expected in\n%s", words[i], result.output);
        }
    }
}

#ifndef HEED_HAVE_BLAS
static void gemm_needs_a_blas(void **state)
{
    (void)state;
    static const refusal refused[] = {
        {"--variants gemm", 2, "gemm: this build has no OpenBLAS (HEED_BLAS=OFF)"},
        {"--variants linear-blas", 2, "linear-blas: this build has no OpenBLAS (HEED_BLAS=OFF)"},
    };
    check_refusals(refused, 2);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_do_not_fit_are_refused),
        cmocka_unit_test(command_lines_without_sense_are_refused),
        cmocka_unit_test(what_aft_cannot_do_is_refused),
        cmocka_unit_test(what_linear_attention_cannot_do_is_refused),
        cmocka_unit_test(what_mrsha_cannot_do_is_refused),
        cmocka_unit_test(absent_isa_is_refused),
        cmocka_unit_test(inputs_beyond_memory_are_refused),
        cmocka_unit_test(results_that_cannot_be_written_are_reported),
        cmocka_unit_test(charts_need_gnuplot),
        cmocka_unit_test(help_lists_the_variants),
#ifndef HEED_HAVE_BLAS
        cmocka_unit_test(gemm_needs_a_blas),
#endif
    };
    return cmocka_run_group_tests(tests, program_enter_folder, program_leave_folder);
}
