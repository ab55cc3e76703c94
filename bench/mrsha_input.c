#include "bench/mrsha_input.h"

#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>

const char *mrsha_mode_name(heed_mrsha_mode mode)
{
    static const char *const names[] = {"both", "output", "value"};
    return names[mode];
}

static void choose_group_sizes(const attention_input *input, mrsha_kind kind, int64_t *group_sizes)
{
    const mrsha_settings *settings = &input->settings.mrsha;
    const int64_t n_heads = input->shape.n_query_heads;
    if (kind == MRSHA_1248 || (kind == MRSHA_ASKED && settings->n_group_sizes == 0)) {
        heed_mrsha_group_sizes(kind == MRSHA_1248 ? HEED_MRSHA_1248 : HEED_MRSHA_HALF, n_heads, group_sizes);
        return;
    }
    for (int64_t h = 0; h < n_heads; h++)
        group_sizes[h] = kind == MRSHA_2 ? 2 : settings->group_sizes[h % settings->n_group_sizes];
}

mrsha_input *mrsha_input_create(const attention_input *input, char *message, size_t message_bytes)
{
    const int64_t n_heads = input->shape.n_query_heads;
    mrsha_input *mrsha = calloc(1, sizeof *mrsha);
    if (mrsha)
        mrsha->group_sizes = memory_allocate(MRSHA_N_KINDS * n_heads * (int64_t)sizeof *mrsha->group_sizes);
    if (!mrsha || !mrsha->group_sizes) {
        snprintf(message, message_bytes, "out of memory for the resolutions of heads");
        mrsha_input_destroy(mrsha);
        return NULL;
    }
    for (int kind = 0; kind < MRSHA_N_KINDS; kind++)
        choose_group_sizes(input, (mrsha_kind)kind, mrsha->group_sizes + kind * n_heads);
    return mrsha;
}

void mrsha_input_destroy(mrsha_input *mrsha)
{
    if (mrsha) {
        free(mrsha->group_sizes);
        free(mrsha);
    }
}

heed_mrsha_options mrsha_input_options(const attention_input *input, mrsha_kind kind)
{
    heed_mrsha_options options = HEED_MRSHA_OPTIONS_INIT;
    options.group_sizes = input->mrsha->group_sizes + kind * input->shape.n_query_heads;
    options.mode = kind == MRSHA_ASKED ? input->settings.mrsha.mode : HEED_MRSHA_BOTH;
    options.softmax = &input->options;
    return options;
}

int mrsha_input_has_cache(const attention_input *input, int64_t h)
{
    const int64_t n_heads = input->shape.n_query_heads / input->shape.n_kv_heads;
    const int64_t *group_sizes = mrsha_input_options(input, MRSHA_ASKED).group_sizes;
    for (int64_t earlier = h / n_heads * n_heads; earlier < h; earlier++)
        if (group_sizes[earlier] == group_sizes[h])
            return 0;
    return 1;
}
