/* heed_check_ratios: is softmax ever slower than the same attention written with OpenBLAS? A program run by hand on a
 * quiet machine; it is no test, since a busy moment could fail it.
 *
 * Both variants run in interleaved rounds on every shape of the list below. Exit codes: 0 nowhere slower; 1 slower
 * somewhere, or a run failed; 2 the command line makes no sense. */
#include "bench/machine.h"
#include "bench/memory.h"
#include "bench/option_values.h"
#include "bench/parallel.h"
#include "bench/rounds.h"

#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* gemm's time over softmax's; the 5 % below 1 are what two equal times may differ by from one moment to another. */
static const double smallest_ratio = 0.95;

static const int64_t token_counts[] = {64, 128, 256, 512, 1024, 4096, 8192};
static const int64_t channel_counts[] = {32, 64, 128};

/* One query of 32 heads over a long cache: grouped heads, and a cache for every head. */
static const attention_shape decoding_shapes[] = {{1, 32, 8, 1, 8192, 128, 128}, {1, 32, 32, 1, 8192, 128, 128}};

enum { N_COMPARED = 2 }; /* variants, hence rows of one shape: softmax, gemm */

/* What the command line says, and what all shapes share. */
typedef struct ratio_run {
    int n_threads, quick;
    heed_isa isa;
    machine *machine;
    int n_shapes, n_slower;
    char message[512];
} ratio_run;

/* ---- One shape -------------------------------------------------------------------------------------------------- */

static int time_rows(ratio_run *run, compare_row *rows)
{
    const rounds_settings rounds = rounds_default(run->quick);
    progress bar = progress_start(N_COMPARED * (rounds.n_rounds + 1));
    const int result = rounds_run(rows, N_COMPARED, &rounds, run->machine, &bar, run->message, sizeof run->message);
    progress_end(&bar);
    return result;
}

static void print_ratio(ratio_run *run, const attention_input *input, double softmax_ms, double gemm_ms)
{
    const attention_shape *s = &input->shape;
    const double ratio = gemm_ms / softmax_ms;
    const int slower = !(ratio >= smallest_ratio);
    char shape[96];
    snprintf(shape, sizeof shape, "%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64,
             s->batch, s->n_query_heads, s->n_kv_heads, s->n_queries, s->n_keys, s->n_channels, s->n_value_channels);
    printf("%-26s %-6s %12.3f %12.3f %9.2f%s\n", shape, input->causal ? "causal" : "", softmax_ms, gemm_ms, ratio,
           slower ? "  slower" : "");
    fflush(stdout);
    run->n_shapes++;
    run->n_slower += slower;
}

/* Both variants write the same output, one after the other. */
static int compare_on_input(ratio_run *run, const attention_input *input)
{
    const attention_shape *s = &input->shape;
    float *out = memory_allocate_floats(s->batch, s->n_query_heads, s->n_queries, s->n_value_channels);
    if (!out) {
        snprintf(run->message, sizeof run->message, "out of memory for the output");
        return -1;
    }
    const variant *const compared[N_COMPARED] = {&variant_softmax, &variant_gemm};
    compare_row rows[N_COMPARED];
    for (int i = 0; i < N_COMPARED; i++)
        rows[i] = (compare_row){.variant = compared[i],
                                .setup = {.input = input,
                                          .isa = run->isa,
                                          .n_threads = run->n_threads,
                                          .out = input_output_view(input, s->n_value_channels, out)}};
    const int result = time_rows(run, rows);
    free(out);
    if (result == 0)
        print_ratio(run, input, rows[0].ms, rows[1].ms);
    return result;
}

static int compare_shape(ratio_run *run, attention_shape shape, int causal)
{
    const input_source source = {.name = "random", .shape = shape, .causal = causal};
    const input_settings settings = {.window_left = -1, .window_right = -1, .layout = LAYOUT_BHND, .seed = 1};
    attention_input *input = input_create(&source, &settings, run->message, sizeof run->message);
    if (!input)
        return -1;
    const int result = compare_on_input(run, input);
    input_destroy(input);
    return result;
}

/* ---- All shapes ------------------------------------------------------------------------------------------------- */

static int compare_whole_sequences(ratio_run *run)
{
    for (size_t n = 0; n < sizeof token_counts / sizeof token_counts[0]; n++) {
        for (size_t d = 0; d < sizeof channel_counts / sizeof channel_counts[0]; d++) {
            const int64_t tokens = token_counts[n], channels = channel_counts[d];
            const attention_shape shape = {1, 8, 8, tokens, tokens, channels, channels};
            if (compare_shape(run, shape, 0) != 0 || compare_shape(run, shape, 1) != 0)
                return -1;
        }
    }
    return 0;
}

static int compare_decoding(ratio_run *run)
{
    for (size_t i = 0; i < sizeof decoding_shapes / sizeof decoding_shapes[0]; i++)
        if (compare_shape(run, decoding_shapes[i], 0) != 0)
            return -1;
    return 0;
}

/* The rates of the machine are no part of the table: rough ones do. */
static int compare_all(ratio_run *run)
{
    run->machine = machine_create(1);
    if (!run->machine) {
        snprintf(run->message, sizeof run->message, "out of memory");
        return -1;
    }
    printf("%s, %s, %d thread%s; %s; %s\n", machine_cpu(run->machine), heed_isa_name(run->isa), run->n_threads,
           run->n_threads == 1 ? "" : "s", machine_compiler(), machine_blas());
    printf("%-26s %-6s %12s %12s %9s\n", "B,Hq,Hkv,Nq,Nk,D,Dv", "", "softmax ms", "gemm ms", "ratio");
    const int result = compare_whole_sequences(run) == 0 ? compare_decoding(run) : -1;
    machine_destroy(run->machine);
    if (result == 0)
        printf("%d of %d shapes with gemm / softmax below %.2f\n", run->n_slower, run->n_shapes, smallest_ratio);
    return result;
}

/* ---- The command line ------------------------------------------------------------------------------------------- */

enum option_key { KEY_THREADS = 256, KEY_QUICK };

static const struct argp_option option_table[] = {
    {"threads", KEY_THREADS, "N", 0, "threads of both variants (1)", 0},
    {"quick", KEY_QUICK, NULL, 0, "rough figures at once: one round of 2 ms", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *argp)
{
    ratio_run *run = argp->input;
    switch (key) {
    case KEY_THREADS:
        run->n_threads = (int)value_integer(argp, "threads", text, 1, 1024);
        if (run->n_threads > 1 && !parallel_available())
            argp_error(argp, "--threads: this build has no OpenMP and runs on one thread");
        return 0;
    case KEY_QUICK:
        run->quick = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(argp, "unexpected argument \"%s\"", text);
        return 0;
    case ARGP_KEY_SUCCESS:
        run->isa = value_isa(argp, "auto");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp parser = {
        .options = option_table,
        .parser = parse_option,
        .doc = "Softmax attention against the same attention written with OpenBLAS, on a fixed list of shapes; fails "
               "where softmax is slower."
               "\vExit codes: 0 nowhere slower, 1 slower somewhere or a run failed, 2 the command line makes no sense. "
               "The instruction set is the best one here, or HEED_ISA.",
    };
    ratio_run run = {.n_threads = 1};
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &run);
    if (compare_all(&run) != 0) {
        fprintf(stderr, "heed_check_ratios: %s\n", run.message);
        return 1;
    }
    return run.n_slower == 0 ? 0 : 1;
}
