/* Dense products over whole matrices in memory, by OpenBLAS; nothing else in heed knows CBLAS. */
#ifndef HEED_CORE_GEMM_H
#define HEED_CORE_GEMM_H

#include <stdint.h>

#ifdef HEED_HAVE_BLAS
enum { HEED_WITH_BLAS = 1 };

/* C = alpha A op(B) + beta C, row-major: A [m, k], op(B) [k, n] (B is [n, k] when transposed), C [m, n]; lda, ldb and
 * ldc are row strides in elements. Runs with the threads that OpenBLAS has been given. */
void heed_gemm(int transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
               const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
#else
enum { HEED_WITH_BLAS = 0 };

/* Never called. */
static inline void heed_gemm(int transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    (void)transpose_b, (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)lda;
    (void)b, (void)ldb, (void)beta, (void)c, (void)ldc;
}
#endif

/* The library behind heed_gemm() and its build, e.g. "OpenBLAS 0.3.21 ...". */
const char *heed_blas_name(void);

#endif
