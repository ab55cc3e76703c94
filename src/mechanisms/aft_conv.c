/* AFT-conv (equation 6) in O(N s D), for filters of one dimension. One key serves all channels of a head, so that weights
 * are numbers: p_ij = exp(w_ij - m) exp(k_j - r), the first a table of the filter that fits every group of rows, and what
 * they weigh are the rows of v in place.
 *
 * As in aft_window.c, a tile of rows goes over the union of their windows; a prefix and a suffix sum, each against the
 * largest key of its own, hold what lies outside, and suffixes wait in rows of output that are written later. r is the
 * largest of the keys that all rows of a group see; a causal group ends before a key that stands far above it.
 *
 * A row of sums has one more float than a head has channels: den is summed with the operations of num, so that v = 1
 * gives exactly 1. Keys of -inf are left out, whatever their v holds. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <math.h>
#include <string.h>

enum { GROUP_ROWS = HEED_AFT_CONV_ROWS, GROUP_TILES = GROUP_ROWS / HEED_AFT_TILE_ROWS };

/* Rows of output that a suffix waits in. */
enum { PARKED_ROWS = 3 };

/* num [n], den; those of the keys since the last fold, and all before, against exp(reference). */
typedef struct conv_sums {
    float reference;
    float *added, *folded; /* side by side */
} conv_sums;

typedef struct conv_scratch {
    float *taps;                  /* exp(w - m): [union][GROUP_ROWS]; 0 outside a tile's keys */
    float *p;                     /* the same, times exp(k - r) */
    float *keys, *e;              /* k and exp(k - r) of a run of keys: [union or a fold] */
    float *ones;                  /* [HEED_FOLD_KEYS] */
    float *rows;                  /* sums [GROUP_ROWS][row] */
    float *before[GROUP_TILES];   /* [row]: prefix and suffix of each tile */
    float *behind[GROUP_TILES];
    float *prefix, *suffix;       /* conv_sums [2][row] */
    float *tail;                  /* rows of a group too small to park in */
    float *state, *w, *spread[2]; /* of a row computed again; spread: rows ref, num, den [n] */
} conv_scratch;

/* Rows that are mixed together, and the keys between their prefix and their suffix. */
typedef struct conv_tile {
    int first, n_rows; /* in the group */
    heed_key_range keys;
    float before, behind; /* references */
} conv_tile;

typedef struct conv_walk {
    aft_job *job;
    conv_scratch s;
    aft_lane x; /* the state: of a row computed again */
    conv_sums prefix, suffix;
    int causal, has_hidden_tap;
    int64_t n_taps, row; /* row: floats of a row of sums */
    int64_t length;      /* rows that count */
    int64_t prefix_end;  /* keys before this one are in the prefix */
    float m;             /* the largest w, that of keys outside the filter, 0, among them */
    int64_t first;       /* the group */
    int n_rows, n_tiles;
    conv_tile tiles[GROUP_TILES];
    heed_key_range sees[GROUP_ROWS], keys; /* keys: of all tiles */
    float reference;                       /* r */
} conv_walk;

/* ---- scratch ---- */

static int64_t union_keys(const aft_plan *p) { return p->filter.shape[3] - 1 + GROUP_ROWS; }

static int64_t carve(conv_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t n_keys = heed_larger(union_keys(p), HEED_FOLD_KEYS), n = heed_smaller(p->q.shape[3], HEED_AFT_SLICE);
    s->taps = heed_arena_take_floats(&arena, n_keys * GROUP_ROWS);
    s->p = heed_arena_take_floats(&arena, n_keys * GROUP_ROWS);
    s->keys = heed_arena_take_floats(&arena, n_keys);
    s->e = heed_arena_take_floats(&arena, n_keys);
    s->ones = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    s->rows = heed_arena_take_floats(&arena, GROUP_ROWS * (n + 1));
    for (int t = 0; t < GROUP_TILES; t++) {
        s->before[t] = heed_arena_take_floats(&arena, n + 1);
        s->behind[t] = heed_arena_take_floats(&arena, n + 1);
    }
    s->prefix = heed_arena_take_floats(&arena, 2 * (n + 1));
    s->suffix = heed_arena_take_floats(&arena, 2 * (n + 1));
    s->tail = heed_arena_take_floats(&arena, PARKED_ROWS * n);
    s->state = heed_arena_take_floats(&arena, AFT_STATE_ROWS * n);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    for (int i = 0; i < 2; i++)
        s->spread[i] = heed_arena_take_floats(&arena, PARKED_ROWS * n);
    return arena.bytes;
}

