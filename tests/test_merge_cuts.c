/* Attention cut over its keys: each part of the keys knows where it stands by its key_start, exactly one part gets the
 * sinks, and the parts merged in any order and tree are the one-shot result. */
#include "support/parts.h"

#include <stdio.h>
#include <string.h>

enum { MAX_PARTS = 6 };

typedef struct cut_case {
    attention problem;
    heed_mask mask;
    heed_softmax_options options;
    heed_tensor bias, visible;
    guarded bias_memory, visible_memory;
    float slopes[6], sinks[6];
    int64_t query_start[2], key_lengths[2];
} cut_case;

/* A problem whose mask speaks of positions, bottom right, and of any of: 1 causal, 2 window, 4 ALiBi, 8 sinks, 16
 * lengths, 32 bias and flags. */
static void open_cut_case(cut_case *cut, attention_shape shape, int kind, random_stream *random)
{
    memset(cut, 0, sizeof(*cut));
    attention_create(&cut->problem, shape, LAYOUT_BNHD, GUARD_END);
    attention_fill(&cut->problem, random, 1.5f);
    cut->bias =
        tensor_create(&cut->bias_memory, HEED_FLOAT32, 1, 1, shape.n_queries, shape.n_keys, LAYOUT_BHND, GUARD_END);
    cut->visible =
        tensor_create(&cut->visible_memory, HEED_BOOL, shape.batch, 1, 1, shape.n_keys, LAYOUT_BHND, GUARD_END);
    tensor_fill_uniform(&cut->bias, random, -2.0f, 2.0f);
    tensor_fill_flags(&cut->visible, random, 12);
    for (int h = 0; h < 6; h++) {
        cut->slopes[h] = 4.0f * (float)h / (float)(shape.n_keys + shape.n_queries); /* scores stay above -20 - 12 */
        cut->sinks[h] = (float)h - 1.0f;
    }
    for (int b = 0; b < 2; b++) {
        cut->key_lengths[b] = random_below(random, shape.n_keys + 1);
        cut->query_start[b] = shape.n_keys - shape.n_queries;
    }
    cut->mask = (heed_mask)HEED_MASK_INIT;
    cut->mask.alignment = HEED_ALIGN_POSITIONS;
    cut->mask.query_start = cut->query_start;
    cut->mask.causal = kind & 1;
    cut->mask.window_left = kind & 2 ? random_below(random, 100) : -1;
    cut->mask.window_right = kind & 2 ? random_below(random, 30) : -1;
    cut->mask.key_lengths = kind & 16 ? cut->key_lengths : NULL;
    cut->mask.visible = kind & 32 ? &cut->visible : NULL;
    cut->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    cut->options.mask = &cut->mask;
    cut->options.alibi_slopes = kind & 4 ? cut->slopes : NULL;
    cut->options.sinks = kind & 8 ? cut->sinks : NULL;
    cut->options.bias = kind & 32 ? &cut->bias : NULL;
    cut->options.softcap = kind & 32 ? 5.0f : 0.0f;
}

static void close_cut_case(cut_case *cut)
{
    attention_destroy(&cut->problem);
    guarded_destroy(&cut->bias_memory);
    guarded_destroy(&cut->visible_memory);
}

/* Runs the keys [begin, end) as a part of its own. */
static void run_cut(const cut_case *cut, int64_t begin, int64_t end, int with_sinks, const part *result)
{
    const attention *whole = &cut->problem;
    const int64_t n_keys = end - begin;
    const heed_tensor k = tensor_slice(&whole->k, 2, begin, n_keys);
    const heed_tensor v = tensor_slice(&whole->v, 2, begin, n_keys);
    const heed_tensor bias = tensor_slice(&cut->bias, 3, begin, n_keys);
    const heed_tensor visible = tensor_slice(&cut->visible, 3, begin, n_keys);
    const int64_t key_start[2] = {begin, begin};
    int64_t key_lengths[2];
    for (int b = 0; b < 2; b++) {
        const int64_t length = cut->key_lengths[b] - begin;
        key_lengths[b] = length < 0 ? 0 : length > n_keys ? n_keys : length;
    }
    heed_mask mask = cut->mask;
    heed_softmax_options options = cut->options;
    options.mask = &mask;
    mask.key_start = key_start;
    mask.key_lengths = mask.key_lengths ? key_lengths : NULL;
    mask.visible = mask.visible ? &visible : NULL;
    options.bias = options.bias ? &bias : NULL;
    options.sinks = with_sinks ? options.sinks : NULL;
    const heed_status status =
        heed_softmax_forward(fixture_context, &whole->q, &k, &v, &options, &result->out, &result->lse);
    if (status != HEED_OK)
        fail_msg("keys %d to %d: %s", (int)begin, (int)end, heed_context_message(fixture_context));
}

