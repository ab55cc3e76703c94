/* heed_feature_map_apply: blocks of rows through the map; or where one wide layer is all there is, and many rows, its
 * product by OpenBLAS straight into the result, and the rest in place. */
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/sizes.h"
#include "core/tuning.h"
#include "mechanisms/features.h"

#include <string.h>

typedef struct apply_scratch {
    float *y;
    feature_scratch features;
} apply_scratch;

static int64_t carve(apply_scratch *s, char *memory, const feature_map *map)
{
    heed_arena arena = {memory, 0};
    s->y = heed_arena_take_floats(&arena, HEED_LINEAR_BLOCK * map->out);
    heed_feature_scratch_carve(&s->features, &arena, map, HEED_LINEAR_BLOCK);
    return arena.bytes;
}

int64_t heed_feature_apply_bytes(const feature_map *map)
{
    apply_scratch s;
    if (heed_feature_channels(map) > HEED_MAX_SCRATCH_CHANNELS)
        return INT64_MAX;
    return carve(&s, NULL, map);
}

typedef struct apply_job {
    const heed_context *context;
    const feature_apply_plan *plan;
    int64_t parts; /* of a head */
} apply_job;

/* What a task works on: rows [begin, end) of a head. */
typedef struct apply_rows {
    const feature_apply_plan *plan;
    int64_t b, h, begin, end;
    apply_scratch s;
    feature_head phi;
} apply_rows;

static apply_rows rows_of_task(const apply_job *job, int64_t index, int worker)
{
    const feature_apply_plan *p = job->plan;
    int64_t head = index / job->parts;
    apply_rows rows = {.plan = p, .b = head / p->x.shape[1], .h = head % p->x.shape[1]};
    rows.begin = index % job->parts * HEED_FEATURE_ROWS;
    rows.end = heed_smaller(p->x.shape[2], rows.begin + HEED_FEATURE_ROWS);
    carve(&rows.s, heed_scratch_slice(job->context, worker), &p->map);
    heed_feature_scratch_fill(&rows.s.features, HEED_LINEAR_BLOCK);
    rows.phi = heed_feature_head(job->context->kernels, &p->map, rows.h, p->side);
    return rows;
}

static void apply_task(void *argument, int64_t index, int worker)
{
    apply_rows rows = rows_of_task(argument, index, worker);
    const feature_apply_plan *p = rows.plan;
    for (int64_t i = rows.begin; i < rows.end; i += HEED_LINEAR_BLOCK) {
        int n = (int)heed_smaller(rows.end - i, HEED_LINEAR_BLOCK);
        heed_features(&rows.phi, heed_feature_rows(&p->x, rows.b, rows.h, i, n), rows.s.y, &rows.s.features);
        for (int64_t c = 0; c < p->map.out; c += FEATURE_PANEL) {
            int64_t width = heed_panel_width(p->map.out, c);
            for (int64_t t = 0; t < n; t++)
                memcpy(heed_row(&p->out, rows.b, rows.h, i + t) + c, heed_panel(rows.s.y, n, c) + t * width,
                       (size_t)width * sizeof(float));
        }
    }
}

/* ---- by OpenBLAS ---- */

/* Maps of one product, which can stand in out, where OpenBLAS is faster; it counts in int, and no row may reach into the
 * next one. */
static int takes_blas(const feature_apply_plan *p)
{
    const feature_layer *layer = &p->map.layers[0];
    const heed_tensor *matrices[] = {&p->x, &p->out, &layer->w};
    if (!HEED_WITH_BLAS || p->map.n_layers != 1 || !layer->w.data || layer->wg.data || layer->rank)
        return 0;
    for (int i = 0; i < 3; i++) {
        if (matrices[i]->stride[2] < matrices[i]->shape[3] || matrices[i]->stride[2] > INT32_MAX)
            return 0;
    }
    return layer->in >= HEED_BLAS_CHANNELS && layer->out >= HEED_BLAS_CHANNELS && p->x.shape[2] >= HEED_BLAS_ROWS &&
           p->x.shape[2] <= INT32_MAX;
}

static void activate_task(void *argument, int64_t index, int worker)
{
    apply_rows rows = rows_of_task(argument, index, worker);
    const feature_apply_plan *p = rows.plan;
    for (int64_t i = rows.begin; i < rows.end; i++) {
        float *y = heed_row(&p->out, rows.b, rows.h, i);
        heed_feature_activate(&rows.phi, &p->map.layers[0], heed_feature_rows(&p->x, rows.b, rows.h, i, 1),
                              (feature_parts){0}, y, y, &rows.s.features);
    }
}

static void multiply_by_blas(const feature_apply_plan *p)
{
    const feature_layer *layer = &p->map.layers[0];
    for (int64_t b = 0; b < p->x.shape[0]; b++) {
        for (int64_t h = 0; h < p->x.shape[1]; h++)
            heed_gemm(0, p->x.shape[2], layer->out, layer->in, 1.0f, heed_row(&p->x, b, h, 0), p->x.stride[2],
                      heed_row(&layer->w, 0, h, 0), layer->w.stride[2], 0.0f, heed_row(&p->out, b, h, 0),
                      p->out.stride[2]);
    }
}

/* ---- the call ---- */

void heed_feature_apply_run(heed_context *context, const feature_apply_plan *p)
{
    apply_job job = {context, p, heed_divide_up(p->x.shape[2], HEED_FEATURE_ROWS)};
    int64_t n_tasks = p->x.shape[0] * p->x.shape[1] * job.parts;
    double rows = (double)(p->x.shape[0] * p->x.shape[1] * p->x.shape[2]);
    int blas = takes_blas(p);
    double flops = rows * (blas ? EXP_FLOPS * (double)p->map.out : heed_feature_flops(&p->map));
    heed_report_start(context, blas ? "feature-map-blas" : "feature-map", heed_feature_apply_bytes(&p->map));
    if (blas)
        multiply_by_blas(p);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), blas ? activate_task : apply_task,
                      &job);
}
