/* Softmax attention over views whose rows lie more than 2^31 elements apart. The memory is reserved, not used: only
 * the pages of the rows can be touched, and touching any other one stops the program. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */
#include "support/fixture.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct sparse {
    heed_tensor tensor;
    void *map;
    size_t bytes;
} sparse;

/* Makes the pages of one row readable and writable. */
static int open_row(const sparse *s, int64_t b, int64_t h, int64_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const int64_t *stride = s->tensor.stride;
    const size_t element_bytes = s->tensor.dtype == HEED_BOOL ? 1 : sizeof(float);
    const size_t first = (size_t)(b * stride[0] + h * stride[1] + n * stride[2]) * element_bytes;
    const size_t begin = first / page * page;
    const size_t end = first + (size_t)s->tensor.shape[3] * element_bytes;
    return mprotect((char *)s->map + begin, end - begin, PROT_READ | PROT_WRITE) == 0;
}

/* A tensor of the given shape and strides over reserved memory; 0 when the machine does not give so many addresses. */
static int sparse_create(sparse *s, heed_dtype dtype, const int64_t shape[4], const int64_t stride[3])
{
    s->tensor = heed_tensor_bhnd(NULL, dtype, shape[0], shape[1], shape[2], shape[3]);
    int64_t extent = shape[3];
    for (int axis = 0; axis < 3; axis++) {
        s->tensor.stride[axis] = stride[axis];
        extent += (shape[axis] - 1) * stride[axis];
    }
    assert_true(extent > INT64_C(1) << 31);
    s->bytes = (size_t)extent * (dtype == HEED_BOOL ? 1 : sizeof(float));
    s->map = mmap(NULL, s->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->map == MAP_FAILED)
        return 0;
    s->tensor.data = s->map;
    for (int64_t row = 0; row < shape[0] * shape[1] * shape[2]; row++) {
        if (!open_row(s, row / shape[2] / shape[1], row / shape[2] % shape[1], row % shape[2]))
            return 0;
    }
    return 1;
}

enum { BATCH = 2, Q_HEADS = 4, KV_HEADS = 2, KEYS = 13, CHANNELS = 8, VALUE_CHANNELS = 5 };

static void check_offsets(int64_t n_queries)
{
    const int64_t huge = INT64_C(1) << 31;
    const int64_t q_shape[4] = {BATCH, Q_HEADS, n_queries, CHANNELS};
    const int64_t k_shape[4] = {BATCH, KV_HEADS, KEYS, CHANNELS};
    const int64_t v_shape[4] = {BATCH, KV_HEADS, KEYS, VALUE_CHANNELS};
    const int64_t out_shape[4] = {BATCH, Q_HEADS, n_queries, VALUE_CHANNELS};
    const int64_t lse_shape[4] = {BATCH, Q_HEADS, n_queries, 1};
    const int64_t mask_shape[4] = {BATCH, 1, n_queries, KEYS};
    /* The large distance is between batch elements, heads or tokens in turn. */
    const struct {
        heed_dtype dtype;
        const int64_t *shape;
        int64_t stride[3];
    } plans[] = {
        {HEED_FLOAT32, q_shape, {huge + 64, 4096, 33}},   {HEED_FLOAT32, k_shape, {40000, 20000, huge / 8 + 1}},
        {HEED_FLOAT32, v_shape, {70000, huge + 7, 4099}}, {HEED_FLOAT32, out_shape, {2 * huge + 3, 9000, 11}},
        {HEED_FLOAT32, lse_shape, {9001, huge + 1, 3}},   {HEED_BOOL, mask_shape, {huge + 5, 0, 17}},
        {HEED_FLOAT32, mask_shape, {huge + 9, 0, 19}},
    };
    sparse all[7];
    for (size_t n = 0; n < N_OF(plans); n++) {
        if (!sparse_create(&all[n], plans[n].dtype, plans[n].shape, plans[n].stride))
            skip();
    }
    random_stream random = random_start((uint64_t)n_queries);
    for (int n = 0; n < 3; n++)
        tensor_fill_uniform(&all[n].tensor, &random, -1.0f, 1.0f);
    tensor_fill_flags(&all[5].tensor, &random, 12);
    tensor_fill_uniform(&all[6].tensor, &random, -1.0f, 1.0f);
    heed_mask mask = HEED_MASK_INIT;
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    mask.visible = &all[5].tensor;
    options.bias = &all[6].tensor;
    options.mask = &mask;
    const heed_tensor *q = &all[0].tensor;
    const heed_tensor *k = &all[1].tensor;
    const heed_tensor *v = &all[2].tensor;
    const heed_status status = heed_softmax_forward(fixture_context, q, k, v, &options, &all[3].tensor, &all[4].tensor);
    if (status != HEED_OK)
        fail_msg("%s: %s", heed_status_text(status), heed_context_message(fixture_context));
    double *want_out = malloc(sizeof(double) * (size_t)(BATCH * Q_HEADS * n_queries * VALUE_CHANNELS));
    double *want_lse = malloc(sizeof(double) * (size_t)(BATCH * Q_HEADS * n_queries));
    assert_true(want_out && want_lse);
    oracle_softmax(q, k, v, &options, want_out, want_lse);
    const compare_result out = compare_tensor(&all[3].tensor, want_out, attention_bound(5.0), 1.0);
    const compare_result lse = compare_tensor(&all[4].tensor, want_lse, attention_bound(5.0), 1.0);
    if (!out.equal || !lse.equal)
        fail_msg("out %s; lse %s", out.text, lse.text);
    free(want_out);
    free(want_lse);
    for (size_t n = 0; n < N_OF(plans); n++)
        munmap(all[n].map, all[n].bytes);
}

static void tiles(void **state)
{
    (void)state;
    check_offsets(runner_tile_lanes() + 1);
}

static void few_rows(void **state)
{
    (void)state;
    check_offsets(2);
}

int main(void)
{
    runner_require_isa();
    if (sizeof(void *) < 8)
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles),
        cmocka_unit_test(few_rows),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
