/* AFT-local (equation 4) in O(N s D): the sum over all keys outside the window is one state for many rows.
 *
 * A tile of a few rows goes over the union of their windows as in aft_blocks.c: weights exp(w - m), w = 0 outside a row's
 * own window, times the rows [exp(k - r) v, exp(k - r)]. What lies before the union is a prefix state, what lies behind
 * it a suffix state; both start the sums, as keys with w = 0. Nothing is ever subtracted from a total: that would cancel.
 *
 * The rows go from left to right and the prefix with them. Suffixes come from a pass from right to left before, which
 * parks them in the rows of output that are not written yet. Prefix and suffix keep references of their own, so that a row
 * whose mass lies far below r is still found from them and its window, in O(s).
 *
 * r is a key already taken, as in aft_blocks.c. Causal rows end a group before a key that would move it; where every row
 * sees every key, it is what the pass from the right has come to, and moves no more. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <math.h>
#include <string.h>

enum { PANEL_ROW = 2 * AFT_PANEL, GROUP_TILES = HEED_AFT_WINDOW_ROWS / HEED_AFT_TILE_ROWS };

typedef struct window_scratch {
    float *reference, *factor;   /* [d] */
    float *weighed;              /* panels [union keys][PANEL_ROW]: key j stands in row j modulo these */
    float *sums;                 /* panels [HEED_AFT_WINDOW_ROWS][PANEL_ROW] */
    float *p;                    /* [HEED_AFT_WINDOW_ROWS][union] */
    float *prefix, *suffix;      /* states [AFT_STATE_ROWS][d] */
    float *outside[GROUP_TILES]; /* rows ref, num, den [d]: prefix and suffix of a tile */
    float *state;                /* of a row computed again */
    float *key_factors;
    float *tail; /* rows ref, num, den [d]: the suffix of a last group of fewer rows */
    float *ones, *zeros;
} window_scratch;

/* Rows that are mixed together, and the keys of their windows that any of them sees. */
typedef struct window_tile {
    int first, n_rows; /* in the group */
    heed_key_range keys;
} window_tile;

/* Keys outside the windows, whose w is 0. */
typedef struct outside_sums {
    aft_lane x;
    int level; /* its references are those of the ring */
} outside_sums;

typedef struct window_walk {
    aft_job *job;
    window_scratch s;
    aft_lane x;          /* the state: of a row computed again */
    int causal;          /* a row sees no key behind it; else all rows see all keys */
    int64_t length;      /* rows that count */
    int64_t union_keys;  /* the most keys that a group needs */
    heed_key_range held; /* keys weighed and in the ring */
    outside_sums prefix, suffix;
    int64_t prefix_end; /* keys before this one are in the prefix */
    int64_t clean_end;  /* before this key every exp(k - r) v was finite; behind it 0 may stand in its place */
    int64_t first;      /* the group */
    int n_rows, n_tiles;
    window_tile tiles[GROUP_TILES];
    heed_key_range sees[HEED_AFT_WINDOW_ROWS];
    float m[HEED_AFT_WINDOW_ROWS], rescale[HEED_AFT_WINDOW_ROWS];
} window_walk;

/* ---- scratch ---- */

static int64_t union_keys(const aft_plan *p) { return HEED_AFT_WINDOW_ROWS + 2 * p->window; }

static int64_t carve(window_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t d = heed_smaller(p->q.shape[3], HEED_AFT_WINDOW_SLICE), panels = heed_divide_up(d, AFT_PANEL);
    s->reference = heed_arena_take_floats(&arena, d);
    s->factor = heed_arena_take_floats(&arena, d);
    s->weighed = heed_arena_take_floats(&arena, panels * union_keys(p) * PANEL_ROW);
    s->sums = heed_arena_take_floats(&arena, panels * HEED_AFT_WINDOW_ROWS * PANEL_ROW);
    s->p = heed_arena_take_floats(&arena, HEED_AFT_WINDOW_ROWS * union_keys(p));
    s->prefix = heed_arena_take_floats(&arena, AFT_STATE_ROWS * d);
    s->suffix = heed_arena_take_floats(&arena, AFT_STATE_ROWS * d);
    for (int t = 0; t < GROUP_TILES; t++)
        s->outside[t] = heed_arena_take_floats(&arena, AFT_PARKED_ROWS * d);
    s->state = heed_arena_take_floats(&arena, AFT_STATE_ROWS * d);
    s->key_factors = heed_arena_take_floats(&arena, heed_aft_packed_floats(p, union_keys(p)));
    s->tail = heed_arena_take_floats(&arena, AFT_PARKED_ROWS * d);
    s->ones = heed_arena_take_floats(&arena, HEED_AFT_TILE_ROWS);
    s->zeros = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    return arena.bytes;
}

