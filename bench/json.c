#include "bench/json.h"

#include "bench/linear_input.h"
#include "bench/mrsha_input.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void add_machine(cJSON *root, const machine *m)
{
    cJSON *object = cJSON_AddObjectToObject(root, "machine");
    cJSON_AddStringToObject(object, "cpu", machine_cpu(m));
    cJSON_AddNumberToObject(object, "cores", machine_n_cores(m));
    cJSON_AddStringToObject(object, "compiler", machine_compiler());
    cJSON_AddStringToObject(object, "blas", machine_blas());
    cJSON *fma = cJSON_AddObjectToObject(object, "fma_gflops");
    for (heed_isa isa = HEED_ISA_SCALAR; isa <= HEED_ISA_NEON; isa++) {
        const double gflops = machine_fma_gflops(m, isa, 1);
        if (gflops > 0)
            cJSON_AddNumberToObject(fma, heed_isa_name(isa), gflops);
    }
    cJSON_AddNumberToObject(object, "exp_gops", machine_exp_gops(m));
    const machine_reads reads = machine_read_gbytes(m);
    cJSON *read = cJSON_AddObjectToObject(object, "read_gbytes");
    cJSON_AddNumberToObject(read, "l2", reads.l2);
    cJSON_AddNumberToObject(read, "l3", reads.l3);
    cJSON_AddNumberToObject(read, "dram", reads.dram);
}

static void add_shape(cJSON *object, const attention_shape *s)
{
    const int64_t sizes[] = {s->batch,  s->n_query_heads, s->n_kv_heads,      s->n_queries,
                             s->n_keys, s->n_channels,    s->n_value_channels};
    cJSON *array = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber((double)sizes[i]));
}

/* What AFT was asked for, where the row is one of its forms. */
static void add_aft(cJSON *options, const aft_settings *aft)
{
    const double filter[] = {(double)aft->filter_rows, (double)aft->filter_columns};
    const double grid[] = {(double)aft->grid_height, (double)aft->grid_width};
    cJSON_AddNumberToObject(options, "aft_window", (double)aft->window);
    cJSON_AddNumberToObject(options, "aft_factors", (double)aft->n_factors);
    cJSON_AddNumberToObject(options, "conv_heads", (double)aft->conv_heads);
    cJSON_AddItemToObject(options, "conv_filter", cJSON_CreateDoubleArray(filter, 2));
    cJSON_AddItemToObject(options, "grid", cJSON_CreateDoubleArray(grid, 2));
}

/* What linear attention was asked for, where the row is one of its kinds. */
static void add_linear(cJSON *options, const attention_input *input, const variant *v)
{
    for (int kind = 0; kind <= LINEAR_BLAS; kind++) {
        if (!(v->kinds.linear >> kind & 1))
            continue;
        const linear_settings *settings = &input->settings.linear;
        cJSON_AddNumberToObject(options, "features", (double)linear_n_features(input, (linear_kind)kind));
        cJSON_AddNumberToObject(options, "layers", (double)linear_n_layers(settings, (linear_kind)kind));
    }
}

/* S of each head, where the row is multiresolution-head attention. */
static void add_mrsha(cJSON *options, const attention_input *input, const variant *v)
{
    cJSON *group_sizes = cJSON_AddArrayToObject(options, "group_sizes");
    for (int64_t h = 0; h < input->shape.n_query_heads; h++)
        cJSON_AddItemToArray(group_sizes, cJSON_CreateNumber((double)v->group_size(input, h)));
    for (int kind = 0; kind < MRSHA_N_KINDS; kind++) {
        if (v->kinds.mrsha >> kind & 1)
            cJSON_AddStringToObject(options, "mrsha_mode",
                                    mrsha_mode_name(mrsha_input_options(input, (mrsha_kind)kind).mode));
    }
}

/* What was asked of the input beyond its shape, causality and layout. */
static void add_options(cJSON *object, const variant *v, const attention_input *input)
{
    const input_settings *settings = &input->settings;
    cJSON *options = cJSON_AddObjectToObject(object, "options");
    const double window[] = {(double)settings->window_left, (double)settings->window_right};
    cJSON_AddItemToObject(options, "softmax_window", cJSON_CreateDoubleArray(window, 2));
    cJSON_AddBoolToObject(options, "bias", settings->bias);
    cJSON_AddBoolToObject(options, "bool_mask", settings->bool_mask);
    cJSON_AddNumberToObject(options, "seed", (double)settings->seed);
    if (v->kinds.aft != 0)
        add_aft(options, &settings->aft);
    if (v->kinds.linear != 0)
        add_linear(options, input, v);
    if (v->kinds.mrsha != 0)
        add_mrsha(options, input, v);
    if (v->kinds.aft == 0 && v->kinds.linear == 0)
        return;
    if (settings->folder)
        cJSON_AddStringToObject(options, "params", settings->folder);
    else
        cJSON_AddNullToObject(options, "params");
}

