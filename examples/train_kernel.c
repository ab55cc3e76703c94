/* Training the kernel of linear attention to stand in for softmax attention.
 *
 *     heed_example_train_kernel [SAMPLE KERNEL FOLDER [STEPS [SEED]]]
 *
 * SAMPLE is encoder or decoder, real inputs of two trained models (examples/data). KERNEL is softplus, glu or oglu
 * (two units), aoglu (three), or elu1, which has nothing to train and is there to be held against. Each head of the
 * keys learns a feature map of its own, so that linear attention over the head's q, k and v gives what softmax
 * attention gives, by Adam on the mean square of the difference. Half of the rows are learned from, the other half
 * judges: of the encoder, where all see all keys, the even and the odd ones; of the decoder, causal, rows 0 to 511 and
 * 512 to 1023. The matrices go to FOLDER, which is made where it is not there, as heed-compare reads them; glu is read
 * as linear-oglu is:
 *
 *     heed-compare --sample encoder --variants softmax,linear-softplus --params FOLDER
 *
 * Without arguments: a few steps of softplus on the encoder, and nothing is written. */
#include "bench/data.h"
#include "bench/npy.h"
#include "bench/progress.h"
#include "heed.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_LAYERS = 3, MAX_MATRICES = 3 * MAX_LAYERS, MAX_ARRAYS = 2 * 3 + 4 * MAX_MATRICES };

static void fail(const char *message)
{
    fprintf(stderr, "%s\n", message);
    exit(EXIT_FAILURE);
}

static heed_context *context;

static void expect(heed_status status)
{
    if (status != HEED_OK)
        fail(heed_context_message(context));
}

/* All memory but the sample's is kept until the end, so that who made what need not be known. */
static float *arrays[MAX_ARRAYS];
static int n_arrays;

static float *floats(int64_t n)
{
    float *x = n_arrays < MAX_ARRAYS ? calloc((size_t)n, sizeof *x) : NULL;
    if (!x)
        fail("out of memory");
    arrays[n_arrays++] = x;
    return x;
}

static heed_tensor zeros(int64_t heads, int64_t rows, int64_t columns)
{
    return heed_tensor_bhnd(floats(heads * rows * columns), HEED_FLOAT32, 1, heads, rows, columns);
}

/* ---- the sample ---- */

typedef struct sample {
    heed_tensor q, k, v;
    int causal;
} sample;

static heed_tensor read_tensor(const char *name, char part)
{
    char folder[1024], path[1200], message[256];
    npy_array array;
    data_find_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/%s_%c.npy", folder, name, part);
    if (npy_read(path, &array, message, sizeof message) != 0)
        fail(message);
    return heed_tensor_bhnd(array.data, HEED_FLOAT32, 1, array.shape[0], array.shape[1], array.shape[2]);
}

static sample read_sample(const char *name)
{
    return (sample){read_tensor(name, 'q'), read_tensor(name, 'k'), read_tensor(name, 'v'),
                    strcmp(name, "decoder") == 0};
}

/* Every `step`-th token from `first` on, n of them. */
static heed_tensor tokens(heed_tensor x, int64_t first, int64_t step, int64_t n)
{
    x.data = (float *)x.data + first * x.stride[2];
    x.stride[2] *= step;
    x.shape[2] = n;
    return x;
}

/* Queries, the keys they may see, and what softmax attention makes of them. */
typedef struct half {
    heed_tensor q, k, v, wanted, out, dout;
    heed_mask mask;
} half;

static half make_half(const sample *s, int judge)
{
    const int64_t n = s->q.shape[2], heads = s->q.shape[1], channels = s->v.shape[3];
    const int64_t n_keys = s->causal && !judge ? n / 2 : n;
    half h = {.mask = HEED_MASK_INIT};
    h.mask.causal = s->causal;
    h.q = s->causal ? tokens(s->q, judge * n / 2, 1, n / 2) : tokens(s->q, judge, 2, n / 2);
    h.k = tokens(s->k, 0, 1, n_keys);
    h.v = tokens(s->v, 0, 1, n_keys);
    h.wanted = zeros(heads, n / 2, channels);
    h.out = zeros(heads, n / 2, channels);
    h.dout = zeros(heads, n / 2, channels);
    heed_softmax_options options = HEED_SOFTMAX_OPTIONS_INIT;
    options.mask = &h.mask;
    expect(heed_softmax_forward(context, &h.q, &h.k, &h.v, &options, &h.wanted, NULL));
    return h;
}

/* ---- the kernel ---- */

typedef struct matrix {
    heed_tensor w, dw;
    float *mean, *square; /* of the gradient, as Adam keeps them */
    char name[32];
    float penalty; /* lambda of orthogonality */
} matrix;