int64_t heed_aft_conv_bytes(const aft_plan *p)
{
    conv_scratch s;
    return carve(&s, NULL, p);
}

int64_t heed_aft_conv_parts(const aft_plan *p) { return heed_divide_up(p->q.shape[3], HEED_AFT_SLICE); }

/* ---- keys ---- */

static const float *key_of(const conv_walk *g, int64_t j) { return heed_row(&g->job->plan->k, g->x.b, g->x.h, j); }

/* k of a range into s.keys; returns the largest. */
static float load_keys(const conv_walk *g, heed_key_range keys)
{
    const float *k = key_of(g, keys.begin);
    float largest = -INFINITY;
    for (int64_t j = 0; j < keys.end - keys.begin; j++) {
        g->s.keys[j] = k[j * g->job->plan->k.stride[2]];
        largest = g->s.keys[j] > largest ? g->s.keys[j] : largest;
    }
    return largest;
}

/* exp(k - reference) of the keys loaded. */
static void weigh_keys(const conv_walk *g, int64_t n_keys, float reference)
{
    for (int64_t j = 0; j < n_keys; j++)
        g->s.e[j] = g->s.keys[j] - reference;
    g->job->kernels->exp_array(g->s.e, g->s.e, n_keys);
}

/* The next keys of [from, n_keys) that lie side by side and are not -inf. */
static heed_key_range next_run(const conv_walk *g, int64_t from, int64_t n_keys)
{
    while (from < n_keys && g->s.keys[from] == -INFINITY)
        from++;
    heed_key_range run = {from, from};
    while (run.end < n_keys && g->s.keys[run.end] != -INFINITY)
        run.end++;
    return run;
}

/* ---- outside the windows ---- */

static conv_sums empty_sums(const conv_walk *g, float *rows)
{
    memset(rows, 0, (size_t)(2 * g->row) * sizeof *rows);
    return (conv_sums){-INFINITY, rows, rows + g->row};
}

/* At most HEED_FOLD_KEYS keys, with w = 0. */
static void add_run(const conv_walk *g, conv_sums *o, heed_key_range keys)
{
    const heed_kernels *kernels = g->job->kernels;
    const heed_tensor *v = &g->job->plan->v;
    int64_t n_keys = keys.end - keys.begin;
    float largest = load_keys(g, keys);
    if (largest > o->reference) {
        float factor = (float)exp((double)o->reference - (double)largest);
        for (int64_t c = 0; c < 2 * g->row; c++)
            o->added[c] *= factor; /* folded lies behind */
        o->reference = largest;
    }
    weigh_keys(g, n_keys, o->reference);
    for (heed_key_range run = next_run(g, 0, n_keys); !heed_range_is_empty(run); run = next_run(g, run.end, n_keys)) {
        int n = (int)(run.end - run.begin);
        kernels->mix_rows(o->added, g->row, g->s.ones, g->s.e + run.begin, 0, 1,
                          heed_row(v, g->x.b, g->x.h, keys.begin + run.begin) + g->x.first, v->stride[2], n, 1, g->x.n);
        kernels->tap_rows(g->s.w, o->added + g->x.n, 0, g->s.ones, g->s.e + run.begin, n, 1);
    }
}

