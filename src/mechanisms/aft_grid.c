/* AFT-conv (equation 6) with a filter of two dimensions, over tokens in a grid.
 *
 * The rows of the grid that the filter reaches from row y are its band. Rows above and below the band are a prefix and a
 * suffix, as in aft_conv.c. The keys of the band are held column by column, each with exp(k - r) and a copy of its v, so
 * that a window is one run of keys: what it holds is mixed with a table of the filter, and the columns left and right of
 * it are sums of whole columns.
 *
 * Every row sees every key, so r is what all keys have come to. Keys of -inf, and places that the band does not have, are
 * held as zeros. */
#include "mechanisms/aft_head.h"

#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"

#include <math.h>
#include <string.h>

enum { TILE_COLUMNS = HEED_AFT_TILE_ROWS };

typedef struct grid_scratch {
    float *filter;          /* exp(w - m): [filter rows][tile columns][TILE_COLUMNS] */
    float *taps;            /* the same as the band of a row lies: [tile columns][filter rows][TILE_COLUMNS] */
    float *p;               /* taps times e */
    float *e, *v;           /* the band: [columns][filter rows], and [n] for each */
    float *columns;         /* sums of the band's columns: [columns][row] */
    float *right;           /* sums of the columns right of each tile: [tiles][row] */
    float *rows;            /* sums [TILE_COLUMNS][row] */
    float *before, *behind; /* [row]: prefix and suffix */
    float *prefix, *suffix; /* sums [2][row] */
    float *left;            /* sums [2][row]: columns left of a tile, or while `right` is made, right of it */
    float *tail;            /* [AFT_PARKED_ROWS][n]: for a last row of fewer tokens */
    float *ones, *w;        /* [TILE_COLUMNS], [HEED_FOLD_KEYS] */
} grid_scratch;

typedef struct grid_walk {
    aft_head h;
    grid_scratch s;
    int64_t height, width, filter_rows, filter_columns;
    int64_t length, n_keys; /* rows and keys that count */
    int has_hidden_tap;
    aft_head_sums prefix, suffix;
} grid_walk;

/* ---- scratch ---- */

static int64_t count_tile_columns(const aft_plan *p) { return p->filter.shape[3] - 1 + TILE_COLUMNS; }

static int64_t carve(aft_head *h, grid_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t n = heed_smaller(p->q.shape[3], HEED_AFT_GRID_SLICE), row = heed_aft_head_row(n), width = p->grid_width;
    int64_t band = width * p->filter.shape[2], taps = count_tile_columns(p) * p->filter.shape[2] * TILE_COLUMNS;
    heed_aft_head_carve(h, &arena, n);
    s->filter = heed_arena_take_floats(&arena, taps);
    s->taps = heed_arena_take_floats(&arena, taps);
    s->p = heed_arena_take_floats(&arena, taps);
    s->e = heed_arena_take_floats(&arena, band);
    s->v = heed_arena_take_floats(&arena, band * n);
    s->columns = heed_arena_take_floats(&arena, width * row);
    s->right = heed_arena_take_floats(&arena, heed_divide_up(width, TILE_COLUMNS) * row);
    s->rows = heed_arena_take_floats(&arena, TILE_COLUMNS * row);
    s->before = heed_arena_take_floats(&arena, row);
    s->behind = heed_arena_take_floats(&arena, row);
    s->prefix = heed_arena_take_floats(&arena, 2 * row);
    s->suffix = heed_arena_take_floats(&arena, 2 * row);
    s->left = heed_arena_take_floats(&arena, 2 * row);
    s->ones = heed_arena_take_floats(&arena, TILE_COLUMNS);
    s->tail = heed_arena_take_floats(&arena, AFT_PARKED_ROWS * n);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    return arena.bytes;
}

int64_t heed_aft_grid_bytes(const aft_plan *p)
{
    aft_head h;
    grid_scratch s;
    return carve(&h, &s, NULL, p);
}

int64_t heed_aft_grid_parts(const aft_plan *p) { return heed_divide_up(p->q.shape[3], HEED_AFT_GRID_SLICE); }

/* ---- the band ---- */

