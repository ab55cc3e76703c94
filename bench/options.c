#include "bench/options.h"

#include "bench/data.h"
#include "bench/option_rules.h"
#include "bench/option_values.h"
#include "bench/options_aft.h"
#include "bench/options_linear.h"
#include "bench/options_mrsha.h"
#include "bench/parallel.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *argp_program_version = "heed-compare " HEED_VERSION;

enum option_key {
    KEY_SAMPLE = 256,
    KEY_Q,
    KEY_K,
    KEY_V,
    KEY_SHAPE,
    KEY_SEED,
    KEY_SWEEP,
    KEY_DATA,
    KEY_CAUSAL,
    KEY_WINDOW,
    KEY_LAYOUT,
    KEY_BIAS,
    KEY_BOOL_MASK,
    KEY_STEP,
    KEY_PARAMS,
    KEY_VARIANTS,
    KEY_THREADS,
    KEY_ISA,
    KEY_ROUNDS,
    KEY_REPEAT,
    KEY_QUICK,
    KEY_JSON,
    KEY_SVG,
    KEY_OUT
};

static const struct argp_option option_table[] = {
    {.doc = "Input (without any: both samples)", .group = 1},
    {"sample", KEY_SAMPLE, "NAME", 0, "encoder or decoder: activations of a trained model; the decoder is causal", 1},
    {"q", KEY_Q, "FILE", 0, "queries, .npy float32: heads x tokens x channels, or with a batch before", 1},
    {"k", KEY_K, "FILE", 0, "keys", 1},
    {"v", KEY_V, "FILE", 0, "values", 1},
    {"shape", KEY_SHAPE, "B,Hq,Hkv,Nq,Nk,D,Dv", 0, "random normal input of this shape", 1},
    {"seed", KEY_SEED, "N", 0, "seed of everything random (1)", 1},
    {"sweep", KEY_SWEEP, "N,N,...", 0,
     "random inputs with Nq = Nk = N, the rest as in --shape (1,8,8,N,N,64,64); --svg then shows time over N", 1},
    {"data", KEY_DATA, "FOLDER", 0, "where the samples are", 1},

    {.doc = "What is computed", .group = 2},
    {"causal", KEY_CAUSAL, NULL, 0, "hide later keys; the last query sees the last key", 2},
    {"softmax-window", KEY_WINDOW, "L,R", 0, "hide keys more than L before or R after the query; -1: none", 2},
    {"layout", KEY_LAYOUT, "NAME", 0, "bhnd (default), bnhd, or packed: q, k, v in one buffer", 2},
    {"bias", KEY_BIAS, NULL, 0, "add a random bias of [Hq, Nq, Nk] to the scores", 2},
    {"bool-mask", KEY_BOOL_MASK, NULL, 0, "a random boolean mask of [Hq, Nq, Nk] that leaves about 90 % visible", 2},

    {"step", KEY_STEP, NULL, 0,
     "variants with a state take one token with it, after as many others as there are keys before the last; for inputs "
     "with one query (of --sweep Nk = N, and Nq = 1); causal",
     2},
    {"params", KEY_PARAMS, "FOLDER", 0,
     "read learned parameters instead of making random ones: aft.w.npy (or with --aft-factors aft.u.npy and "
     "aft.v.npy), "
     "aft.filter.npy; phi.LAYER.wf.npy, .wg, .a, .b and phi.omega.npy, or the same of phi_q and phi_k",
     2},

    {.doc = "How it runs", .group = 3},
    {"variants", KEY_VARIANTS, "NAME,...", 0, "some of the variants below (softmax and gemm)", 3},
    {"threads", KEY_THREADS, "N,...", 0, "thread counts (1 and all cores)", 3},
    {"isa", KEY_ISA, "NAME,...", 0, "scalar, avx2, avx512, neon or auto (HEED_ISA if set, else the best one here)", 3},
    {"rounds", KEY_ROUNDS, "N", 0, "interleaved rounds (5)", 3},
    {"repeat", KEY_REPEAT, "N", 0, "runs of a row in each round (as many as last 40 ms, at least one)", 3},
    {"quick", KEY_QUICK, NULL, 0, "rough figures at once: one round, 2 ms instead of 40, small bandwidth buffers", 3},

    {.doc = "Results", .group = 4},
    {"json", KEY_JSON, "FILE", 0, "write machine and rows as JSON", 4},
    {"svg", KEY_SVG, "FILE", 0, "draw a chart with gnuplot", 4},
    {"out", KEY_OUT, "FOLDER", 0,
     "write each variant's output as VARIANT.npy, and what was random of the input; with several inputs each in a "
     "folder of its name",
     4},
    {0},
};

