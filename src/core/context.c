#include "core/context.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

heed_status heed_complain(heed_message *message, heed_status status, const char *format, ...)
{
    if (message) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message->text, sizeof message->text, format, arguments);
        va_end(arguments);
    }
    return status;
}

heed_status heed_call_begin(heed_context *context)
{
    if (!context)
        return HEED_ERROR_ARGUMENT;
    if (atomic_flag_test_and_set_explicit(&context->busy, memory_order_acquire))
        return HEED_ERROR_BUSY;
    context->message.text[0] = '\0';
    return HEED_OK;
}

heed_status heed_call_end(heed_context *context, heed_status status)
{
    atomic_flag_clear_explicit(&context->busy, memory_order_release);
    return status;
}

heed_status heed_check_scratch(heed_context *context, int64_t bytes)
{
    if (bytes <= context->scratch_bytes)
        return HEED_OK;
    return heed_complain(&context->message, HEED_ERROR_SCRATCH,
                         "scratch: %" PRId64 " bytes per worker needed, the context has %" PRId64, bytes,
                         context->scratch_bytes);
}

void heed_report_start(heed_context *context, const char *path, int64_t bytes)
{
    context->report.path = path;
    context->report.n_tasks = 0;
    context->report.n_workers = 1;
    context->report.scratch_bytes = bytes;
    context->report.exact_recomputations = 0;
}

char *heed_scratch_slice(const heed_context *context, int worker)
{
    return context->scratch + worker * context->scratch_stride;
}
