#include "bench/variant_linear_backward.h"

#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>

/* The gradients of a map: a map of the same layers. */
typedef struct map_gradients {
    heed_tensor matrices[LINEAR_MAX_LAYERS][LINEAR_N_MATRICES];
    linear_map map;
} map_gradients;

typedef struct backward_state {
    variant_setup setup;
    heed_linear_options options;
    heed_context *context;
    heed_tensor dk, dv;
    map_gradients dfeatures, dquery_features;
} backward_state;

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

static void release_map(map_gradients *gradients)
{
    for (int i = 0; i < LINEAR_MAX_LAYERS; i++)
        for (int m = 0; m < LINEAR_N_MATRICES; m++)
            free(gradients->matrices[i][m].data);
}

void linear_backward_release(void *state)
{
    backward_state *s = state;
    if (s) {
        heed_context_destroy(s->context);
        free(s->dk.data);
        free(s->dv.data);
        release_map(&s->dfeatures);
        release_map(&s->dquery_features);
        free(s);
    }
}

/* Memory for the gradient of a matrix, which *at names then. */
static int make_matrix(heed_tensor *made, const heed_tensor **at)
{
    const heed_tensor *w = *at;
    if (!w)
        return 0;
    *made = heed_tensor_bhnd(memory_allocate_floats(1, w->shape[1], w->shape[2], w->shape[3]), HEED_FLOAT32, 1,
                             w->shape[1], w->shape[2], w->shape[3]);
    *at = made;
    return made->data ? 0 : -1;
}

static int make_map(map_gradients *gradients, const heed_feature_map *map)
{
    if (!map)
        return 0;
    gradients->map.map = *map;
    gradients->map.map.layers = gradients->map.layers;
    for (int64_t i = 0; i < map->n_layers; i++) {
        heed_feature_layer *layer = &gradients->map.layers[i];
        *layer = map->layers[i];
        const heed_tensor **const matrices[] = {&layer->wf, &layer->wg, &layer->a, &layer->b, &layer->omega};
        for (int m = 0; m < LINEAR_N_MATRICES; m++)
            if (make_matrix(&gradients->matrices[i][m], matrices[m]) != 0)
                return -1;
    }
    return 0;
}

/* Laid out as the output: heads or tokens outermost. */
static int make_like(heed_tensor *made, const heed_tensor *like, input_layout layout)
{
    const int64_t *size = like->shape;
    *made = (layout == LAYOUT_BHND ? heed_tensor_bhnd : heed_tensor_bnhd)(
        memory_allocate_floats(size[0], size[1], size[2], size[3]), HEED_FLOAT32, size[0], size[1], size[2], size[3]);
    return made->data ? 0 : -1;
}

static int take_memory(backward_state *s)
{
    const attention_input *in = s->setup.input;
    const input_layout layout = in->settings.layout;
    return make_like(&s->dk, &in->k, layout) == 0 && make_like(&s->dv, &in->v, layout) == 0 &&
                   make_map(&s->dfeatures, s->options.features) == 0 &&
                   make_map(&s->dquery_features, s->options.query_features) == 0
               ? 0
               : -1;
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

void *linear_backward_prepare(linear_kind kind, const variant_setup *setup, char *message, size_t message_bytes)
{
    const attention_input *in = setup->input;
    backward_state *s = calloc(1, sizeof *s);
    if (s) {
        s->setup = *setup;
        s->options = linear_input_options(in, kind);
    }
    if (!s || take_memory(s) != 0) {
        snprintf(message, message_bytes, "out of memory for the gradients");
        linear_backward_release(s);
        return NULL;
    }
    int64_t scratch_bytes = 0; /* where this fails, the call says why */
    heed_linear_backward_scratch_bytes(&in->q, &in->k, &in->v, &s->options, &scratch_bytes);
    s->context = variant_create_context(setup, scratch_bytes, message, message_bytes);
    if (!s->context) {
        linear_backward_release(s);
        return NULL;
    }
    return s;
}

int linear_backward_run(void *state, char *message, size_t message_bytes)
{
    const backward_state *s = state;
    const attention_input *in = s->setup.input;
    const heed_feature_map *of_queries = s->options.query_features ? &s->dquery_features.map.map : NULL;
    if (heed_linear_backward(s->context, &in->q, &in->k, &in->v, &s->options, &in->linear->dout, NULL, NULL,
                             &s->setup.out, &s->dk, &s->dv, &s->dfeatures.map.map, of_queries, NULL) != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(s->context));
        return -1;
    }
    return 0;
}

int64_t linear_backward_scratch_bytes(const void *state)
{
    const backward_state *s = state;
    return variant_carved_bytes(s->context);
}
