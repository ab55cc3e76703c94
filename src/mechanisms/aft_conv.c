/* AFT-conv (equation 6) in O(N s D), for filters of one dimension. One key serves all channels of a head, so that weights
 * are numbers: p_ij = exp(w_ij - m) exp(k_j - r), the first a table of the filter that fits every tile of rows, and what
 * they weigh are the rows of v in place.
 *
 * As in aft_window.c, a tile of rows goes over the union of their windows; a prefix and a suffix sum with references of
 * their own hold what lies outside, and suffixes wait in rows of output that are written later. r is a key already taken;
 * a causal group of rows ends before a key that would move it and that the first row does not see.
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

enum { GROUP_ROWS = HEED_AFT_CONV_ROWS, TILE_ROWS = HEED_AFT_TILE_ROWS, GROUP_TILES = GROUP_ROWS / TILE_ROWS };

/* Rows of output that a suffix waits in. */
enum { PARKED_ROWS = 3 };

/* num [n], den; those of the keys since the last fold, and all before, against exp(reference). */
typedef struct conv_sums {
    float reference;
    float *added, *folded; /* side by side */
} conv_sums;

/* What every head of a task has of its own. */
typedef struct head_scratch {
    float *taps;            /* exp(w - m) of a tile: [tile keys][TILE_ROWS]; 0 where hidden */
    float *k, *e;           /* [union]: the keys of the group, exp(k - r) */
    float *prefix, *suffix; /* conv_sums [2][row] */
    float *tail;            /* rows of a group too small to park in */
} head_scratch;

typedef struct conv_scratch {
    head_scratch heads[HEED_AFT_CONV_HEADS];
    float *p;                     /* [tile keys][TILE_ROWS]: taps times e */
    float *k, *e;                 /* [HEED_FOLD_KEYS]: keys outside the group's */
    float *ones;                  /* [TILE_ROWS] */
    float *rows;                  /* sums [TILE_ROWS][row] */
    float *before;                /* [row]: the prefix of a tile */
    float *behind[GROUP_TILES];   /* [row]: the suffix of each */
    float *state, *w, *spread[2]; /* of a row computed again; spread: rows ref, num, den [n] */
} conv_scratch;

/* Rows that are mixed together, and the keys between their prefix and their suffix. */
typedef struct conv_tile {
    int64_t first;
    int n_rows;
    heed_key_range keys;
    float behind; /* the reference of its suffix */
} conv_tile;

/* A head on its way through its rows. */
typedef struct conv_walk {
    aft_job *job;
    conv_scratch *s;
    head_scratch *own;
    aft_lane x; /* the state: of a row computed again */
    conv_sums prefix, suffix;
    int causal, has_hidden_tap;
    int64_t n_taps, row;    /* row: floats of a row of sums */
    int64_t length, n_keys; /* rows and keys that count */
    int64_t prefix_end;     /* keys before this one are in the prefix; while suffixes are parked, from here on in those */
    float m;                /* the largest w, that of keys outside the filter, 0, among them */
    float reference;        /* r */
    int64_t first;          /* the group */
    int n_rows, n_tiles;
    conv_tile tiles[GROUP_TILES];
    heed_key_range held; /* the keys in own->k */
} conv_walk;

/* ---- scratch ---- */

static int64_t tile_keys_of(const aft_plan *p) { return p->filter.shape[3] - 1 + TILE_ROWS; }

static int64_t union_keys(const aft_plan *p) { return p->filter.shape[3] - 1 + GROUP_ROWS; }