/* Rows [first, end) of the grid as keys. */
static heed_key_range keys_of(const grid_walk *g, int64_t first, int64_t end)
{
    int64_t begin = heed_smaller(heed_larger(first, 0) * g->width, g->n_keys);
    return (heed_key_range){begin, heed_larger(begin, heed_smaller(heed_larger(end, 0) * g->width, g->n_keys))};
}

/* How far the filter reaches up and down. */
static int64_t reach(const grid_walk *g) { return (g->filter_rows - 1) / 2; }

static float *place(const grid_walk *g, float *band, int64_t column, int64_t y, int64_t size)
{
    return band + (column * g->filter_rows + y % g->filter_rows) * size;
}

/* Row y of the grid takes the place of the one that has left the band. */
static void hold_row(grid_walk *g, int64_t y)
{
    heed_key_range keys = keys_of(g, y, y + 1);
    int64_t n = g->h.x.n;
    for (int64_t column = 0; column < g->width;) {
        int64_t begin = column, end = heed_smaller(column + HEED_FOLD_KEYS, g->width);
        int64_t there = heed_smaller(heed_larger(keys.end - keys.begin - begin, 0), end - begin);
        if (there > 0) {
            heed_aft_head_keys(&g->h, (heed_key_range){keys.begin + begin, keys.begin + begin + there}, g->h.k);
            heed_aft_head_weigh(&g->h, g->h.k, g->h.e, there, g->h.reference);
        }
        for (; column < end; column++) {
            float *v = place(g, g->s.v, column, y, n), *e = place(g, g->s.e, column, y, 1);
            int seen = column - begin < there && g->h.k[column - begin] != -INFINITY;
            *e = seen ? g->h.e[column - begin] : 0.0f;
            if (seen)
                memcpy(v, heed_aft_head_value(&g->h, keys.begin + column), (size_t)n * sizeof *v);
            else
                memset(v, 0, (size_t)n * sizeof *v);
        }
    }
}

/* The table of the filter in the order in which the band lies for row y. */
static void turn_taps(const grid_walk *g, int64_t y)
{
    int64_t n_columns = count_tile_columns(g->h.job->plan), line = TILE_COLUMNS;
    for (int64_t row = 0; row < g->filter_rows; row++) {
        int64_t at = (y - reach(g) + row + g->filter_rows) % g->filter_rows;
        for (int64_t u = 0; u < n_columns; u++)
            memcpy(g->s.taps + (u * g->filter_rows + at) * line, g->s.filter + (row * n_columns + u) * line,
                   (size_t)line * sizeof *g->s.taps);
    }
}

/* The sums of each column of the band, against exp(r). */
static void sum_columns(const grid_walk *g)
{
    int64_t n = g->h.x.n;
    memset(g->s.columns, 0, (size_t)(g->width * g->h.row) * sizeof *g->s.columns);
    for (int64_t column = 0; column < g->width; column++) {
        const float *e = g->s.e + column * g->filter_rows;
        float *sums = g->s.columns + column * g->h.row;
        for (int64_t row = 0; row < g->filter_rows; row++)
            sums[n] += e[row];
        g->h.job->kernels->mix_rows(sums, g->h.row, g->s.ones, e, 0, 1, g->s.v + column * g->filter_rows * n, n,
                                    (int)g->filter_rows, 1, n, NULL);
    }
}

/* ---- a tile of columns ---- */

/* The columns between those left and right of the windows of a tile. */
static heed_key_range window_of(const grid_walk *g, int64_t tile)
{
    int64_t begin = tile * TILE_COLUMNS - (g->filter_columns - 1) / 2;
    return (heed_key_range){heed_larger(begin, 0), heed_smaller(begin + count_tile_columns(g->h.job->plan), g->width)};
}

static void add_column(const grid_walk *g, aft_head_sums *o, int64_t column)
{
    g->h.job->kernels->blend_rows(o->added, o->added, 1.0f, g->s.columns + column * g->h.row, 1.0f, g->h.row);
    if (column % HEED_FOLD_KEYS == 0)
        heed_aft_head_fold(&g->h, o);
}

