/* The learned matrices of feature maps: made as one would begin to train them, or read from files. */
#ifndef HEED_BENCH_LINEAR_PARAMETERS_H
#define HEED_BENCH_LINEAR_PARAMETERS_H

#include "bench/input.h"

enum { LINEAR_MAX_LAYERS = 8, LINEAR_N_SIDES = 2 };

/* Of one layer, as in heed_feature_layer. */
typedef enum linear_matrix { LINEAR_WF, LINEAR_WG, LINEAR_A, LINEAR_B, LINEAR_OMEGA, LINEAR_N_MATRICES } linear_matrix;

/* Matrices (1, H or 1, in, out) by side, layer and kind; data NULL where no map of the run needs one. Those of one name
 * are one matrix for all maps of the run. Side 0 holds those of the keys, and of the queries too unless these have maps
 * of their own: that are files phi_q and phi_k. */
typedef struct linear_parameters {
    int separate; /* queries have maps of their own: side 1 */
    heed_context *context;
    heed_tensor matrices[LINEAR_N_SIDES][LINEAR_MAX_LAYERS][LINEAR_N_MATRICES];
} linear_parameters;

/* The name of a matrix without its folder: phi.0.wf, phi_k.omega. */
void linear_parameters_name(const linear_parameters *parameters, int side, int layer, linear_matrix matrix, char *name,
                            size_t size);

/* Finds out whether queries have maps of their own. Returns 0, or -1 with the reason in `message`; to be released
 * either way. */
int linear_parameters_start(linear_parameters *parameters, const attention_input *input, char *message,
                            size_t message_bytes);

/* The matrix of `in` rows and `out` columns; 0 columns stand for those of a file, or for as many as `otherwise`. Made or
 * read when it is first asked for. Returns NULL with the reason in `message`. */
const heed_tensor *linear_parameters_take(linear_parameters *parameters, const attention_input *input, int side,
                                          int layer, linear_matrix matrix, int64_t in, int64_t out, int64_t otherwise,
                                          char *message, size_t message_bytes);

void linear_parameters_release(linear_parameters *parameters);

#endif