/* n_parts - 1 places in ascending order between 0 and n_keys; parts may be empty. */
static void choose_places(int64_t *places, int n_parts, int64_t n_keys, random_stream *random)
{
    places[0] = 0;
    for (int n = 1; n < n_parts; n++) {
        const int64_t place = random_below(random, n_keys + 1);
        int at = n;
        for (; at > 1 && places[at - 1] > place; at--)
            places[at] = places[at - 1];
        places[at] = place;
    }
    places[n_parts] = n_keys;
}

/* Joins parts in a random order and tree; the result is in the first. */
static void merge_at_random(part *parts, int n_parts, random_stream *random)
{
    int alive[MAX_PARTS] = {0};
    for (int n = 0; n < n_parts; n++)
        alive[n] = n;
    for (int n_left = n_parts; n_left > 1; n_left--) {
        const int a = (int)random_below(random, n_left);
        const int b = (a + 1 + (int)random_below(random, n_left - 1)) % n_left;
        merge_parts(&parts[alive[a]], &parts[alive[b]], &parts[alive[a]]);
        alive[b] = alive[n_left - 1];
    }
    if (alive[0] != 0) {
        tensor_copy(&parts[0].out, &parts[alive[0]].out);
        tensor_copy(&parts[0].lse, &parts[alive[0]].lse);
    }
}

static void check_cut_case(cut_case *cut, int n_parts, random_stream *random, const char *name)
{
    const attention_shape *shape = &cut->problem.shape;
    const int64_t out_shape[4] = {shape->batch, shape->q_heads, shape->n_queries, shape->value_channels};
    int64_t places[MAX_PARTS + 1];
    part parts[MAX_PARTS];
    choose_places(places, n_parts, shape->n_keys, random);
    const int sink_part = (int)random_below(random, n_parts);
    for (int n = 0; n < n_parts; n++) {
        open_part(&parts[n], out_shape, 0, LAYOUT_BHND);
        run_cut(cut, places[n], places[n + 1], n == sink_part, &parts[n]);
    }
    merge_at_random(parts, n_parts, random);
    double want_out[2 * 6 * 70 * 8];
    double want_lse[2 * 6 * 70];
    oracle_softmax(&cut->problem.q, &cut->problem.k, &cut->problem.v, &cut->options, want_out, want_lse);
    /* The parts keep the bound for scores up to 30. The lse of a part is wrong by at most e = 4e-6 (the bound, and the
     * rounding of numbers up to 32), and each merge adds at most one ulp of 32. The result is an average of the parts
     * with weights exp(lse): an error of e in each moves it by at most 2 e max|v|. Each merge rounds by 4e-7. */
    const double lse_error = 4e-6 + (n_parts - 1) * 0x1p-19;
    const compare_result lse = compare_tensor(&parts[0].lse, want_lse, lse_error, 1.0);
    const compare_result out = compare_tensor(&parts[0].out, want_out, 2e-6 + (n_parts - 1) * 4e-7 + 2.0 * lse_error,
                                              tensor_max_abs(&cut->problem.v));
    if (!lse.equal || !out.equal)
        fail_msg("%s, %d parts: lse %s; out %s", name, n_parts, lse.text, out.text);
    for (int n = 0; n < n_parts; n++)
        close_part(&parts[n]);
}

static void keys_cut_at_random_places(void **state)
{
    (void)state;
    int64_t case_index = 0;
    for (int kind = 0; kind < 64; kind++) {
        for (int way = 0; way < 6; way++) {
            case_index++;
            if (!runner_takes(case_index))
                continue;
            random_stream random = random_start(9000 + (uint64_t)case_index);
            const attention_shape shape = {
                2, 6, 3, way % 2 ? 1 + random_below(&random, 4) : 70, 1 + random_below(&random, way == 5 ? 1500 : 300),
                8, 8};
            cut_case cut;
            open_cut_case(&cut, shape, kind, &random);
            char name[80];
            snprintf(name, sizeof(name), "kind %d, Nq %d, Nk %d, seed %llu", kind, (int)shape.n_queries,
                     (int)shape.n_keys, (unsigned long long)random_seed());
            check_cut_case(&cut, 1 + (int)random_below(&random, MAX_PARTS), &random, name);
            close_cut_case(&cut);
        }
    }
}

int main(void)
{
    runner_require_isa();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_cut_at_random_places),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
