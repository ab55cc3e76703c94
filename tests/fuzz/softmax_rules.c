/* The rules of heed.h about the arguments of heed_softmax_forward(), said a second time and in the plainest way. */
#include "softmax_case.h"

const heed_softmax_options *options_of(const fuzz_case *c) { return c->has_options ? &c->options : NULL; }

int is_used(const fuzz_case *c, int t)
{
    const heed_softmax_options *o = options_of(c);
    switch (t) {
    case LSE:
        return c->has_lse;
    case BIAS:
        return o && o->bias;
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

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *k = &c->tensor[K], *v = &c->tensor[V];
    const heed_tensor *out = &c->tensor[OUT], *lse = &c->tensor[LSE];
    if (!are_valid_softmax_inputs(q, k, v) ||
        (c->has_options && !are_valid_softmax_options(&c->options, &c->mask, q, k)))
        return 0;
    if (!is_valid_output(out) || !has_shape(out, q->shape[0], q->shape[1], q->shape[2], v->shape[3]))
        return 0;
    if (c->has_lse && (!is_valid_output(lse) || !has_shape(lse, q->shape[0], q->shape[1], q->shape[2], 1)))
        return 0;
    return are_outputs_apart(c);
}
