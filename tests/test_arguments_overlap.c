/* Outputs of heed_softmax_forward() that share an element with anything, and those that only lie close. */
#include "argument_call.h"
#include "heed.h"
#include "support/runner.h"

static call moved;

typedef struct block {
    const char *name;
    char *begin;
    size_t n_bytes;
} block;

enum { N_BLOCKS = 12 };

/* Every argument an output can run into. */
static void list_blocks(memory *m, block blocks[N_BLOCKS])
{
    const block all[N_BLOCKS] = {
        {"q", (char *)m->q, sizeof m->q},
        {"k", (char *)m->k, sizeof m->k},
        {"v", (char *)m->v, sizeof m->v},
        {"out", (char *)m->out, sizeof m->out},
        {"lse", (char *)m->lse, sizeof m->lse},
        {"bias", (char *)m->bias, sizeof m->bias},
        {"visible", (char *)m->visible, sizeof m->visible},
        {"alibi_slopes", (char *)m->slopes, sizeof m->slopes},
        {"sinks", (char *)m->sinks, sizeof m->sinks},
        {"query_lengths", (char *)m->query_lengths, sizeof m->query_lengths},
        {"key_lengths", (char *)m->key_lengths, sizeof m->key_lengths},
        {"query_start", (char *)m->query_start, sizeof m->query_start},
    };
    memcpy(blocks, all, sizeof all);
}

/* Moves an output so that its first element is `n_bytes_shared` bytes before the end of the block. */
static void move_output(call *c, tensor_id output, const block *target, size_t n_bytes_shared)
{
    start_at(c, 4, 3);
    c->tensor[output].data = target->begin + target->n_bytes - n_bytes_shared;
}

static void check_output_overlaps(tensor_id output)
{
    block blocks[N_BLOCKS];
    for (int i = 0; i < N_BLOCKS; i++) {
        make_call(&moved);
        list_blocks(&moved.data, blocks);
        if (strcmp(blocks[i].name, tensor_names[output]) == 0)
            continue;
        char title[100];
        snprintf(title, sizeof title, "%s shares the last element of %s", tensor_names[output], blocks[i].name);
        move_output(&moved, output, &blocks[i], sizeof(float));
        const char *words[] = {blocks[i].name, "overlap"};
        const int is_lse_in_out = output == LSE && strcmp(blocks[i].name, "out") == 0;
        if (is_lse_in_out || strcmp(blocks[i].name, "lse") == 0) {
            /* Either of the two outputs may be named first. */
            const char *both[] = {"out", "lse"};
            expect_failure(title, &moved, HEED_ERROR_OVERLAP, "", both, 2);
        } else {
            expect_failure(title, &moved, HEED_ERROR_OVERLAP, tensor_names[output], words, 2);
        }
        make_call(&moved);
        list_blocks(&moved.data, blocks);
        snprintf(title, sizeof title, "%s begins where %s ends", tensor_names[output], blocks[i].name);
        move_output(&moved, output, &blocks[i], 0);
        expect_status(title, HEED_OK, run_call(call_context, &moved));
    }
}

static void test_overlaps(void **state)
{
    (void)state;
    check_output_overlaps(OUT);
    check_output_overlaps(LSE);
    make_call(&moved);
    start_at(&moved, 4, 3);
    moved.tensor[LSE].data = moved.data.key_start;
    const char *words[] = {"key_start"};
    expect_failure("lse in key_start", &moved, HEED_ERROR_OVERLAP, "lse", words, 1);
    expect_none_wrong();
}

/* One buffer [B, N, 4, H, D] holds q, k, v and, in the fourth slot, the output. */
static void test_packed_buffer(void **state)
{
    (void)state;
    enum { N = 9, H = 2, C = 5, ROW = 4 * H * C };
    static float packed[B * N * ROW], apart[B * N * ROW], out[B * N * H * C];
    fill_floats(packed, B * N * ROW, 29);
    memcpy(apart, packed, sizeof packed);
    heed_tensor slot[4];
    for (int s = 0; s < 4; s++)
        slot[s] = (heed_tensor){packed + s * H * C, HEED_FLOAT32, {B, H, N, C}, {(int64_t)N * ROW, C, ROW, 1}};
    const heed_tensor want = heed_tensor_bnhd(out, HEED_FLOAT32, B, H, N, C);
    assert_int_equal(heed_softmax_forward(call_context, &slot[0], &slot[1], &slot[2], NULL, &want, NULL), HEED_OK);
    assert_int_equal(heed_softmax_forward(call_context, &slot[0], &slot[1], &slot[2], NULL, &slot[3], NULL), HEED_OK);
    for (int row = 0; row < B * N; row++) {
        assert_memory_equal(packed + row * ROW, apart + row * ROW, 3 * H * C * sizeof(float));
        assert_memory_equal(packed + row * ROW + 3 * H * C, out + row * H * C, H * C * sizeof(float));
    }
    slot[3].data = packed + 3 * H * C - 1;
    const char *words[] = {"v"};
    static float before[B * N * ROW];
    memcpy(before, packed, sizeof packed);
    assert_int_equal(heed_softmax_forward(call_context, &slot[0], &slot[1], &slot[2], NULL, &slot[3], NULL),
                     HEED_ERROR_OVERLAP);
    expect_words("one channel to the left", heed_context_message(call_context), words, 1);
    assert_memory_equal(before, packed, sizeof packed);
    expect_none_wrong();
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlaps),
        cmocka_unit_test(test_packed_buffer),
    };
    return cmocka_run_group_tests(tests, set_up_call, tear_down_call);
}
