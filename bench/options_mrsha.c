#include "bench/options_mrsha.h"

#include "bench/mrsha_input.h"
#include "bench/option_rules.h"
#include "bench/option_values.h"

#include <string.h>

/* Apart from the keys of the other parsers. */
enum option_key { KEY_GROUPS = 1024, KEY_MODE };

static const struct argp_option option_table[] = {
    {"groups", KEY_GROUPS, "S,S,...", 0,
     "mrsha: tokens in a group for each head, and again; 1: a fine head (the first half of the heads 1, the others 2)",
     0},
    {"mrsha-mode", KEY_MODE, "NAME", 0,
     "mrsha: what coarse heads approximate: both (default, and what mrsha-2 and mrsha-1248 do), output (not causal), "
     "or "
     "value (the one for --step)",
     0},
    {0},
};

static heed_mrsha_mode parse_mode(const struct argp_state *argp, const char *text)
{
    for (int mode = HEED_MRSHA_BOTH; mode <= HEED_MRSHA_VALUE; mode++)
        if (strcmp(text, mrsha_mode_name((heed_mrsha_mode)mode)) == 0)
            return (heed_mrsha_mode)mode;
    argp_error(argp, "--mrsha-mode: both, output or value expected, got \"%s\"", text);
    return HEED_MRSHA_BOTH;
}

static error_t parse_option(int key, char *text, struct argp_state *argp)
{
    mrsha_command_line *given = argp->input;
    mrsha_settings *settings = given->settings;
    switch (key) {
    case KEY_GROUPS:
        settings->n_group_sizes =
            value_integers(argp, "groups", text, 1, INT64_C(1) << 40, settings->group_sizes, INPUT_MAX_GROUP_SIZES);
        return 0;
    case KEY_MODE:
        settings->mode = parse_mode(argp, text);
        given->mode = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp options_mrsha_argp = {.options = option_table, .parser = parse_option};

/* Causal coarse heads see as many queries as keys, which a token alone does not have. */
static void check_steps(const struct argp_state *argp, const compare_options *options)
{
    for (int i = 0; i < options->n_variants; i++)
        if (options->variants[i]->kinds.mrsha != 0 && !options->variants[i]->step)
            argp_error(argp, "--step: %s has no state", options->variants[i]->name);
    if (options->settings.mrsha.kinds != 0 && options->settings.mrsha.mode != HEED_MRSHA_VALUE)
        argp_error(argp, "--step: mrsha has a state in --mrsha-mode value only");
}

static void check_causal(const struct argp_state *argp, const compare_options *options)
{
    for (int i = 0; i < options->n_sources; i++)
        if (options->sources[i].causal)
            argp_error(argp, "--mrsha-mode: output has no causal form, and the input %s is causal",
                       options->sources[i].name);
}

void options_mrsha_finish(const struct argp_state *argp, const mrsha_command_line *given, compare_options *options)
{
    static const variant_kinds asked = {.mrsha = 1u << MRSHA_ASKED};
    mrsha_settings *settings = &options->settings.mrsha;
    for (int i = 0; i < options->n_variants; i++)
        settings->kinds |= options->variants[i]->kinds.mrsha;
    if (settings->n_group_sizes > 0)
        option_needs_variant(argp, "groups", options, asked);
    if (given->mode)
        option_needs_variant(argp, "mrsha-mode", options, asked);
    if (options->settings.steps)
        check_steps(argp, options);
    if (settings->mode == HEED_MRSHA_OUTPUT)
        check_causal(argp, options);
}
