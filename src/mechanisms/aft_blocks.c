/* AFT over blocks of keys, as matrix products. With p_ij = exp(w_ij - m_i) both sums of a row are the product of p and
 * of the rows [exp(k - r) v, exp(k - r)]: an online softmax of w as in softmax attention, with twice the channels, which
 * stay in the lanes, so that nothing is transposed.
 *
 * The reference r of a channel is a key already taken. It moves when another one stands far above; rows that end before
 * that key are finished first, so that no later key has a say in them. Where a denominator is too small to prove the
 * result (the mass of a row lies far below r and m), or something was not finite, the row is computed again key by key. */
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/aft_parts.h"

#include <math.h>
#include <string.h>

enum { PANEL_ROW = 2 * AFT_PANEL };

typedef struct block_scratch {
    float *reference, *factor; /* [D] */
    float *weighed;            /* panels of rows [HEED_BLOCK_KEYS][PANEL_ROW]: exp(k - r) v, exp(k - r) */
    float *sums;               /* panels [HEED_AFT_GROUP_ROWS][PANEL_ROW] */
    float *p;                  /* [HEED_AFT_GROUP_ROWS][HEED_BLOCK_KEYS] */
    float *key_factors;        /* tiles of key factors [d'], transposed */
    float *state, *w;          /* of a row computed again */
} block_scratch;

/* Rows of one head, a slice of its channels, and what the rows see. */
typedef struct row_group {
    aft_lane x;    /* the state: of a row computed again */
    int64_t first; /* the query of row 0 */
    int n_rows;
    int64_t clean_end;   /* before this key every exp(k - r) v was finite; behind it 0 may stand in its place */
    heed_key_range keys; /* what any row sees */
    heed_key_range sees[HEED_AFT_GROUP_ROWS];
    int finished[HEED_AFT_GROUP_ROWS];
    float m[HEED_AFT_GROUP_ROWS], rescale[HEED_AFT_GROUP_ROWS];
} row_group;

/* ---- scratch ---- */

static int64_t panel_floats(int64_t d, int64_t n_rows) { return heed_divide_up(d, AFT_PANEL) * n_rows * PANEL_ROW; }

/* Channels of a task; the last slice of a head may be narrower. */
static int64_t slice_channels(const aft_plan *p) { return heed_smaller(p->q.shape[3], HEED_AFT_SLICE); }

static int64_t carve(block_scratch *s, char *memory, const aft_plan *p)
{
    heed_arena arena = {memory, 0};
    int64_t d = slice_channels(p);
    s->reference = heed_arena_take_floats(&arena, d);
    s->factor = heed_arena_take_floats(&arena, d);
    s->weighed = heed_arena_take_floats(&arena, panel_floats(d, HEED_BLOCK_KEYS));
    s->sums = heed_arena_take_floats(&arena, panel_floats(d, HEED_AFT_GROUP_ROWS));
    s->p = heed_arena_take_floats(&arena, (int64_t)HEED_AFT_GROUP_ROWS * HEED_BLOCK_KEYS);
    s->key_factors = heed_arena_take_floats(&arena, heed_aft_packed_floats(p, HEED_BLOCK_KEYS));
    s->state = heed_arena_take_floats(&arena, AFT_STATE_ROWS * d);
    s->w = heed_arena_take_floats(&arena, HEED_FOLD_KEYS);
    return arena.bytes;
}

int64_t heed_aft_blocks_bytes(const aft_plan *p)
{
    block_scratch s;
    return carve(&s, NULL, p);
}

static float *panel_of(float *panels, int64_t c, int64_t n_rows) { return panels + c / AFT_PANEL * n_rows * PANEL_ROW; }

static int64_t panel_width(const row_group *g, int64_t c) { return heed_smaller(AFT_PANEL, g->x.n - c); }

/* ---- a block of keys ---- */

/* w of row r and keys of the block: a row of the matrix, or what stands or is made in `row`. */
static const float *bias_row(const aft_job *job, const row_group *g, int r, heed_key_range keys, float *row)
{
    const aft_plan *p = job->plan;
    if (p->form == AFT_FULL && p->w.data)
        return heed_row(&p->w, g->x.b, g->x.h, g->first + r) + keys.begin;
    if (!p->query_factors.data)
        heed_aft_bias(p, g->x.b, g->x.h, g->first + r, keys, row);
    else if (p->form == AFT_LOCAL)
        heed_aft_cut_window(p, g->x.b, g->first + r, keys, row);
    return row;
}