/* What the parser gathers before it is put together. */
typedef struct parse_state {
    compare_options *options;
    int samples; /* bit 0: encoder, bit 1: decoder */
    char *q_path, *k_path, *v_path;
    attention_shape shape;
    int shape_given, causal;
    int64_t sweep[OPTIONS_MAX_SOURCES];
    int n_sweep;
    int rounds_given;
    aft_command_line aft;
    mrsha_command_line mrsha;
    char data_folder[1024];
} parse_state;

/* ---- Lists and pairs -------------------------------------------------------------------------------------------- */

static void parse_threads(const struct argp_state *argp, const char *text, compare_options *options)
{
    int64_t values[OPTIONS_MAX_THREADS];
    options->n_threads = value_integers(argp, "threads", text, 1, 1024, values, OPTIONS_MAX_THREADS);
    for (int i = 0; i < options->n_threads; i++) {
        options->threads[i] = (int)values[i];
        if (values[i] > 1 && !parallel_available())
            argp_error(argp, "--threads: this build has no OpenMP and runs on one thread");
    }
}

static void add_isa(const struct argp_state *argp, const char *name, compare_options *options)
{
    const heed_isa isa = value_isa(argp, name);
    for (int i = 0; i < options->n_isas; i++)
        if (options->isas[i] == isa)
            argp_error(argp, "--isa: %s is named twice", heed_isa_name(isa));
    options->isas[options->n_isas++] = isa;
}

static void add_variant(const struct argp_state *argp, const char *name, compare_options *options)
{
    const variant *found = value_variant(argp, name);
    for (int i = 0; i < options->n_variants; i++)
        if (options->variants[i] == found)
            argp_error(argp, "--variants: %s is named twice", name);
    options->variants[options->n_variants++] = found;
}

static void add_sample(const struct argp_state *argp, const char *name, parse_state *state)
{
    if (strcmp(name, "encoder") == 0)
        state->samples |= 1;
    else if (strcmp(name, "decoder") == 0)
        state->samples |= 2;
    else
        argp_error(argp, "--sample: encoder or decoder expected, got \"%s\"", name);
}

static void parse_window(const struct argp_state *argp, const char *text, input_settings *settings)
{
    int64_t values[2];
    if (value_integers(argp, "softmax-window", text, -1, INT64_C(1) << 40, values, 2) != 2)
        argp_error(argp, "--softmax-window: two sizes expected: L,R");
    settings->window_left = values[0];
    settings->window_right = values[1];
}

/* ---- Sources ---------------------------------------------------------------------------------------------------- */

static input_source *add_source(parse_state *state, const char *name)
{
    input_source *source = &state->options->sources[state->options->n_sources++];
    *source = (input_source){.causal = state->causal};
    snprintf(source->name, sizeof source->name, "%s", name);
    return source;
}

static char *join_path(const char *folder, const char *sample, const char *letter)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s_%s.npy", folder, sample, letter) < 0 ? NULL : path;
}

static void add_sample_source(parse_state *state, const char *name, int causal)
{
    input_source *source = add_source(state, name);
    source->causal |= causal;
    source->q_path = join_path(state->data_folder, name, "q");
    source->k_path = join_path(state->data_folder, name, "k");
    source->v_path = join_path(state->data_folder, name, "v");
}

/* The input is named after the file of its queries. */
static void add_file_source(const struct argp_state *argp, parse_state *state)
{
    if (!state->q_path || !state->k_path || !state->v_path) {
        argp_error(argp, "--q, --k and --v belong together");
        return;
    }
    const char *slash = strrchr(state->q_path, '/');
    input_source *source = add_source(state, slash ? slash + 1 : state->q_path);
    source->q_path = strdup(state->q_path);
    source->k_path = strdup(state->k_path);
    source->v_path = strdup(state->v_path);
}

static void add_random_sources(parse_state *state)
{
    if (state->n_sweep == 0) {
        add_source(state, "random")->shape = state->shape;
        return;
    }
    state->options->sweep = 1;
    for (int i = 0; i < state->n_sweep; i++) {
        char name[32];
        snprintf(name, sizeof name, "N%lld", (long long)state->sweep[i]);
        input_source *source = add_source(state, name);
        source->shape = state->shape;
        source->shape.n_queries = source->shape.n_keys = state->sweep[i];
    }
}

