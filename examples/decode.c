/* Decoding over the caller's own cache of keys and values.
 *
 * Prompts of different lengths are prefilled in one call; then every sequence grows by one token at a time. The cache
 * is [sequence][head][capacity][channel]. What lies beyond the length of a sequence is never looked at: here it is NaN.
 * In the end every row must be what one causal call over the whole sequences gives. */
#include "heed.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_SEQUENCES = 3, N_QUERY_HEADS = 8, N_KV_HEADS = 2, N_CHANNELS = 32 };
enum { LONGEST_PROMPT = 600, N_STEPS = 32, CAPACITY = LONGEST_PROMPT + N_STEPS };

static const int64_t prompt_lengths[N_SEQUENCES] = {40, LONGEST_PROMPT, 230};

typedef float query_rows[N_SEQUENCES][N_QUERY_HEADS][CAPACITY][N_CHANNELS];
typedef float kv_rows[N_SEQUENCES][N_KV_HEADS][CAPACITY][N_CHANNELS];
typedef float step_rows[N_SEQUENCES][N_QUERY_HEADS][1][N_CHANNELS];

static query_rows all_q, expected, prefilled;    /* queries of all tokens; results at once, and of the prefill */
static kv_rows all_k, all_v, cached_k, cached_v; /* keys and values of all tokens; the cache */
static step_rows step_q, step_out;               /* query and result of one token of each sequence */

static heed_tensor view(const void *data, int64_t n_heads, int64_t n_tokens)
{
    return heed_tensor_bhnd(data, HEED_FLOAT32, N_SEQUENCES, n_heads, n_tokens, N_CHANNELS);
}

/* The first n tokens of a view; its strides stay. */
static heed_tensor first_tokens(heed_tensor tensor, int64_t n)
{
    tensor.shape[2] = n;
    return tensor;
}

static void attend(heed_context *context, heed_tensor q, heed_tensor k, heed_tensor v, const heed_mask *mask,
                   heed_tensor out)
{
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = mask;
    if (heed_softmax_forward(context, &q, &k, &v, &options, &out, NULL) != HEED_OK) {
        fprintf(stderr, "%s\n", heed_context_message(context));
        exit(EXIT_FAILURE);
    }
}

/* Appends a token's keys and values to the cache of its sequence. */
static void append_token(int s, int64_t token)
{
    for (int head = 0; head < N_KV_HEADS; head++) {
        memcpy(cached_k[s][head][token], all_k[s][head][token], sizeof cached_k[s][head][token]);
        memcpy(cached_v[s][head][token], all_v[s][head][token], sizeof cached_v[s][head][token]);
    }
}

/* All tokens of all sequences in one causal call, padded to the longest sequence. */
static void attend_at_once(heed_context *context)
{
    int64_t lengths[N_SEQUENCES];
    for (int s = 0; s < N_SEQUENCES; s++)
        lengths[s] = prompt_lengths[s] + N_STEPS;
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    mask.query_lengths = mask.key_lengths = lengths;
    attend(context, view(all_q, N_QUERY_HEADS, CAPACITY), view(all_k, N_KV_HEADS, CAPACITY),
           view(all_v, N_KV_HEADS, CAPACITY), &mask, view(expected, N_QUERY_HEADS, CAPACITY));
}

/* All prompts in one causal call, padded to the longest prompt; keys and values are the whole cache. */
static void prefill(heed_context *context)
{
    for (int s = 0; s < N_SEQUENCES; s++) {
        for (int64_t token = 0; token < prompt_lengths[s]; token++)
            append_token(s, token);
    }
    heed_mask mask = HEED_MASK_INIT;
    mask.causal = 1;
    mask.query_lengths = mask.key_lengths = prompt_lengths;
    attend(context, first_tokens(view(all_q, N_QUERY_HEADS, CAPACITY), LONGEST_PROMPT),
           view(cached_k, N_KV_HEADS, CAPACITY), view(cached_v, N_KV_HEADS, CAPACITY), &mask,
           first_tokens(view(prefilled, N_QUERY_HEADS, CAPACITY), LONGEST_PROMPT));
}

