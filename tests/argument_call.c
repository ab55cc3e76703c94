#include "argument_call.h"

#include "support/runner.h"

const char *const tensor_names[N_TENSORS] = {"q", "k", "v", "out", "lse", "options.bias", "mask.visible"};

void fill_floats(float *x, size_t n, unsigned step)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * step % 97) / 48.0f - 1.0f;
}

static void fill_memory(memory *m)
{
    memset(m, 0x5a, sizeof *m);
    fill_floats(m->q, B * HQ * NQ * D, 31);
    fill_floats(m->k, B * HKV * NK * D, 37);
    fill_floats(m->v, B * HKV * NK * DV, 41);
    fill_floats(m->bias, B * HQ * NQ * NK, 43);
    memset(m->visible, 1, sizeof m->visible);
    fill_floats(m->slopes, HQ, 5);
    fill_floats(m->sinks, HQ, 7);
    for (int b = 0; b < B; b++) {
        m->query_lengths[b] = NQ - b;
        m->key_lengths[b] = NK - b;
        m->query_start[b] = 10 * b + NK - NQ;
        m->key_start[b] = 10 * b;
    }
}

void make_call(call *c)
{
    fill_memory(&c->data);
    c->tensor[Q] = heed_tensor_bhnd(c->data.q, HEED_FLOAT32, B, HQ, NQ, D);
    c->tensor[K] = heed_tensor_bhnd(c->data.k, HEED_FLOAT32, B, HKV, NK, D);
    c->tensor[V] = heed_tensor_bhnd(c->data.v, HEED_FLOAT32, B, HKV, NK, DV);
    c->tensor[OUT] = heed_tensor_bhnd(c->data.out, HEED_FLOAT32, B, HQ, NQ, DV);
    c->tensor[LSE] = heed_tensor_bhnd(c->data.lse, HEED_FLOAT32, B, HQ, NQ, 1);
    c->tensor[BIAS] = heed_tensor_bhnd(c->data.bias, HEED_FLOAT32, B, HQ, NQ, NK);
    c->tensor[VISIBLE] = heed_tensor_bhnd(c->data.visible, HEED_BOOL, B, HQ, NQ, NK);
    for (int t = Q; t <= LSE; t++)
        c->argument[t] = &c->tensor[t];
    c->mask = (heed_mask)HEED_MASK_INIT;
    c->mask.query_lengths = c->data.query_lengths;
    c->mask.key_lengths = c->data.key_lengths;
    c->mask.visible = &c->tensor[VISIBLE];
    c->options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    c->options.bias = &c->tensor[BIAS];
    c->options.alibi_slopes = c->data.slopes;
    c->options.sinks = c->data.sinks;
    c->options.mask = &c->mask;
}

heed_status run_call(heed_context *context, const call *c)
{
    return heed_softmax_forward(context, c->argument[Q], c->argument[K], c->argument[V], &c->options, c->argument[OUT],
                                c->argument[LSE]);
}

heed_context *call_context;
static call good_call;

int set_up_call(void **state)
{
    (void)state;
    call_context = runner_context(1, NULL);
    make_call(&good_call);
    assert_int_equal(run_call(call_context, &good_call), HEED_OK);
    return 0;
}

int tear_down_call(void **state)
{
    (void)state;
    heed_context_destroy(call_context);
    return 0;
}

void start_at(call *c, int64_t query, int64_t key)
{
    c->mask.alignment = HEED_ALIGN_POSITIONS;
    c->mask.query_start = c->data.query_start;
    c->mask.key_start = c->data.key_start;
    c->data.query_start[1] = query;
    c->data.key_start[1] = key;
}

/* ---- Checks ---- */

static int n_wrong;

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprint_error(format, arguments);
    va_end(arguments);
    n_wrong++;
}

void expect_none_wrong(void)
{
    const int n = n_wrong;
    n_wrong = 0;
    assert_int_equal(n, 0);
}

void expect_words(const char *title, const char *message, const char *const *words, int n_words)
{
    for (int w = 0; w < n_words && words[w] != NULL; w++)
        if (strstr(message, words[w]) == NULL)
            complain("%s: the message does not say \"%s\": \"%s\"\n", title, words[w], message);
}

void expect_status(const char *title, heed_status want, heed_status got)
{
    if (got != want)
        complain("%s: %s expected, got %s; message \"%s\"\n", title, heed_status_text(want), heed_status_text(got),
                 heed_context_message(call_context));
}

/* The context has kept nothing of what went wrong before. */
static void expect_good_context(const char *title)
{
    static call again;
    make_call(&again);
    expect_status(title, HEED_OK, run_call(call_context, &again));
    assert_string_equal(heed_context_message(call_context), "");
    assert_memory_equal(&again.data, &good_call.data, sizeof again.data);
}

void expect_failure(const char *title, call *c, heed_status status, const char *name, const char *const *words,
                    int n_words)
{
    static memory before;
    before = c->data;
    expect_status(title, status, run_call(call_context, c));
    const char *message = heed_context_message(call_context);
    const size_t length = strlen(name);
    if (strncmp(message, name, length) != 0 || (length > 0 && message[length] != ':'))
        complain("%s: the message does not begin with \"%s:\": \"%s\"\n", title, name, message);
    expect_words(title, message, words, n_words);
    if (memcmp(&before, &c->data, sizeof before) != 0)
        complain("%s: a failed call has changed memory\n", title);
    expect_good_context(title);
}
