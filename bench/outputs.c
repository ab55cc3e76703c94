#include "bench/outputs.h"

#include "bench/aft_input.h"
#include "bench/linear_input.h"
#include "bench/memory.h"
#include "bench/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static float value_at(const heed_tensor *t, int64_t index)
{
    return t->dtype == HEED_BOOL ? (float)(((const uint8_t *)t->data)[index] != 0) : ((const float *)t->data)[index];
}

/* The view as a contiguous float array (batch, head, token, channel). */
static float *make_contiguous(const heed_tensor *t)
{
    float *data = memory_allocate_floats(t->shape[0], t->shape[1], t->shape[2], t->shape[3]);
    if (!data)
        return NULL;
    float *to = data;
    for (int64_t b = 0; b < t->shape[0]; b++) {
        for (int64_t h = 0; h < t->shape[1]; h++) {
            for (int64_t n = 0; n < t->shape[2]; n++)
                for (int64_t c = 0; c < t->shape[3]; c++)
                    *to++ = value_at(t, b * t->stride[0] + h * t->stride[1] + n * t->stride[2] + c);
        }
    }
    return data;
}

/* FOLDER/NAME.npy with the last `rank` dimensions. */
static int write_tensor(const char *folder, const char *name, const heed_tensor *t, int rank, char *message,
                        size_t message_bytes)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s.npy", folder, name);
    float *data = make_contiguous(t);
    if (!data) {
        snprintf(message, message_bytes, "%s: out of memory", path);
        return -1;
    }
    const int result = npy_write(path, rank, t->shape + 4 - rank, data, message, message_bytes);
    free(data);
    return result;
}

/* The files that --params reads. */
static int write_aft(const char *folder, const attention_input *input, char *message, size_t message_bytes)
{
    const aft_parameters *p = &input->aft->parameters;
    const aft_settings *aft = &input->settings.aft;
    const heed_tensor filter_rows =
        heed_tensor_bhnd(p->filter.data, HEED_FLOAT32, 1, 1, aft->conv_heads, aft->filter_columns);
    const int has_grid = aft->grid_width > 0;
    const heed_tensor *const tensors[] = {p->w.data ? &p->w : &p->band, &p->query_factors, &p->key_factors,
                                          has_grid ? &p->filter : &filter_rows};
    static const char *const names[] = {"aft.w", "aft.u", "aft.v", "aft.filter"};
    for (int i = 0; i < 4; i++) {
        const int rank = i == 3 && has_grid ? 3 : 2;
        if (tensors[i]->data && write_tensor(folder, names[i], tensors[i], rank, message, message_bytes) != 0)
            return -1;
    }
    return 0;
}

/* The files that --params reads. */
static int write_linear(const char *folder, const attention_input *input, char *message, size_t message_bytes)
{
    const linear_parameters *p = &input->linear->parameters;
    for (int i = 0; i < LINEAR_MAX_LAYERS * LINEAR_N_MATRICES; i++) {
        const int layer = i / LINEAR_N_MATRICES;
        const linear_matrix matrix = (linear_matrix)(i % LINEAR_N_MATRICES);
        const heed_tensor *w = &p->matrices[0][layer][matrix];
        char name[64];
        linear_parameters_name(p, 0, layer, matrix, name, sizeof name);
        if (w->data && write_tensor(folder, name, w, 3, message, message_bytes) != 0)
            return -1;
    }
    return 0;
}

/* What no file of the user holds. */
static int write_random(const char *folder, const attention_input *input, char *message, size_t message_bytes)
{
    const heed_tensor *const tensors[] = {&input->q, &input->k, &input->v, &input->bias, &input->visible};
    static const char *const names[] = {"q", "k", "v", "bias", "visible"};
    for (int i = input->random ? 0 : 3; i < 5; i++) {
        const int rank = i < 3 ? input->rank : 3;
        if (tensors[i]->data && write_tensor(folder, names[i], tensors[i], rank, message, message_bytes) != 0)
            return -1;
    }
    const heed_tensor *dout = input->linear ? &input->linear->dout : NULL;
    if (dout && dout->data && write_tensor(folder, "dout", dout, input->rank, message, message_bytes) != 0)
        return -1;
    if (input->settings.folder)
        return 0;
    if (input->aft && write_aft(folder, input, message, message_bytes) != 0)
        return -1;
    return input->linear ? write_linear(folder, input, message, message_bytes) : 0;
}

static int is_first_of_variant(const compare_row *rows, int i)
{
    for (int j = 0; j < i; j++)
        if (rows[j].variant == rows[i].variant)
            return 0;
    return 1;
}

/* Makes a folder and those above it that are missing. */
static int make_folder(const char *folder, char *message, size_t message_bytes)
{
    char path[1024];
    snprintf(path, sizeof path, "%s", folder);
    for (char *at = path + 1;; at++) {
        const char c = *at;
        if (c == '/' || c == '\0') {
            *at = '\0';
            if (mkdir(path, 0777) != 0 && errno != EEXIST) {
                snprintf(message, message_bytes, "%s: %s", path, strerror(errno));
                return -1;
            }
            *at = c;
        }
        if (c == '\0')
            return 0;
    }
}

int outputs_write(const char *folder, const compare_row *rows, int n_rows, char *message, size_t message_bytes)
{
    if (make_folder(folder, message, message_bytes) != 0)
        return -1;
    for (int i = 0; i < n_rows; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", rows[i].variant->name, rows[i].variant->result == RESULT_DQ ? ".dq" : "");
        if (is_first_of_variant(rows, i) &&
            write_tensor(folder, name, &rows[i].setup.out, rows[i].setup.input->rank, message, message_bytes) != 0)
            return -1;
    }
    return write_random(folder, rows[0].setup.input, message, message_bytes);
}