typedef struct kernel {
    heed_feature_layer layers[MAX_LAYERS], gradients[MAX_LAYERS];
    heed_feature_map map, gradient;
    matrix matrices[MAX_MATRICES];
    int n_matrices;
    uint64_t seed;
} kernel;

static const heed_tensor *add_matrix(kernel *k, int layer, const char *name, int64_t heads, int64_t in, int64_t out,
                                     int orthogonal, float penalty, const heed_tensor **gradient)
{
    matrix *m = &k->matrices[k->n_matrices++];
    m->w = zeros(heads, in, out);
    m->dw = zeros(heads, in, out);
    m->mean = floats(heads * in * out);
    m->square = floats(heads * in * out);
    m->penalty = penalty;
    snprintf(m->name, sizeof m->name, "phi.%d.%s", layer, name);
    expect((orthogonal ? heed_init_orthogonal : heed_init_he)(context, k->seed + (uint64_t)k->n_matrices, &m->w));
    *gradient = &m->dw;
    return &m->w;
}

/* lambda. The penalty is a mean over the entries of w w^T - I and the loss at most about 1, so this is a weak pull. */
#define PENALTY 0.01f

typedef struct kind {
    const char *name;
    heed_feature_kind last;
    int n_layers, gated, low_rank;
    float penalty;
} kind;

static const kind *find_kind(const char *name)
{
    static const kind kinds[] = {
        {"elu1", HEED_FEATURE_ELU1, 1, 0, 0, 0.0f},         {"softplus", HEED_FEATURE_SOFTPLUS, 1, 0, 0, 0.0f},
        {"glu", HEED_FEATURE_GLU_LAST, 2, 1, 0, 0.0f},      {"oglu", HEED_FEATURE_GLU_LAST, 2, 1, 0, PENALTY},
        {"aoglu", HEED_FEATURE_GLU_LAST, 3, 1, 1, PENALTY},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    fail("KERNEL: elu1, softplus, glu, oglu or aoglu expected");
    return NULL;
}

/* All begin with orthogonal wf, so that glu and oglu differ by the penalty alone. */
static void make_kernel(kernel *k, const char *name, int64_t heads, int64_t n)
{
    const kind *of = find_kind(name);
    const int n_layers = of->n_layers;
    for (int l = 0; l < n_layers; l++) {
        heed_feature_layer *layer = &k->layers[l], *gradient = &k->gradients[l];
        layer->kind = l < n_layers - 1 ? HEED_FEATURE_GLU : of->last;
        gradient->kind = layer->kind;
        if (of->last == HEED_FEATURE_ELU1)
            continue; /* no matrix */
        layer->wf = add_matrix(k, l, "wf", heads, n, n, 1, of->penalty, &gradient->wf);
        if (of->low_rank) {
            layer->a = add_matrix(k, l, "a", heads, n, n / 4, 0, 0.0f, &gradient->a);
            layer->b = add_matrix(k, l, "b", heads, n / 4, n, 0, 0.0f, &gradient->b);
        } else if (of->gated) {
            layer->wg = add_matrix(k, l, "wg", heads, n, n, 0, 0.0f, &gradient->wg);
        }
    }
    k->map = (heed_feature_map){sizeof k->map, k->layers, n_layers};
    k->gradient = (heed_feature_map){sizeof k->gradient, k->gradients, n_layers};
}

/* ---- training ---- */

static int64_t count(const heed_tensor *x) { return x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3]; }

/* The square of the difference over that of what is wanted: 1 is what zeros would do. Leaves its gradient in dout. */
static double loss(const kernel *k, half *h)
{
    heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
    options.features = &k->map;
    options.mask = &h->mask;
    expect(heed_linear_forward(context, &h->q, &h->k, &h->v, &options, NULL, &h->out));
    const float *out = h->out.data, *wanted = h->wanted.data;
    float *dout = h->dout.data;
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < count(&h->out); i++) {
        const double d = (double)out[i] - (double)wanted[i];
        difference += d * d;
        size += (double)wanted[i] * (double)wanted[i];
    }
    for (int64_t i = 0; i < count(&h->out); i++)
        dout[i] = (float)(2.0 * ((double)out[i] - (double)wanted[i]) / size);
    return difference / size;
}

static void gradients(const kernel *k, const half *h)
{
    heed_linear_options options = HEED_LINEAR_OPTIONS_INIT;
    options.features = &k->map;
    options.mask = &h->mask;
    expect(heed_linear_backward(context, &h->q, &h->k, &h->v, &options, &h->dout, NULL, NULL, NULL, NULL, NULL,
                                &k->gradient, NULL, NULL));
    for (int i = 0; i < k->n_matrices; i++) {
        const matrix *m = &k->matrices[i];
        if (m->penalty > 0.0f)
            expect(heed_orthogonality_penalty(context, &m->w, m->penalty, NULL, &m->dw, 1));
    }
}

