/* What heed-compare reports, as a test reads it: the rows of its JSON, and the arrays that it writes. What is missing or of
 * another kind fails the test. */
#ifndef HEED_TEST_COMPARE_REPORT_H
#define HEED_TEST_COMPARE_REPORT_H

#include "bench/npy.h"
#include "heed.h"

#include <cjson/cJSON.h>

/* Runs with --json and returns what was written; freed with cJSON_Delete. */
cJSON *report_run(const char *arguments);

double report_number(const cJSON *object, const char *key);
double report_positive(const cJSON *object, const char *key);
const char *report_text(const cJSON *object, const char *key);
int report_truth(const cJSON *object, const char *key);
const cJSON *report_object(const cJSON *object, const char *key);

/* Row i, which must be there, and one of the seven sizes of its shape. */
const cJSON *report_row(const cJSON *json, int i);
double report_shape_at(const cJSON *row, int i);

int report_is_variant(const cJSON *row, const char *name);

/* Figures pass through 17 digits of text and a few divisions. */
void report_expect_close(double got, double want);
void report_expect_flops(const cJSON *row, double want);
void report_expect_bytes(const cJSON *row, double want);

/* An array of two numbers. */
void report_check_pair(const cJSON *options, const char *key, double first, double second);

/* So many rows, and of each all that holds whatever was asked. */
void report_check_rows(const cJSON *json, int n_rows);

/* A .npy file, freed with npy_free, and a view of one of rank 4. */
npy_array report_read_array(const char *path);
heed_tensor report_view_array(const npy_array *a);

/* Runs the q, k and v of folder "first" with another seed, so that parameters by chance would be others, and compares
 * its outputs with those of "first": equal with --params, else not. `variants` separates names by commas. */
void report_expect_same_outputs(const char *variants, const char *arguments);

#endif