/* p of all rows, and how many of the block's keys each sees. */
static void weigh_rows(const aft_job *job, row_group *g, heed_key_range block, const block_scratch *s, int *n_seen)
{
    if (job->plan->query_factors.data) {
        heed_aft_pack_factors(job, &g->x, block, s->key_factors);
        heed_aft_factored_bias(job, &g->x, g->first, g->n_rows, block, s->key_factors, block, s->p, HEED_BLOCK_KEYS);
    }
    for (int r = 0; r < g->n_rows; r++) {
        heed_key_range own = heed_range_common(g->sees[r], block);
        float *row = s->p + (int64_t)r * HEED_BLOCK_KEYS;
        n_seen[r] = heed_range_is_empty(own) ? 0 : (int)(own.end - own.begin);
        g->rescale[r] = 1.0f;
        if (n_seen[r] == 0)
            continue;
        const float *w = bias_row(job, g, r, own, row), *ahead = w;
        if (w != row && r + HEED_AFT_ROWS_AHEAD < g->n_rows)
            ahead = bias_row(job, g, r + HEED_AFT_ROWS_AHEAD, own, row);
        job->kernels->softmax_row(row, w, ahead, n_seen[r], &g->m[r], &g->rescale[r]);
    }
}

/* The rows [exp(k - r) v, exp(k - r)] of the keys up to one that moves the reference; returns how many. */
static int weigh_keys(const aft_job *job, row_group *g, heed_key_range block, const block_scratch *s)
{
    const heed_tensor *k = &job->plan->k, *v = &job->plan->v;
    int n_clean, n = job->kernels->aft_weigh(s->weighed, HEED_BLOCK_KEYS * PANEL_ROW, s->reference,
                                             heed_row(k, g->x.b, g->x.h, block.begin) + g->x.first, k->stride[2],
                                             heed_row(v, g->x.b, g->x.h, block.begin) + g->x.first, v->stride[2],
                                             (int)(block.end - block.begin), g->x.n, &n_clean);
    g->clean_end = n_clean < n ? heed_smaller(g->clean_end, block.begin + n_clean) : g->clean_end;
    return n;
}

/* Rows that are mixed together: their weights reach as far as the longest of them, zeros behind the others. */
typedef struct row_tile {
    int first, n_rows, n_keys;
} row_tile;

static row_tile level_tile(const row_group *g, int first, const int *n_seen, float *p)
{
    row_tile t = {first, (int)heed_smaller(HEED_AFT_TILE_ROWS, g->n_rows - first), 0};
    for (int r = first; r < first + t.n_rows; r++)
        t.n_keys = n_seen[r] > t.n_keys ? n_seen[r] : t.n_keys;
    for (int r = first; r < first + t.n_rows; r++)
        memset(p + (int64_t)r * HEED_BLOCK_KEYS + n_seen[r], 0, (size_t)(t.n_keys - n_seen[r]) * sizeof *p);
    return t;
}

/* The keys of a block, which have been weighed. */
static void add_block(const aft_job *job, row_group *g, heed_key_range block, const block_scratch *s)
{
    row_tile tiles[HEED_AFT_GROUP_ROWS / HEED_AFT_TILE_ROWS + 1];
    int n_seen[HEED_AFT_GROUP_ROWS], n_tiles = 0;
    weigh_rows(job, g, block, s, n_seen);
    for (int r = 0; r < g->n_rows; r += HEED_AFT_TILE_ROWS)
        tiles[n_tiles++] = level_tile(g, r, n_seen, s->p);
    for (int64_t c = 0; c < g->x.n; c += AFT_PANEL) {
        const float *weighed = panel_of(s->weighed, c, HEED_BLOCK_KEYS);
        float *sums = panel_of(s->sums, c, HEED_AFT_GROUP_ROWS);
        for (const row_tile *t = tiles; t < tiles + n_tiles; t++) {
            if (t->n_keys > 0)
                job->kernels->mix_rows(sums + (int64_t)t->first * PANEL_ROW, PANEL_ROW, g->rescale + t->first,
                                       s->p + (int64_t)t->first * HEED_BLOCK_KEYS, HEED_BLOCK_KEYS, 1, weighed,
                                       PANEL_ROW, t->n_keys, t->n_rows, 2 * panel_width(g, c), NULL);
        }
    }
}

/* ---- the reference ---- */

