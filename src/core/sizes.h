/* Arithmetic on sizes. */
#ifndef HEED_CORE_SIZES_H
#define HEED_CORE_SIZES_H

#include <stdint.h>

static inline int64_t heed_smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t heed_larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* a / b rounded up, a >= 0, b > 0. */
static inline int64_t heed_divide_up(int64_t a, int64_t b) { return a / b + (a % b != 0); }

#endif