/* One more token of each sequence; lengths count it. It is the last of its sequence and sees every key up to the
 * length, so that nothing else has to be masked. */
static void step(heed_context *context, const int64_t *lengths)
{
    for (int s = 0; s < N_SEQUENCES; s++) {
        append_token(s, lengths[s] - 1);
        for (int head = 0; head < N_QUERY_HEADS; head++)
            memcpy(step_q[s][head][0], all_q[s][head][lengths[s] - 1], sizeof step_q[s][head][0]);
    }
    heed_mask mask = HEED_MASK_INIT;
    mask.key_lengths = lengths;
    attend(context, view(step_q, N_QUERY_HEADS, 1), view(cached_k, N_KV_HEADS, CAPACITY),
           view(cached_v, N_KV_HEADS, CAPACITY), &mask, view(step_out, N_QUERY_HEADS, 1));
}

/* The larger of `largest` and the differences of two rows; NaN counts as infinite. */
static float larger_difference(float largest, const float *a, const float *b)
{
    for (int c = 0; c < N_CHANNELS; c++) {
        float difference = fabsf(a[c] - b[c]);
        if (!(difference <= largest))
            largest = isnan(difference) ? INFINITY : difference;
    }
    return largest;
}

static float check_prefill(float largest)
{
    for (int s = 0; s < N_SEQUENCES; s++) {
        for (int head = 0; head < N_QUERY_HEADS; head++) {
            for (int64_t token = 0; token < prompt_lengths[s]; token++)
                largest = larger_difference(largest, prefilled[s][head][token], expected[s][head][token]);
        }
    }
    return largest;
}

static float check_step(float largest, const int64_t *lengths)
{
    for (int s = 0; s < N_SEQUENCES; s++) {
        for (int head = 0; head < N_QUERY_HEADS; head++)
            largest = larger_difference(largest, step_out[s][head][0], expected[s][head][lengths[s] - 1]);
    }
    return largest;
}

/* Numbers in [-1, 1) from a linear congruential generator (Knuth's MMIX), or NaN for seed 0. */
static void fill(void *memory, size_t bytes, uint64_t seed)
{
    float *values = memory;
    uint64_t state = seed;
    for (size_t i = 0; i < bytes / sizeof *values; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        values[i] = seed == 0 ? NAN : (float)(state >> 40) / 8388608.0f - 1.0f;
    }
}

int main(void)
{
    /* Each way is within 2e-6 max|v| of the exact result (heed.h), and |v| is at most 1. */
    const float allowed = 4e-6f;
    heed_context *context;
    char message[256];
    if (heed_context_create(NULL, &context, message, sizeof message) != HEED_OK) {
        fprintf(stderr, "%s\n", message);
        return EXIT_FAILURE;
    }
    fill(all_q, sizeof all_q, 1);
    fill(all_k, sizeof all_k, 2);
    fill(all_v, sizeof all_v, 3);
    fill(cached_k, sizeof cached_k, 0);
    fill(cached_v, sizeof cached_v, 0);

    attend_at_once(context);
    prefill(context);
    float largest = check_prefill(0.0f);
    for (int t = 1; t <= N_STEPS; t++) {
        int64_t lengths[N_SEQUENCES];
        for (int s = 0; s < N_SEQUENCES; s++)
            lengths[s] = prompt_lengths[s] + t;
        step(context, lengths);
        largest = check_step(largest, lengths);
    }
    heed_context_destroy(context);
    printf("%d sequences, prefill and %d steps: off by at most %.1e (allowed %.0e) from one causal call\n", N_SEQUENCES,
           N_STEPS, (double)largest, (double)allowed);
    return largest <= allowed ? EXIT_SUCCESS : EXIT_FAILURE;
}
