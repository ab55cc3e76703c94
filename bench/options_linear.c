#include "bench/options_linear.h"

#include "bench/linear_input.h"
#include "bench/option_rules.h"
#include "bench/option_values.h"

/* Apart from the keys of the other parsers. */
enum option_key { KEY_FEATURES = 768, KEY_LAYERS, KEY_BACKWARD };

static const struct argp_option option_table[] = {
    {"features", KEY_FEATURES, "C", 0, "features of a token and head (D; linear-favor 256)", 0},
    {"layers", KEY_LAYERS, "N", 0, "linear-oglu, linear-aoglu: layers of the feature map (2, 3)", 0},
    {"backward", KEY_BACKWARD, NULL, 0,
     "add the gradients with respect to q, k, v and all matrices, as rows of their own", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *argp)
{
    linear_settings *settings = argp->input;
    switch (key) {
    case KEY_FEATURES:
        settings->n_features = value_integer(argp, "features", text, 1, INT64_C(1) << 20);
        return 0;
    case KEY_LAYERS:
        settings->n_layers = value_integer(argp, "layers", text, 1, LINEAR_MAX_LAYERS);
        return 0;
    case KEY_BACKWARD:
        settings->backward = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp options_linear_argp = {.options = option_table, .parser = parse_option};

static void check_needed(const struct argp_state *argp, const compare_options *options)
{
    const linear_settings *settings = &options->settings.linear;
    variant_kinds with_layers = {.linear = 1u << LINEAR_OGLU | 1u << LINEAR_AOGLU}, with_gradients = {0};
    for (const variant *const *v = variant_list; *v; v++)
        if ((*v)->backward)
            with_gradients.linear |= (*v)->kinds.linear;
    if (settings->n_features > 0)
        option_needs_variant(argp, "features", options, (variant_kinds){.linear = ~0u});
    if (settings->n_layers > 0)
        option_needs_variant(argp, "layers", options, with_layers);
    if (settings->backward)
        option_needs_variant(argp, "backward", options, with_gradients);
}

/* Gradients stand behind what they are the gradients of. */
static void add_gradients(compare_options *options)
{
    for (int i = 0; i < options->n_variants; i++) {
        const variant *backward = options->variants[i]->backward;
        if (!backward)
            continue;
        i++;
        for (int last = options->n_variants; last > i; last--)
            options->variants[last] = options->variants[last - 1];
        options->variants[i] = backward;
        options->n_variants++;
    }
}

void options_linear_finish(const struct argp_state *argp, compare_options *options)
{
    linear_settings *settings = &options->settings.linear;
    for (int i = 0; i < options->n_variants; i++)
        settings->kinds |= options->variants[i]->kinds.linear;
    check_needed(argp, options);
    if (!settings->backward)
        return;
    if (options->settings.steps)
        argp_error(argp, "--backward: not with --step");
    add_gradients(options);
}
