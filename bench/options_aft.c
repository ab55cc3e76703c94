#include "bench/options_aft.h"

#include "bench/option_rules.h"
#include "bench/option_values.h"

/* Apart from the keys of options.c: argp hands a key to every parser that lists it. */
enum option_key { KEY_WINDOW = 512, KEY_FACTORS, KEY_CONV_HEADS, KEY_CONV_FILTER, KEY_GRID };

static const struct argp_option option_table[] = {
    {"aft-window", KEY_WINDOW, "S", 0, "aft-local: the bias counts at distances below S (32)", 0},
    {"aft-factors", KEY_FACTORS, "N", 0,
     "aft-full, aft-local: w is a product of N factors for each query and key; 0: a matrix, for aft-local a band (0)",
     0},
    {"conv-heads", KEY_CONV_HEADS, "N", 0, "aft-conv: heads that all Hq D channels are cut into (8)", 0},
    {"conv-filter", KEY_CONV_FILTER, "S or RxC", 0, "aft-conv: taps of the filter (31; with --grid 11x11)", 0},
    {"grid", KEY_GRID, "HxW", 0, "aft-conv: tokens are a grid, row by row, and the filter has two dimensions", 0},
    {0},
};

/* At most 4095 x 4095 taps, so that their number is no matter of memory alone. */
static void parse_filter(const struct argp_state *argp, const char *text, aft_command_line *given)
{
    int64_t sides[2];
    const int n = value_sides(argp, "conv-filter", text, 1, 4095, sides);
    given->conv_filter = 1;
    given->filter_dimensions = n;
    given->settings->filter_rows = n == 2 ? sides[0] : 1;
    given->settings->filter_columns = sides[n - 1];
}

static void parse_grid(const struct argp_state *argp, const char *text, aft_command_line *given)
{
    int64_t sides[2];
    if (value_sides(argp, "grid", text, 1, INT64_C(1) << 20, sides) != 2)
        argp_error(argp, "--grid: two sizes expected: HxW");
    given->grid = 1;
    given->settings->grid_height = sides[0];
    given->settings->grid_width = sides[1];
}

static error_t parse_option(int key, char *text, struct argp_state *argp)
{
    aft_command_line *given = argp->input;
    aft_settings *settings = given->settings;
    switch (key) {
    case KEY_WINDOW:
        settings->window = value_integer(argp, "aft-window", text, 1, INT64_C(1) << 20);
        given->window = 1;
        return 0;
    case KEY_FACTORS:
        settings->n_factors = value_integer(argp, "aft-factors", text, 0, 4096);
        given->factors = 1;
        return 0;
    case KEY_CONV_HEADS:
        settings->conv_heads = value_integer(argp, "conv-heads", text, 1, INT64_C(1) << 31);
        given->conv_heads = 1;
        return 0;
    case KEY_CONV_FILTER:
        parse_filter(argp, text, given);
        return 0;
    case KEY_GRID:
        parse_grid(argp, text, given);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp options_aft_argp = {.options = option_table, .parser = parse_option};

static void check_needed(const struct argp_state *argp, const aft_command_line *given, const compare_options *options)
{
    const unsigned local = variant_aft_local.kinds.aft, biased = local | variant_aft_full.kinds.aft,
                   conv = variant_aft_conv.kinds.aft;
    const struct {
        int given;
        const char *option;
        unsigned forms;
    } rules[] = {
        {given->window, "aft-window", local},
        {given->factors, "aft-factors", biased},
        {given->conv_heads, "conv-heads", conv},
        {given->conv_filter, "conv-filter", conv},
        {given->grid, "grid", conv},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].given)
            option_needs_variant(argp, rules[i].option, options, (variant_kinds){.aft = rules[i].forms});
}

void options_aft_finish(const struct argp_state *argp, const aft_command_line *given, compare_options *options)
{
    aft_settings *settings = &options->settings.aft;
    for (int i = 0; i < options->n_variants; i++)
        settings->forms |= options->variants[i]->kinds.aft;
    check_needed(argp, given, options);
    if (given->grid && !given->conv_filter)
        settings->filter_rows = settings->filter_columns = 11;
    if (given->conv_filter && given->filter_dimensions != (given->grid ? 2 : 1))
        argp_error(argp, "--conv-filter: %s",
                   given->grid ? "two sizes expected with --grid: RxC" : "two sizes only with --grid");
    if (given->grid && options->settings.steps)
        argp_error(argp, "--step: not with --grid");
}