static int64_t carve(conv_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t n_keys = union_keys(p), n = heed_smaller(p->q.shape[3], HEED_AFT_SLICE);
    for (int h = 0; h < HEED_AFT_CONV_HEADS; h++) {
        s->heads[h].taps = heed_arena_take_floats(&arena, tile_keys_of(p) * TILE_ROWS);
        s->heads[h].k = heed_arena_take_floats(&arena, n_keys);
        s->heads[h].e = heed_arena_take_floats(&arena, n_keys);
        s->heads[h].prefix = heed_arena_take_floats(&arena, 2 * (n + 1));
        s->heads[h].suffix = heed_arena_take_floats(&arena, 2 * (n + 1));
        s->heads[h].tail = heed_arena_take_floats(&arena, PARKED_ROWS * n);
    }
    s->p = heed_arena_take_floats(&arena, tile_keys_of(p) * TILE_ROWS);
    s->k = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    s->e = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    s->ones = heed_arena_take_floats(&arena, TILE_ROWS);
    s->rows = heed_arena_take_floats(&arena, TILE_ROWS * (n + 1));
    s->before = heed_arena_take_floats(&arena, n + 1);
    for (int t = 0; t < GROUP_TILES; t++)
        s->behind[t] = heed_arena_take_floats(&arena, n + 1);
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

/* Heads whose channels lie together are taken together where there are threads enough. */
int64_t heed_aft_conv_heads(const aft_plan *p, int n_threads)
{
    int64_t n = heed_smaller(p->q.shape[1], heed_larger(HEED_AFT_SLICE / p->q.shape[3], 1));
    n = heed_smaller(n, p->q.shape[0] * p->q.shape[1] / n_threads);
    return heed_larger(heed_smaller(n, HEED_AFT_CONV_HEADS), 1);
}

/* ---- keys ---- */

/* k of keys [begin, end). */
static void load_keys(const conv_walk *g, heed_key_range keys, float *to)
{
    const float *k = heed_row(&g->job->plan->k, g->x.b, g->x.h, keys.begin);
    for (int64_t j = 0; j < keys.end - keys.begin; j++)
        to[j] = k[j * g->job->plan->k.stride[2]];
}

static void weigh_keys(const conv_walk *g, const float *k, float *e, int64_t n_keys, float reference)
{
    for (int64_t j = 0; j < n_keys; j++)
        e[j] = k[j] - reference;
    g->job->kernels->exp_array(e, e, n_keys);
}

/* The next of n_keys keys that lie side by side and are not -inf. */
static heed_key_range next_run(const float *k, int64_t from, int64_t n_keys)
{
    while (from < n_keys && k[from] == -INFINITY)
        from++;
    heed_key_range run = {from, from};
    while (run.end < n_keys && k[run.end] != -INFINITY)
        run.end++;
    return run;
}

static const float *value_of(const conv_walk *g, int64_t j)
{
    return heed_row(&g->job->plan->v, g->x.b, g->x.h, j) + g->x.first;
}

/* ---- outside the windows ---- */

static conv_sums empty_sums(const conv_walk *g, float *rows)
{
    memset(rows, 0, (size_t)(2 * g->row) * sizeof *rows);
    return (conv_sums){-INFINITY, rows, rows + g->row};
}

static void refer(const conv_walk *g, conv_sums *o, float reference)
{
    float factor = o->reference == -INFINITY ? 0.0f : (float)exp((double)o->reference - (double)reference);
    for (int64_t c = 0; c < 2 * g->row; c++)
        o->added[c] *= factor; /* folded lies behind */
    o->reference = reference;
}

/* Keys from j on with the weights e, w = 0. */
static void add_weighed(const conv_walk *g, conv_sums *o, int64_t j, const float *k, const float *e, int64_t n_keys)
{
    for (heed_key_range run = next_run(k, 0, n_keys); !heed_range_is_empty(run); run = next_run(k, run.end, n_keys)) {
        float den = 0.0f;
        for (int64_t i = run.begin; i < run.end; i++)
            den += e[i];
        o->added[g->x.n] += den;
        g->job->kernels->mix_rows(o->added, g->row, g->s->ones, e + run.begin, 0, 1, value_of(g, j + run.begin),
                                  g->job->plan->v.stride[2], (int)(run.end - run.begin), 1, g->x.n);
    }
}

/* At most HEED_FOLD_KEYS keys: with the weights of the group where it has them and the reference is the same. The sums
 * take that reference where they stay large against it. */
static void add_keys(const conv_walk *g, conv_sums *o, heed_key_range keys)
{
    int64_t n_keys = keys.end - keys.begin, at = keys.begin - g->held.begin;
    int held = at >= 0 && keys.end <= g->held.end;
    const float *k = held ? g->own->k + at : g->s->k;
    if (held && o->reference == g->reference) {
        add_weighed(g, o, keys.begin, k, g->own->e + at, n_keys);
        return;
    }
    if (!held)
        load_keys(g, keys, g->s->k);
    float largest = o->reference;
    for (int64_t j = 0; j < n_keys; j++)
        largest = k[j] > largest ? k[j] : largest;
    if (largest > o->reference)
        refer(g, o, largest);
    weigh_keys(g, k, g->s->e, n_keys, o->reference);
    add_weighed(g, o, keys.begin, k, g->s->e, n_keys);
    double den = (double)o->added[g->x.n] + (double)o->folded[g->x.n];
    if (held && isfinite(g->reference) && den * exp((double)o->reference - (double)g->reference) >= AFT_LARGE_SUM)
        refer(g, o, g->reference);
}

static void add_outside(const conv_walk *g, conv_sums *o, heed_key_range keys, int forward)
{
    while (!heed_range_is_empty(keys)) {
        heed_key_range part = keys;
        if (forward)
            part.end = heed_smaller(keys.end, (keys.begin / HEED_FOLD_KEYS + 1) * HEED_FOLD_KEYS);
        else
            part.begin = heed_larger(keys.begin, (keys.end - 1) / HEED_FOLD_KEYS * HEED_FOLD_KEYS);
        add_keys(g, o, part);
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
    return fits ? heed_aft_out(g->job->plan, &g->x, first) : g->own->tail;
}

/* ---- a group of rows ---- */

static heed_key_range seen_by(const conv_walk *g, int64_t i) { return heed_visible_range(&g->job->plan->mask, g->x.b, i); }

/* The keys of the windows of TILE_ROWS rows from query i on, whether these exist or not, up to `end`. */
static heed_key_range tile_keys(const conv_walk *g, int64_t i, int64_t end)
{
    int64_t window = heed_aft_window(g->job->plan, g->x.b, i).begin;
    int64_t begin = heed_smaller(heed_larger(window, 0), g->n_keys);
    return (heed_key_range){begin, heed_larger(begin, heed_smaller(end, window + tile_keys_of(g->job->plan)))};
}

/* What lies behind the keys of the group from row `first` on is parked in its rows; groups come from right to left. */
static void park_suffix(conv_walk *g, int64_t first)
{
    int64_t n_rows = heed_smaller(GROUP_ROWS, g->length - first), last = (n_rows - 1) / TILE_ROWS * TILE_ROWS, stride;
    int64_t behind = tile_keys(g, first + last, g->n_keys).end;
    float *rows = parked_rows(g, first, n_rows, &stride);
    add_outside(g, &g->suffix, (heed_key_range){behind, g->prefix_end}, 0);
    g->prefix_end = heed_smaller(g->prefix_end, behind);
    total(g, &g->suffix, g->s->before);
    memcpy(rows, g->s->before, (size_t)g->x.n * sizeof *rows);
    rows[stride] = g->s->before[g->x.n];
    rows[2 * stride] = g->suffix.reference;
}

/* Rows [g->first, g->first + n_rows) in tiles; returns the end of their keys. */
static int64_t set_rows(conv_walk *g, int n_rows)
{
    g->n_rows = n_rows;
    g->n_tiles = 0;
    for (int at = 0; at < n_rows; at += TILE_ROWS) {
        conv_tile *t = &g->tiles[g->n_tiles++];
        t->first = g->first + at;
        t->n_rows = (int)heed_smaller(TILE_ROWS, n_rows - at);
        t->keys = tile_keys(g, t->first, g->causal ? seen_by(g, t->first + t->n_rows - 1).end : g->n_keys);
    }
    return g->tiles[g->n_tiles - 1].keys.end;
}

/* Loads the keys of the group. One that stands far above r becomes r; but rows that see it are left to the next group
 * where the first row does not. */
static void hold_keys(conv_walk *g, int64_t end)
{
    int64_t begin = g->tiles[0].keys.begin, kept = heed_larger(g->held.end - begin, 0), seen = seen_by(g, g->first).end;
    float reference = g->reference, *k = g->own->k, *e = g->own->e;
    if (kept > 0) {
        memmove(k, k + (begin - g->held.begin), (size_t)kept * sizeof *k);
        memmove(e, e + (begin - g->held.begin), (size_t)kept * sizeof *e);
    }
    load_keys(g, (heed_key_range){begin + kept, end}, k + kept);
    if (g->prefix.reference - reference > HEED_AFT_FAR) /* keys that came into the prefix unseen */
        reference = g->prefix.reference;
    for (int64_t j = kept; j < end - begin; j++) {
        if (!(k[j] - reference > HEED_AFT_FAR))
            continue;
        if (begin + j < seen) {
            reference = k[j];
            continue;
        }
        int n_rows = g->n_rows;
        while (seen_by(g, g->first + n_rows - 1).end > begin + j)
            n_rows--;
        end = set_rows(g, n_rows);
        break;
    }
    if (reference != g->reference)
        kept = 0;
    g->reference = reference;
    g->held = (heed_key_range){begin, end};
    weigh_keys(g, k + kept, e + kept, heed_larger(end - begin - kept, 0), reference);
}

/* The suffix of each tile: that of the group, then the keys in between. */
static void take_suffixes(conv_walk *g)
{
    int64_t stride, end = g->held.end;
    const float *rows = parked_rows(g, g->first, g->n_rows, &stride);
    g->suffix = empty_sums(g, g->own->suffix);
    memcpy(g->suffix.folded, rows, (size_t)g->x.n * sizeof *rows);
    g->suffix.folded[g->x.n] = rows[stride];
    g->suffix.reference = rows[2 * stride];
    for (int t = g->n_tiles - 1; t >= 0; t--) {
        add_outside(g, &g->suffix, (heed_key_range){g->tiles[t].keys.end, end}, 0);
        end = g->tiles[t].keys.end;
        total(g, &g->suffix, g->s->behind[t]);
        g->tiles[t].behind = g->suffix.reference;
    }
}

static void add_prefix(conv_walk *g, int64_t end)
{
    add_outside(g, &g->prefix, (heed_key_range){g->prefix_end, end}, 1);
    g->prefix_end = heed_larger(g->prefix_end, end);
}

static float factor_of(const conv_walk *g, float reference)
{
    if (reference == -INFINITY)
        return 0.0f;
    return (float)exp((double)reference - (double)g->reference - (double)g->m);
}

/* What lies outside a tile's keys starts the sums of its rows. */
static void start_rows(const conv_walk *g, int t, int first, int n_rows)
{
    float *rows = g->s->rows + first * g->row;
    float behind = g->causal ? 0.0f : factor_of(g, g->tiles[t].behind);
    g->job->kernels->blend_rows(rows, g->s->before, factor_of(g, g->prefix.reference), g->s->behind[t], behind, g->row);
    for (int r = 1; r < n_rows; r++)
        memcpy(rows + r * g->row, rows, (size_t)g->row * sizeof *rows);
}

static void mix(const conv_walk *g, int t)
{
    const heed_kernels *kernels = g->job->kernels;
    const conv_tile *tile = &g->tiles[t];
    int64_t n_keys = tile->keys.end - tile->keys.begin, at = tile->keys.begin - g->held.begin;
    const float *k = g->own->k + at, *e = g->own->e + at;
    const float *taps = g->own->taps + (tile->keys.begin - heed_aft_window(g->job->plan, g->x.b, tile->first).begin) * TILE_ROWS;
    for (heed_key_range run = next_run(k, 0, n_keys); !heed_range_is_empty(run); run = next_run(k, run.end, n_keys)) {
        int64_t place = run.begin * TILE_ROWS;
        int n = (int)(run.end - run.begin);
        kernels->tap_rows(g->s->p + place, g->s->rows + g->x.n, g->row, taps + place, e + run.begin, n, TILE_ROWS);
        kernels->mix_rows(g->s->rows, g->row, g->s->ones, g->s->p + place, 1, TILE_ROWS,
                          value_of(g, tile->keys.begin + run.begin), g->job->plan->v.stride[2], n, tile->n_rows, g->x.n);
    }
}

/* ---- results ---- */

/* Row r of a tile by itself and without the keys that it does not see, whose v may hold anything: the same bits. */
static void mix_alone(const conv_walk *g, int t, int r)
{
    const conv_tile *tile = &g->tiles[t];
    heed_key_range own = heed_range_common(tile->keys, seen_by(g, tile->first + r));
    const float *k = g->own->k + (own.begin - g->held.begin);
    float *row = g->s->rows + r * g->row;
    int64_t n_keys = own.end - own.begin;
    start_rows(g, t, r, 1);
    for (heed_key_range run = next_run(k, 0, n_keys); !heed_range_is_empty(run); run = next_run(k, run.end, n_keys)) {
        const float *p = g->s->p + run.begin * TILE_ROWS + r;
        float den = 0.0f;
        for (int64_t j = 0; j < run.end - run.begin; j++)
            den += p[j * TILE_ROWS];
        row[g->x.n] += den;
        g->job->kernels->mix_rows(row, g->row, g->s->ones, p, 1, TILE_ROWS, value_of(g, own.begin + run.begin),
                                  g->job->plan->v.stride[2], (int)(run.end - run.begin), 1, g->x.n);
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

static void recompute_row(conv_walk *g, int t, int64_t i)
{
    int64_t n = g->x.n;
    float *outside = g->s->spread[0];
    spread(g, g->s->before, g->prefix.reference, outside);
    heed_aft_load_state(&g->x, outside, n);
    if (!g->causal) {
        spread(g, g->s->behind[t], g->tiles[t].behind, g->s->spread[1]);
        g->job->kernels->aft_join(outside, n, g->x.state, g->s->spread[1], n, n);
        heed_aft_load_state(&g->x, outside, n);
    }
    heed_aft_add_keys(g->job, &g->x, i, heed_range_common(g->tiles[t].keys, seen_by(g, i)), g->s->w);
    heed_aft_store_row(g->job, &g->x, i);
    atomic_fetch_add_explicit(&g->job->exact_recomputations, 1, memory_order_relaxed);
}

/* out and lse of rows [r, r + n_rows) of a tile; a bit for each whose sums prove nothing. */
static unsigned store_rows(const conv_walk *g, int t, int r, int n_rows)
{
    const aft_plan *p = g->job->plan;
    int64_t i = g->tiles[t].first + r;
    const float *rows = g->s->rows + r * g->row;
    for (int at = 0; at < n_rows && heed_aft_lse(p, &g->x, i); at++)
        *heed_aft_lse(p, &g->x, i + at) =
            (float)((double)g->reference + (double)g->m + log((double)rows[at * g->row + g->x.n]));
    return g->job->kernels->ratio_rows(heed_aft_out(p, &g->x, i), p->out.stride[2], heed_aft_query(p, &g->x, i),
                                       p->q.stride[2], rows, g->row, n_rows, g->x.n);
}

static void finish_tile(conv_walk *g, int t)
{
    const conv_tile *tile = &g->tiles[t];
    unsigned doubtful = store_rows(g, t, 0, tile->n_rows);
    for (int r = 0; (doubtful || g->has_hidden_tap) && r < tile->n_rows; r++) {
        int64_t i = tile->first + r;
        if (heed_range_is_empty(seen_by(g, i))) {
            heed_aft_store_nothing(g->job, &g->x, i);
        } else if (g->has_hidden_tap) {
            recompute_row(g, t, i);
        } else if (doubtful >> r & 1) {
            mix_alone(g, t, r);
            if (store_rows(g, t, r, 1))
                recompute_row(g, t, i);
        }
    }
}

/* ---- all rows of a head ---- */

/* Column t of the table is row t of a tile, line u the key u places behind the first of its window. A key between the
 * first of the first window and the last of the last one has w = 0 outside a row's own, or is hidden. */
static void make_taps(conv_walk *g)
{
    const float *w = heed_row(&g->job->plan->filter, 0, g->x.h, 0);
    int64_t n = tile_keys_of(g->job->plan) * TILE_ROWS;
    g->m = 0.0f;
    for (int64_t c = 0; c < g->n_taps; c++) {
        g->m = w[c] > g->m ? w[c] : g->m;
        g->has_hidden_tap |= w[c] == -INFINITY;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t tap = i / TILE_ROWS - i % TILE_ROWS;
        float bias = tap >= 0 && tap < g->n_taps ? w[tap] : 0.0f;
        g->own->taps[i] = g->causal && tap >= g->n_taps ? -INFINITY : bias - g->m;
    }
    g->job->kernels->exp_array(g->own->taps, g->own->taps, n);
}

/* The group of rows that begins at g->first. */
static void attend_group(conv_walk *g)
{
    int64_t end = set_rows(g, (int)heed_smaller(GROUP_ROWS, g->length - g->first));
    add_prefix(g, g->tiles[0].keys.begin);
    hold_keys(g, end);
    if (!g->causal)
        take_suffixes(g);
    for (int t = 0; t < g->n_tiles; t++) {
        add_prefix(g, g->tiles[t].keys.begin);
        total(g, &g->prefix, g->s->before);
        start_rows(g, t, 0, g->tiles[t].n_rows);
        mix(g, t);
        finish_tile(g, t);
    }
    g->first += g->n_rows;
}

static void start_head(conv_walk *g)
{
    const aft_plan *p = g->job->plan;
    g->row = g->x.n + 1;
    g->length = heed_query_length(&p->mask, g->x.b);
    g->causal = p->mask.mask.causal;
    g->n_taps = p->filter.shape[3];
    g->n_keys = g->length > 0 ? seen_by(g, g->length - 1).end : 0;
    g->reference = -INFINITY;
    g->prefix = empty_sums(g, g->own->prefix);
    g->suffix = empty_sums(g, g->own->suffix);
    make_taps(g);
}

/* All keys from the right to the left: the suffixes, and r, which no key moves any more. */
static void park_suffixes(conv_walk *walks, conv_walk *end, int64_t n_rows)
{
    for (conv_walk *g = walks; g < end; g++)
        g->prefix_end = g->n_keys;
    for (int64_t first = heed_divide_up(n_rows, GROUP_ROWS) * GROUP_ROWS; first >= 0; first -= GROUP_ROWS) {
        for (conv_walk *g = walks; g < end; g++) {
            if (first < g->length)
                park_suffix(g, first);
        }
    }
    for (conv_walk *g = walks; g < end; g++) {
        add_outside(g, &g->suffix, (heed_key_range){0, g->prefix_end}, 0);
        g->reference = g->suffix.reference;
        g->prefix_end = 0;
    }
}

/* Heads in turn, group by group: their channels may lie side by side, and memory then delivers whole rows. */
void heed_aft_conv_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    int64_t begin = index / job->parts * job->heads, n_rows = p->q.shape[2];
    int64_t end = heed_smaller(begin + job->heads, p->q.shape[0] * p->q.shape[1]);
    conv_scratch s;
    conv_walk walks[HEED_AFT_CONV_HEADS], *last = walks;
    carve(&s, heed_scratch_slice(job->context, worker), p);
    for (int r = 0; r < TILE_ROWS; r++)
        s.ones[r] = 1.0f;
    for (int64_t head = begin; head < end; head++, last++) {
        *last = (conv_walk){.job = job, .s = &s, .own = &s.heads[head - begin]};
        last->x = heed_aft_slice(job, head, index % job->parts, HEED_AFT_SLICE, s.state);
        start_head(last);
    }
    for (int t = 0; t < GROUP_TILES; t++)
        memset(s.behind[t], 0, (size_t)walks->row * sizeof *s.behind[t]);
    if (!p->mask.mask.causal)
        park_suffixes(walks, last, n_rows);
    for (int64_t row = 0; row < n_rows; row += GROUP_ROWS) {
        for (conv_walk *g = walks; g < last; g++) {
            while (g->first < heed_smaller(row + GROUP_ROWS, g->length))
                attend_group(g);
            for (int64_t i = heed_larger(row, g->length); i < heed_smaller(row + GROUP_ROWS, n_rows); i++)
                heed_aft_store_nothing(job, &g->x, i);
        }
    }
}
