#include "linear_check.h"

#include "support/compare.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- Tolerances ---- */

double linear_roundings(const heed_feature_map *map)
{
    double n = 0.0;
    for (int64_t l = 0; map && l < map->n_layers; l++) {
        const heed_feature_layer *layer = &map->layers[l];
        const heed_tensor *parts[] = {layer->wf, layer->wg, layer->a, layer->b};
        for (size_t m = 0; m < sizeof parts / sizeof parts[0]; m++)
            n += parts[m] ? (double)parts[m]->shape[2] : 0.0;
        if (layer->omega)
            n += (double)layer->omega->shape[2] * sqrt((double)layer->omega->shape[2]);
    }
    return n;
}

double linear_tolerance(const linear_problem *p)
{
    if (p->tolerance > 0.0)
        return p->tolerance;
    const double products = linear_roundings(p->options.features) + linear_roundings(p->options.query_features);
    const double sums = (double)p->n_features + 64.0 + (double)p->c.n_keys / 64.0;
    const double maps = p->options.query_features ? products / 6.0 : products / 3.0;
    return 0x1p-24 * (5.0 * sqrt(2.0 / 9.0 * sums + maps) + 16.0);
}

/* ---- Calls ---- */

void linear_run_from(linear_problem *p, heed_context *context, const heed_linear_state *state)
{
    tensor_fill(&p->out, NAN);
    const heed_status status = heed_linear_forward(context, &p->q, &p->k, &p->v, &p->options, state, &p->out);
    if (status != HEED_OK)
        fail_msg("%s: %s: %s", linear_describe(p), heed_status_text(status), heed_context_message(context));
    if (!tensor_padding_is_whole(&p->memory[p->out_at], &p->out))
        fail_msg("%s: written beside the rows of out", linear_describe(p));
}

void linear_run(linear_problem *p, heed_context *context) { linear_run_from(p, context, linear_state(p)); }

/* ---- Comparisons ---- */

/* The largest error of each kind in units of max|v|, and the tolerance there. */
static struct {
    double error, tolerance, share;
} largest[N_MAP_KINDS];

static void note_error(map_kind kind, double error, double tolerance)
{
    if (error > largest[kind].error) {
        largest[kind].error = error;
        largest[kind].tolerance = tolerance;
    }
    if (error / tolerance > largest[kind].share)
        largest[kind].share = error / tolerance;
}

void linear_print_errors(void)
{
    for (int kind = 0; kind < N_MAP_KINDS; kind++) {
        if (largest[kind].error > 0.0)
            print_message("%-14s largest error %.2e max|v| where %.2e is allowed; at most %.2f of what is allowed\n",
                          map_name((map_kind)kind), largest[kind].error, largest[kind].tolerance, largest[kind].share);
    }
}

static float value_at(const heed_tensor *tensor, int64_t element)
{
    const int64_t *shape = tensor->shape, row = element / shape[3], token = row % shape[2];
    const int64_t h = row / shape[2] % shape[1];
    return *tensor_at(tensor, row / shape[2] / shape[1], h, token, element % shape[3]);
}

static int64_t count_elements(const heed_tensor *x) { return x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; }

void linear_expect_rows(const linear_problem *p, const heed_tensor *out, const double *want, double tolerance,
                        const char *name)
{
    const double v_max = tensor_max_abs(&p->v), scale = v_max > 0.0 ? v_max : 1.0;
    const compare_result r = compare_tensor(out, want, tolerance, scale);
    const int is_usual = p->tolerance == 0.0 && tolerance <= linear_tolerance(p);
    for (int64_t row = 0; row < count_elements(out) / out->shape[3]; row++) {
        int is_zero = 1;
        for (int64_t n = row * out->shape[3]; n < (row + 1) * out->shape[3]; n++) {
            const double error = fabs((double)value_at(out, n) - want[n]) / scale;
            if (isfinite(error) && is_usual)
                note_error(p->c.map, error, tolerance);
            is_zero &= want[n] == 0.0;
        }
        for (int64_t n = row * out->shape[3]; is_zero && n < (row + 1) * out->shape[3]; n++) {
            if (value_at(out, n) != 0.0f)
                fail_msg("%s: %s: row %d must be exactly 0 and holds %g", name, linear_describe(p),
                         (int)(row % out->shape[2]), (double)value_at(out, n));
        }
    }
    if (!r.equal)
        fail_msg("%s: %s: %s", name, linear_describe(p), r.text);
}

void linear_expect_state(const linear_problem *p, const heed_linear_state *state, const double *sums,
                         const double *norms, double tolerance, const char *name)
{
    const double v_max = tensor_max_abs(&p->v);
    /* A feature of a ReLU is a difference: its error is relative to what it is made of. */
    const double floor = p->c.map == MAP_FAVOR_RELU ? 1.0 : 0.0;
    for (int64_t n = 0; n < count_elements(&state->norms); n++) {
        const double scale = fabs(norms[n]) + floor, got = (double)value_at(&state->norms, n);
        if (!(fabs(got - norms[n]) <= tolerance * scale))
            fail_msg("%s: %s: norm %d: %.9g, not %.17g", name, linear_describe(p), (int)n, got, norms[n]);
        for (int64_t d = 0; d < state->sums.shape[3]; d++) {
            const int64_t at = n * state->sums.shape[3] + d;
            const double sum = (double)value_at(&state->sums, at), unit = v_max > 1.0 ? v_max : 1.0;
            if (!(fabs(sum - sums[at]) <= tolerance * scale * unit))
                fail_msg("%s: %s: sum %d of channel %d: %.9g, not %.17g, of a norm of %g", name, linear_describe(p),
                         (int)n, (int)d, sum, sums[at], norms[n]);
        }
    }
}

static void expect_nobody_waits(const heed_linear_state *state, const char *name)
{
    for (int64_t n = 0; n < count_elements(&state->recent_features); n++) {
        if (value_at(&state->recent_features, n) != 0.0f)
            fail_msg("%s: features wait after a forward call", name);
    }
    for (int64_t n = 0; n < count_elements(&state->recent_values); n++) {
        if (value_at(&state->recent_values, n) != 0.0f)
            fail_msg("%s: values wait after a forward call", name);
    }
}

void linear_expect_match(linear_problem *p, heed_context *context, const char *name)
{
    oracle_linear o;
    oracle_linear_open(&o, &p->q, &p->k, &p->v, &p->options, linear_state(p));
    const int64_t n_norms = o.batch * o.kv_heads * o.n_features;
    double *out = oracle_zeros(count_elements(&p->out)), *norms = oracle_zeros(n_norms);
    double *sums = oracle_zeros(n_norms * o.value_channels);
    int64_t n_tokens[LINEAR_MAX_BATCH];
    memcpy(n_tokens, p->n_tokens, sizeof n_tokens);
    oracle_linear_forward(&o, out);
    oracle_linear_state(&o, sums, norms);
    linear_run(p, context);
    linear_expect_rows(p, &p->out, out, linear_tolerance(p), name);
    if (p->c.has_state) {
        linear_expect_state(p, &p->state, sums, norms, linear_tolerance(p), name);
        expect_nobody_waits(&p->state, name);
        for (int64_t b = 0; b < o.batch; b++)
            assert_int_equal(p->n_tokens[b], n_tokens[b] + oracle_key_length(p->options.mask, b, o.n_keys));
    }
    free(out), free(norms), free(sums);
    oracle_linear_close(&o);
}

void linear_expect_bits(const heed_tensor *got, const heed_tensor *want, const char *name)
{
    const compare_result r = compare_bits(got, want);
    if (!r.equal)
        fail_msg("%s: %s", name, r.text);
}