static void add_resolutions(cJSON *object, const compare_row *row)
{
    cJSON *array = cJSON_AddArrayToObject(object, "resolutions");
    for (int i = 0; i < row->n_resolutions; i++) {
        const row_resolution *resolution = &row->resolutions[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddItemToArray(array, item);
        cJSON_AddNumberToObject(item, "group_size", (double)resolution->group_size);
        cJSON_AddNumberToObject(item, "heads", (double)resolution->n_heads);
        cJSON_AddNumberToObject(item, "softmax_distance", resolution->softmax_distance);
    }
}

static void add_row(cJSON *array, const compare_row *row, const compare_row *rows, int n_rows, const machine *m)
{
    const attention_input *input = row->setup.input;
    const row_rates rates = row_find_rates(row, m);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(array, object);
    cJSON_AddStringToObject(object, "variant", row->variant->name);
    cJSON_AddStringToObject(object, "mode", row->variant->mode);
    cJSON_AddStringToObject(object, "isa", heed_isa_name(row->setup.isa));
    cJSON_AddNumberToObject(object, "threads", row->setup.n_threads);
    cJSON_AddStringToObject(object, "input", input->name);
    add_shape(object, &input->shape);
    cJSON_AddBoolToObject(object, "causal", input->causal);
    cJSON_AddStringToObject(object, "layout", input_layout_name(input->settings.layout));
    add_options(object, row->variant, input);
    cJSON_AddNumberToObject(object, "ms", row->ms);
    if (row->variant->flops)
        cJSON_AddNumberToObject(object, "gflops", rates.gflops);
    else
        cJSON_AddNullToObject(object, "gflops");
    cJSON_AddNumberToObject(object, "fma_gflops", rates.fma_gflops);
    cJSON_AddNumberToObject(object, "gbytes", rates.gbytes);
    cJSON_AddNumberToObject(object, "bandwidth_gbytes", rates.bandwidth_gbytes);
    cJSON_AddStringToObject(object, "limit", rates.limit);
    cJSON_AddNumberToObject(object, "limit_value", rates.limit_value);
    cJSON_AddNumberToObject(object, "share", rates.share);
    cJSON_AddNumberToObject(object, "scratch_bytes", (double)row->scratch_bytes);
    cJSON_AddNumberToObject(object, "max_abs_err", row->max_abs_err);
    cJSON_AddNumberToObject(object, "rel_err", row->rel_err);
    cJSON_AddNumberToObject(object, "rows_checked", (double)row->rows_checked);
    if (row->variant->result == RESULT_OUT)
        cJSON_AddNumberToObject(object, "softmax_distance", row->softmax_distance);
    else
        cJSON_AddNullToObject(object, "softmax_distance");
    if (row->n_resolutions > 0)
        add_resolutions(object, row);
    const compare_row *forward = row_find_forward(row, rows, n_rows);
    if (forward)
        cJSON_AddNumberToObject(object, "over_forward", row->ms / forward->ms);
}

static int write_text(const char *path, const char *text, char *message, size_t message_bytes)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        snprintf(message, message_bytes, "%s: %s", path, strerror(errno));
        return -1;
    }
    const int written = fprintf(file, "%s\n", text) > 0;
    if (fclose(file) != 0 || !written) {
        snprintf(message, message_bytes, "%s: cannot be written", path);
        return -1;
    }
    return 0;
}

int json_write(const char *path, const compare_row *rows, int n_rows, const machine *m, char *message,
               size_t message_bytes)
{
    cJSON *root = cJSON_CreateObject();
    add_machine(root, m);
    cJSON *array = cJSON_AddArrayToObject(root, "rows");
    for (int i = 0; i < n_rows; i++)
        add_row(array, &rows[i], rows, n_rows, m);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) {
        snprintf(message, message_bytes, "out of memory for the JSON");
        return -1;
    }
    const int result = write_text(path, text, message, message_bytes);
    cJSON_free(text);
    return result;
}
