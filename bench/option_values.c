#include "bench/option_values.h"

#include "core/isa.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int parse_integers(const struct argp_state *argp, const char *option, const char *text, char separator,
                          int64_t low, int64_t high, int64_t *values, int capacity)
{
    int n = 0;
    for (const char *at = text;; at++) {
        char *end = NULL;
        errno = 0;
        const long long value = strtoll(at, &end, 10);
        if (end == at || errno != 0 || (*end != separator && *end != '\0'))
            argp_error(argp, "--%s: \"%s\" is no list of integers", option, text);
        if (value < low || value > high)
            argp_error(argp, "--%s: %lld is not in %lld..%lld", option, value, (long long)low, (long long)high);
        if (n == capacity)
            argp_error(argp, "--%s: at most %d values expected", option, capacity);
        values[n++] = value;
        at = end;
        if (*at == '\0')
            return n;
    }
}

int value_integers(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high,
                   int64_t *values, int capacity)
{
    return parse_integers(argp, option, text, ',', low, high, values, capacity);
}

int value_sides(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high,
                int64_t sides[2])
{
    return parse_integers(argp, option, text, 'x', low, high, sides, 2);
}

int64_t value_integer(const struct argp_state *argp, const char *option, const char *text, int64_t low, int64_t high)
{
    int64_t value = 0;
    value_integers(argp, option, text, low, high, &value, 1);
    return value;
}

void value_shape(const struct argp_state *argp, const char *text, attention_shape *shape)
{
    int64_t n[7] = {0};
    if (value_integers(argp, "shape", text, 1, INT64_C(1) << 31, n, 7) != 7)
        argp_error(argp, "--shape: seven sizes expected: B,Hq,Hkv,Nq,Nk,D,Dv");
    else if (n[1] % n[2] != 0)
        argp_error(argp, "--shape: Hq = %lld is no multiple of Hkv = %lld", (long long)n[1], (long long)n[2]);
    *shape = (attention_shape){n[0], n[1], n[2], n[3], n[4], n[5], n[6]};
}

input_layout value_layout(const struct argp_state *argp, const char *text)
{
    for (int layout = LAYOUT_BHND; layout <= LAYOUT_PACKED; layout++)
        if (strcmp(text, input_layout_name((input_layout)layout)) == 0)
            return (input_layout)layout;
    argp_error(argp, "--layout: bhnd, bnhd or packed expected, got \"%s\"", text);
    return LAYOUT_BHND;
}

heed_isa value_isa(const struct argp_state *argp, const char *name)
{
    for (heed_isa isa = HEED_ISA_AUTO; isa <= HEED_ISA_NEON; isa++) {
        if (strcmp(name, heed_isa_name(isa)) == 0) {
            heed_message message;
            if (heed_isa_choose(&isa, &message) != HEED_OK)
                argp_error(argp, "--isa: %s", message.text);
            return isa;
        }
    }
    argp_error(argp, "--isa: scalar, avx2, avx512, neon or auto expected, got \"%s\"", name);
    return HEED_ISA_AUTO;
}

const variant *value_variant(const struct argp_state *argp, const char *name)
{
    const variant *found = variant_find(name);
    if (!found)
        argp_error(argp, "--variants: there is no variant \"%s\"; see --help", name);
    else if (found->unavailable)
        argp_error(argp, "--variants: %s: %s", name, found->unavailable);
    return found;
}

void value_names(const struct argp_state *argp, const char *text, compare_options *options,
                 void (*add)(const struct argp_state *argp, const char *name, compare_options *options))
{
    char *copy = strdup(text);
    if (!copy) {
        argp_failure(argp, 1, ENOMEM, "command line");
        return;
    }
    char *rest = copy;
    for (const char *name = strsep(&rest, ","); name; name = strsep(&rest, ","))
        add(argp, name, options);
    free(copy);
}