int64_t heed_aft_window_bytes(const aft_plan *p)
{
    window_scratch s;
    return carve(&s, NULL, p);
}

int64_t heed_aft_window_parts(const aft_plan *p) { return heed_divide_up(p->q.shape[3], HEED_AFT_WINDOW_SLICE); }

/* ---- keys and windows ---- */

static heed_key_range all_keys(const window_walk *g)
{
    return heed_visible_range(&g->job->plan->mask, g->x.b, g->length - 1);
}

/* The keys of row i's window, seen or not, within the keys there are. */
static heed_key_range window_of(const window_walk *g, int64_t i)
{
    return heed_range_common(heed_aft_window(g->job->plan, g->x.b, i), all_keys(g));
}

/* ---- the ring of weighed keys ---- */

static float *ring_row(const window_walk *g, int64_t j) { return g->s.weighed + j % g->union_keys * PANEL_ROW; }

/* Where key j and those behind it stop to lie one behind the other. */
static int64_t ring_end(const window_walk *g, int64_t j) { return (j / g->union_keys + 1) * g->union_keys; }

/* Moves the reference to `key`, where that stands far above it, and the ring with it. */
static void move_reference(window_walk *g, const float *key)
{
    const heed_kernels *kernels = g->job->kernels;
    kernels->aft_move(g->s.reference, g->s.factor, key, g->x.n);
    for (int64_t j = g->held.begin, end; j < g->held.end; j = end) {
        end = heed_smaller(g->held.end, ring_end(g, j));
        heed_aft_scale_panels(g->job, ring_row(g, j), g->union_keys * PANEL_ROW, g->s.factor, (int)(end - j), g->x.n);
    }
    g->prefix.level = kernels->aft_refer(g->s.prefix, g->s.reference, g->x.n);
}

/* ---- outside the windows ---- */

/* Adds the keys in their order or against it: from the ring, where its references are the same. */
static void add_outside(window_walk *g, outside_sums *o, heed_key_range keys, int forward)
{
    const heed_kernels *kernels = g->job->kernels;
    const aft_plan *p = g->job->plan;
    while (!heed_range_is_empty(keys)) {
        int folds;
        heed_key_range part = heed_aft_take_part(&keys, forward, &folds);
        int64_t from = forward ? part.begin : part.end - 1, sign = forward ? 1 : -1;
        int in_ring = part.begin >= g->held.begin && part.end <= heed_smaller(g->held.end, ring_end(g, part.begin));
        if (o->level && in_ring && part.end <= g->clean_end) {
            kernels->aft_gather(o->x.state, ring_row(g, part.begin), g->union_keys * PANEL_ROW,
                                (int)(part.end - part.begin), o->x.n);
        } else {
            kernels->aft_keys(o->x.state, heed_row(&p->k, o->x.b, o->x.h, from) + o->x.first, sign * p->k.stride[2],
                              heed_row(&p->v, o->x.b, o->x.h, from) + o->x.first, sign * p->v.stride[2], g->s.zeros,
                              (int)(part.end - part.begin), o->x.n, 0);
            o->level = !heed_range_is_empty(g->held) && kernels->aft_refer(o->x.state, g->s.reference, o->x.n);
        }
        if (folds)
            kernels->aft_fold(o->x.state, o->x.n);
    }
}

static void add_prefix(window_walk *g, int64_t end)
{
    add_outside(g, &g->prefix, (heed_key_range){g->prefix_end, end}, 1);
    g->prefix_end = heed_larger(g->prefix_end, end);
}

/* Where the suffix of a group waits. */
static float *parked_rows(const window_walk *g, int64_t first, int64_t n_rows, int64_t *stride)
{
    return heed_aft_parked_rows(g->job->plan, &g->x, first, n_rows, g->s.tail, stride);
}

/* All keys from the right to the left; what lies behind the windows of each group is parked in its rows. The reference of
 * the ring is what all keys have come to. */
