#include "kernel_checks/cases.h"

#include "support/runner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const heed_kernels *kernels;

static char case_kernel[40], case_sizes[160];

void describe_case(const char *kernel, const char *format, ...)
{
    va_list arguments;
    snprintf(case_kernel, sizeof case_kernel, "%s", kernel);
    va_start(arguments, format);
    vsnprintf(case_sizes, sizeof case_sizes, format, arguments);
    va_end(arguments);
}

void fail_case(const char *format, ...)
{
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail_msg("%s, %s, %s: %s; HEED_TEST_SEED=%llu", kernels->isa, case_kernel, case_sizes, text,
             (unsigned long long)random_seed());
    abort(); /* fail_msg() does not return */
}

/* ---- Buffers ---- */

static buffer make_watched(int64_t n_floats, int64_t n_watched, guard_side side)
{
    buffer b;
    guarded_create(&b.memory, (size_t)n_watched * sizeof(float), side);
    b.data = (float *)(void *)b.memory.data;
    b.n_floats = (size_t)n_floats;
    b.n_watched = (size_t)n_watched;
    b.before = malloc((size_t)n_watched * sizeof(float) + 1);
    if (b.before == NULL)
        fail_case("no memory");
    keep_bits(&b);
    return b;
}

buffer make_buffer(int64_t n_floats, guard_side side) { return make_watched(n_floats, n_floats, side); }

buffer make_tile(int64_t n_rows, guard_side side)
{
    const int64_t n_floats = n_rows * kernels->tile_lanes;
    return make_watched(n_floats, (n_floats + 15) / 16 * 16, side);
}

void free_buffer(buffer *b)
{
    guarded_destroy(&b->memory);
    free(b->before);
}

void keep_bits(buffer *b) { memcpy(b->before, b->data, b->n_watched * sizeof(float)); }

void restore_bits(buffer *b) { memcpy(b->data, b->before, b->n_watched * sizeof(float)); }

int is_kept(const buffer *b, size_t i) { return same_bits(b->data[i], b->before[i]); }

static void expect_canaries(const buffer *b, const char *name)
{
    for (size_t i = b->n_floats; i < b->n_watched; i++)
        if (!is_kept(b, i))
            fail_case("%s: written %zu floats behind its end", name, i - b->n_floats + 1);
    if (!guarded_intact(&b->memory))
        fail_case("%s: written outside its bounds", name);
}

void expect_kept(const buffer *b, const char *name)
{
    for (size_t i = 0; i < b->n_floats; i++)
        if (!is_kept(b, i))
            fail_case("%s[%zu] has changed", name, i);
    expect_canaries(b, name);
}

void expect_lanes_kept(const buffer *b, const char *name, int n_lanes)
{
    const size_t row = (size_t)kernels->tile_lanes;
    for (size_t i = 0; i < b->n_floats; i++)
        if (i % row >= (size_t)n_lanes && !is_kept(b, i))
            fail_case("%s: lane %zu of row %zu has changed, only lanes below %d may", name, i % row, i / row, n_lanes);
    expect_canaries(b, name);
}

void fill_floats(float *x, int64_t n, float size, random_stream *random)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = size * random_normal(random);
}

void fill_tile(buffer *b, int n_lanes, float size, random_stream *random)
{
    const size_t row = (size_t)kernels->tile_lanes;
    for (size_t first = 0; first < b->n_floats; first += row)
        fill_floats(b->data + first, n_lanes, size, random);
}

int is_close(float got, double want, double tolerance)
{
    if (isnan(want))
        return isnan(got);
    if (isinf(want) || isinf(got))
        return (double)got == want;
    return fabs(got - want) <= tolerance;
}

/* ---- Sizes ---- */

/* A quick run takes every fifth size: 5 is coprime to the widths of all register tiles, so each tail still occurs. */
static int step_of_sizes(void) { return runner_quick() ? 5 : 1; }

int n_key_counts(void) { return (HEED_BLOCK_KEYS + step_of_sizes() - 1) / step_of_sizes(); }

int key_count(int i) { return HEED_BLOCK_KEYS - i * step_of_sizes(); }

static const int64_t larger_channel_counts[] = {192, 255, 256, 257, 300, 576, 1024};

enum { N_LARGER = sizeof larger_channel_counts / sizeof larger_channel_counts[0], ALL_UP_TO = 130 };

int n_channel_counts(void) { return ALL_UP_TO / step_of_sizes() + N_LARGER; }

int64_t channel_count(int i)
{
    return i < N_LARGER ? larger_channel_counts[i] : 1 + (int64_t)(i - N_LARGER) * step_of_sizes();
}

guard_side side_of(int64_t case_index) { return case_index % 2 == 0 ? GUARD_END : GUARD_START; }

/* ---- Rows ---- */

double sum_bound(int64_t n_terms, double sum_of_magnitudes)
{
    return ((double)n_terms + 1.0) * HALF_ULP * sum_of_magnitudes + 0x1p-149;
}

source_rows make_rows(int n_rows, int64_t n_channels, int64_t case_index, random_stream *random)
{
    source_rows r = {.n_rows = n_rows, .n_channels = n_channels};
    r.stride = case_index % 5 == 0 ? 0 : n_channels + random_below(random, 9);
    r.memory = make_buffer(n_rows > 0 ? (n_rows - 1) * r.stride + n_channels : 0, side_of(case_index));
    for (int j = 0; j < n_rows; j++)
        fill_floats(r.memory.data + j * r.stride, n_channels, 1.0f, random);
    keep_bits(&r.memory);
    return r;
}