/* Adam (Kingma and Ba 2015, algorithm 1), step t = 1, 2, ... */
static void adam(const kernel *k, int t, double rate)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-12; /* small: so are gradients of a loss divided by all */
    const double correct1 = 1.0 - pow(beta1, t), correct2 = 1.0 - pow(beta2, t);
    for (int i = 0; i < k->n_matrices; i++) {
        const matrix *m = &k->matrices[i];
        float *w = m->w.data;
        const float *g = m->dw.data;
        for (int64_t j = 0; j < count(&m->w); j++) {
            m->mean[j] = (float)(beta1 * (double)m->mean[j] + (1.0 - beta1) * (double)g[j]);
            m->square[j] = (float)(beta2 * (double)m->square[j] + (1.0 - beta2) * (double)g[j] * (double)g[j]);
            w[j] -= (float)(rate * ((double)m->mean[j] / correct1) / (sqrt((double)m->square[j] / correct2) + eps));
        }
    }
}

static void save(const kernel *k, const char *folder)
{
    for (int i = 0; i < k->n_matrices; i++) {
        char path[1200], message[256];
        snprintf(path, sizeof path, "%s/%s.npy", folder, k->matrices[i].name);
        if (npy_write(path, 3, k->matrices[i].w.shape + 1, k->matrices[i].w.data, message, sizeof message) != 0)
            fail(message);
    }
}

static void free_all(sample *s)
{
    for (int i = 0; i < n_arrays; i++)
        free(arrays[i]);
    free(s->q.data), free(s->k.data), free(s->v.data);
}

/* The loss of what is learned from and of what judges, before training and after. */
typedef struct losses {
    double learned, judged;
} losses;

static losses measure(const kernel *k, half halves[2]) { return (losses){loss(k, &halves[0]), loss(k, &halves[1])}; }

static void train(const kernel *k, half halves[2], int n_steps)
{
    progress bar = progress_start(n_steps);
    for (int t = 1; t <= n_steps && k->n_matrices > 0; t++) {
        const losses now = measure(k, halves);
        char what[64];
        snprintf(what, sizeof what, "loss %.4f, rows not seen %.4f", now.learned, now.judged);
        progress_step(&bar, what);
        gradients(k, &halves[0]);
        adam(k, t, 0.01);
    }
    progress_end(&bar);
}

/* A number of an argument, or -1. */
static long read_number(const char *text)
{
    char *end;
    const long number = strtol(text, &end, 10);
    return end != text && *end == '\0' && number < 1000000 ? number : -1;
}

int main(int argc, char **argv)
{
    const char *sample_name = argc > 1 ? argv[1] : "encoder", *kernel_name = argc > 2 ? argv[2] : "softplus";
    const long n_steps = argc > 4   ? read_number(argv[4])
                         : argc > 1 ? 300
                                    : 20,
               seed = argc > 5 ? read_number(argv[5]) : 1;
    const int is_sample = strcmp(sample_name, "encoder") == 0 || strcmp(sample_name, "decoder") == 0;
    if (!is_sample || argc == 2 || argc == 3 || argc > 6 || n_steps < 1 || seed < 0)
        fail("usage: heed_example_train_kernel [encoder|decoder elu1|softplus|glu|oglu|aoglu FOLDER [STEPS [SEED]]]");
    char message[256];
    heed_config config = HEED_CONFIG_INIT;
    config.n_threads = 0;
    if (heed_context_create(&config, &context, message, sizeof message) != HEED_OK)
        fail(message);

    /* Before training, which would be lost. */
    if (argc > 3 && mkdir(argv[3], 0777) != 0 && errno != EEXIST)
        fail("FOLDER cannot be made");
    sample s = read_sample(sample_name);
    half halves[2] = {make_half(&s, 0), make_half(&s, 1)};
    kernel k = {.seed = (uint64_t)seed * MAX_MATRICES}; /* two matrices of one seed would begin alike */
    make_kernel(&k, kernel_name, s.k.shape[1], s.k.shape[3]);
    const losses before = measure(&k, halves);
    train(&k, halves, (int)n_steps);
    const losses after = measure(&k, halves);
    printf("%s, %s, %ld steps, seed %ld: square of the difference to softmax over its square\n", sample_name,
           kernel_name, k.n_matrices > 0 ? n_steps : 0, seed);
    printf("  rows learned from  %.4f -> %.4f\n", before.learned, after.learned);
    printf("  rows not seen      %.4f -> %.4f\n", before.judged, after.judged);
    if (argc > 3)
        save(&k, argv[3]);
    const int trained = k.n_matrices == 0 || after.learned < before.learned;
    free_all(&s);
    heed_context_destroy(context);
    return trained ? EXIT_SUCCESS : EXIT_FAILURE;
}