static void add_sources(const struct argp_state *argp, parse_state *state)
{
    const int files = state->q_path || state->k_path || state->v_path;
    const int random = state->shape_given || state->n_sweep > 0;
    if ((state->samples != 0) + files + random > 1)
        argp_error(argp, "one kind of input expected: --sample, or --q --k --v, or --shape and --sweep");
    if (files) {
        add_file_source(argp, state);
    } else if (random) {
        add_random_sources(state);
    } else {
        if (state->samples != 2)
            add_sample_source(state, "encoder", 0);
        if (state->samples != 1)
            add_sample_source(state, "decoder", 1);
    }
}

/* ---- The parser ------------------------------------------------------------------------------------------------- */

static void add_kinds(variant_kinds *kinds, const variant *v)
{
    kinds->aft |= v->kinds.aft;
    kinds->linear |= v->kinds.linear;
    kinds->mrsha |= v->kinds.mrsha;
}

/* What several mechanisms look at. */
static void check_common(const struct argp_state *argp, const compare_options *options)
{
    variant_kinds with_state = {0}, with_parameters = {0};
    for (const variant *const *v = variant_list; *v; v++) {
        if ((*v)->step)
            add_kinds(&with_state, *v);
        if ((*v)->has_parameters)
            add_kinds(&with_parameters, *v);
    }
    option_check_attention(argp, options);
    if (options->settings.steps)
        option_needs_variant(argp, "step", options, with_state);
    if (options->settings.folder)
        option_needs_variant(argp, "params", options, with_parameters);
}

/* A step sees no later token, so that everything else of the run is causal too. */
static void choose_steps(compare_options *options)
{
    for (int i = 0; i < options->n_variants; i++)
        if (options->variants[i]->step)
            options->variants[i] = options->variants[i]->step;
    for (int i = 0; i < options->n_sources; i++) {
        options->sources[i].causal = 1;
        if (options->sweep)
            options->sources[i].shape.n_queries = 1;
    }
}

/* Fills what was not given. */
static void finish(const struct argp_state *argp, parse_state *state)
{
    compare_options *options = state->options;
    add_sources(argp, state);
    if (options->n_variants == 0) {
        for (const variant *const *v = variant_list; *v; v++)
            if (!(*v)->unavailable && !(*v)->on_request)
                options->variants[options->n_variants++] = *v;
    }
    check_common(argp, options);
    options_aft_finish(argp, &state->aft, options);
    options_linear_finish(argp, options);
    options_mrsha_finish(argp, &state->mrsha, options);
    if (options->settings.steps)
        choose_steps(options);
    if (options->n_isas == 0)
        add_isa(argp, "auto", options);
    if (options->n_threads == 0) {
        const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
        options->threads[options->n_threads++] = 1;
        if (n_cores > 1 && parallel_available())
            options->threads[options->n_threads++] = (int)n_cores;
    }
    const rounds_settings rounds = rounds_default(options->quick);
    options->rounds.cell_seconds = rounds.cell_seconds;
    if (!state->rounds_given)
        options->rounds.n_rounds = rounds.n_rounds;
}

