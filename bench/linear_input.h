/* The feature maps that linear attention takes for an input. Made once for each input, before anything is timed; q, k
 * and v are those of the input. */
#ifndef HEED_BENCH_LINEAR_INPUT_H
#define HEED_BENCH_LINEAR_INPUT_H

#include "bench/linear_parameters.h"
#include "bench/variants.h"

/* The maps that are compared. BLAS takes the map of SOFTPLUS, and computes it by other means. */
typedef enum linear_kind {
    LINEAR_ELU1,
    LINEAR_SOFTPLUS,
    LINEAR_OGLU,
    LINEAR_AOGLU,
    LINEAR_FAVOR,
    LINEAR_N_KINDS,
    LINEAR_BLAS = LINEAR_N_KINDS
} linear_kind;

typedef struct linear_map {
    heed_feature_layer layers[LINEAR_MAX_LAYERS];
    heed_feature_map map;
} linear_map;

/* Maps of kinds that do not run are empty. Maps point into the parameters. */
struct linear_input {
    linear_parameters parameters;
    linear_map maps[LINEAR_N_KINDS][LINEAR_N_SIDES];
    heed_tensor dout; /* the gradient of a loss, shaped as the output; data NULL where gradients are not asked for */
};

/* C of a kind where nothing else was asked for, and its layers. */
int64_t linear_n_features(const attention_input *input, linear_kind kind);
int64_t linear_n_layers(const linear_settings *settings, linear_kind kind);

/* Makes what the kinds of settings.linear need. Returns NULL with the reason in `message`, also where a kind does not go
 * with the input. */
linear_input *linear_input_create(const attention_input *input, char *message, size_t message_bytes);
void linear_input_destroy(linear_input *linear);

/* The options of one kind; they point into the input. */
heed_linear_options linear_input_options(const attention_input *input, linear_kind kind);

#endif