static void park_suffixes(window_walk *g)
{
    heed_key_range left = all_keys(g);
    float *state = g->s.suffix;
    heed_aft_reset(&g->suffix.x);
    for (int64_t first = (g->length - 1) / HEED_AFT_WINDOW_ROWS * HEED_AFT_WINDOW_ROWS; first >= 0;
         first -= HEED_AFT_WINDOW_ROWS) {
        int64_t n_rows = heed_smaller(HEED_AFT_WINDOW_ROWS, g->length - first), stride;
        heed_key_range behind = {heed_larger(window_of(g, first + n_rows - 1).end, left.begin), left.end};
        float *rows = parked_rows(g, first, n_rows, &stride);
        if (!heed_range_is_empty(behind)) {
            add_outside(g, &g->suffix, behind, 0);
            left.end = behind.begin;
        }
        g->job->kernels->aft_join(rows, stride, state, NULL, 0, g->x.n);
    }
    add_outside(g, &g->suffix, left, 0);
    memcpy(g->s.reference, state + AFT_REF_K * g->x.n, (size_t)g->x.n * sizeof *g->s.reference);
}

/* Weighs the keys that are not yet in the ring, up to one that would move the reference and that the first row of the
 * group does not see: then the group ends before the rows that see it. */
static void hold_keys(window_walk *g, heed_key_range keys)
{
    const heed_tensor *k = &g->job->plan->k, *v = &g->job->plan->v;
    g->held.begin = keys.begin;
    if (g->held.end <= keys.begin) { /* some keys may have come into the prefix unseen */
        g->held.end = keys.begin;
        move_reference(g, g->s.prefix + AFT_REF_K * g->x.n);
    }
    while (g->held.end < keys.end) {
        int64_t j = g->held.end, end = heed_smaller(keys.end, ring_end(g, j));
        const float *key = heed_row(k, g->x.b, g->x.h, j) + g->x.first;
        int n_clean, n_weighed = g->job->kernels->aft_weigh(
                         ring_row(g, j), g->union_keys * PANEL_ROW, g->s.reference, key, k->stride[2],
                         heed_row(v, g->x.b, g->x.h, j) + g->x.first, v->stride[2], (int)(end - j), g->x.n, &n_clean);
        g->held.end += n_weighed;
        if (n_clean < n_weighed)
            g->clean_end = heed_smaller(g->clean_end, j + n_clean);
        if (g->held.end == end)
            continue;
        if (g->held.end >= g->sees[0].end) {
            while (g->sees[g->n_rows - 1].end > g->held.end)
                g->n_rows--;
            return;
        }
        move_reference(g, key + n_weighed * k->stride[2]);
    }
}

/* ---- a group of rows ---- */

/* The keys of the windows of rows [first, first + n_rows) of the group that some of these rows see. */
static heed_key_range keys_of(const window_walk *g, int first, int n_rows)
{
    heed_key_range all = all_keys(g), sees = g->sees[first + n_rows - 1];
    int64_t begin = heed_aft_window(g->job->plan, g->x.b, g->first + first).begin;
    int64_t end = heed_aft_window(g->job->plan, g->x.b, g->first + first + n_rows - 1).end;
    begin = heed_smaller(heed_larger(begin, 0), all.end);
    return (heed_key_range){begin, heed_larger(begin, heed_smaller(end, sees.end))};
}

static void start_group(window_walk *g, int64_t first)
{
    g->first = first;
    g->n_rows = (int)heed_smaller(HEED_AFT_WINDOW_ROWS, g->length - first);
    for (int r = 0; r < g->n_rows; r++)
        g->sees[r] = heed_visible_range(&g->job->plan->mask, g->x.b, first + r);
    heed_key_range keys = keys_of(g, 0, g->n_rows);
    add_prefix(g, keys.begin);
    hold_keys(g, keys);
    g->n_tiles = (int)heed_divide_up(g->n_rows, HEED_AFT_TILE_ROWS);
    for (int t = 0; t < g->n_tiles; t++) {
        int at = t * HEED_AFT_TILE_ROWS, n_rows = (int)heed_smaller(HEED_AFT_TILE_ROWS, g->n_rows - at);
        g->tiles[t] = (window_tile){at, n_rows, keys_of(g, at, n_rows)};
    }
}

static heed_key_range group_keys(const window_walk *g)
{
    return (heed_key_range){g->tiles[0].keys.begin, g->tiles[g->n_tiles - 1].keys.end};
}

static float *sums_row(const window_walk *g, int r) { return g->s.sums + (int64_t)r * PANEL_ROW; }