static void sum_right(grid_walk *g)
{
    aft_head_sums right = heed_aft_head_empty(&g->h, g->s.left);
    int64_t column = g->width;
    for (int64_t tile = heed_divide_up(g->width, TILE_COLUMNS) - 1; tile >= 0; tile--) {
        while (column > window_of(g, tile).end)
            add_column(g, &right, --column);
        heed_aft_head_total(&g->h, &right, g->s.right + tile * g->h.row);
    }
}

/* What lies outside the windows starts the sums. */
static void start_tile(const grid_walk *g, int64_t tile, const aft_head_sums *left, int n_rows)
{
    const heed_kernels *kernels = g->h.job->kernels;
    float *rows = g->s.rows, inside = heed_aft_head_factor(&g->h, g->h.reference);
    int64_t row = g->h.row;
    heed_aft_head_total(&g->h, left, g->h.total);
    kernels->blend_rows(g->h.total, g->h.total, 1.0f, g->s.right + tile * row, 1.0f, row);
    kernels->blend_rows(rows, g->s.before, heed_aft_head_factor(&g->h, g->prefix.reference), g->s.behind,
                        heed_aft_head_factor(&g->h, g->suffix.reference), row);
    kernels->blend_rows(rows, rows, 1.0f, g->h.total, inside, row);
    for (int r = 1; r < n_rows; r++)
        memcpy(rows + r * row, rows, (size_t)row * sizeof *rows);
}

/* A few columns at a time: the sums of their den are chains that wait for themselves. */
static void mix_tile(const grid_walk *g, int64_t tile, int n_rows)
{
    heed_key_range window = window_of(g, tile);
    int64_t n = g->h.x.n, first = tile * TILE_COLUMNS - (g->filter_columns - 1) / 2;
    int64_t together = heed_divide_up(HEED_AFT_GRID_KEYS, g->filter_rows);
    for (int64_t column = window.begin; column < window.end; column += together) {
        int n_keys = (int)((heed_smaller(column + together, window.end) - column) * g->filter_rows);
        int64_t at = column * g->filter_rows, tap = (column - first) * g->filter_rows * TILE_COLUMNS;
        g->h.job->kernels->tap_rows(g->s.p, g->s.rows + n, g->h.row, g->s.taps + tap, g->s.e + at, n_keys,
                                    TILE_COLUMNS);
        g->h.job->kernels->mix_rows(g->s.rows, g->h.row, g->s.ones, g->s.p, 1, TILE_COLUMNS, g->s.v + at * n, n, n_keys,
                                    n_rows, n, NULL);
    }
}

static void finish_tile(const grid_walk *g, int64_t y, int64_t first, int n_rows)
{
    aft_outside before = {g->prefix.reference, g->s.before}, behind = {g->suffix.reference, g->s.behind};
    unsigned doubtful = heed_aft_head_store(&g->h, first, g->s.rows, n_rows);
    for (int r = 0; (doubtful || g->has_hidden_tap) && r < n_rows; r++) {
        if (g->has_hidden_tap || (doubtful >> r & 1))
            heed_aft_head_recompute(&g->h, first + r, &before, &behind, keys_of(g, y - reach(g), y + reach(g) + 1),
                                    g->s.w);
    }
}

/* ---- rows of the grid ---- */

static void attend_row(grid_walk *g, int64_t y)
{
    aft_head_sums left;
    int64_t column = 0;
    turn_taps(g, y);
    sum_columns(g);
    sum_right(g);
    left = heed_aft_head_empty(&g->h, g->s.left);
    for (int64_t tile = 0; tile * TILE_COLUMNS < g->width; tile++) {
        int64_t first = y * g->width + tile * TILE_COLUMNS;
        int n_rows = (int)heed_smaller(heed_smaller(TILE_COLUMNS, g->width - tile * TILE_COLUMNS), g->length - first);
        if (n_rows <= 0)
            return;
        while (column < window_of(g, tile).begin)
            add_column(g, &left, column++);
        start_tile(g, tile, &left, n_rows);
        mix_tile(g, tile, n_rows);
        finish_tile(g, y, first, n_rows);
    }
}

