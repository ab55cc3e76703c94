/* Calls of linear attention for the tests, and what they must give: within a tolerance of the float64 oracle, or bit by
 * bit. */
#ifndef HEED_TEST_LINEAR_CHECK_H
#define HEED_TEST_LINEAR_CHECK_H

#include "linear_problem.h"

/* The largest error to be expected of a row, as a factor of max|v|.
 *
 * A row is a mean of values with weights phi(q_i).phi(k_j) > 0, so that its error is at most their relative one, and what
 * the two sums over keys and features add. Roundings are independent and have a deviation of 2^-24 / sqrt(3) of the partial
 * sum that they are made of.
 * - A sum of n positive terms, whose partial sums are of a size of n / sqrt(3) on average: 2^-24 sqrt(n) / 3. Two of them,
 *   over C features and 64 keys of a block, and as many as there are blocks.
 * - A product of a layer with x of `in` numbers, whose partial sums are of a size of s / sqrt(2), if it is of size s: 1,
 *   or sqrt(in)^(1/2) for the exponents of FAVOR: 2^-24 sqrt(in / 6) s, which is an error of the exponent of a feature
 *   (softplus falls as fast as exp at most); one of a query and one of a key.
 * Five deviations of all that, and two times 4 ulp of softplus, sigmoid or exp. */
double linear_tolerance(const linear_problem *p);

/* The sum of in s^2 over the matrices of a map, with s as above. */
double linear_roundings(const heed_feature_map *map);

/* heed_linear_forward() over a view that was overwritten with NaN; it must succeed. */
void linear_run(linear_problem *p, heed_context *context);

/* The same with another state than that of the problem. */
void linear_run_from(linear_problem *p, heed_context *context, const heed_linear_state *state);

/* Runs, and compares rows and the state afterwards with the oracle. Rows that it makes 0 are exactly 0. */
void linear_expect_match(linear_problem *p, heed_context *context, const char *name);

/* Compares with rows (B, Hq, Nq, Dv) of the oracle, or with a state of it. Errors are relative to max|v|, to that and the
 * norm where they are of sums. */
void linear_expect_rows(const linear_problem *p, const heed_tensor *out, const double *want, double tolerance,
                        const char *name);
void linear_expect_state(const linear_problem *p, const heed_linear_state *state, const double *sums,
                         const double *norms, double tolerance, const char *name);

void linear_expect_bits(const heed_tensor *got, const heed_tensor *want, const char *name);

/* Prints the largest errors of linear_expect_rows() so far, for each kind of map, where the tolerance was that of
 * linear_tolerance(). */
void linear_print_errors(void);

#endif
