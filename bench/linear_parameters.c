#include "bench/linear_parameters.h"

#include "bench/memory.h"
#include "bench/parameter_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- Names ------------------------------------------------------------------------------------------------------ */

static const char *get_prefix(int separate, int side) { return !separate ? "phi" : side == 0 ? "phi_k" : "phi_q"; }

/* Projections have no layer: there is one of them at most. */
static void format_name(const char *prefix, int layer, linear_matrix matrix, char *name, size_t size)
{
    static const char *const names[] = {"wf", "wg", "a", "b"};
    if (matrix == LINEAR_OMEGA)
        snprintf(name, size, "%s.omega", prefix);
    else
        snprintf(name, size, "%s.%d.%s", prefix, layer, names[matrix]);
}

void linear_parameters_name(const linear_parameters *parameters, int side, int layer, linear_matrix matrix, char *name,
                            size_t size)
{
    format_name(get_prefix(parameters->separate, side), layer, matrix, name, size);
}

/* ---- Whose maps ------------------------------------------------------------------------------------------------- */

/* What every set of files of that prefix begins with. */
static int has_files(const char *folder, const char *prefix)
{
    static const linear_matrix first[] = {LINEAR_WF, LINEAR_OMEGA};
    for (int i = 0; i < 2; i++) {
        char name[64], path[1200];
        format_name(prefix, 0, first[i], name, sizeof name);
        snprintf(path, sizeof path, "%s/%s.npy", folder, name);
        if (access(path, F_OK) == 0)
            return 1;
    }
    return 0;
}

int linear_parameters_start(linear_parameters *parameters, const attention_input *input, char *message,
                            size_t message_bytes)
{
    const char *folder = input->settings.folder;
    if (!folder)
        return heed_context_create(NULL, &parameters->context, message, message_bytes) == HEED_OK ? 0 : -1;
    parameters->separate = has_files(folder, "phi_q") || has_files(folder, "phi_k");
    if (parameters->separate && has_files(folder, "phi")) {
        snprintf(message, message_bytes, "%s: files phi.* expected, or phi_q.* and phi_k.*, got both", folder);
        return -1;
    }
    return 0;
}

/* ---- Matrices --------------------------------------------------------------------------------------------------- */

static int64_t count_heads(const attention_input *input, int side)
{
    return side == 0 ? input->shape.n_kv_heads : input->shape.n_query_heads;
}

/* Every matrix has a seed of its own, so that it does not depend on what else is made. */
static float *make_matrix(linear_parameters *parameters, const attention_input *input, int layer, linear_matrix matrix,
                          const int64_t sizes[PARAMETER_MAX_RANK], char *message, size_t message_bytes)
{
    const uint64_t place = 1 + (uint64_t)layer * LINEAR_N_MATRICES + (uint64_t)matrix;
    const uint64_t seed = input->settings.seed + (place << 56);
    float *data = memory_allocate_floats(1, sizes[0], sizes[1], sizes[2]);
    if (!data) {
        snprintf(message, message_bytes, "out of memory for the weights of feature maps");
        return NULL;
    }
    const heed_tensor w = heed_tensor_bhnd(data, HEED_FLOAT32, 1, sizes[0], sizes[1], sizes[2]);
    const heed_status status = matrix == LINEAR_WF      ? heed_init_orthogonal(parameters->context, seed, &w)
                               : matrix == LINEAR_OMEGA ? heed_init_favor(parameters->context, seed, &w)
                                                        : heed_init_he(parameters->context, seed, &w);
    if (status != HEED_OK) {
        snprintf(message, message_bytes, "%s", heed_context_message(parameters->context));
        free(data);
        return NULL;
    }
    return data;
}

/* One that another map of the run has taken must fit this one too. */
static int check_taken(const attention_input *input, const char *name, const heed_tensor *taken,
                       const parameter_shape *shape, char *message, size_t message_bytes)
{
    if (parameter_fits(shape, 3, taken->shape + 1))
        return 0;
    char path[1200];
    snprintf(path, sizeof path, "%s/%s.npy", input->settings.folder ? input->settings.folder : "", name);
    parameter_tell_sizes(path, shape, 3, taken->shape + 1, message, message_bytes);
    return -1;
}

const heed_tensor *linear_parameters_take(linear_parameters *parameters, const attention_input *input, int side,
                                          int layer, linear_matrix matrix, int64_t in, int64_t out, int64_t otherwise,
                                          char *message, size_t message_bytes)
{
    heed_tensor *taken = &parameters->matrices[side][layer][matrix];
    const parameter_shape shape = {3, {count_heads(input, side), in, out}, {1, 0, 0}};
    char name[64];
    linear_parameters_name(parameters, side, layer, matrix, name, sizeof name);
    if (taken->data)
        return check_taken(input, name, taken, &shape, message, message_bytes) == 0 ? taken : NULL;
    int64_t sizes[PARAMETER_MAX_RANK] = {shape.sizes[0], in, out > 0 ? out : otherwise};
    float *data = input->settings.folder
                      ? parameter_read(input->settings.folder, name, &shape, sizes, message, message_bytes)
                      : make_matrix(parameters, input, layer, matrix, sizes, message, message_bytes);
    if (!data)
        return NULL;
    *taken = heed_tensor_bhnd(data, HEED_FLOAT32, 1, sizes[0], sizes[1], sizes[2]);
    return taken;
}

void linear_parameters_release(linear_parameters *parameters)
{
    heed_context_destroy(parameters->context);
    for (int side = 0; side < LINEAR_N_SIDES; side++) {
        for (int layer = 0; layer < LINEAR_MAX_LAYERS; layer++)
            for (int matrix = 0; matrix < LINEAR_N_MATRICES; matrix++)
                free(parameters->matrices[side][layer][matrix].data);
    }
}