/* Rows from below to above; what lies below the band of each is parked in its tokens. */
static void park_suffixes(grid_walk *g)
{
    int64_t held = g->height; /* from this row on, the suffix has the keys */
    g->suffix = heed_aft_head_empty(&g->h, g->s.suffix);
    for (int64_t y = heed_divide_up(g->length, g->width) - 1; y >= 0; y--) {
        int64_t below = heed_smaller(y + reach(g) + 1, held);
        heed_aft_head_add(&g->h, &g->suffix, keys_of(g, below, held), 0);
        held = below;
        heed_aft_head_park(&g->h, &g->suffix, y * g->width, heed_smaller(g->width, g->length - y * g->width),
                           g->s.tail);
    }
    heed_aft_head_add(&g->h, &g->suffix, keys_of(g, 0, held), 0);
    g->h.reference = g->suffix.reference;
}

static void make_filter(grid_walk *g)
{
    const heed_tensor *filter = &g->h.job->plan->filter;
    int64_t n_columns = count_tile_columns(g->h.job->plan), n = g->filter_rows * n_columns * TILE_COLUMNS;
    for (int64_t row = 0; row < g->filter_rows; row++) {
        const float *w = heed_row(filter, 0, g->h.x.h, row);
        for (int64_t column = 0; column < g->filter_columns; column++) {
            g->h.m = w[column] > g->h.m ? w[column] : g->h.m;
            g->has_hidden_tap |= w[column] == -INFINITY;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t row = i / (n_columns * TILE_COLUMNS), tap = i / TILE_COLUMNS % n_columns - i % TILE_COLUMNS;
        int inside = tap >= 0 && tap < g->filter_columns;
        g->s.filter[i] = (inside ? heed_row(filter, 0, g->h.x.h, row)[tap] : 0.0f) - g->h.m;
    }
    g->h.job->kernels->exp_array(g->s.filter, g->s.filter, n);
}

static grid_walk start_walk(aft_job *job, int64_t index, int worker)
{
    const aft_plan *p = job->plan;
    grid_walk g = {.width = p->grid_width, .height = p->q.shape[2] / p->grid_width};
    carve(&g.h, &g.s, heed_scratch_slice(job->context, worker), p);
    g.h.job = job;
    g.h.x = heed_aft_slice(job, index / job->parts, index % job->parts, HEED_AFT_GRID_SLICE, g.h.x.state);
    g.h.row = heed_aft_head_row(g.h.x.n);
    g.filter_rows = p->filter.shape[2];
    g.filter_columns = p->filter.shape[3];
    g.length = heed_query_length(&p->mask, g.h.x.b);
    g.n_keys = heed_visible_range(&p->mask, g.h.x.b, 0).end;
    for (int r = 0; r < TILE_COLUMNS; r++)
        g.s.ones[r] = 1.0f;
    memset(g.s.e, 0, (size_t)(g.width * g.filter_rows) * sizeof *g.s.e);
    memset(g.s.v, 0, (size_t)(g.width * g.filter_rows * g.h.x.n) * sizeof *g.s.v);
    make_filter(&g);
    return g;
}

void heed_aft_grid_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    grid_walk g = start_walk(job, index, worker);
    park_suffixes(&g);
    g.prefix = heed_aft_head_empty(&g.h, g.s.prefix);
    for (int64_t y = 0; y < reach(&g); y++)
        hold_row(&g, y);
    for (int64_t y = 0; y * g.width < g.length; y++) {
        int64_t first = y * g.width;
        hold_row(&g, y + reach(&g));
        heed_aft_head_add(&g.h, &g.prefix, keys_of(&g, y - reach(&g) - 1, y - reach(&g)), 1);
        heed_aft_head_unpark(&g.h, &g.suffix, first, heed_smaller(g.width, g.length - first), g.s.tail);
        heed_aft_head_total(&g.h, &g.prefix, g.s.before);
        heed_aft_head_total(&g.h, &g.suffix, g.s.behind);
        attend_row(&g, y);
    }
    for (int64_t i = g.length; i < job->plan->q.shape[2]; i++)
        heed_aft_store_nothing(job, &g.h.x, i);
}
