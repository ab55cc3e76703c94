#include "bench/aft_parameters.h"

#include "bench/memory.h"
#include "bench/parameter_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of the random streams; those of input.c are smaller. */
enum { STREAM_W = 200, STREAM_QUERY_FACTORS, STREAM_KEY_FACTORS, STREAM_FILTER };

static const double deviation = 0.1; /* of a bias */

/* One array: its shape, its file, and how its numbers are drawn without a file. */
typedef struct parameter {
    const char *name; /* of the file NAME.npy */
    parameter_shape shape;
    uint64_t stream;
    double deviation;
} parameter;

int aft_asks_for(const attention_input *input, oracle_aft_form form)
{
    return (input->settings.aft.forms >> form & 1) != 0;
}

/* ---- One array -------------------------------------------------------------------------------------------------- */

/* `sizes` receives the shape, 1 beyond the rank. */
static float *make_array(const parameter *p, const attention_input *input, int64_t sizes[PARAMETER_MAX_RANK],
                         char *message, size_t message_bytes)
{
    if (input->settings.folder)
        return parameter_read(input->settings.folder, p->name, &p->shape, sizes, message, message_bytes);
    int64_t wanted[] = {1, 1, 1, 1};
    memcpy(wanted, p->shape.sizes, (size_t)p->shape.rank * sizeof wanted[0]);
    memcpy(sizes, wanted, PARAMETER_MAX_RANK * sizeof sizes[0]);
    float *data = input_make_normal(wanted, input->settings.seed, p->stream, (float)p->deviation);
    if (!data)
        snprintf(message, message_bytes, "out of memory for the parameters of AFT");
    return data;
}

/* The same where it is a matrix for all heads. */
static heed_tensor make_matrix(const parameter *p, const attention_input *input, char *message, size_t message_bytes)
{
    int64_t sizes[PARAMETER_MAX_RANK] = {0};
    float *data = make_array(p, input, sizes, message, message_bytes);
    return heed_tensor_bhnd(data, HEED_FLOAT32, 1, 1, sizes[0], sizes[1]);
}

/* ---- The bias of full and local --------------------------------------------------------------------------------- */

/* A product of d' pairs of factors with deviation sigma has deviation sigma^2 sqrt(d'). */
static int make_factors(aft_parameters *parameters, const attention_input *input, char *message, size_t bytes)
{
    const int64_t n_factors = input->settings.aft.n_factors;
    const double sigma = sqrt(deviation / sqrt((double)n_factors));
    const parameter u = {"aft.u", {2, {input->shape.n_queries, n_factors}, {0}}, STREAM_QUERY_FACTORS, sigma};
    const parameter v = {"aft.v", {2, {input->shape.n_keys, n_factors}, {0}}, STREAM_KEY_FACTORS, sigma};
    parameters->query_factors = make_matrix(&u, input, message, bytes);
    if (!parameters->query_factors.data)
        return -1;
    parameters->key_factors = make_matrix(&v, input, message, bytes);
    return parameters->key_factors.data ? 0 : -1;
}

/* The columns of the band that are no keys are 0. */
static heed_tensor cut_band(const heed_tensor *w, int64_t window, int64_t n_columns)
{
    const int64_t n_queries = w->shape[2], n_keys = w->shape[3];
    float *to = memory_allocate_floats(1, 1, n_queries, n_columns);
    const heed_tensor band = heed_tensor_bhnd(to, HEED_FLOAT32, 1, 1, n_queries, n_columns);
    for (int64_t i = 0; to && i < n_queries; i++, to += n_columns) {
        const float *row = (const float *)w->data + i * w->stride[2];
        const int64_t first_key = i + n_keys - n_queries - window + 1; /* of column 0 */
        const int64_t begin = first_key < 0 ? -first_key : 0;
        const int64_t end = first_key + n_columns > n_keys ? n_keys - first_key : n_columns;
        if (begin < end)
            memcpy(to + begin, row + first_key + begin, (size_t)(end - begin) * sizeof *to);
    }
    return band;
}

/* Where aft-full runs too, both take the same w. For aft-local alone a band is enough. */
static int make_w(aft_parameters *parameters, const attention_input *input, char *message, size_t bytes)
{
    const int64_t n_queries = input->shape.n_queries, n_keys = input->shape.n_keys;
    const int64_t window = input->settings.aft.window, n_columns = input->causal ? window : 2 * window - 1;
    const int full = aft_asks_for(input, ORACLE_AFT_FULL), local = aft_asks_for(input, ORACLE_AFT_LOCAL);
    const parameter_shape shape = {2, {n_queries, full ? n_keys : n_columns}, {0, full ? 0 : n_keys}};
    const parameter p = {"aft.w", shape, STREAM_W, deviation};
    const heed_tensor made = make_matrix(&p, input, message, bytes);
    if (!made.data)
        return -1;
    if (!full && made.shape[3] == n_columns) {
        parameters->band = made;
        return 0;
    }
    parameters->w = made;
    if (!local)
        return 0;
    parameters->band = cut_band(&made, window, n_columns);
    if (!parameters->band.data)
        snprintf(message, bytes, "out of memory for the band of aft-local");
    return parameters->band.data ? 0 : -1;
}

/* ---- All of them ------------------------------------------------------------------------------------------------ */

static int make_filter(aft_parameters *parameters, const attention_input *input, char *message, size_t bytes)
{
    const aft_settings *s = &input->settings.aft;
    const parameter_shape row = {2, {s->conv_heads, s->filter_columns}, {0}};
    const parameter_shape grid = {3, {s->conv_heads, s->filter_rows, s->filter_columns}, {0}};
    const parameter p = {"aft.filter", s->grid_width > 0 ? grid : row, STREAM_FILTER, deviation};
    int64_t sizes[PARAMETER_MAX_RANK];
    float *data = make_array(&p, input, sizes, message, bytes);
    parameters->filter = heed_tensor_bhnd(data, HEED_FLOAT32, 1, s->conv_heads, s->filter_rows, s->filter_columns);
    return data ? 0 : -1;
}

int aft_parameters_make(aft_parameters *parameters, const attention_input *input, char *message, size_t message_bytes)
{
    if (aft_asks_for(input, ORACLE_AFT_FULL) || aft_asks_for(input, ORACLE_AFT_LOCAL)) {
        const int has_factors = input->settings.aft.n_factors > 0;
        if ((has_factors ? make_factors : make_w)(parameters, input, message, message_bytes) != 0)
            return -1;
    }
    return aft_asks_for(input, ORACLE_AFT_CONV) ? make_filter(parameters, input, message, message_bytes) : 0;
}

void aft_parameters_release(aft_parameters *parameters)
{
    free(parameters->w.data);
    free(parameters->band.data);
    free(parameters->query_factors.data);
    free(parameters->key_factors.data);
    free(parameters->filter.data);
}