static void add_outside(const conv_walk *g, conv_sums *o, heed_key_range keys, int forward)
{
    while (!heed_range_is_empty(keys)) {
        heed_key_range part = keys;
        if (forward)
            part.end = heed_smaller(keys.end, (keys.begin / HEED_FOLD_KEYS + 1) * HEED_FOLD_KEYS);
        else
            part.begin = heed_larger(keys.begin, (keys.end - 1) / HEED_FOLD_KEYS * HEED_FOLD_KEYS);
        add_run(g, o, part);
        if ((forward ? part.end : part.begin) % HEED_FOLD_KEYS == 0) {
            g->job->kernels->blend_rows(o->folded, o->folded, 1.0f, o->added, 1.0f, g->row);
            memset(o->added, 0, (size_t)g->row * sizeof *o->added);
        }
        if (forward)
            keys.begin = part.end;
        else
            keys.end = part.begin;
    }
}

/* Both levels of sums in one row. */
static void total(const conv_walk *g, const conv_sums *o, float *row)
{
    g->job->kernels->blend_rows(row, o->folded, 1.0f, o->added, 1.0f, g->row);
}

/* Where the suffix of a group waits: num, den and the reference begin a row each, of output that is written later. */
static float *parked_rows(const conv_walk *g, int64_t first, int64_t n_rows, int64_t *stride)
{
    int fits = n_rows >= PARKED_ROWS;
    *stride = fits ? g->job->plan->out.stride[2] : g->x.n;
    return fits ? heed_aft_out(g->job->plan, &g->x, first) : g->s.tail;
}

/* ---- a group of rows ---- */

static heed_key_range all_keys(const conv_walk *g) { return heed_visible_range(&g->job->plan->mask, g->x.b, g->length - 1); }

/* The keys of the windows of HEED_AFT_TILE_ROWS rows from query i on, whether these rows exist or not, up to `end`. */
static heed_key_range tile_keys(const conv_walk *g, int64_t i, int64_t end)
{
    const aft_plan *p = g->job->plan;
    int64_t begin = heed_smaller(heed_larger(heed_aft_window(p, g->x.b, i).begin, 0), all_keys(g).end);
    return (heed_key_range){begin, heed_larger(begin, heed_smaller(end, heed_aft_window(p, g->x.b, i + HEED_AFT_TILE_ROWS - 1).end))};
}

/* The first row of the last tile of a group. */
static int64_t last_tile(int64_t n_rows) { return (n_rows - 1) / HEED_AFT_TILE_ROWS * HEED_AFT_TILE_ROWS; }

/* All keys from the right to the left; what lies behind the keys of each group is parked in its rows. */
static void park_suffixes(conv_walk *g)
{
    heed_key_range left = all_keys(g);
    g->suffix = empty_sums(g, g->s.suffix);
    for (int64_t first = (g->length - 1) / GROUP_ROWS * GROUP_ROWS; first >= 0; first -= GROUP_ROWS) {
        int64_t n_rows = heed_smaller(GROUP_ROWS, g->length - first), stride;
        heed_key_range behind = {tile_keys(g, first + last_tile(n_rows), left.end).end, left.end};
        float *rows = parked_rows(g, first, n_rows, &stride);
        add_outside(g, &g->suffix, behind, 0);
        left.end = heed_smaller(left.end, behind.begin);
        total(g, &g->suffix, g->s.before[0]);
        memcpy(rows, g->s.before[0], (size_t)g->x.n * sizeof *rows);
        rows[stride] = g->s.before[0][g->x.n];
        rows[2 * stride] = g->suffix.reference;
    }
}

/* The suffix of each tile: that of the group, then the keys in between. */
static void take_suffixes(conv_walk *g)
{
    int64_t stride, end = g->keys.end;
    const float *rows = parked_rows(g, g->first, g->n_rows, &stride);
    g->suffix = empty_sums(g, g->s.suffix);
    memcpy(g->suffix.folded, rows, (size_t)g->x.n * sizeof *rows);
    g->suffix.folded[g->x.n] = rows[stride];
    g->suffix.reference = rows[2 * stride];
    for (int t = g->n_tiles - 1; t >= 0; t--) {
        add_outside(g, &g->suffix, (heed_key_range){g->tiles[t].keys.end, end}, 0);
        end = g->tiles[t].keys.end;
        total(g, &g->suffix, g->s.behind[t]);
        g->tiles[t].behind = g->suffix.reference;
    }
}

