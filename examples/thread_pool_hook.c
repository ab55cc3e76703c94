/* Attention in the threads of a program that has a pool already: heed starts none of its own. */
#include "heed.h"
#include "thread_pool.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_HEADS = 8, N_TOKENS = 512, N_CHANNELS = 64, N_THREADS = 2 };

static const int64_t n_floats = (int64_t)N_HEADS * N_TOKENS * N_CHANNELS;

static heed_tensor view_heads(const float *data)
{
    return heed_tensor_bhnd(data, HEED_FLOAT32, 1, N_HEADS, N_TOKENS, N_CHANNELS);
}

/* Runs one attention in the pool and tells how it went. Returns 0 when it worked. */
static int attend(heed_context *context, float *data)
{
    for (int64_t i = 0; i < 3 * n_floats; i++)
        data[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    const heed_tensor q = view_heads(data);
    const heed_tensor k = view_heads(data + n_floats);
    const heed_tensor v = view_heads(data + 2 * n_floats);
    const heed_tensor out = view_heads(data + 3 * n_floats);
    if (heed_softmax_forward(context, &q, &k, &v, NULL, &out, NULL) != HEED_OK) {
        fprintf(stderr, "%s\n", heed_context_message(context));
        return 1;
    }
    heed_report report = HEED_REPORT_INIT;
    heed_context_report(context, &report);
    printf("%lld tasks on up to %d workers of the pool, %s\n", (long long)report.n_tasks, report.n_workers,
           heed_isa_name(report.isa));
    return 0;
}

int main(void)
{
    int failed = 1;
    heed_context *context = NULL;
    char message[256] = "out of memory";
    float *data = malloc(4 * (size_t)n_floats * sizeof *data);
    thread_pool *pool = thread_pool_create(N_THREADS);

    heed_config config = HEED_CONFIG_INIT;
    config.n_threads = N_THREADS;
    config.parallel_for = thread_pool_parallel_for;
    config.pool = pool;
    if (data != NULL && pool != NULL && heed_context_create(&config, &context, message, sizeof message) == HEED_OK)
        failed = attend(context, data);
    else
        fprintf(stderr, "%s\n", message);

    heed_context_destroy(context);
    thread_pool_destroy(pool);
    free(data);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
