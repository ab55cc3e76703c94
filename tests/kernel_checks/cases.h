/* What the checks of the kernels share: buffers between guard pages whose every bit is accounted for, and failures that
 * name the kernel, its sizes and the seed.
 *
 * A check fills its inputs, calls keep_bits() on every buffer, runs the kernel, compares the results with a plain loop
 * in double, and then says with expect_kept() which floats must have stayed as they were. */
#ifndef HEED_TEST_KERNEL_CASES_H
#define HEED_TEST_KERNEL_CASES_H

#include "kernels/kernels.h"
#include "support/guard.h"
#include "support/random.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* The rounding error of one operation: |fl(x) - x| <= HALF_ULP |x|. */
#define HALF_ULP 0x1p-24

/* The kernels under test. */
extern const heed_kernels *kernels;

/* ---- Failures ---- */

/* Says what is being checked, for the message of a failure. */
void describe_case(const char *kernel, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void fail_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- Buffers ---- */

/* n_floats floats flush against a guard page. A tile begins at a multiple of 64 bytes, so that up to 15 floats of slack
 * may lie between its end and the page; they are watched like canaries. Fresh floats are NaN. */
typedef struct buffer {
    guarded memory;
    float *data;
    size_t n_floats;  /* without the slack */
    size_t n_watched; /* with it */
    float *before;    /* the bits at keep_bits() */
} buffer;

buffer make_buffer(int64_t n_floats, guard_side side);
buffer make_tile(int64_t n_rows, guard_side side);
void free_buffer(buffer *b);

void keep_bits(buffer *b);
/* Puts the kept bits back. */
void restore_bits(buffer *b);
/* Float i has the bits it had at keep_bits(). */
int is_kept(const buffer *b, size_t i);
/* Nothing at all has changed. */
void expect_kept(const buffer *b, const char *name);
/* In a tile of n_rows rows only lanes 0 .. n_lanes - 1 of each may have changed. */
void expect_lanes_kept(const buffer *b, const char *name, int n_lanes);

/* Lanes 0 .. n_lanes - 1 of all rows: normal numbers times `size`. */
void fill_tile(buffer *b, int n_lanes, float size, random_stream *random);
void fill_floats(float *x, int64_t n, float size, random_stream *random);

/* ---- Numbers ---- */

static inline int same_bits(float a, float b)
{
    union {
        float value;
        uint32_t bits;
    } x = {a}, y = {b};
    return x.bits == y.bits;
}

/* Equal as numbers, or both NaN (whose payload nobody promises). */
static inline int same_value(float a, float b) { return a == b || (a != a && b != b); }

/* |got - want| <= tolerance; NaN only where NaN is wanted, an infinity only where that one is wanted. */
int is_close(float got, double want, double tolerance);

/* A sum of n products in any order, fused or not, is off by at most n u / (1 - n u) sum |a b| with u = 2^-24; n u is
 * below 1e-4 in all cases, so (n + 1) u holds it. */
double sum_bound(int64_t n_terms, double sum_of_magnitudes);

/* ---- Rows ---- */

/* Rows of keys or values that stand `stride` floats apart; the buffer ends with the last channel of the last row. */
typedef struct source_rows {
    buffer memory;
    int64_t stride, n_channels;
    int n_rows;
} source_rows;

/* Every fifth case repeats one row, the others have odd gaps, which stay NaN. */
source_rows make_rows(int n_rows, int64_t n_channels, int64_t case_index, random_stream *random);

static inline float row_value(const source_rows *r, int64_t j, int64_t c) { return r->memory.data[j * r->stride + c]; }

/* ---- Sizes ---- */

/* The cases of the checks, in a full or in a quick run. A check walks over all key counts and all channel counts, each
 * with the other size at random. */
int n_key_counts(void);
int key_count(int i);
int n_channel_counts(void);
int64_t channel_count(int i);
guard_side side_of(int64_t case_index);

#endif