static void take_prefix(conv_walk *g, int t)
{
    add_outside(g, &g->prefix, (heed_key_range){g->prefix_end, g->tiles[t].keys.begin}, 1);
    g->prefix_end = heed_larger(g->prefix_end, g->tiles[t].keys.begin);
    total(g, &g->prefix, g->s.before[t]);
    g->tiles[t].before = g->prefix.reference;
}

/* Rows [first, first + n_rows) in tiles, and their keys. */
static void set_rows(conv_walk *g, int n_rows)
{
    g->n_rows = n_rows;
    g->n_tiles = (int)heed_divide_up(n_rows, HEED_AFT_TILE_ROWS);
    for (int t = 0; t < g->n_tiles; t++) {
        int at = t * HEED_AFT_TILE_ROWS, n = (int)heed_smaller(HEED_AFT_TILE_ROWS, n_rows - at);
        int64_t end = g->causal ? g->sees[at + n - 1].end : all_keys(g).end;
        g->tiles[t] = (conv_tile){.first = at, .n_rows = n, .keys = tile_keys(g, g->first + at, end)};
    }
    g->keys = (heed_key_range){g->tiles[0].keys.begin, g->tiles[g->n_tiles - 1].keys.end};
}

/* r is the largest of what all rows see. Rows that see a key far above it are left to the next group. */
static void choose_reference(conv_walk *g)
{
    int64_t seen = heed_smaller(g->sees[0].end, g->keys.end) - g->keys.begin, n_rows = g->n_rows;
    g->reference = g->tiles[0].before;
    if (!g->causal && g->tiles[g->n_tiles - 1].behind > g->reference)
        g->reference = g->tiles[g->n_tiles - 1].behind;
    load_keys(g, g->keys);
    for (int64_t j = 0; j < seen; j++)
        g->reference = g->s.keys[j] > g->reference ? g->s.keys[j] : g->reference;
    for (int64_t j = heed_larger(seen, 0); j < g->keys.end - g->keys.begin; j++) {
        if (!(g->s.keys[j] - g->reference > HEED_AFT_FAR))
            continue;
        while (g->sees[n_rows - 1].end > g->keys.begin + j)
            n_rows--;
        set_rows(g, (int)n_rows);
        return;
    }
}

static float factor_of(const conv_walk *g, float reference)
{
    if (reference == -INFINITY)
        return 0.0f;
    return (float)exp((double)reference - (double)g->reference - (double)g->m);
}

/* What lies outside a tile's keys starts its sums. */
static void start_tile(const conv_walk *g, int t)
{
    const conv_tile *tile = &g->tiles[t];
    float *rows = g->s.rows + tile->first * g->row;
    g->job->kernels->blend_rows(rows, g->s.before[t], factor_of(g, tile->before), g->s.behind[t],
                                g->causal ? 0.0f : factor_of(g, tile->behind), g->row);
    for (int r = 1; r < tile->n_rows; r++)
        memcpy(rows + r * g->row, rows, (size_t)g->row * sizeof *rows);
}

