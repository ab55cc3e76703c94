/* The rules of heed.h about the arguments of heed_softmax_forward(), said a second time and in the plainest way. */
#include "softmax_case.h"

#include <math.h>

static int is_valid_bias(const fuzz_case *c)
{
    const heed_tensor *t = &c->tensor[BIAS], *q = &c->tensor[Q];
    return is_valid_repeated_view(t, HEED_FLOAT32, q) && t->shape[3] == c->tensor[K].shape[2] &&
           (t->shape[2] == 1 || t->shape[2] == q->shape[2]);
}

static int is_valid_options(const fuzz_case *c)
{
    const heed_softmax_options *o = &c->options;
    if (o->struct_size != sizeof *o || !isfinite(o->scale) || !isfinite(o->softcap) || o->softcap < 0.0f)
        return 0;
    return (!c->has_bias || is_valid_bias(c)) &&
           (!c->has_mask || is_valid_mask(&c->mask, &c->tensor[Q], &c->tensor[K]));
}

static int are_valid_inputs(const heed_tensor *q, const heed_tensor *k, const heed_tensor *v)
{
    if (!is_valid_view(q, HEED_FLOAT32) || !is_valid_view(k, HEED_FLOAT32) || !is_valid_view(v, HEED_FLOAT32))
        return 0;
    const int64_t hq = q->shape[1], hkv = k->shape[1];
    return k->shape[0] == q->shape[0] && k->shape[3] == q->shape[3] && q->shape[3] > 0 && v->shape[3] > 0 &&
           has_shape(v, k->shape[0], hkv, k->shape[2], v->shape[3]) && (hkv == 0 ? hq == 0 : hq % hkv == 0);
}

int is_valid(const fuzz_case *c)
{
    const heed_tensor *q = &c->tensor[Q], *v = &c->tensor[V], *out = &c->tensor[OUT], *lse = &c->tensor[LSE];
    if (!are_valid_inputs(q, &c->tensor[K], v) || (c->has_options && !is_valid_options(c)))
        return 0;
    if (!is_valid_output(out) || !has_shape(out, q->shape[0], q->shape[1], q->shape[2], v->shape[3]))
        return 0;
    if (c->has_lse && (!is_valid_output(lse) || !has_shape(lse, q->shape[0], q->shape[1], q->shape[2], 1)))
        return 0;
    for (tensor_id t = Q; t < N_TENSORS; t++) {
        const int is_used = t == LSE    ? c->has_lse
                            : t == BIAS ? c->has_options && c->has_bias
                                        : t != VISIBLE || (c->has_options && c->has_mask && c->has_visible);
        if (is_used && t != OUT && shares_elements(out, &c->tensor[t]))
            return 0;
        if (is_used && c->has_lse && t != LSE && shares_elements(lse, &c->tensor[t]))
            return 0;
    }
    return 1;
}
