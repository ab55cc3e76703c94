#include "core/context.h"

#include "core/arguments.h"
#include "core/isa.h"
#include "core/scratch.h"
#include "mechanisms/aft.h"
#include "mechanisms/linear.h"
#include "mechanisms/mrsha.h"
#include "mechanisms/softmax.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

enum { MAX_THREADS = 1024, MAX_D = 1024, MAX_DV = 1024, MAX_FACTORS = 1024, MAX_TAPS = 512 };
enum { MAX_GRID_WIDTH = 256, MAX_GRID_TAPS = 31 };
enum { MAX_FEATURES = 1024, MAX_BACKWARD_FEATURES = 256, MAX_LAYERS = 4 };

static void *allocate_by_default(void *allocator, size_t bytes, size_t alignment)
{
    (void)allocator;
    return aligned_alloc(alignment, bytes);
}

static void release_by_default(void *allocator, void *memory, size_t bytes)
{
    (void)allocator;
    (void)bytes;
    free(memory);
}

static int count_threads(const heed_config *config)
{
#ifdef _OPENMP
    if (config->n_threads == 0 && !config->parallel_for)
        return omp_get_max_threads() < MAX_THREADS ? omp_get_max_threads() : MAX_THREADS;
#endif
    return config->n_threads > 0 ? config->n_threads : 1;
}

static heed_status check_config(const heed_config *config, heed_message *message)
{
    HEED_CHECK(heed_check_struct(message, "config", config, sizeof *config));
    if (config->n_threads < 0 || config->n_threads > MAX_THREADS)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "config.n_threads: %d is outside 0..%d", config->n_threads,
                             MAX_THREADS);
    if (config->n_threads == 0 && config->parallel_for)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "config.n_threads: 1 or more expected with a hook, got 0");
    if (!config->allocate != !config->release)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "config.%s: is NULL, but config.%s is not",
                             config->allocate ? "release" : "allocate", config->allocate ? "allocate" : "release");
    if (config->scratch_bytes < 0 || config->scratch_bytes > HEED_MAX_EXTENT / MAX_THREADS / 2)
        return heed_complain(message, HEED_ERROR_ARGUMENT, "config.scratch_bytes: %" PRId64 " is out of range",
                             config->scratch_bytes);
#ifndef _OPENMP
    if (config->n_threads > 1 && !config->parallel_for)
        return heed_complain(message, HEED_ERROR_UNSUPPORTED,
                             "config.n_threads: this build has no OpenMP; more than one thread needs parallel_for");
#endif
    return HEED_OK;
}

static int64_t round_up(int64_t bytes)
{
    return (bytes + HEED_SCRATCH_ALIGNMENT - 1) / HEED_SCRATCH_ALIGNMENT * HEED_SCRATCH_ALIGNMENT;
}

/* Enough for the table at heed_context_create(). */
static int64_t default_scratch(void)
{
    int64_t bytes = heed_larger(heed_mrsha_worker_bytes(MAX_D, MAX_DV),
                                heed_aft_default_bytes(MAX_D, MAX_FACTORS, MAX_TAPS, MAX_GRID_WIDTH, MAX_GRID_TAPS));
    return heed_larger(bytes, heed_linear_default_bytes(MAX_FEATURES, MAX_BACKWARD_FEATURES, MAX_LAYERS));
}

static heed_status create(const heed_config *config, heed_context **context, heed_message *message)
{
    heed_isa isa = config->isa;
    HEED_CHECK(heed_isa_choose(&isa, message));
    int n_threads = count_threads(config);
    int64_t wanted = config->scratch_bytes ? config->scratch_bytes : default_scratch();
    int64_t head = round_up((int64_t)sizeof(heed_context)), slice = round_up(wanted);
    size_t bytes = (size_t)(head + slice * n_threads);
    heed_allocate_fn allocate = config->allocate ? config->allocate : allocate_by_default;
    heed_context *made = allocate(config->allocator, bytes, HEED_SCRATCH_ALIGNMENT);
    if (!made)
        return heed_complain(message, HEED_ERROR_MEMORY, "no memory: %zu bytes for %d threads", bytes, n_threads);
    memset(made, 0, sizeof *made);
    made->kernels = heed_isa_kernels(isa);
    made->isa = isa;
    made->n_threads = n_threads;
    made->parallel_for = config->parallel_for;
    made->pool = config->pool;
    made->release = config->release ? config->release : release_by_default;
    made->allocator = config->allocator;
    made->allocated_bytes = bytes;
    made->scratch = (char *)made + head;
    made->scratch_bytes = wanted;
    made->scratch_stride = slice;
    made->report = (heed_report)HEED_REPORT_INIT;
    made->report.isa = isa;
    made->report.path = "none";
    atomic_flag_clear(&made->busy);
    *context = made;
    return HEED_OK;
}

heed_status heed_context_create(const heed_config *config, heed_context **context, char *message, size_t message_bytes)
{
    static const heed_config defaults = HEED_CONFIG_INIT;
    heed_message words = {""};
    heed_status status = HEED_ERROR_ARGUMENT;
    if (context) {
        *context = NULL;
        status = check_config(config ? config : &defaults, &words);
        if (status == HEED_OK)
            status = create(config ? config : &defaults, context, &words);
    } else {
        heed_complain(&words, status, "context: is NULL");
    }
    if (message && message_bytes > 0) {
        size_t length = strlen(words.text) < message_bytes ? strlen(words.text) : message_bytes - 1;
        memcpy(message, words.text, length);
        message[length] = '\0';
    }
    return status;
}

void heed_context_destroy(heed_context *context)
{
    if (!context)
        return;
    heed_arena_open(context, context->allocated_bytes);
    context->release(context->allocator, context, context->allocated_bytes);
}

const char *heed_context_message(const heed_context *context)
{
    return context ? context->message.text : "context: is NULL";
}

heed_status heed_context_report(const heed_context *context, heed_report *report)
{
    if (!context)
        return HEED_ERROR_ARGUMENT;
    HEED_CHECK(heed_check_struct(NULL, "report", report, sizeof *report));
    *report = context->report;
    return HEED_OK;
}
