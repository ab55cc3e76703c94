/* The rules of heed.h about the arguments of heed_aft_*_forward(), said a second time and in the plainest way. */
#include "aft_case.h"

const heed_aft_options *options_of(const fuzz_case *c) { return c->has_options ? &c->options : NULL; }

int is_used(const fuzz_case *c, int t)
{
    const heed_aft_options *o = options_of(c);
    switch (t) {
    case LSE:
        return c->has_lse;
    case W:
        return o && o->w;
    case U:
        return o && o->query_factors;
    case F:
        return o && o->key_factors;
    case FILTER:
        return c->form == ORACLE_AFT_CONV;
    case VISIBLE:
        return o && o->mask && o->mask->visible;
    default:
        return 1;
    }
}

int is_written(const fuzz_case *c, int t)
{
    (void)c;
    return t == OUT || t == LSE;
}

/* ---- The options ---- */

static int is_causal(const fuzz_case *c)
{
    const heed_aft_options *o = options_of(c);
    return o && o->mask && o->mask->causal;
}

static int is_valid_w(const fuzz_case *c)
{
    const heed_tensor *w = &c->tensor[W], *q = &c->tensor[Q];
    const heed_aft_options *o = &c->options;
    if (!is_valid_repeated_view(w, HEED_FLOAT32, q) || (w->shape[2] != 1 && w->shape[2] != q->shape[2]))
        return 0;
    if (!o->banded)
        return w->shape[3] == c->tensor[K].shape[2];
    return o->window < (int64_t)1 << 32 && w->shape[3] == (is_causal(c) ? o->window : 2 * o->window - 1);
}

static int are_valid_factors(const fuzz_case *c)
{
    const heed_tensor *u = &c->tensor[U], *f = &c->tensor[F], *q = &c->tensor[Q];
    return is_valid_repeated_view(u, HEED_FLOAT32, q) && is_valid_repeated_view(f, HEED_FLOAT32, q) &&
           u->shape[2] == q->shape[2] && f->shape[2] == c->tensor[K].shape[2] && f->shape[3] == u->shape[3];
}

static int is_valid_options(const fuzz_case *c)
{
    const heed_aft_options *o = &c->options;
    const int local = c->form == ORACLE_AFT_LOCAL, biased = local || c->form == ORACLE_AFT_FULL;
    const int gate = (int)o->gate;
    if (o->struct_size != sizeof *o || gate < 0 || gate > 1)
        return 0;
    if (!biased && (o->w || o->query_factors || o->key_factors))
        return 0;
    if ((o->w && (o->query_factors || o->key_factors)) || !o->query_factors != !o->key_factors)
        return 0;
    if (local ? o->window < 1 || (o->banded && !o->w) : o->window != 0 || o->banded || o->nothing_outside)
        return 0;
    if (c->form != ORACLE_AFT_CONV && (o->grid_height != 0 || o->grid_width != 0))
        return 0;
    if (o->grid_height < 0 || o->grid_width < 0 || !o->grid_height != !o->grid_width)
        return 0;
    return (!o->w || is_valid_w(c)) && (!o->query_factors || are_valid_factors(c)) &&
           (!o->mask || is_valid_mask(&c->mask, &c->tensor[Q], &c->tensor[K]));
}

static int is_valid_filter(const fuzz_case *c)
{
    const heed_tensor *filter = &c->tensor[FILTER];
    const heed_aft_options *o = options_of(c);
    const int64_t n_queries = c->tensor[Q].shape[2], n_keys = c->tensor[K].shape[2];
    const int64_t rows = filter->shape[2], columns = filter->shape[3];
    if (!is_valid_repeated_view(filter, HEED_FLOAT32, &c->tensor[Q]) || filter->shape[0] != 1 || rows < 1 ||
        columns < 1)
        return 0;
    if (!o || o->grid_width == 0)
        return rows == 1 && (is_causal(c) || columns % 2 == 1);
    if (o->mask && (o->mask->causal || o->mask->alignment != HEED_ALIGN_BOTTOM_RIGHT))
        return 0;
    return n_queries == n_keys && n_queries % o->grid_width == 0 && n_queries / o->grid_width == o->grid_height &&
           rows % 2 == 1 && columns % 2 == 1;
}

/* ---- The call ---- */

static int are_valid_inputs(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V];
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    const int64_t *size = q->shape, n_keys = k->shape[2];
    return size[3] > 0 && has_shape(k, size[0], size[1], n_keys, c->form == ORACLE_AFT_CONV ? 1 : size[3]) &&
           has_shape(v, size[0], size[1], n_keys, size[3]);
}

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *out = &c->tensor[OUT], *lse = &c->tensor[LSE];
    const int64_t *size = q->shape;
    if (!are_valid_inputs(c) || (c->has_options ? !is_valid_options(c) : c->form == ORACLE_AFT_LOCAL))
        return 0;
    if (c->form == ORACLE_AFT_CONV && !is_valid_filter(c))
        return 0;
    if (!is_valid_output(out) || !has_shape(out, size[0], size[1], size[2], size[3]))
        return 0;
    if (c->has_lse && (!is_valid_output(lse) || !has_shape(lse, size[0], size[1], size[2], c->tensor[K].shape[3])))
        return 0;
    return are_outputs_apart(c);
}
