/* orthogonal   G = R Q, w = Q        G Gaussian, R lower triangular with a positive diagonal; of the transposes where G
 *                                    has more rows than columns
 * He           w = sqrt(2 / in) G
 * FAVOR+       w = [Q_1 diag(l_1), Q_2 diag(l_2), ...]     Q_b orthonormal columns, `in` or, in the last block, fewer;
 *                                                          l the lengths of Gaussian vectors of `in` numbers
 *
 * In float64, rounded once. A positive diagonal makes Q unique and uniformly distributed over such matrices (Mezzadri
 * 2007); Gram-Schmidt has it by itself. Columns of one block of FAVOR+ do not depend on those to their right. */
#include "mechanisms/initialisers.h"

#include "core/parallel.h"
#include "core/random.h"
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"

#include <math.h>

/* Besides those of init_kind. */
enum { STREAM_OF_LENGTHS = 3 };

typedef struct init_job {
    const heed_context *context;
    init_kind kind;
    uint64_t seed;
    heed_tensor w;
    int64_t n_rows, n_columns; /* of a head */
} init_job;

/* Rows or columns of one head, in float64 scratch. */
typedef struct vectors {
    double *x; /* [n][length] */
    int64_t n, length;
    int are_columns;
    int64_t first; /* the row or column that x begins with */
} vectors;

static double normal(const init_job *job, uint32_t stream, int64_t h, int64_t row, int64_t column)
{
    return heed_random_normal(job->seed, stream, h, row, column);
}

/* The vectors that are orthogonal to each other, at most: all rows, all columns, or a block of columns. */
static vectors place_vectors(heed_arena *arena, init_kind kind, int64_t n_rows, int64_t n_columns)
{
    vectors v = {.n = heed_smaller(n_rows, n_columns), .length = n_columns};
    v.are_columns = kind == INIT_FAVOR || n_rows > n_columns;
    if (v.are_columns)
        v.length = n_rows;
    /* A product below 2^60, so that it is whole; no context has more. */
    int64_t n = heed_smaller(v.n * v.length, HEED_MAX_SCRATCH_CHANNELS);
    v.x = heed_arena_take(arena, n * (int64_t)sizeof(double));
    return v;
}

int64_t heed_init_worker_bytes(init_kind kind, const heed_tensor *w)
{
    heed_arena arena = {NULL, 0};
    if (kind != INIT_HE)
        place_vectors(&arena, kind, w->shape[2], w->shape[3]);
    return arena.bytes;
}

static vectors vectors_of(const init_job *job, int worker)
{
    heed_arena arena = {heed_scratch_slice(job->context, worker), 0};
    return place_vectors(&arena, job->kind, job->n_rows, job->n_columns);
}

static void draw(const init_job *job, int64_t h, const vectors *v)
{
    for (int64_t i = 0; i < v->n; i++) {
        for (int64_t k = 0; k < v->length; k++) {
            int64_t row = v->are_columns ? k : i, column = v->are_columns ? v->first + i : k;
            v->x[i * v->length + k] = normal(job, job->kind, h, row, column);
        }
    }
}

static void store(const init_job *job, int64_t h, const vectors *v)
{
    for (int64_t i = 0; i < v->n; i++) {
        for (int64_t k = 0; k < v->length; k++) {
            int64_t row = v->are_columns ? k : i, column = v->are_columns ? v->first + i : k;
            heed_row(&job->w, 0, h, row)[column] = (float)v->x[i * v->length + k];
        }
    }
}

static double dot(const double *x, const double *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t k = 0; k < n; k++)
        sum += x[k] * y[k];
    return sum;
}

static void add_multiple(double *x, double factor, const double *y, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        x[k] += factor * y[k];
}

static void scale(double *x, double factor, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        x[k] *= factor;
}

/* Modified Gram-Schmidt. What rounding leaves along the vectors before grows as the rest of a vector gets short; a
 * second pass starts from that rest and leaves nothing (Giraud et al. 2005). */
static void orthonormalise(const vectors *v)
{
    for (int64_t i = 0; i < v->n; i++) {
        double *x = v->x + i * v->length;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t j = 0; j < i; j++) {
                const double *before = v->x + j * v->length;
                add_multiple(x, -dot(x, before, v->length), before, v->length);
            }
        }
        scale(x, 1.0 / sqrt(dot(x, x, v->length)), v->length);
    }
}

static void make_orthogonal(void *argument, int64_t h, int worker)
{
    const init_job *job = argument;
    vectors v = vectors_of(job, worker);
    draw(job, h, &v);
    orthonormalise(&v);
    store(job, h, &v);
}

static void make_he(void *argument, int64_t h, int worker)
{
    const init_job *job = argument;
    (void)worker;
    double deviation = sqrt(2.0 / (double)job->n_rows);
    for (int64_t row = 0; row < job->n_rows; row++) {
        float *w = heed_row(&job->w, 0, h, row);
        for (int64_t column = 0; column < job->n_columns; column++)
            w[column] = (float)(deviation * normal(job, INIT_HE, h, row, column));
    }
}

static double length_of_column(const init_job *job, int64_t h, int64_t column)
{
    double sum = 0.0;
    for (int64_t row = 0; row < job->n_rows; row++) {
        double x = normal(job, STREAM_OF_LENGTHS, h, row, column);
        sum += x * x;
    }
    return sqrt(sum);
}

static void make_favor(void *argument, int64_t h, int worker)
{
    const init_job *job = argument;
    vectors v = vectors_of(job, worker);
    for (; v.first < job->n_columns; v.first += job->n_rows) {
        v.n = heed_smaller(job->n_rows, job->n_columns - v.first);
        draw(job, h, &v);
        orthonormalise(&v);
        for (int64_t i = 0; i < v.n; i++)
            scale(v.x + i * v.length, length_of_column(job, h, v.first + i), v.length);
        store(job, h, &v);
    }
}

void heed_init_run(heed_context *context, init_kind kind, uint64_t seed, const heed_tensor *w)
{
    static const struct {
        const char *path;
        heed_task *make;
    } ways[] = {[INIT_ORTHOGONAL] = {"init-orthogonal", make_orthogonal},
                [INIT_HE] = {"init-he", make_he},
                [INIT_FAVOR] = {"init-favor", make_favor}};
    init_job job = {context, kind, seed, *w, w->shape[2], w->shape[3]};
    int64_t n_heads = w->shape[1];
    /* A random number costs some 100 operations, Gram-Schmidt 4 for each number and vector before its own. */
    double weights = (double)n_heads * (double)job.n_rows * (double)job.n_columns;
    double flops = weights * (100.0 + 4.0 * (double)heed_smaller(job.n_rows, job.n_columns));
    heed_report_start(context, ways[kind].path, heed_init_worker_bytes(kind, w));
    heed_parallel_for(context, n_heads, heed_count_workers(context, n_heads, flops), ways[kind].make, &job);
}
