#include "api/step.h"

#include "core/arguments.h"

#include <inttypes.h>

/* More tokens than this have no position. */
#define MAX_TOKENS ((int64_t)1 << 60)

heed_status heed_check_tokens_view(heed_message *message, const int64_t *n_tokens, int64_t n_batches)
{
    if (!n_tokens && n_batches > 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "state.n_tokens: is NULL");
    if ((uintptr_t)n_tokens % _Alignof(int64_t) != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "state.n_tokens: is not aligned to its elements");
    return HEED_OK;
}

heed_status heed_check_tokens(heed_message *message, const int64_t *n_tokens, int64_t n_batches)
{
    HEED_CHECK(heed_check_tokens_view(message, n_tokens, n_batches));
    for (int64_t b = 0; b < n_batches; b++) {
        if (n_tokens[b] < 0 || n_tokens[b] > MAX_TOKENS)
            return heed_complain(message, HEED_ERROR_ARGUMENT,
                                 "state.n_tokens[%" PRId64 "]: %" PRId64 " is outside 0..2^60", b, n_tokens[b]);
    }
    return HEED_OK;
}

heed_status heed_check_step_mask(heed_message *message, const heed_mask *mask)
{
    if (!mask)
        return HEED_OK;
    if (!mask->causal)
        return heed_unsupported(message, "mask.causal", "a step sees no later token; non-zero expected");
    if (mask->window_left != -1 || mask->window_right != -1)
        return heed_unsupported(message, mask->window_left != -1 ? "mask.window_left" : "mask.window_right",
                                "not in a step, whose state has summed up early keys");
    if (mask->key_lengths || mask->visible)
        return heed_unsupported(message, mask->visible ? "mask.visible" : "mask.key_lengths",
                                "not in a step; mask.query_lengths says how many new tokens count");
    if (mask->alignment != HEED_ALIGN_BOTTOM_RIGHT)
        return heed_unsupported(message, "mask.alignment", "not in a step, whose state says where tokens stand");
    return HEED_OK;
}

heed_status heed_check_parts_apart(heed_message *message, const state_part *parts, int n)
{
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++)
            HEED_CHECK(heed_check_apart(message, parts[i].name, &parts[i].view, parts[j].name, &parts[j].view));
    }
    return HEED_OK;
}
