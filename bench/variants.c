#include "bench/variants.h"

#include <string.h>

const variant *const variant_list[] = {
    &variant_softmax,     &variant_gemm,         &variant_aft_full,     &variant_aft_local,
    &variant_aft_simple,  &variant_aft_conv,     &variant_linear_elu1,  &variant_linear_softplus,
    &variant_linear_oglu, &variant_linear_aoglu, &variant_linear_favor, &variant_linear_blas,
    &variant_mrsha_2,     &variant_mrsha_1248,   &variant_mrsha,        NULL,
};

int64_t variant_n_channels(const variant *v, const attention_input *input)
{
    return v->result == RESULT_DQ ? input->shape.n_channels : input->shape.n_value_channels;
}

const variant *variant_find(const char *name)
{
    for (const variant *const *v = variant_list; *v; v++)
        if (strcmp((*v)->name, name) == 0)
            return *v;
    return NULL;
}

heed_context *variant_create_context(const variant_setup *setup, int64_t scratch_bytes, char *message,
                                     size_t message_bytes)
{
    heed_config config = HEED_CONFIG_INIT;
    config.isa = setup->isa;
    config.n_threads = setup->n_threads;
    config.scratch_bytes = scratch_bytes;
    heed_context *context = NULL;
    return heed_context_create(&config, &context, message, message_bytes) == HEED_OK ? context : NULL;
}

int64_t variant_carved_bytes(const heed_context *context)
{
    heed_report report = HEED_REPORT_INIT;
    return heed_context_report(context, &report) == HEED_OK ? report.scratch_bytes : 0;
}
