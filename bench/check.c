#include "bench/check.h"

#include "bench/parallel.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Multiply-adds that the oracle may cost: 2e9 take a second or two. An input that needs more is sampled, and the
 * sample costs a quarter of that, but never holds less than 64 rows. */
static const double full_cost = 2e9, sample_cost = 5e8;
enum { MIN_SAMPLE = 64, STREAM_SAMPLE = 100, CHECK_MAX_MECHANISMS = 32 };

/* Rows of one input by one mechanism in float64. */
typedef struct reference_rows {
    const attention_input *input;
    const variant *mechanism;
    int64_t n_rows, n_channels;
    row_place *places; /* ascending over batch, head, query */
    double *values;    /* n_rows x n_channels */
} reference_rows;

/* The references of an input, one for each mechanism that was asked for. */
typedef struct reference_set {
    const attention_input *input;
    int n_threads;
    reference_rows items[CHECK_MAX_MECHANISMS];
    int n_items;
} reference_set;

/* ---- Which rows ------------------------------------------------------------------------------------------------- */

int64_t check_count_rows(const attention_input *input)
{
    return input->shape.batch * input->shape.n_query_heads * input->shape.n_queries;
}

static int64_t choose_n_rows(const attention_input *input, const variant *mechanism)
{
    const attention_shape *s = &input->shape;
    const double row_cost = mechanism->reference_cost
                                ? mechanism->reference_cost(input)
                                : (double)s->n_keys * (double)(s->n_channels + s->n_value_channels);
    const int64_t n_all = check_count_rows(input);
    if ((double)n_all * row_cost <= full_cost)
        return n_all;
    const int64_t n = (int64_t)(sample_cost / row_cost);
    return n < MIN_SAMPLE ? (n_all < MIN_SAMPLE ? n_all : MIN_SAMPLE) : n;
}

/* Row number n, counted over batch, head, query. */
static row_place find_place(const attention_input *input, int64_t n)
{
    const attention_shape *s = &input->shape;
    return (row_place){n / s->n_queries / s->n_query_heads, n / s->n_queries % s->n_query_heads, n % s->n_queries};
}

/* One row out of each of n equal parts: spread over all heads and positions, none twice. */
static void choose_rows(reference_rows *reference)
{
    const int64_t n_all = check_count_rows(reference->input), n = reference->n_rows;
    random_stream random = random_start_seeded(reference->input->settings.seed, STREAM_SAMPLE);
    for (int64_t r = 0; r < n; r++) {
        int64_t begin, end;
        parallel_share(n_all, r, n, &begin, &end);
        reference->places[r] = find_place(reference->input, begin + random_below(&random, end - begin));
    }
}

/* ---- Their values ----------------------------------------------------------------------------------------------- */

/* Workers take turns row by row, since causal rows grow with their number. */
static void compute_rows(void *job, int worker, int n_workers)
{
    reference_rows *reference = job;
    for (int64_t r = worker; r < reference->n_rows; r += n_workers) {
        const row_place at = reference->places[r];
        reference->mechanism->reference_row(reference->input, at.b, at.h, at.i,
                                            reference->values + r * reference->n_channels);
    }
}

/* Workers take turns kv head by kv head. */
static void compute_groups(void *job, int worker, int n_workers)
{
    reference_rows *reference = job;
    const attention_shape *s = &reference->input->shape;
    const int64_t n_heads = s->n_query_heads / s->n_kv_heads;
    int64_t group = 0;
    for (int64_t begin = 0, end = 0; begin < reference->n_rows; begin = end, group++) {
        const row_place first = reference->places[begin];
        while (end < reference->n_rows && reference->places[end].b == first.b &&
               reference->places[end].h / n_heads == first.h / n_heads)
            end++;
        if (group % n_workers == worker)
            reference->mechanism->reference_rows(reference->input, reference->places + begin, end - begin,
                                                 reference->values + begin * reference->n_channels);
    }
}

static int is_same_reference(const variant *a, const variant *b)
{
    return a->reference_row == b->reference_row && a->reference_rows == b->reference_rows;
}

/* The reference by one mechanism, computed when it is first asked for. NULL without memory. */
static const reference_rows *find_reference(reference_set *set, const variant *mechanism)
{
    for (int i = 0; i < set->n_items; i++)
        if (is_same_reference(set->items[i].mechanism, mechanism))
            return &set->items[i];
    reference_rows *reference = &set->items[set->n_items++];
    *reference = (reference_rows){.input = set->input,
                                  .mechanism = mechanism,
                                  .n_rows = choose_n_rows(set->input, mechanism),
                                  .n_channels = variant_n_channels(mechanism, set->input)};
    reference->places = malloc((size_t)reference->n_rows * sizeof *reference->places);
    reference->values = malloc((size_t)reference->n_rows * (size_t)reference->n_channels * sizeof(double));
    if (!reference->places || !reference->values)
        return NULL;
    choose_rows(reference);
    parallel_run(set->n_threads, mechanism->reference_rows ? compute_groups : compute_rows, reference);
    return reference;
}

