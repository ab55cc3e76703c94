#include "bench/option_rules.h"

#include <string.h>

static int is_of_kinds(const variant *v, variant_kinds kinds)
{
    return (v->kinds.aft & kinds.aft) != 0 || (v->kinds.linear & kinds.linear) != 0 ||
           (v->kinds.mrsha & kinds.mrsha) != 0;
}

/* "a, b or c": the variants of these kinds. */
static void list_variants(variant_kinds kinds, char *text, size_t size)
{
    int n_left = 0;
    for (const variant *const *v = variant_list; *v; v++)
        n_left += is_of_kinds(*v, kinds);
    text[0] = '\0';
    for (const variant *const *v = variant_list; *v; v++) {
        if (!is_of_kinds(*v, kinds))
            continue;
        const size_t length = strlen(text);
        const char *separator = length == 0 ? "" : n_left > 1 ? ", " : " or ";
        snprintf(text + length, size - length, "%s%s", separator, (*v)->name);
        n_left--;
    }
}

void option_needs_variant(const struct argp_state *argp, const char *option, const compare_options *options,
                          variant_kinds kinds)
{
    for (int i = 0; i < options->n_variants; i++)
        if (is_of_kinds(options->variants[i], kinds))
            return;
    char names[512];
    list_variants(kinds, names, sizeof names);
    argp_error(argp, "--%s: only with %s in --variants", option, names);
}

void option_check_attention(const struct argp_state *argp, const compare_options *options)
{
    static const variant_kinds all = {~0u, ~0u, ~0u};
    const input_settings *s = &options->settings;
    const char *refused = s->window_left >= 0 || s->window_right >= 0 ? "softmax-window"
                          : s->bool_mask                              ? "bool-mask"
                          : s->bias                                   ? "bias"
                                                                      : NULL;
    for (int i = 0; refused && i < options->n_variants; i++)
        if (is_of_kinds(options->variants[i], all))
            argp_error(argp, "--%s: not with %s", refused, options->variants[i]->name);
}
