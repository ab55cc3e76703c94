#include "support/compare.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int64_t tensor_offset(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    const int64_t index[3] = {b, h, n};
    int64_t offset = c;
    for (int axis = 0; axis < 3; axis++)
        offset += index[axis] > 0 ? index[axis] * tensor->stride[axis] : 0;
    return offset;
}

float *tensor_at(const heed_tensor *tensor, int64_t b, int64_t h, int64_t n, int64_t c)
{
    return (float *)tensor->data + tensor_offset(tensor, b, h, n, c);
}

static int64_t count_elements(const heed_tensor *tensor)
{
    return tensor->shape[0] * tensor->shape[1] * tensor->shape[2] * tensor->shape[3];
}

static void find_index(const int64_t shape[4], int64_t element, int64_t index[4])
{
    for (int axis = 3; axis >= 0; axis--) {
        index[axis] = element % shape[axis];
        element /= shape[axis];
    }
}

static const float *find_element(const heed_tensor *tensor, int64_t element)
{
    int64_t index[4];
    find_index(tensor->shape, element, index);
    return tensor_at(tensor, index[0], index[1], index[2], index[3]);
}

/* Counts one wrong element and keeps it if it is the worst so far. */
static void note_wrong(compare_result *result, const int64_t shape[4], int64_t element, double got, double want,
                       double scaled_error)
{
    result->equal = 0;
    result->n_wrong++;
    if (result->n_wrong > 1 && !(scaled_error > result->scaled_error))
        return;
    find_index(shape, element, result->index);
    result->got = got;
    result->want = want;
    result->scaled_error = scaled_error;
}

static void describe_result(compare_result *result, const int64_t shape[4], double tolerance, double scale)
{
    if (result->equal) {
        snprintf(result->text, sizeof(result->text), "equal");
        return;
    }
    const int64_t *at = result->index;
    snprintf(result->text, sizeof(result->text),
             "%" PRId64 " of %" PRId64 " wrong, worst at (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
             "): got %.9g, want %.17g, error %.3g x %.3g, allowed %.3g",
             result->n_wrong, shape[0] * shape[1] * shape[2] * shape[3], at[0], at[1], at[2], at[3], result->got,
             result->want, result->scaled_error, scale, tolerance);
}

double tensor_max_abs(const heed_tensor *tensor)
{
    double largest = 0.0;
    for (int64_t element = 0; element < count_elements(tensor); element++) {
        const double value = fabs((double)*find_element(tensor, element));
        largest = value > largest && value < INFINITY ? value : largest;
    }
    return largest;
}

static double find_scale(const double *want, int64_t n)
{
    double largest = 0.0;
    for (int64_t element = 0; element < n; element++) {
        const double value = fabs(want[element]);
        largest = value > largest && value < INFINITY ? value : largest;
    }
    return largest;
}

/* The rule of both comparisons. The scaled error is a multiple of `unit`, or, if that is 0, of what is allowed. */
static compare_result compare_values(const heed_tensor *got, const double *want, double absolute, double relative,
                                     double unit)
{
    compare_result result = {.equal = 1};
    for (int64_t element = 0; element < count_elements(got); element++) {
        const double value = (double)*find_element(got, element);
        const double wanted = want[element];
        if (isfinite(value) && isfinite(wanted)) {
            const double error = fabs(value - wanted);
            const double allowed = absolute + relative * fabs(wanted);
            if (!(error <= allowed))
                note_wrong(&result, got->shape, element, value, wanted, error / (unit > 0.0 ? unit : allowed));
        } else if (!(isnan(value) && isnan(wanted)) && value != wanted) {
            note_wrong(&result, got->shape, element, value, wanted, INFINITY);
        }
    }
    return result;
}

compare_result compare_tensor(const heed_tensor *got, const double *want, double tolerance, double scale)
{
    const double unit = scale <= 0.0 ? find_scale(want, count_elements(got)) : scale;
    compare_result result = compare_values(got, want, tolerance * unit, 0.0, unit);
    describe_result(&result, got->shape, tolerance, unit);
    return result;
}

compare_result compare_each(const heed_tensor *got, const double *want, double absolute, double relative)
{
    compare_result result = compare_values(got, want, absolute, relative, 0.0);
    describe_result(&result, got->shape, 1.0, absolute + relative * fabs(result.want));
    return result;
}

compare_result compare_bits(const heed_tensor *got, const heed_tensor *want)
{
    compare_result result = {.equal = 1};
    for (int64_t element = 0; element < count_elements(got); element++) {
        const float *value = find_element(got, element);
        const float *wanted = find_element(want, element);
        if (memcmp(value, wanted, sizeof(float)) != 0) {
            const double error = fabs((double)*value - (double)*wanted);
            note_wrong(&result, got->shape, element, (double)*value, (double)*wanted, isnan(error) ? INFINITY : error);
        }
    }
    describe_result(&result, got->shape, 0.0, 1.0);
    return result;
}
