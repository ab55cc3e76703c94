/* AFT-conv (equation 6) in O(N s D), for filters of one dimension: p_ij = exp(w_ij - m) exp(k_j - r), the first a table of
 * the filter that fits every tile of rows, and what they weigh are the rows of v in place.
 *
 * As in aft_window.c, a tile of rows goes over the union of their windows; a prefix and a suffix with references of their
 * own hold what lies outside, and suffixes wait in rows of output that are written later. r is a key already taken; a
 * causal group of rows ends before a key that would move it and that the first row does not see. */
#include "mechanisms/aft_head.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

enum { GROUP_ROWS = HEED_AFT_CONV_ROWS, TILE_ROWS = HEED_AFT_TILE_ROWS, GROUP_TILES = GROUP_ROWS / TILE_ROWS };

/* What every head of a task has of its own. */
typedef struct own_scratch {
    float *taps;            /* exp(w - m) of a tile: [tile keys][TILE_ROWS]; 0 where hidden */
    float *k, *e;           /* [union]: the keys of the group, exp(k - r) */
    float *prefix, *suffix; /* sums [2][row] */
    float *tail;            /* rows of a group too small to park in */
} own_scratch;

typedef struct conv_scratch {
    own_scratch own[HEED_AFT_CONV_HEADS];
    aft_head head;              /* what all heads share */
    float *p;                   /* [tile keys][TILE_ROWS]: taps times e */
    float *ones;                /* [TILE_ROWS] */
    float *rows;                /* sums [TILE_ROWS][row] */
    float *before;              /* [row]: the prefix of a tile */
    float *behind[GROUP_TILES]; /* [row]: the suffix of each */
    float *w;                   /* [HEED_FOLD_KEYS] */
} conv_scratch;

/* Rows that are mixed together, and the keys between their prefix and their suffix. */
typedef struct conv_tile {
    int64_t first;
    int n_rows;
    heed_key_range keys;
    aft_outside behind;
} conv_tile;

/* A head on its way through its rows. */
typedef struct conv_walk {
    aft_head h;
    conv_scratch *s;
    own_scratch *own;
    aft_head_sums prefix, suffix;
    int causal, has_hidden_tap;
    int64_t length, n_keys; /* rows and keys that count */
    int64_t prefix_end; /* keys before this one are in the prefix; while suffixes are parked, from here on in those */
    int64_t first;      /* the group */
    int n_rows, n_tiles;
    conv_tile tiles[GROUP_TILES];
} conv_walk;

/* ---- scratch ---- */

static int64_t count_tile_keys(const aft_plan *p) { return p->filter.shape[3] - 1 + TILE_ROWS; }

