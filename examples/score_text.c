/* Scoring a text with AFT-local, character by character.
 *
 *     heed_example_score_text [FILE]
 *
 * A model of one layer: each byte has a query, a key and a value; attention mixes the values of the text so far, and an
 * output matrix makes of that a score for each byte that may come next. Its weights are random, so it knows nothing of
 * language, and a character costs it more than the 8 bits of a guess.
 *
 * The text is scored twice: step by step, with a state that does not grow, as a server would while the text arrives; and
 * at once, in one causal call. Both must agree. */
#include "heed.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BYTES = 256, N_HEADS = 4, N_CHANNELS = 32, WINDOW = 16, MAX_TEXT = 1 << 16 };

static const char default_text[] =
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair.";

typedef float embedding[N_BYTES][N_HEADS][N_CHANNELS];
typedef float token_rows[MAX_TEXT][N_HEADS][N_CHANNELS];

static embedding queries, keys, values, next_byte; /* the weights; next_byte: of the output */
static float bias[N_HEADS][WINDOW];                /* for a key that stands WINDOW - 1 - column tokens back */
static token_rows q, k, v, out_step, out_once;     /* of the text */

/* Numbers in [-range, range) from a linear congruential generator (Knuth's MMIX). */
static void fill(void *memory, size_t bytes, float range, uint64_t seed)
{
    float *numbers = memory;
    uint64_t state = seed;
    for (size_t i = 0; i < bytes / sizeof *numbers; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        numbers[i] = range * ((float)(state >> 40) / 8388608.0f - 1.0f);
    }
}

/* n tokens of the text, as batch, head, token, channel. */
static heed_tensor tokens(token_rows rows, int64_t first, int64_t n)
{
    return heed_tensor_bnhd(rows[first], HEED_FLOAT32, 1, N_HEADS, n, N_CHANNELS);
}

static void expect(heed_status status, const heed_context *context)
{
    if (status == HEED_OK)
        return;
    fprintf(stderr, "%s\n", heed_context_message(context));
    exit(EXIT_FAILURE);
}

static void score_step_by_step(heed_context *context, heed_aft_options options, int64_t n_tokens)
{
    int64_t bytes;
    expect(heed_aft_local_state_bytes(1, N_HEADS, WINDOW, N_CHANNELS, &bytes), context);
    void *memory = malloc((size_t)bytes);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(EXIT_FAILURE);
    }
    heed_aft_local_state state = heed_aft_local_state_view(memory, 1, N_HEADS, WINDOW, N_CHANNELS);
    expect(heed_aft_local_state_reset(&state, 0), context);
    for (int64_t t = 0; t < n_tokens; t++) {
        heed_tensor q_t = tokens(q, t, 1), k_t = tokens(k, t, 1), v_t = tokens(v, t, 1), out = tokens(out_step, t, 1);
        expect(heed_aft_local_step(context, &q_t, &k_t, &v_t, &options, &state, &out), context);
    }
    printf("step by step: %lld bytes of state, ", (long long)bytes);
    free(memory);
}

static void score_at_once(heed_context *context, heed_aft_options options, int64_t n_tokens)
{
    heed_tensor all_q = tokens(q, 0, n_tokens), all_k = tokens(k, 0, n_tokens), all_v = tokens(v, 0, n_tokens);
    heed_tensor out = tokens(out_once, 0, n_tokens);
    heed_mask causal = HEED_MASK_INIT;
    causal.causal = 1;
    options.mask = &causal;
    expect(heed_aft_local_forward(context, &all_q, &all_k, &all_v, &options, &out, NULL), context);
    printf("at once:      %zu bytes of keys and values, ", (size_t)n_tokens * (sizeof *k + sizeof *v));
}

/* What byte `next` costs after a token whose row is `out`: -log2 softmax(scores)[next]. */
static double bits(float out[N_HEADS][N_CHANNELS], unsigned char next)
{
    double sum = 0.0, score_of_next = 0.0;
    for (int byte = 0; byte < N_BYTES; byte++) {
        double score = 0.0;
        for (int h = 0; h < N_HEADS; h++) {
            for (int c = 0; c < N_CHANNELS; c++)
                score += (double)out[h][c] * (double)next_byte[byte][h][c];
        }
        sum += exp(score); /* |score| < 128 */
        score_of_next = byte == next ? score : score_of_next;
    }
    return (log(sum) - score_of_next) / log(2.0);
}

static double bits_per_character(token_rows out, const unsigned char *text, int64_t n_tokens)
{
    double sum = 0.0;
    for (int64_t t = 0; t + 1 < n_tokens; t++)
        sum += bits(out[t], text[t + 1]);
    return sum / (double)(n_tokens - 1);
}

static float largest_difference(int64_t n_tokens)
{
    const float *a = out_step[0][0], *b = out_once[0][0];
    float largest = 0.0f;
    for (int64_t i = 0; i < n_tokens * N_HEADS * N_CHANNELS; i++) {
        float difference = fabsf(a[i] - b[i]);
        if (!(difference <= largest))
            largest = isnan(difference) ? INFINITY : difference;
    }
    return largest;
}

/* The text of a file, up to MAX_TEXT bytes of it, or the default. */
static int64_t read_text(unsigned char *text, const char *path)
{
    if (!path) {
        memcpy(text, default_text, sizeof default_text - 1);
        return sizeof default_text - 1;
    }
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(text, 1, MAX_TEXT, file) : 0;
    if (file)
        fclose(file);
    if (n < 2) {
        fprintf(stderr, "%s: two characters or more expected\n", path);
        exit(EXIT_FAILURE);
    }
    return (int64_t)n;
}

int main(int argc, char **argv)
{
    /* Each way is within 1e-5 max|v| of the exact result (heed.h), and |v| is at most 1. */
    const float allowed = 2e-5f;
    static unsigned char text[MAX_TEXT];
    int64_t n_tokens = read_text(text, argc > 1 ? argv[1] : NULL);
    fill(queries, sizeof queries, 2.0f, 1);
    fill(keys, sizeof keys, 3.0f, 2);
    fill(values, sizeof values, 1.0f, 3);
    fill(next_byte, sizeof next_byte, 1.0f, 4);
    fill(bias, sizeof bias, 2.0f, 5);
    for (int64_t t = 0; t < n_tokens; t++) {
        memcpy(q[t], queries[text[t]], sizeof q[t]);
        memcpy(k[t], keys[text[t]], sizeof k[t]);
        memcpy(v[t], values[text[t]], sizeof v[t]);
    }

    heed_context *context;
    char message[256];
    if (heed_context_create(NULL, &context, message, sizeof message) != HEED_OK) {
        fprintf(stderr, "%s\n", message);
        return EXIT_FAILURE;
    }
    heed_tensor w = heed_tensor_bhnd(bias, HEED_FLOAT32, 1, N_HEADS, 1, WINDOW);
    heed_aft_options options = HEED_AFT_OPTIONS_INIT;
    options.window = WINDOW;
    options.banded = 1;
    options.w = &w;
    score_step_by_step(context, options, n_tokens);
    printf("%.6f bits per character\n", bits_per_character(out_step, text, n_tokens));
    score_at_once(context, options, n_tokens);
    printf("%.6f bits per character\n", bits_per_character(out_once, text, n_tokens));
    heed_context_destroy(context);

    float largest = largest_difference(n_tokens);
    printf("%lld characters: rows differ by at most %.1e (allowed %.0e)\n", (long long)n_tokens, (double)largest,
           (double)allowed);
    return largest <= allowed ? EXIT_SUCCESS : EXIT_FAILURE;
}
