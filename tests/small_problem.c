#include "small_problem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const problem_sizes problems[N_PROBLEMS] = {
    {"many rows", 1, 4, 2, 157, 203, 40, 24},
    {"few rows", 1, 4, 2, 2, 3100, 64, 32},
    {"one row", 3, 6, 2, 1, 1300, 48, 40},
};

const problem_sizes tiny_problem = {"tiny", 1, 1, 1, 1, 1, 4, 4};

static float *take_floats(float **next, int64_t n)
{
    float *x = *next;
    *next += n;
    return x;
}

problem make_problem(const problem_sizes *s)
{
    const int64_t n_q = s->b * s->hq * s->nq * s->d, n_k = s->b * s->hkv * s->nk * s->d;
    const int64_t n_v = s->b * s->hkv * s->nk * s->dv, n_out = s->b * s->hq * s->nq * s->dv;
    const int64_t n_lse = s->b * s->hq * s->nq, n_in = n_q + n_k + n_v;
    problem p = {.data = malloc((size_t)(n_in + n_out + n_lse) * sizeof(float))};
    if (p.data == NULL) {
        fprintf(stderr, "no memory for a problem\n");
        exit(1);
    }
    for (int64_t i = 0; i < n_in; i++)
        p.data[i] = (float)(i * 7919 % 10007) / 2500.0f - 2.0f;
    float *next = p.data;
    p.q = heed_tensor_bhnd(take_floats(&next, n_q), HEED_FLOAT32, s->b, s->hq, s->nq, s->d);
    p.k = heed_tensor_bhnd(take_floats(&next, n_k), HEED_FLOAT32, s->b, s->hkv, s->nk, s->d);
    p.v = heed_tensor_bhnd(take_floats(&next, n_v), HEED_FLOAT32, s->b, s->hkv, s->nk, s->dv);
    p.out = heed_tensor_bhnd(take_floats(&next, n_out), HEED_FLOAT32, s->b, s->hq, s->nq, s->dv);
    p.lse = heed_tensor_bhnd(take_floats(&next, n_lse), HEED_FLOAT32, s->b, s->hq, s->nq, 1);
    p.output_bytes = (size_t)(n_out + n_lse) * sizeof(float);
    p.mask = (heed_mask)HEED_MASK_INIT;
    p.mask.causal = 1;
    p.mask.window_left = s->nk - 2;
    p.options = (heed_softmax_options)HEED_SOFTMAX_OPTIONS_INIT;
    clear_outputs(&p);
    return p;
}

void free_problem(problem *p)
{
    free(p->data);
    p->data = NULL;
}

void clear_outputs(problem *p) { memset(p->out.data, 0xff, p->output_bytes); }

heed_status run_problem(heed_context *context, problem *p)
{
    clear_outputs(p);
    p->options.mask = &p->mask;
    return heed_softmax_forward(context, &p->q, &p->k, &p->v, &p->options, &p->out, &p->lse);
}

int same_outputs(const problem *a, const problem *b)
{
    return a->output_bytes == b->output_bytes && memcmp(a->out.data, b->out.data, a->output_bytes) == 0;
}