/* Moves the reference to key j, where that stands far above it, and the sums with it. */
static void move_reference(const aft_job *job, const row_group *g, int64_t j, const block_scratch *s)
{
    const heed_tensor *k = &job->plan->k;
    job->kernels->aft_move(s->reference, s->factor, heed_row(k, g->x.b, g->x.h, j) + g->x.first, g->x.n);
    heed_aft_scale_panels(job, s->sums, (int64_t)HEED_AFT_GROUP_ROWS * PANEL_ROW, s->factor, g->n_rows, g->x.n);
}

/* ---- results ---- */

static void finish_row(aft_job *job, row_group *g, int r, const block_scratch *s)
{
    int64_t i = g->first + r;
    g->finished[r] = 1;
    if (heed_range_is_empty(g->sees[r])) {
        heed_aft_store_nothing(job, &g->x, i);
        return;
    }
    aft_sums sums = {s->sums + (int64_t)r * PANEL_ROW, (int64_t)HEED_AFT_GROUP_ROWS * PANEL_ROW, s->reference, g->m[r]};
    int spoiled = g->sees[r].end > g->clean_end;
    if (heed_aft_store_sums(job, &g->x, i, &sums) || spoiled) {
        heed_aft_attend_row(job, &g->x, i, s->w);
        heed_aft_replace_sums(job, &g->x, i, &sums, spoiled, s->factor);
    }
}

/* Those rows of the group that end at `end` or before. */
static void finish_rows(aft_job *job, row_group *g, int64_t end, const block_scratch *s)
{
    for (int r = 0; r < g->n_rows; r++) {
        if (!g->finished[r] && g->sees[r].end <= end)
            finish_row(job, g, r, s);
    }
}

/* ---- a group of rows ---- */

/* Groups of one size, and an even number of them, so that two threads do as much. */
static int64_t count_groups(const aft_plan *p)
{
    int64_t n = heed_divide_up(p->q.shape[2], HEED_AFT_GROUP_ROWS);
    return p->q.shape[2] < HEED_AFT_SHARED_ROWS ? n : n + n % 2;
}

int64_t heed_aft_blocks_parts(const aft_plan *p)
{
    return count_groups(p) * heed_divide_up(p->q.shape[3], HEED_AFT_SLICE);
}

static int64_t group_first(const aft_plan *p, int64_t part)
{
    int64_t n_rows = p->q.shape[2], size = heed_divide_up(n_rows, count_groups(p));
    size = heed_divide_up(size, HEED_AFT_TILE_ROWS) * HEED_AFT_TILE_ROWS;
    return heed_smaller(part * size, n_rows);
}

static void start_group(const aft_job *job, int64_t index, const block_scratch *s, row_group *g)
{
    const aft_plan *p = job->plan;
    int64_t n_slices = heed_divide_up(p->q.shape[3], HEED_AFT_SLICE), part = index % job->parts / n_slices;
    *g = (row_group){.x = heed_aft_slice(job, index / job->parts, index % n_slices, HEED_AFT_SLICE, s->state)};
    g->first = group_first(p, part);
    g->clean_end = INT64_MAX;
    g->n_rows = (int)(group_first(p, part + 1) - g->first);
    for (int r = 0; r < g->n_rows; r++) {
        g->m[r] = -INFINITY;
        g->sees[r] = heed_visible_range(&p->mask, g->x.b, g->first + r);
        g->keys = heed_range_cover(g->keys, g->sees[r]);
    }
    for (int64_t c = 0; c < g->x.n; c++)
        s->reference[c] = -INFINITY;
    for (int64_t c = 0; c < g->x.n; c += AFT_PANEL)
        memset(panel_of(s->sums, c, HEED_AFT_GROUP_ROWS), 0, (size_t)(g->n_rows * PANEL_ROW) * sizeof *s->sums);
}

void heed_aft_blocks_task(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    block_scratch s;
    row_group g;
    carve(&s, heed_scratch_slice(job->context, worker), job->plan);
    start_group(job, index, &s, &g);
    for (heed_key_range block = {g.keys.begin, g.keys.begin}; block.end < g.keys.end;) {
        block = heed_next_block(block, g.keys.end, HEED_BLOCK_KEYS);
        int n_keys = weigh_keys(job, &g, block, &s);
        if (n_keys == 0) {
            finish_rows(job, &g, block.begin, &s);
            move_reference(job, &g, block.begin, &s);
            n_keys = weigh_keys(job, &g, block, &s);
        }
        block.end = block.begin + n_keys;
        add_block(job, &g, block, &s);
    }
    finish_rows(job, &g, INT64_MAX, &s);
}
