/* The rules of heed.h about the arguments of heed_aft_*_step(), said a second time and in the plainest way. */
#include "aft_steps_case.h"

const heed_aft_options *options_of(const fuzz_case *c) { return c->has_options ? &c->options : NULL; }

int is_written(const fuzz_case *c, int t)
{
    (void)c;
    return t == OUT || t == SUMS || t == KEYS || t == VALUES;
}

int is_used(const fuzz_case *c, int t)
{
    const heed_aft_options *o = options_of(c);
    switch (t) {
    case W:
        return o && o->w;
    case U:
        return o && o->query_factors;
    case F:
        return o && o->key_factors;
    case FILTER:
        return c->form == ORACLE_AFT_CONV;
    case KEYS:
    case VALUES:
        return c->form != ORACLE_AFT_SIMPLE;
    case VISIBLE:
        return o && o->mask && o->mask->visible;
    default:
        return 1;
    }
}

/* ---- The options ---- */

static int is_valid_w(const fuzz_case *c)
{
    const heed_tensor *w = &c->tensor[W], *q = &c->tensor[Q];
    return c->options.banded && is_valid_repeated_view(w, HEED_FLOAT32, q) &&
           (w->shape[2] == 1 || w->shape[2] == q->shape[2]) && w->shape[3] == c->options.window;
}

static int are_valid_factors(const fuzz_case *c)
{
    const heed_tensor *u = &c->tensor[U], *f = &c->tensor[F], *q = &c->tensor[Q];
    return is_valid_repeated_view(u, HEED_FLOAT32, q) && is_valid_repeated_view(f, HEED_FLOAT32, q) &&
           u->shape[2] == q->shape[2] && f->shape[2] - q->shape[2] == c->options.window - 1 &&
           f->shape[3] == u->shape[3];
}

static int is_valid_options(const fuzz_case *c)
{
    const heed_aft_options *o = &c->options;
    const int local = c->form == ORACLE_AFT_LOCAL, gate = (int)o->gate;
    if (o->struct_size != sizeof *o || gate < 0 || gate > 1 || o->grid_height != 0 || o->grid_width != 0)
        return 0;
    if (!local && (o->w || o->query_factors || o->key_factors))
        return 0;
    if ((o->w && (o->query_factors || o->key_factors)) || !o->query_factors != !o->key_factors)
        return 0;
    if (local ? o->window < 1 || (o->banded && !o->w) : o->window != 0 || o->banded || o->nothing_outside)
        return 0;
    return (!o->w || is_valid_w(c)) && (!o->query_factors || are_valid_factors(c)) &&
           (!o->mask || is_valid_step_mask(&c->mask, &c->tensor[Q], &c->tensor[K]));
}

/* ---- The call ---- */

static int are_valid_inputs(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V], *filter = &c->tensor[FILTER];
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    const int64_t *size = q->shape;
    if (size[3] < 1 || !has_shape(v, size[0], size[1], size[2], size[3]))
        return 0;
    if (c->form != ORACLE_AFT_CONV)
        return has_shape(k, size[0], size[1], size[2], size[3]);
    return has_shape(k, size[0], size[1], size[2], 1) && is_valid_repeated_view(filter, HEED_FLOAT32, q) &&
           filter->shape[0] == 1 && filter->shape[2] == 1 && filter->shape[3] >= 1;
}

static int is_valid_state(const fuzz_case *c)
{
    const heed_tensor *sums = &c->tensor[SUMS], *keys = &c->tensor[KEYS], *values = &c->tensor[VALUES];
    const int64_t *size = c->tensor[Q].shape;
    if (!is_valid_output(sums) || !has_shape(sums, size[0], size[1], 6, size[3]))
        return 0;
    if (c->form != ORACLE_AFT_SIMPLE) {
        const int64_t window = c->form == ORACLE_AFT_LOCAL ? c->options.window : c->tensor[FILTER].shape[3];
        if (!is_valid_output(keys) || !has_shape(keys, size[0], size[1], window, c->tensor[K].shape[3]) ||
            !is_valid_output(values) || !has_shape(values, size[0], size[1], window, size[3]))
            return 0;
    }
    return are_valid_tokens(c->n_tokens, size[0]);
}

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *out = &c->tensor[OUT];
    if (!are_valid_inputs(c) || (c->has_options ? !is_valid_options(c) : c->form == ORACLE_AFT_LOCAL))
        return 0;
    if (!is_valid_output(out) || !has_shape(out, q->shape[0], q->shape[1], q->shape[2], q->shape[3]) ||
        !is_valid_state(c))
        return 0;
    return are_outputs_apart(c);
}