static void mix(const conv_walk *g)
{
    const heed_kernels *kernels = g->job->kernels;
    const heed_tensor *v = &g->job->plan->v;
    int64_t n_keys = g->keys.end - g->keys.begin;
    int64_t shift = g->keys.begin - heed_aft_window(g->job->plan, g->x.b, g->first).begin;
    for (heed_key_range run = next_run(g, 0, n_keys); !heed_range_is_empty(run); run = next_run(g, run.end, n_keys)) {
        kernels->tap_rows(g->s.p + run.begin * GROUP_ROWS, g->s.rows + g->x.n, g->row,
                          g->s.taps + (run.begin + shift) * GROUP_ROWS, g->s.e + run.begin, (int)(run.end - run.begin),
                          GROUP_ROWS);
        for (const conv_tile *t = g->tiles; t < g->tiles + g->n_tiles; t++) {
            heed_key_range own = {t->keys.begin - g->keys.begin, t->keys.end - g->keys.begin};
            own = heed_range_common(own, run);
            if (!heed_range_is_empty(own))
                kernels->mix_rows(g->s.rows + t->first * g->row, g->row, g->s.ones,
                                  g->s.p + own.begin * GROUP_ROWS + t->first, 1, GROUP_ROWS,
                                  heed_row(v, g->x.b, g->x.h, g->keys.begin + own.begin) + g->x.first, v->stride[2],
                                  (int)(own.end - own.begin), t->n_rows, g->x.n);
        }
    }
}

/* ---- results ---- */

/* Row r by itself and without the keys that it does not see, whose v may hold anything: the same bits. */
static void mix_alone(const conv_walk *g, int t, int r)
{
    const heed_kernels *kernels = g->job->kernels;
    const heed_tensor *v = &g->job->plan->v;
    heed_key_range own = heed_range_common(g->tiles[t].keys, g->sees[r]);
    float *row = g->s.rows + r * g->row;
    kernels->blend_rows(row, g->s.before[t], factor_of(g, g->tiles[t].before), g->s.behind[t],
                        g->causal ? 0.0f : factor_of(g, g->tiles[t].behind), g->row);
    own.begin -= g->keys.begin;
    own.end -= g->keys.begin;
    for (heed_key_range run = next_run(g, own.begin, own.end); !heed_range_is_empty(run);
         run = next_run(g, run.end, own.end)) {
        const float *p = g->s.p + run.begin * GROUP_ROWS + r;
        float den = 0.0f;
        for (int64_t j = 0; j < run.end - run.begin; j++)
            den += p[j * GROUP_ROWS];
        row[g->x.n] += den;
        kernels->mix_rows(row, g->row, g->s.ones, p, 1, GROUP_ROWS,
                          heed_row(v, g->x.b, g->x.h, g->keys.begin + run.begin) + g->x.first, v->stride[2],
                          (int)(run.end - run.begin), 1, g->x.n);
    }
}

/* Rows ref, num, den of sums that all channels share. */
static void spread(const conv_walk *g, const float *row, float reference, float *rows)
{
    memcpy(rows + g->x.n, row, (size_t)g->x.n * sizeof *row);
    for (int64_t c = 0; c < g->x.n; c++) {
        rows[c] = reference;
        rows[2 * g->x.n + c] = row[g->x.n];
    }
}

static void recompute_row(conv_walk *g, int t, int r)
{
    const conv_tile *tile = &g->tiles[t];
    int64_t i = g->first + r, n = g->x.n;
    float *outside = g->s.spread[0];
    spread(g, g->s.before[t], tile->before, outside);
    heed_aft_load_state(&g->x, outside, n);
    if (!g->causal) {
        spread(g, g->s.behind[t], tile->behind, g->s.spread[1]);
        g->job->kernels->aft_join(outside, n, g->x.state, g->s.spread[1], n, n);
        heed_aft_load_state(&g->x, outside, n);
    }
    heed_aft_add_keys(g->job, &g->x, i, heed_range_common(tile->keys, g->sees[r]), g->s.w);
    heed_aft_store_row(g->job, &g->x, i);
    atomic_fetch_add_explicit(&g->job->exact_recomputations, 1, memory_order_relaxed);
}

/* Whether the sums of row r prove its result, which is stored. */
static int store_row(const conv_walk *g, int r)
{
    const aft_plan *p = g->job->plan;
    int64_t i = g->first + r;
    const float *row = g->s.rows + r * g->row;
    float den = row[g->x.n], *lse = heed_aft_lse(p, &g->x, i);
    int doubtful = g->job->kernels->gate_ratio(heed_aft_out(p, &g->x, i), heed_aft_query(p, &g->x, i), row, den, g->x.n);
    if (lse)
        *lse = (float)((double)g->reference + (double)g->m + log((double)den));
    return den >= AFT_SMALLEST_PROOF && !doubtful;
}