static int64_t carve(conv_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t n_keys = p->filter.shape[3] - 1 + GROUP_ROWS, n = heed_smaller(p->q.shape[3], HEED_AFT_SLICE);
    int64_t row = heed_aft_head_row(n);
    for (int h = 0; h < HEED_AFT_CONV_HEADS; h++) {
        s->own[h].taps = heed_arena_take_floats(&arena, count_tile_keys(p) * TILE_ROWS);
        s->own[h].k = heed_arena_take_floats(&arena, n_keys);
        s->own[h].e = heed_arena_take_floats(&arena, n_keys);
        s->own[h].prefix = heed_arena_take_floats(&arena, 2 * row);
        s->own[h].suffix = heed_arena_take_floats(&arena, 2 * row);
        s->own[h].tail = heed_arena_take_floats(&arena, AFT_PARKED_ROWS * n);
    }
    heed_aft_head_carve(&s->head, &arena, n);
    s->p = heed_arena_take_floats(&arena, count_tile_keys(p) * TILE_ROWS);
    s->ones = heed_arena_take_floats(&arena, TILE_ROWS);
    s->rows = heed_arena_take_floats(&arena, TILE_ROWS * row);
    s->before = heed_arena_take_floats(&arena, row);
    for (int t = 0; t < GROUP_TILES; t++)
        s->behind[t] = heed_arena_take_floats(&arena, row);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
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

/* ---- a group of rows ---- */

static heed_key_range seen_by(const conv_walk *g, int64_t i)
{
    return heed_visible_range(&g->h.job->plan->mask, g->h.x.b, i);
}

/* The keys of the windows of TILE_ROWS rows from query i on, whether these exist or not, up to `end`. */
static heed_key_range tile_keys(const conv_walk *g, int64_t i, int64_t end)
{
    int64_t window = heed_aft_window(g->h.job->plan, g->h.x.b, i).begin;
    int64_t begin = heed_smaller(heed_larger(window, 0), g->n_keys);
    return (heed_key_range){begin, heed_larger(begin, heed_smaller(end, window + count_tile_keys(g->h.job->plan)))};
}

/* What lies behind the keys of the group from row `first` on is parked in its rows; groups come from right to left. */
static void park_suffix(conv_walk *g, int64_t first)
{
    int64_t n_rows = heed_smaller(GROUP_ROWS, g->length - first), last = (n_rows - 1) / TILE_ROWS * TILE_ROWS;
    int64_t behind = tile_keys(g, first + last, g->n_keys).end;
    heed_aft_head_add(&g->h, &g->suffix, (heed_key_range){behind, g->prefix_end}, 0);
    g->prefix_end = heed_smaller(g->prefix_end, behind);
    heed_aft_head_park(&g->h, &g->suffix, first, n_rows, g->own->tail);
}

/* Rows [g->first, g->first + n_rows) in tiles; returns the end of their keys. */
static int64_t set_rows(conv_walk *g, int n_rows)
{
    g->n_rows = n_rows;
    g->n_tiles = 0;
    for (int at = 0; at < n_rows; at += TILE_ROWS) {
        conv_tile *t = &g->tiles[g->n_tiles];
        t->first = g->first + at;
        t->n_rows = (int)heed_smaller(TILE_ROWS, n_rows - at);
        t->keys = tile_keys(g, t->first, g->causal ? seen_by(g, t->first + t->n_rows - 1).end : g->n_keys);
        t->behind = (aft_outside){-INFINITY, g->s->behind[g->n_tiles++]};
    }
    return g->tiles[g->n_tiles - 1].keys.end;
}

/* Loads the keys of the group. One that stands far above r becomes r; but rows that see it are left to the next group
 * where the first row does not. */
static void hold_keys(conv_walk *g, int64_t end)
{
    int64_t begin = g->tiles[0].keys.begin, kept = heed_larger(g->h.held.end - begin, 0);
    float reference = g->h.reference, *k = g->own->k, *e = g->own->e;
    if (kept > 0) {
        memmove(k, k + (begin - g->h.held.begin), (size_t)kept * sizeof *k);
        memmove(e, e + (begin - g->h.held.begin), (size_t)kept * sizeof *e);
    }
    heed_aft_head_keys(&g->h, (heed_key_range){begin + kept, end}, k + kept);
    if (g->prefix.reference - reference > AFT_MOVE_ABOVE) /* keys that came into the prefix unseen */
        reference = g->prefix.reference;
    for (int64_t j = kept; j < end - begin; j++) {
        if (!(k[j] - reference > AFT_MOVE_ABOVE))
            continue;
        if (begin + j < seen_by(g, g->first).end) {
            reference = k[j];
            continue;
        }
        int n_rows = g->n_rows;
        while (seen_by(g, g->first + n_rows - 1).end > begin + j)
            n_rows--;
        end = set_rows(g, n_rows);
        break;
    }
    if (reference != g->h.reference)
        kept = 0;
    g->h.reference = reference;
    g->h.held = (heed_key_range){begin, end};
    heed_aft_head_weigh(&g->h, k + kept, e + kept, heed_larger(end - begin - kept, 0), reference);
}

/* The suffix of each tile: that of the group, then the keys in between. */
static void take_suffixes(conv_walk *g)
{
    int64_t end = g->h.held.end;
    heed_aft_head_unpark(&g->h, &g->suffix, g->first, g->n_rows, g->own->tail);
    for (int t = g->n_tiles - 1; t >= 0; t--) {
        heed_aft_head_add(&g->h, &g->suffix, (heed_key_range){g->tiles[t].keys.end, end}, 0);
        end = g->tiles[t].keys.end;
        heed_aft_head_total(&g->h, &g->suffix, g->s->behind[t]);
        g->tiles[t].behind.reference = g->suffix.reference;
    }
}

static void add_prefix(conv_walk *g, int64_t end)
{
    heed_aft_head_add(&g->h, &g->prefix, (heed_key_range){g->prefix_end, end}, 1);
    g->prefix_end = heed_larger(g->prefix_end, end);
}

/* What lies outside a tile's keys starts the sums of its rows. */
static void start_rows(const conv_walk *g, const conv_tile *t, int first, int n_rows)
{
    float *rows = g->s->rows + first * g->h.row;
    g->h.job->kernels->blend_rows(rows, g->s->before, heed_aft_head_factor(&g->h, g->prefix.reference), t->behind.row,
                                  heed_aft_head_factor(&g->h, t->behind.reference), g->h.row);
    for (int r = 1; r < n_rows; r++)
        memcpy(rows + r * g->h.row, rows, (size_t)g->h.row * sizeof *rows);
}

static void mix(const conv_walk *g, const conv_tile *t)
{
    const heed_kernels *kernels = g->h.job->kernels;
    const aft_plan *p = g->h.job->plan;
    int64_t n_keys = t->keys.end - t->keys.begin, at = t->keys.begin - g->h.held.begin;
    const float *k = g->own->k + at, *e = g->own->e + at;
    const float *taps = g->own->taps + (t->keys.begin - heed_aft_window(p, g->h.x.b, t->first).begin) * TILE_ROWS;
    for (heed_key_range run = heed_aft_next_run(k, 0, n_keys); !heed_range_is_empty(run);
         run = heed_aft_next_run(k, run.end, n_keys)) {
        int64_t place = run.begin * TILE_ROWS;
        int n = (int)(run.end - run.begin);
        kernels->tap_rows(g->s->p + place, g->s->rows + g->h.x.n, g->h.row, taps + place, e + run.begin, n, TILE_ROWS);
        kernels->mix_rows(g->s->rows, g->h.row, g->s->ones, g->s->p + place, 1, TILE_ROWS,
                          heed_aft_head_value(&g->h, t->keys.begin + run.begin), p->v.stride[2], n, t->n_rows, g->h.x.n,
                          NULL);
    }
}

/* ---- results ---- */

/* Row r of a tile by itself and without the keys that it does not see, whose v may hold anything: the same bits. */
static void mix_alone(const conv_walk *g, const conv_tile *t, int r)
{
    heed_key_range own = heed_range_common(t->keys, seen_by(g, t->first + r));
    const float *k = g->own->k + (own.begin - g->h.held.begin);
    float *row = g->s->rows + r * g->h.row;
    int64_t n_keys = own.end - own.begin;
    start_rows(g, t, r, 1);
    for (heed_key_range run = heed_aft_next_run(k, 0, n_keys); !heed_range_is_empty(run);
         run = heed_aft_next_run(k, run.end, n_keys)) {
        const float *p = g->s->p + run.begin * TILE_ROWS + r;
        float den = 0.0f;
        for (int64_t j = 0; j < run.end - run.begin; j++)
            den += p[j * TILE_ROWS];
        row[g->h.x.n] += den;
        g->h.job->kernels->mix_rows(row, g->h.row, g->s->ones, p, 1, TILE_ROWS,
                                    heed_aft_head_value(&g->h, own.begin + run.begin), g->h.job->plan->v.stride[2],
                                    (int)(run.end - run.begin), 1, g->h.x.n, NULL);
    }
}

static void finish_tile(conv_walk *g, const conv_tile *t)
{
    aft_outside before = {g->prefix.reference, g->s->before};
    unsigned doubtful = heed_aft_head_store(&g->h, t->first, g->s->rows, t->n_rows);
    for (int r = 0; (doubtful || g->has_hidden_tap) && r < t->n_rows; r++) {
        int64_t i = t->first + r;
        if (heed_range_is_empty(seen_by(g, i))) {
            heed_aft_store_nothing(g->h.job, &g->h.x, i);
            continue;
        }
        if (!g->has_hidden_tap) {
            if (!(doubtful >> r & 1))
                continue;
            mix_alone(g, t, r);
            if (!heed_aft_head_store(&g->h, i, g->s->rows + r * g->h.row, 1))
                continue;
        }
        heed_aft_head_recompute(&g->h, i, &before, &t->behind, heed_range_common(t->keys, seen_by(g, i)), g->s->w);
    }
}

/* ---- all rows of a head ---- */

/* Column t of the table is row t of a tile, line u the key u places behind the first of its window. A key between the
 * first of the first window and the last of the last one has w = 0 outside a row's own, or is hidden. */
static void make_taps(conv_walk *g)
{
    const aft_plan *p = g->h.job->plan;
    const float *w = heed_row(&p->filter, 0, g->h.x.h, 0);
    int64_t n = count_tile_keys(p) * TILE_ROWS, n_taps = p->filter.shape[3];
    for (int64_t c = 0; c < n_taps; c++) {
        g->h.m = w[c] > g->h.m ? w[c] : g->h.m;
        g->has_hidden_tap |= w[c] == -INFINITY;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t tap = i / TILE_ROWS - i % TILE_ROWS;
        float bias = tap >= 0 && tap < n_taps ? w[tap] : 0.0f;
        g->own->taps[i] = g->causal && tap >= n_taps ? -INFINITY : bias - g->h.m;
    }
    g->h.job->kernels->exp_array(g->own->taps, g->own->taps, n);
}

/* The group of rows that begins at g->first. */
static void attend_group(conv_walk *g)
{
    int64_t end = set_rows(g, (int)heed_smaller(GROUP_ROWS, g->length - g->first));
    add_prefix(g, g->tiles[0].keys.begin);
    hold_keys(g, end);
    if (!g->causal)
        take_suffixes(g);
    for (const conv_tile *t = g->tiles; t < g->tiles + g->n_tiles; t++) {
        add_prefix(g, t->keys.begin);
        heed_aft_head_total(&g->h, &g->prefix, g->s->before);
        start_rows(g, t, 0, t->n_rows);
        mix(g, t);
        finish_tile(g, t);
    }
    g->first += g->n_rows;
}

static conv_walk start_head(aft_job *job, conv_scratch *s, own_scratch *own, int64_t head, int64_t slice)
{
    const aft_plan *p = job->plan;
    conv_walk g = {.h = s->head, .s = s, .own = own, .causal = p->mask.mask.causal};
    g.h.job = job;
    g.h.x = heed_aft_slice(job, head, slice, HEED_AFT_SLICE, s->head.x.state);
    g.h.row = heed_aft_head_row(g.h.x.n);
    g.h.reference = -INFINITY;
    g.h.held_k = own->k;
    g.h.held_e = own->e;
    g.length = heed_query_length(&p->mask, g.h.x.b);
    g.n_keys = g.length > 0 ? seen_by(&g, g.length - 1).end : 0;
    g.prefix = heed_aft_head_empty(&g.h, own->prefix);
    g.suffix = heed_aft_head_empty(&g.h, own->suffix);
    make_taps(&g);
    return g;
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
        heed_aft_head_add(&g->h, &g->suffix, (heed_key_range){0, g->prefix_end}, 0);
        g->h.reference = g->suffix.reference;
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
    for (int64_t head = begin; head < end; head++)
        *last++ = start_head(job, &s, &s.own[head - begin], head, index % job->parts);
    for (int t = 0; t < GROUP_TILES; t++) /* what stays empty where rows see nothing behind them */
        memset(s.behind[t], 0, (size_t)walks->h.row * sizeof *s.behind[t]);
    if (!p->mask.mask.causal)
        park_suffixes(walks, last, n_rows);
    for (int64_t row = 0; row < n_rows; row += GROUP_ROWS) {
        for (conv_walk *g = walks; g < last; g++) {
            while (g->first < heed_smaller(row + GROUP_ROWS, g->length))
                attend_group(g);
            for (int64_t i = heed_larger(row, g->length); i < heed_smaller(row + GROUP_ROWS, n_rows); i++)
                heed_aft_store_nothing(job, &g->h.x, i);
        }
    }
}