/* What lies behind the windows of each tile: of the last one, the suffix of the group; then the keys in between. */
static void add_suffixes(window_walk *g)
{
    int64_t stride, end = g->tiles[g->n_tiles - 1].keys.end;
    const float *rows = parked_rows(g, g->first, g->n_rows, &stride);
    heed_aft_load_state(&g->suffix.x, rows, stride);
    g->suffix.level = g->job->kernels->aft_refer(g->s.suffix, g->s.reference, g->x.n);
    for (int t = g->n_tiles - 1; t >= 0; t--) {
        add_outside(g, &g->suffix, (heed_key_range){g->tiles[t].keys.end, end}, 0);
        end = heed_smaller(end, g->tiles[t].keys.end);
        g->job->kernels->aft_join(g->s.outside[t], g->x.n, g->s.suffix, NULL, 0, g->x.n);
    }
}

/* What lies outside the windows of a tile starts its sums. */
static void start_tile(window_walk *g, int t)
{
    const window_tile *tile = &g->tiles[t];
    float *outside = g->s.outside[t];
    int64_t n = g->x.n, behind = all_keys(g).end - tile->keys.end;
    add_prefix(g, tile->keys.begin);
    g->job->kernels->aft_join(outside, n, g->s.prefix, g->causal ? NULL : outside, n, n);
    g->job->kernels->aft_start(sums_row(g, tile->first), PANEL_ROW, (int64_t)HEED_AFT_WINDOW_ROWS * PANEL_ROW, outside,
                               g->s.reference, tile->n_rows, n);
    for (int r = tile->first; r < tile->first + tile->n_rows; r++)
        g->m[r] = tile->keys.begin > 0 || (!g->causal && behind > 0) ? 0.0f : -INFINITY;
}

static float *weights_row(const window_walk *g, int r) { return g->s.p + r * g->union_keys; }

/* w of row r and keys of its window: in a matrix, in a band, or from factors in `row`, which begins with key `origin`. */
static const float *bias_row(const window_walk *g, int r, heed_key_range keys, const float *row, int64_t origin)
{
    const aft_plan *p = g->job->plan;
    int64_t i = g->first + r;
    if (p->banded)
        return heed_row(&p->w, g->x.b, g->x.h, i) + (keys.begin - heed_aft_window(p, g->x.b, i).begin);
    return p->w.data ? heed_row(&p->w, g->x.b, g->x.h, i) + keys.begin : row + (keys.begin - origin);
}

static void fill(float *row, int64_t begin, int64_t end, float x)
{
    for (int64_t j = begin; j < end; j++)
        row[j] = x;
}

/* exp(w - m) of row r over the keys of its tile: those of its window by w, the others all alike, zeros behind what it
 * sees. */
static void weigh_row(window_walk *g, const window_tile *tile, int r)
{
    const aft_plan *p = g->job->plan;
    heed_key_range own = heed_range_common(g->sees[r], tile->keys);
    heed_key_range inside = heed_range_common(own, heed_aft_window(p, g->x.b, g->first + r));
    int64_t origin = tile->keys.begin, n_seen = heed_larger(own.end - own.begin, 0);
    float *row = weights_row(g, r);
    if (heed_range_is_empty(inside) || !(p->w.data || p->query_factors.data))
        inside = (heed_key_range){own.begin, own.begin};
    int64_t begin = inside.begin - origin, end = inside.end - origin;
    g->rescale[r] = 1.0f;
    if (n_seen > end - begin)
        g->m[r] = 0.0f;
    if (end > begin) {
        const float *w = bias_row(g, r, inside, row, origin);
        const float *ahead = w == row + begin ? w : bias_row(g, r + (r + 1 < g->n_rows), inside, row, origin);
        g->job->kernels->softmax_row(row + begin, w, ahead, (int)(end - begin), &g->m[r], &g->rescale[r]);
    }
    fill(row, 0, begin, g->rescale[r]); /* e^(0 - m): m was 0 before, if there are any */
    fill(row, end, n_seen, g->rescale[r]);
    fill(row, n_seen, tile->keys.end - origin, 0.0f);
}

static void weigh_rows(window_walk *g, const window_tile *tile)
{
    if (g->job->plan->query_factors.data)
        heed_aft_factored_bias(g->job, &g->x, g->first + tile->first, tile->n_rows, tile->keys, g->s.key_factors,
                               group_keys(g), weights_row(g, tile->first), g->union_keys);
    for (int r = tile->first; r < tile->first + tile->n_rows; r++)
        weigh_row(g, tile, r);
}