static void finish_row(conv_walk *g, int t, int r)
{
    if (heed_range_is_empty(g->sees[r])) {
        heed_aft_store_nothing(g->job, &g->x, g->first + r);
        return;
    }
    if (!g->has_hidden_tap) {
        if (store_row(g, r))
            return;
        mix_alone(g, t, r);
        if (store_row(g, r))
            return;
    }
    recompute_row(g, t, r);
}

/* ---- all rows of a head ---- */

/* Column t of the table is row t of a group, line u the key u places behind the first of its window. A tile of rows has
 * the keys between its first window's first and its last one's last: outside the filter they have w = 0, or are hidden. */
static void make_taps(conv_walk *g)
{
    const float *w = heed_row(&g->job->plan->filter, 0, g->x.h, 0);
    g->m = 0.0f;
    for (int64_t c = 0; c < g->n_taps; c++) {
        g->m = w[c] > g->m ? w[c] : g->m;
        g->has_hidden_tap |= w[c] == -INFINITY;
    }
    for (int64_t u = 0; u < union_keys(g->job->plan); u++) {
        for (int t = 0; t < GROUP_ROWS; t++) {
            int64_t first = t / HEED_AFT_TILE_ROWS * HEED_AFT_TILE_ROWS, tap = u - t;
            int64_t last = first + HEED_AFT_TILE_ROWS - 1 + g->n_taps - 1;
            int inside = tap >= 0 && tap < g->n_taps, seen = inside || !(g->causal && tap >= g->n_taps);
            float bias = inside ? w[tap] : 0.0f;
            g->s.taps[u * GROUP_ROWS + t] = u < first || u > last || !seen ? -INFINITY : bias - g->m;
        }
    }
    g->job->kernels->exp_array(g->s.taps, g->s.taps, union_keys(g->job->plan) * GROUP_ROWS);
}

static void walk(conv_walk *g)
{
    for (g->first = 0; g->first < g->length; g->first += g->n_rows) {
        int n_rows = (int)heed_smaller(GROUP_ROWS, g->length - g->first);
        for (int r = 0; r < n_rows; r++)
            g->sees[r] = heed_visible_range(&g->job->plan->mask, g->x.b, g->first + r);
        set_rows(g, n_rows);
        if (!g->causal)
            take_suffixes(g);
        take_prefix(g, 0);
        choose_reference(g);
        for (int t = 0; t < g->n_tiles; t++) {
            take_prefix(g, t);
            start_tile(g, t);
        }
        load_keys(g, g->keys);
        weigh_keys(g, g->keys.end - g->keys.begin, g->reference);
        mix(g);
        for (int r = 0; r < g->n_rows; r++)
            finish_row(g, r / HEED_AFT_TILE_ROWS, r);
    }
}

void heed_aft_conv_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    conv_walk g = {.job = job, .causal = p->mask.mask.causal, .n_taps = p->filter.shape[3]};
    carve(&g.s, heed_scratch_slice(job->context, worker), p);
    g.x = heed_aft_slice(job, index / job->parts, index % job->parts, HEED_AFT_SLICE, g.s.state);
    g.row = g.x.n + 1;
    g.length = heed_query_length(&p->mask, g.x.b);
    for (int i = 0; i < HEED_FOLD_KEYS; i++)
        g.s.ones[i] = 1.0f;
    make_taps(&g);
    if (!g.causal && g.length > 0)
        park_suffixes(&g);
    g.prefix = empty_sums(&g, g.s.prefix);
    for (int t = 0; t < GROUP_TILES && g.causal; t++)
        memset(g.s.behind[t], 0, (size_t)g.row * sizeof *g.s.behind[t]);
    walk(&g);
    for (int64_t i = g.length; i < p->q.shape[2]; i++)
        heed_aft_store_nothing(job, &g.x, i);
}