static void release_references(reference_set *set)
{
    for (int i = 0; i < set->n_items; i++) {
        free(set->items[i].places);
        free(set->items[i].values);
    }
}

/* ---- Errors ----------------------------------------------------------------------------------------------------- */

static const float *find_output(const compare_row *row, row_place at)
{
    const heed_tensor *out = &row->setup.out;
    return (const float *)out->data + at.b * out->stride[0] + at.h * out->stride[1] + at.i * out->stride[2];
}

/* The larger of two, and NaN once either is NaN: an output of NaN must not look right. */
static double take_larger(double a, double b) { return a >= b || isnan(a) ? a : b; }

/* a / b for errors: 0 / 0 is no error. */
static double divide(double a, double b) { return a == 0 ? 0 : a / b; }

static void find_errors(compare_row *row, const reference_rows *own)
{
    double max_error = 0, max_reference = 0;
    for (int64_t r = 0; r < own->n_rows; r++) {
        const float *out = find_output(row, own->places[r]);
        for (int64_t c = 0; c < own->n_channels; c++) {
            const double reference = own->values[r * own->n_channels + c];
            max_error = take_larger(max_error, fabs(out[c] - reference));
            max_reference = take_larger(max_reference, fabs(reference));
        }
    }
    row->rows_checked = own->n_rows;
    row->max_abs_err = max_error;
    row->rel_err = divide(max_error, max_reference);
}

/* Of the heads with groups of `group_size` tokens; 0: of all heads. NaN without a row. */
static double find_distance(const compare_row *row, const reference_rows *softmax, int64_t group_size)
{
    double difference = 0, norm = 0;
    int64_t n_rows = 0;
    for (int64_t r = 0; r < softmax->n_rows; r++) {
        if (group_size > 0 && row->variant->group_size(softmax->input, softmax->places[r].h) != group_size)
            continue;
        n_rows++;
        const float *out = find_output(row, softmax->places[r]);
        for (int64_t c = 0; c < softmax->n_channels; c++) {
            const double reference = softmax->values[r * softmax->n_channels + c];
            difference += (out[c] - reference) * (out[c] - reference);
            norm += reference * reference;
        }
    }
    return n_rows > 0 ? divide(sqrt(difference), sqrt(norm)) : NAN;
}

/* The heads of each group size, the smallest one first. */
static void list_resolutions(compare_row *row)
{
    const attention_input *input = row->setup.input;
    for (int64_t h = 0; h < input->shape.n_query_heads; h++) {
        const int64_t group_size = row->variant->group_size(input, h);
        int at = 0;
        while (at < row->n_resolutions && row->resolutions[at].group_size < group_size)
            at++;
        row_resolution *found = &row->resolutions[at];
        if (at == row->n_resolutions || found->group_size != group_size) {
            memmove(found + 1, found, (size_t)(row->n_resolutions - at) * sizeof *found);
            *found = (row_resolution){.group_size = group_size};
            row->n_resolutions++;
        }
        found->n_heads++;
    }
}

/* Gradients are nothing that could be compared with the output of softmax attention. */
static void find_distances(compare_row *row, const reference_rows *softmax)
{
    if (row->variant->result != RESULT_OUT) {
        row->softmax_distance = NAN;
        return;
    }
    row->softmax_distance = find_distance(row, softmax, 0);
    if (!row->variant->group_size)
        return;
    list_resolutions(row);
    for (int i = 0; i < row->n_resolutions; i++)
        row->resolutions[i].softmax_distance = find_distance(row, softmax, row->resolutions[i].group_size);
}

int check_rows(compare_row *rows, int n_rows, int n_threads)
{
    reference_set set = {.input = rows[0].setup.input, .n_threads = n_threads};
    int result = 0;
    for (int i = 0; i < n_rows && result == 0; i++) {
        const reference_rows *own = find_reference(&set, rows[i].variant);
        const reference_rows *softmax = find_reference(&set, &variant_softmax);
        if (!own || !softmax) {
            result = -1;
        } else {
            find_errors(&rows[i], own);
            find_distances(&rows[i], softmax);
        }
    }
    release_references(&set);
    return result;
}
