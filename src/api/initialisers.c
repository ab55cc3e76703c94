#include "mechanisms/initialisers.h"

#include "core/arguments.h"
#include "core/context.h"
#include "core/random.h"
#include "mechanisms/orthogonality.h"

#include <inttypes.h>
#include <math.h>

/* A matrix for each head. */
static heed_status check_matrices(heed_message *message, const char *name, const heed_tensor *w)
{
    HEED_CHECK(heed_check_size(message, name, w, 0, 1, "weights have no batch"));
    if (w->shape[2] == 0 || w->shape[3] == 0)
        return heed_complain(message, HEED_ERROR_SHAPE, "%s: 1 %s or more expected, got 0", name,
                             w->shape[2] == 0 ? "row" : "column");
    return HEED_OK;
}

/* ---- initialisers ---- */

static heed_status check_places(heed_message *message, const char *name, const heed_tensor *w)
{
    static const char *const words[4] = {"", "heads", "rows", "columns"};
    for (int d = 1; d < 4; d++) {
        if (w->shape[d] > HEED_RANDOM_PLACES)
            return heed_complain(message, HEED_ERROR_SHAPE, "%s: at most 2^32 %s expected, got %" PRId64, name,
                                 words[d], w->shape[d]);
    }
    return HEED_OK;
}

static heed_status check_output(heed_message *message, const char *name, const heed_tensor *w)
{
    HEED_CHECK(heed_check_output(message, name, w, HEED_FLOAT32));
    HEED_CHECK(check_matrices(message, name, w));
    return check_places(message, name, w);
}

static heed_status initialise(heed_context *context, init_kind kind, uint64_t seed, const char *name,
                              const heed_tensor *w)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check_output(&context->message, name, w);
    if (status == HEED_OK)
        status = heed_check_scratch(context, heed_init_worker_bytes(kind, w));
    if (status == HEED_OK)
        heed_init_run(context, kind, seed, w);
    return heed_call_end(context, status);
}

heed_status heed_init_orthogonal(heed_context *context, uint64_t seed, const heed_tensor *w)
{
    return initialise(context, INIT_ORTHOGONAL, seed, "w", w);
}

heed_status heed_init_he(heed_context *context, uint64_t seed, const heed_tensor *w)
{
    return initialise(context, INIT_HE, seed, "w", w);
}

heed_status heed_init_favor(heed_context *context, uint64_t seed, const heed_tensor *omega)
{
    return initialise(context, INIT_FAVOR, seed, "omega", omega);
}

/* ---- the penalty ---- */

static heed_status check_penalty(heed_message *message, const heed_tensor *w, float lambda, const double *penalty,
                                 const heed_tensor *dw)
{
    int64_t bytes = penalty ? (int64_t)sizeof *penalty : 0;
    if (!isfinite(lambda))
        return heed_complain(message, HEED_ERROR_ARGUMENT, "lambda: a finite value expected, got %g", (double)lambda);
    HEED_CHECK(heed_check_input(message, "w", w, HEED_FLOAT32));
    HEED_CHECK(check_matrices(message, "w", w));
    if ((uintptr_t)penalty % sizeof *penalty != 0)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "penalty: is not aligned to its elements");
    if (dw) {
        HEED_CHECK(heed_check_output(message, "dw", dw, HEED_FLOAT32));
        HEED_CHECK(heed_check_same_shape(message, "dw", dw, w, "as in w"));
        HEED_CHECK(heed_check_apart(message, "dw", dw, "w", w));
        HEED_CHECK(heed_check_apart_bytes(message, "dw", dw, "penalty", penalty, bytes));
    }
    return heed_check_apart_bytes(message, "penalty", w, "w", penalty, bytes);
}

heed_status heed_orthogonality_penalty(heed_context *context, const heed_tensor *w, float lambda, double *penalty,
                                       const heed_tensor *dw, int accumulate)
{
    HEED_CHECK(heed_call_begin(context));
    heed_status status = check_penalty(&context->message, w, lambda, penalty, dw);
    if (status == HEED_OK)
        status = heed_check_scratch(context, heed_orthogonality_bytes(w));
    if (status == HEED_OK) {
        orthogonality_plan plan = {*w, dw ? *dw : (heed_tensor){0}, (double)lambda, accumulate};
        double value = heed_orthogonality_run(context, &plan);
        if (penalty)
            *penalty = value;
    }
    return heed_call_end(context, status);
}