static error_t parse_input_option(int key, char *text, struct argp_state *argp)
{
    parse_state *state = argp->input;
    switch (key) {
    case KEY_SAMPLE:
        add_sample(argp, text, state);
        return 0;
    case KEY_Q:
        state->q_path = text;
        return 0;
    case KEY_K:
        state->k_path = text;
        return 0;
    case KEY_V:
        state->v_path = text;
        return 0;
    case KEY_SHAPE:
        value_shape(argp, text, &state->shape);
        state->shape_given = 1;
        return 0;
    case KEY_SEED:
        state->options->settings.seed = (uint64_t)value_integer(argp, "seed", text, 0, INT64_C(1) << 53);
        return 0;
    case KEY_SWEEP:
        state->n_sweep = value_integers(argp, "sweep", text, 1, INT64_C(1) << 31, state->sweep, OPTIONS_MAX_SOURCES);
        return 0;
    case KEY_DATA:
        snprintf(state->data_folder, sizeof state->data_folder, "%s", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_attention_option(int key, char *text, struct argp_state *argp)
{
    parse_state *state = argp->input;
    input_settings *settings = &state->options->settings;
    switch (key) {
    case KEY_CAUSAL:
        state->causal = 1;
        return 0;
    case KEY_WINDOW:
        parse_window(argp, text, settings);
        return 0;
    case KEY_LAYOUT:
        settings->layout = value_layout(argp, text);
        return 0;
    case KEY_BIAS:
        settings->bias = 1;
        return 0;
    case KEY_BOOL_MASK:
        settings->bool_mask = 1;
        return 0;
    case KEY_STEP:
        settings->steps = 1;
        return 0;
    case KEY_PARAMS:
        settings->folder = text;
        return 0;
    default:
        return parse_input_option(key, text, argp);
    }
}

static error_t parse_option(int key, char *text, struct argp_state *argp)
{
    parse_state *state = argp->input;
    compare_options *options = state->options;
    switch (key) {
    case ARGP_KEY_INIT:
        argp->child_inputs[0] = &state->aft;
        argp->child_inputs[1] = &options->settings.linear;
        argp->child_inputs[2] = &state->mrsha;
        return 0;
    case KEY_VARIANTS:
        value_names(argp, text, options, add_variant);
        return 0;
    case KEY_THREADS:
        parse_threads(argp, text, options);
        return 0;
    case KEY_ISA:
        value_names(argp, text, options, add_isa);
        return 0;
    case KEY_ROUNDS:
        options->rounds.n_rounds = (int)value_integer(argp, "rounds", text, 1, 1000);
        state->rounds_given = 1;
        return 0;
    case KEY_REPEAT:
        options->rounds.n_repeats = (int)value_integer(argp, "repeat", text, 1, ROUNDS_MAX_REPEATS);
        return 0;
    case KEY_QUICK:
        options->quick = 1;
        return 0;
    case KEY_JSON:
        options->json_path = text;
        return 0;
    case KEY_SVG:
        options->svg_path = text;
        return 0;
    case KEY_OUT:
        options->out_folder = text;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(argp, "unexpected argument \"%s\"", text);
        return 0;
    case ARGP_KEY_SUCCESS:
        finish(argp, state);
        return 0;
    default:
        return parse_attention_option(key, text, argp);
    }
}

/* The end of --help: the variants of this build. */
static char *add_variants_to_help(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_EXTRA)
        return (char *)(uintptr_t)text;
    char *help = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&help, &bytes);
    if (!stream)
        return NULL;
    fprintf(stream, "Variants:\n");
    for (const variant *const *v = variant_list; *v; v++) {
        fprintf(stream, "  %-15s %s%s%s\n", (*v)->name, (*v)->summary, (*v)->unavailable ? "; " : "",
                (*v)->unavailable ? (*v)->unavailable : "");
    }
    fprintf(stream, "\nExit codes: 0 done, 1 an input or a run failed, 2 the command line makes no sense.");
    fclose(stream);
    return help;
}

void options_parse(int argc, char **argv, compare_options *options)
{
    static const struct argp_child children[] = {
        {&options_aft_argp, 0, "The Attention-Free Transformer", 2},
        {&options_linear_argp, 0, "Linear attention", 2},
        {&options_mrsha_argp, 0, "Multiresolution-head attention", 2},
        {0},
    };
    static const struct argp parser = {
        .options = option_table,
        .children = children,
        .parser = parse_option,
        .doc = "Attention variants side by side on the same input: time, share of what this machine can do, and error "
               "against float64.",
        .help_filter = add_variants_to_help,
    };
    *options = (compare_options){
        .settings = {.window_left = -1,
                     .window_right = -1,
                     .layout = LAYOUT_BHND,
                     .seed = 1,
                     .aft = {.window = 32, .conv_heads = 8, .filter_rows = 1, .filter_columns = 31}},
    };
    parse_state state = {.options = options,
                         .shape = {1, 8, 8, 0, 0, 64, 64},
                         .aft = {.settings = &options->settings.aft},
                         .mrsha = {.settings = &options->settings.mrsha}};
    data_find_folder(state.data_folder, sizeof state.data_folder);
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &state);
}

void options_release(compare_options *options)
{
    for (int i = 0; i < options->n_sources; i++) {
        free(options->sources[i].q_path);
        free(options->sources[i].k_path);
        free(options->sources[i].v_path);
    }
}
