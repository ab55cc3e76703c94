/* A call of heed_softmax_forward() that is right and uses every argument and option, for tests to spoil a copy of; and
 * what they expect of it. */
#ifndef HEED_TEST_ARGUMENT_CALL_H
#define HEED_TEST_ARGUMENT_CALL_H

#include "heed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { B = 2, HQ = 4, HKV = 2, NQ = 5, NK = 7, D = 6, DV = 3, PAD = 512 };

typedef enum { Q, K, V, OUT, LSE, BIAS, VISIBLE, N_TENSORS } tensor_id;

/* The pads keep an output that is moved to the end of one array off the next one. */
typedef struct memory {
    float q[B * HQ * NQ * D], q_pad[PAD];
    float k[B * HKV * NK * D], k_pad[PAD];
    float v[B * HKV * NK * DV], v_pad[PAD];
    float out[B * HQ * NQ * DV], out_pad[PAD];
    float lse[B * HQ * NQ], lse_pad[PAD];
    float bias[B * HQ * NQ * NK], bias_pad[PAD];
    uint8_t visible[B * HQ * NQ * NK];
    float visible_pad[PAD];
    float slopes[HQ], slopes_pad[PAD];
    float sinks[HQ], sinks_pad[PAD];
    int64_t query_lengths[B];
    float query_lengths_pad[PAD];
    int64_t key_lengths[B];
    float key_lengths_pad[PAD];
    int64_t query_start[B];
    float query_start_pad[PAD];
    int64_t key_start[B];
    float key_start_pad[PAD];
} memory;

/* One call: a test case spoils a copy of a good one. */
typedef struct call {
    heed_tensor tensor[N_TENSORS];
    const heed_tensor *argument[LSE + 1]; /* q, k, v, out, lse as they are passed */
    heed_softmax_options options;
    heed_mask mask;
    memory data;
} call;

/* As the messages call them. */
extern const char *const tensor_names[N_TENSORS];

/* Of all tests; made by set_up_call(). */
extern heed_context *call_context;

int set_up_call(void **state);
int tear_down_call(void **state);

void fill_floats(float *x, size_t n, unsigned step);

/* Every option is in use, so that every one can be spoiled. The starts are set by the cases that need them. */
void make_call(call *c);
heed_status run_call(heed_context *context, const call *c);

/* The queries and keys of the second batch element begin at these positions, those of the first where they did. */
void start_at(call *c, int64_t query, int64_t key);

/* A table is checked to its end: what is wrong is printed, and expect_none_wrong() then fails the test. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void expect_none_wrong(void);

void expect_status(const char *title, heed_status want, heed_status got);
void expect_words(const char *title, const char *message, const char *const *words, int n_words);

/* Runs a call that must fail: with this status, a message that begins with `name` and ':' ("" where more than one
 * argument may be to blame) and holds the words, without a changed byte in any argument, and so that the context still
 * gives the right result afterwards. */
void expect_failure(const char *title, call *c, heed_status status, const char *name, const char *const *words,
                    int n_words);

#endif