/* Blocks of keys, so that one stays in L1 while all tiles take it through. */
static void mix(window_walk *g)
{
    heed_key_range all = group_keys(g);
    for (int64_t c = 0; c < g->x.n; c += AFT_PANEL) {
        int64_t width = heed_smaller(AFT_PANEL, g->x.n - c), panel = c / AFT_PANEL;
        for (heed_key_range block = {all.begin, all.begin}; block.end < all.end;) {
            int64_t end = heed_smaller(block.end + HEED_BLOCK_KEYS, all.end);
            block = (heed_key_range){block.end, heed_smaller(end, ring_end(g, block.end))};
            for (const window_tile *t = g->tiles; t < g->tiles + g->n_tiles; t++) {
                heed_key_range own = heed_range_common(t->keys, block);
                if (heed_range_is_empty(own))
                    continue;
                g->job->kernels->mix_rows(sums_row(g, t->first) + panel * HEED_AFT_WINDOW_ROWS * PANEL_ROW, PANEL_ROW,
                                          own.begin == t->keys.begin ? g->rescale + t->first : g->s.ones,
                                          weights_row(g, t->first) + (own.begin - t->keys.begin), g->union_keys, 1,
                                          ring_row(g, own.begin) + panel * g->union_keys * PANEL_ROW, PANEL_ROW,
                                          (int)(own.end - own.begin), t->n_rows, 2 * width, NULL);
            }
        }
    }
}

static void finish_row(window_walk *g, int t, int r)
{
    int64_t i = g->first + r;
    if (heed_range_is_empty(g->sees[r])) {
        heed_aft_store_nothing(g->job, &g->x, i);
        return;
    }
    aft_sums sums = {sums_row(g, r), (int64_t)HEED_AFT_WINDOW_ROWS * PANEL_ROW, g->s.reference, g->m[r]};
    int spoiled = g->sees[r].end > g->clean_end;
    if (heed_aft_store_sums(g->job, &g->x, i, &sums) || spoiled) {
        heed_aft_load_state(&g->x, g->s.outside[t], g->x.n);
        heed_aft_add_keys(g->job, &g->x, i, heed_range_common(g->tiles[t].keys, g->sees[r]), weights_row(g, r));
        heed_aft_replace_sums(g->job, &g->x, i, &sums, spoiled, g->s.factor);
    }
}

/* ---- all rows of a slice ---- */

static void walk(window_walk *g)
{
    for (int64_t first = 0; first < g->length; first += g->n_rows) {
        start_group(g, first);
        if (g->job->plan->query_factors.data)
            heed_aft_pack_factors(g->job, &g->x, group_keys(g), g->s.key_factors);
        if (!g->causal)
            add_suffixes(g);
        for (int t = 0; t < g->n_tiles; t++) {
            start_tile(g, t);
            weigh_rows(g, &g->tiles[t]);
        }
        mix(g);
        for (int t = 0; t < g->n_tiles; t++) {
            for (int r = g->tiles[t].first; r < g->tiles[t].first + g->tiles[t].n_rows; r++)
                finish_row(g, t, r);
        }
    }
}

void heed_aft_window_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    window_walk g = {.job = job, .causal = p->mask.right == 0, .union_keys = union_keys(p), .clean_end = INT64_MAX};
    carve(&g.s, heed_scratch_slice(job->context, worker), p);
    g.x = heed_aft_slice(job, index / job->parts, index % job->parts, HEED_AFT_WINDOW_SLICE, g.s.state);
    g.length = heed_query_length(&p->mask, g.x.b);
    g.prefix.x = g.suffix.x = g.x;
    g.prefix.x.state = g.s.prefix;
    g.suffix.x.state = g.s.suffix;
    heed_aft_reset(&g.prefix.x);
    for (int64_t c = 0; c < g.x.n; c++)
        g.s.reference[c] = -INFINITY;
    for (int r = 0; r < HEED_AFT_TILE_ROWS; r++)
        g.s.ones[r] = 1.0f;
    memset(g.s.zeros, 0, HEED_FOLD_KEYS * sizeof *g.s.zeros);
    if (!g.causal && g.length > 0)
        park_suffixes(&g);
    walk(&g);
    for (int64_t i = g.length; i < p->q.shape[2]; i++)
        heed_aft_store_nothing(job, &g.x, i);
}
