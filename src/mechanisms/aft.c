/* out_id = gate(q_id) sum_j exp(k_jd + w_ij) v_jd / sum_j exp(k_jd + w_ij)     ("An Attention Free Transformer", eq. 2)
 *
 * w is a matrix or a product of factors (full), the same within a window and 0 outside (local, equation 4), 0 (simple,
 * equation 5), or a filter over the distance, with one key for all channels of a head (conv, equation 6, written as
 * equation 2: the sum over all keys plus the window's exp(w) - 1 would cancel where w is negative).
 *
 * Rows: each row goes over the keys it sees, one after the other, in the state of the kernel aft_keys; long sums are
 * kept in two levels, folded every HEED_FOLD_KEYS keys, or late small terms would vanish behind one large early sum.
 *
 * Scan: where the rows of a head differ in nothing but how far they see, one state that goes on serves them all.
 *
 * Tiles: with p_ij = exp(w_ij - m_i) both sums are the product of p and of the rows [exp(k - r) v, exp(k - r)], that is
 * softmax attention with scores w and twice the channels. The reference r of a channel is a key already taken, and moves
 * when another one stands far above; rows that end before that key are finished first, so that no later key has a say in
 * them. Where a denominator is too small to prove the result (the mass of a row lies far below r and m), or something
 * was not finite, the row is computed again in the first way. */
#include "mechanisms/aft.h"

#include "core/parallel.h"
#include "core/scratch.h"
#include "core/sizes.h"
#include "core/tensor.h"
#include "core/tuning.h"
#include "mechanisms/hide.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Terms that underflow in a sum of N products are below N 2^-126 together: nothing beside a denominator like this. */
#define SMALLEST_PROOF 1e-26f

/* Operations that take as long as an exponential and what goes with it. */
#define EXP_FLOPS 40.0

typedef struct aft_scratch {
    float *state;                      /* [AFT_STATE_ROWS][D] */
    float *w;                          /* [HEED_FOLD_KEYS] */
    float *row;                        /* [D] */
    float *reference, *factor;         /* [D] */
    float *weighed;                    /* panels of rows [HEED_BLOCK_KEYS][WEIGHED_ROW]: exp(k - r) v, exp(k - r) */
    float *scores;                     /* a tile [HEED_BLOCK_KEYS] */
    float *bias_rows;                  /* [HEED_MAX_TILE_LANES][HEED_BLOCK_KEYS] */
    float *sums[HEED_AFT_GROUP_TILES]; /* tiles [2 D] */
} aft_scratch;

typedef struct aft_job {
    const aft_plan *plan;
    const heed_kernels *kernels;
    heed_context *context;
    int64_t parts; /* tasks of each head: blocks of rows, or of channels where all rows share a scan */
    atomic_llong exact_recomputations;
} aft_job;

/* A tile of rows of one head, and what they see. */
typedef struct aft_tile {
    int64_t b, h;
    int n_rows, n_vectors;
    int64_t first;       /* the query of row 0 */
    heed_key_range keys; /* what any row sees */
    heed_key_range sees[HEED_MAX_TILE_LANES];
    int finished[HEED_MAX_TILE_LANES];
    float m[HEED_MAX_TILE_LANES], l[HEED_MAX_TILE_LANES], rescale[HEED_MAX_TILE_LANES];
    float *sums;
} aft_tile;

/* ---- scratch ---- */

/* Channels stand in panels of HEED_AFT_PANEL: a panel's rows are close enough to share pages, and a line more than they
 * hold apart, so that columns do not share cache sets. */
enum { WEIGHED_ROW = 2 * HEED_AFT_PANEL + 16 };

static int64_t weighed_floats(int64_t d) { return heed_divide_up(d, HEED_AFT_PANEL) * HEED_BLOCK_KEYS * WEIGHED_ROW; }

static float *take(heed_arena *arena, int64_t n_floats)
{
    return heed_arena_take(arena, n_floats * (int64_t)sizeof(float));
}

static int64_t carve(aft_scratch *s, char *memory, int64_t d)
{
    heed_arena arena = {memory, 0};
    s->state = take(&arena, AFT_STATE_ROWS * d);
    s->w = take(&arena, HEED_FOLD_KEYS);
    s->row = take(&arena, d);
    s->reference = take(&arena, d);
    s->factor = take(&arena, d);
    s->weighed = take(&arena, weighed_floats(d));
    s->scores = take(&arena, (int64_t)HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES);
    s->bias_rows = take(&arena, (int64_t)HEED_BLOCK_KEYS * HEED_MAX_TILE_LANES);
    for (int i = 0; i < HEED_AFT_GROUP_TILES; i++)
        s->sums[i] = take(&arena, 2 * d * HEED_MAX_TILE_LANES);
    return arena.bytes;
}

int64_t heed_aft_worker_bytes(int64_t d)
{
    aft_scratch s;
    return d > HEED_MAX_SCRATCH_CHANNELS ? INT64_MAX : carve(&s, NULL, d);
}

static aft_scratch slice_of(const aft_job *job, int worker)
{
    aft_scratch s;
    carve(&s, heed_scratch_slice(job->context, worker), job->plan->q.shape[3]);
    return s;
}

/* ---- the bias ---- */

static float factored_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const float *u = heed_row(&p->query_factors, b, h, i), *v = heed_row(&p->key_factors, b, h, j);
    double sum = 0.0;
    for (int64_t c = 0; c < p->query_factors.shape[3]; c++)
        sum += (double)u[c] * (double)v[c];
    return (float)sum;
}

/* w_ij of the full form, before any window. */
static float matrix_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    if (p->w.data)
        return heed_row(&p->w, b, h, i)[j];
    return p->query_factors.data ? factored_bias(p, b, h, i, j) : 0.0f;
}

static float local_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, int64_t j, int64_t distance)
{
    if (distance <= -p->window || distance >= p->window)
        return p->nothing_outside ? -INFINITY : 0.0f;
    if (p->banded)
        return heed_row(&p->w, b, h, i)[distance + p->window - 1];
    return matrix_bias(p, b, h, i, j);
}

/* The tap at `distance` along one dimension of the filter, or -1. */
static int64_t tap_at(int64_t distance, int64_t n_taps, int causal)
{
    int64_t tap = distance + (causal ? n_taps - 1 : (n_taps - 1) / 2);
    return tap >= 0 && tap < n_taps ? tap : -1;
}

static float filter_bias(const aft_plan *p, int64_t h, int64_t i, int64_t j, int64_t distance)
{
    int64_t row = 0, column, width = p->grid_width;
    if (width == 0) {
        column = tap_at(distance, p->filter.shape[3], p->mask.mask.causal);
    } else {
        row = tap_at(j / width - i / width, p->filter.shape[2], 0);
        column = tap_at(j % width - i % width, p->filter.shape[3], 0);
    }
    return row < 0 || column < 0 ? 0.0f : heed_row(&p->filter, 0, h, row)[column];
}

/* w of query i and keys [begin, end); -inf for a key that the boolean mask hides. */
static void fill_bias(const aft_plan *p, int64_t b, int64_t h, int64_t i, heed_key_range keys, float *w)
{
    int64_t offset = heed_position_offset(&p->mask, b);
    const uint8_t *visible = p->mask.visible.data ? heed_bool_row(&p->mask.visible, b, h, i) : NULL;
    for (int64_t j = keys.begin; j < keys.end; j++) {
        float *bias = w + (j - keys.begin);
        int64_t distance = j - i + offset;
        if (visible && !visible[j])
            *bias = -INFINITY;
        else if (p->form == AFT_CONV)
            *bias = filter_bias(p, h, i, j, distance);
        else if (p->form == AFT_LOCAL)
            *bias = local_bias(p, b, h, i, j, distance);
        else
            *bias = matrix_bias(p, b, h, i, j);
    }
}

/* ---- one row ---- */

/* The channels [first, first + n) of one query of a head, and their state. */
typedef struct aft_lane {
    int64_t b, h, first, n;
    float *state;
} aft_lane;

static void reset(const aft_lane *x)
{
    for (int64_t i = 0; i < AFT_STATE_ROWS * x->n; i++)
        x->state[i] = i < x->n ? -INFINITY : 0.0f; /* AFT_REF_K is the first row */
}

/* Adds the keys, which end at the next multiple of HEED_FOLD_KEYS at the latest. */
static void add_keys(const aft_job *job, const aft_lane *x, heed_key_range keys, const float *w)
{
    const aft_plan *p = job->plan;
    int scalar_keys = p->form == AFT_CONV;
    const float *k = heed_row(&p->k, x->b, x->h, keys.begin) + (scalar_keys ? 0 : x->first);
    const float *v = heed_row(&p->v, x->b, x->h, keys.begin) + x->first;
    job->kernels->aft_keys(x->state, k, p->k.stride[2], v, p->v.stride[2], w, (int)(keys.end - keys.begin), x->n,
                           scalar_keys);
    if (keys.end % HEED_FOLD_KEYS == 0)
        job->kernels->aft_fold(x->state, x->n);
}

static float denominator(const aft_lane *x, int64_t c)
{
    return x->state[AFT_DEN * x->n + c] + x->state[AFT_NEW_DEN * x->n + c];
}

static float log_sum(const aft_lane *x, int64_t c)
{
    float den = denominator(x, c);
    if (den == 0.0f)
        return -INFINITY;
    return (float)((double)x->state[AFT_REF_K * x->n + c] + (double)x->state[AFT_REF_W * x->n + c] + log((double)den));
}

/* out and lse of query i from the state. A channel that saw no key is 0, whatever its gate. */
static void store_row(const aft_job *job, const aft_lane *x, int64_t i)
{
    const aft_plan *p = job->plan;
    float *out = heed_row(&p->out, x->b, x->h, i) + x->first;
    job->kernels->aft_row(out, x->state, x->n);
    if (p->gate == HEED_GATE_SIGMOID) {
        job->kernels->gate_array(out, heed_row(&p->q, x->b, x->h, i) + x->first, out, x->n);
        for (int64_t c = 0; c < x->n; c++)
            out[c] = denominator(x, c) == 0.0f ? 0.0f : out[c];
    }
    if (!p->lse.data)
        return;
    float *lse = heed_row(&p->lse, x->b, x->h, i) + (p->form == AFT_CONV ? 0 : x->first);
    for (int64_t c = 0; c < (p->form == AFT_CONV ? 1 : x->n); c++)
        lse[c] = log_sum(x, c);
}

/* The state of query i, over the keys it sees. */
static void attend_row(const aft_job *job, const aft_lane *x, int64_t i, float *w)
{
    heed_key_range sees = heed_visible_range(&job->plan->mask, x->b, i), keys = {sees.begin, sees.begin};
    reset(x);
    while (keys.end < sees.end) {
        keys = heed_next_block(keys, sees.end, HEED_FOLD_KEYS);
        fill_bias(job->plan, x->b, x->h, i, keys, w);
        add_keys(job, x, keys, w);
    }
}

/* ---- tiles ---- */

static void fill_tile(const aft_job *job, int64_t b, int64_t h, int64_t first, float *sums, aft_tile *t)
{
    const aft_plan *p = job->plan;
    *t = (aft_tile){.b = b, .h = h, .first = first, .sums = sums};
    t->n_rows = (int)heed_smaller(job->kernels->tile_lanes, p->q.shape[2] - first);
    t->n_vectors = (int)heed_divide_up(t->n_rows, job->kernels->vector_lanes);
    for (int r = 0; r < HEED_MAX_TILE_LANES; r++)
        t->m[r] = -INFINITY;
    for (int r = 0; r < t->n_rows; r++) {
        t->sees[r] = heed_visible_range(&p->mask, b, first + r);
        t->keys = heed_range_cover(t->keys, t->sees[r]);
    }
    memset(sums, 0, (size_t)(2 * p->q.shape[3] * job->kernels->tile_lanes) * sizeof *sums);
}

/* The scores of a tile: w, hidden keys -inf. */
static void bias_block(const aft_job *job, const aft_tile *t, heed_key_range block, const aft_scratch *s)
{
    const aft_plan *p = job->plan;
    const heed_kernels *kernels = job->kernels;
    int n_keys = (int)(block.end - block.begin);
    const float *rows[HEED_MAX_TILE_LANES];
    memset(s->scores, 0, (size_t)(n_keys * kernels->tile_lanes) * sizeof *s->scores);
    if (p->form == AFT_FULL && p->w.data) {
        for (int r = 0; r < t->n_rows; r++)
            rows[r] = heed_row(&p->w, t->b, t->h, t->first + r) + block.begin;
        kernels->bias_tile(s->scores, rows, t->n_rows, n_keys);
    } else if (p->form == AFT_LOCAL || p->query_factors.data) {
        for (int r = 0; r < t->n_rows; r++) {
            rows[r] = s->bias_rows + r * HEED_BLOCK_KEYS;
            fill_bias(p, t->b, t->h, t->first + r, block, s->bias_rows + r * HEED_BLOCK_KEYS);
        }
        kernels->bias_tile(s->scores, rows, t->n_rows, n_keys);
    }
    heed_hide_outside(kernels, s->scores, t->sees, t->n_rows, t->n_vectors, block);
}

/* The row of channel c in the sums of a tile: a panel's numerators, then its denominators. */
static int64_t numerator_row(int64_t c) { return c + c / HEED_AFT_PANEL * HEED_AFT_PANEL; }

static int64_t denominator_row(int64_t c, int64_t d)
{
    return numerator_row(c) + heed_smaller(HEED_AFT_PANEL, d - c / HEED_AFT_PANEL * HEED_AFT_PANEL);
}

static float sum_of(const aft_job *job, const aft_tile *t, int64_t row, int lane)
{
    return t->sums[row * job->kernels->tile_lanes + lane];
}

/* Row r of a tile computed again, one key after the other. Its channels are replaced where the tile proves nothing; where
 * a product was spoiled, also those that really see what is not finite. */
static void recompute_row(aft_job *job, const aft_tile *t, int r, int spoiled, const aft_scratch *s, float *row,
                          float *lse)
{
    const aft_plan *p = job->plan;
    int64_t d = p->q.shape[3];
    aft_lane x = {t->b, t->h, 0, d, s->state};
    attend_row(job, &x, t->first + r, s->w);
    job->kernels->aft_row(s->factor, s->state, d); /* not in use between two moves of the reference */
    for (int64_t c = 0; c < d; c++) {
        if (sum_of(job, t, denominator_row(c, d), r) >= SMALLEST_PROOF && !(spoiled && !isfinite(s->factor[c])))
            continue;
        row[c] = s->factor[c];
        lse[c] = log_sum(&x, c);
    }
    atomic_fetch_add_explicit(&job->exact_recomputations, 1, memory_order_relaxed);
}

/* out and lse of row r of a tile. */
static void finish_row(aft_job *job, aft_tile *t, int r, int spoiled, const aft_scratch *s)
{
    const aft_plan *p = job->plan;
    int64_t d = p->q.shape[3], i = t->first + r;
    float *out = heed_row(&p->out, t->b, t->h, i), *lse = s->row;
    int proven = 1, sees = !heed_range_is_empty(t->sees[r]);
    t->finished[r] = 1;
    for (int64_t c = 0; c < d; c++) {
        float den = sum_of(job, t, denominator_row(c, d), r);
        proven &= den >= SMALLEST_PROOF;
        out[c] = sees ? sum_of(job, t, numerator_row(c), r) / den : 0.0f;
        lse[c] = sees ? 0.0f : -INFINITY;
        if (sees && p->lse.data)
            lse[c] = (float)((double)s->reference[c] + (double)t->m[r] + log((double)den));
    }
    if (sees && (!proven || spoiled))
        recompute_row(job, t, r, spoiled, s, out, lse);
    if (p->lse.data)
        memcpy(heed_row(&p->lse, t->b, t->h, i), lse, (size_t)d * sizeof *lse);
    if (!sees || p->gate != HEED_GATE_SIGMOID)
        return;
    job->kernels->gate_array(out, heed_row(&p->q, t->b, t->h, i), out, d);
    for (int64_t c = 0; c < d; c++)
        out[c] = lse[c] == -INFINITY ? 0.0f : out[c];
}

/* Those rows of the group that end at `end` or before. */
static void finish_rows(aft_job *job, aft_tile *tiles, int n_tiles, int64_t end, int spoiled, const aft_scratch *s)
{
    for (aft_tile *t = tiles; t < tiles + n_tiles; t++) {
        for (int r = 0; r < t->n_rows; r++) {
            if (!t->finished[r] && t->sees[r].end <= end)
                finish_row(job, t, r, spoiled, s);
        }
    }
}

/* Moves the reference to key j, where that stands far above it, and the sums with it. */
static void move_reference(aft_job *job, aft_tile *tiles, int n_tiles, int64_t j, const aft_scratch *s)
{
    const aft_plan *p = job->plan;
    int64_t d = p->q.shape[3], lanes = job->kernels->tile_lanes;
    job->kernels->aft_move(s->reference, s->factor, heed_row(&p->k, tiles->b, tiles->h, j), d);
    for (int64_t c = 0; c < d; c += HEED_AFT_PANEL) {
        int64_t n = heed_smaller(HEED_AFT_PANEL, d - c);
        for (int i = 0; i < n_tiles; i++) {
            float *sums = tiles[i].sums + numerator_row(c) * lanes;
            job->kernels->scale_tile(sums, s->factor + c, n, tiles[i].n_vectors);
            job->kernels->scale_tile(sums + n * lanes, s->factor + c, n, tiles[i].n_vectors);
        }
    }
}

static float *panel_of(const aft_scratch *s, int64_t c)
{
    return s->weighed + c / HEED_AFT_PANEL * HEED_BLOCK_KEYS * WEIGHED_ROW;
}

/* The rows [exp(k - r) v, exp(k - r)] of a block; returns whether something was not finite. */
static int weigh_block(const aft_job *job, const aft_tile *t, heed_key_range block, const aft_scratch *s)
{
    const aft_plan *p = job->plan;
    int64_t d = p->q.shape[3];
    const float *k = heed_row(&p->k, t->b, t->h, block.begin), *v = heed_row(&p->v, t->b, t->h, block.begin);
    int spoiled = 0;
    for (int64_t c = 0; c < d; c += HEED_AFT_PANEL)
        spoiled |= job->kernels->aft_weigh(panel_of(s, c), WEIGHED_ROW, s->reference + c, k + c, p->k.stride[2], v + c,
                                           p->v.stride[2], (int)(block.end - block.begin),
                                           heed_smaller(HEED_AFT_PANEL, d - c));
    return spoiled;
}

/* Keys [block.begin, block.end), none of which moves the reference; returns whether something was not finite. */
static int add_block(aft_job *job, aft_tile *tiles, int n_tiles, heed_key_range block, const aft_scratch *s)
{
    const heed_kernels *kernels = job->kernels;
    int64_t d = job->plan->q.shape[3];
    int spoiled = weigh_block(job, tiles, block, s);
    for (aft_tile *t = tiles; t < tiles + n_tiles; t++) {
        heed_key_range own = heed_range_common(t->keys, block);
        if (heed_range_is_empty(own))
            continue;
        int n_keys = (int)(own.end - own.begin);
        bias_block(job, t, own, s);
        kernels->softmax_tile(s->scores, t->m, t->l, t->rescale, n_keys, t->n_vectors);
        for (int64_t c = 0; c < d; c += HEED_AFT_PANEL) {
            kernels->values_tile(t->sums + numerator_row(c) * kernels->tile_lanes, s->scores,
                                 panel_of(s, c) + (own.begin - block.begin) * WEIGHED_ROW, WEIGHED_ROW, t->rescale,
                                 n_keys, 2 * heed_smaller(HEED_AFT_PANEL, d - c), t->n_vectors);
        }
    }
    return spoiled;
}

/* How many keys of the block come before one that moves the reference. */
static int reach(const aft_job *job, const aft_tile *t, heed_key_range block, const aft_scratch *s)
{
    const heed_tensor *k = &job->plan->k;
    return job->kernels->aft_reach(s->reference, heed_row(k, t->b, t->h, block.begin), k->stride[2],
                                   (int)(block.end - block.begin), k->shape[3]);
}

static void attend_tiles(aft_job *job, aft_tile *tiles, int n_tiles, const aft_scratch *s)
{
    const aft_plan *p = job->plan;
    heed_key_range keys = {0, 0};
    int spoiled = 0;
    for (int i = 0; i < n_tiles; i++)
        keys = heed_range_cover(keys, tiles[i].keys);
    for (int64_t c = 0; c < p->q.shape[3]; c++)
        s->reference[c] = -INFINITY;
    for (heed_key_range block = {keys.begin, keys.begin}; block.end < keys.end;) {
        block = heed_next_block(block, keys.end, HEED_BLOCK_KEYS);
        int n_keys = reach(job, tiles, block, s);
        if (n_keys == 0) {
            finish_rows(job, tiles, n_tiles, block.begin, spoiled, s);
            move_reference(job, tiles, n_tiles, block.begin, s);
            n_keys = reach(job, tiles, block, s);
        }
        block.end = block.begin + n_keys;
        spoiled |= add_block(job, tiles, n_tiles, block, s);
    }
    finish_rows(job, tiles, n_tiles, INT64_MAX, spoiled, s);
}

/* ---- tasks ---- */

/* A group of tiles of one head. */
static void run_tiles(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    aft_scratch s = slice_of(job, worker);
    aft_tile tiles[HEED_AFT_GROUP_TILES];
    int64_t head = index / job->parts, lanes = job->kernels->tile_lanes, b = head / p->q.shape[1];
    int n_tiles = 0;
    for (; n_tiles < HEED_AFT_GROUP_TILES; n_tiles++) {
        int64_t first = (index % job->parts * HEED_AFT_GROUP_TILES + n_tiles) * lanes;
        if (first >= p->q.shape[2])
            break;
        fill_tile(job, b, head % p->q.shape[1], first, s.sums[n_tiles], &tiles[n_tiles]);
    }
    attend_tiles(job, tiles, n_tiles, &s);
}

/* A block of rows, each over the keys it sees. */
static void run_rows(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    aft_scratch s = slice_of(job, worker);
    int64_t head = index / job->parts, first = index % job->parts * HEED_AFT_ROWS;
    aft_lane x = {head / p->q.shape[1], head % p->q.shape[1], 0, p->q.shape[3], s.state};
    for (int64_t i = first; i < heed_smaller(first + HEED_AFT_ROWS, p->q.shape[2]); i++) {
        attend_row(job, &x, i, s.w);
        store_row(job, &x, i);
    }
}

/* A block of channels of all rows of a head: the state goes on from row to row, as each sees at least as far. */
static void run_scan(void *argument, int64_t index, int worker)
{
    aft_job *job = argument;
    const aft_plan *p = job->plan;
    aft_scratch s = slice_of(job, worker);
    int64_t head = index / job->parts, first = index % job->parts * HEED_AFT_CHANNELS;
    aft_lane x = {head / p->q.shape[1], head % p->q.shape[1], first,
                  heed_smaller(HEED_AFT_CHANNELS, p->q.shape[3] - first), s.state};
    heed_key_range keys = {0, 0};
    for (int64_t j = 0; j < HEED_FOLD_KEYS; j++)
        s.w[j] = 0.0f;
    reset(&x);
    for (int64_t i = 0; i < p->q.shape[2]; i++) {
        int64_t end = heed_visible_range(&p->mask, x.b, i).end;
        if (i == heed_query_length(&p->mask, x.b))
            reset(&x); /* nobody from here on sees a key */
        while (keys.end < end) {
            keys = heed_next_block(keys, end, HEED_FOLD_KEYS);
            add_keys(job, &x, keys, s.w);
        }
        store_row(job, &x, i);
    }
}

/* Whether each row sees the first so many keys. Only then is every key that a scan or a tile has taken before one that
 * the row sees, and what it does not see has no say in its bits. */
static int sees_first_keys(const aft_plan *p)
{
    return !p->mask.visible.data && p->mask.left < 0 && !p->nothing_outside;
}

void heed_aft_run(heed_context *context, const aft_plan *p)
{
    aft_job job = {.plan = p, .kernels = context->kernels, .context = context};
    atomic_init(&job.exact_recomputations, 0);
    int64_t n_heads = p->q.shape[0] * p->q.shape[1], n_queries = p->q.shape[2], d = p->q.shape[3];
    double pairs = (double)(n_heads * n_queries) * (double)p->k.shape[2];
    const char *path;
    heed_task *task;
    double flops;
    if (p->form == AFT_SIMPLE && sees_first_keys(p)) {
        path = "aft-scan", task = run_scan;
        job.parts = heed_divide_up(d, HEED_AFT_CHANNELS);
        flops = EXP_FLOPS * (double)d * (double)(n_heads * (n_queries + p->k.shape[2]));
    } else if (p->form == AFT_CONV || n_queries < HEED_AFT_TILE_ROWS || !sees_first_keys(p)) {
        path = "aft-rows", task = run_rows;
        job.parts = heed_divide_up(n_queries, HEED_AFT_ROWS);
        flops = EXP_FLOPS * (double)d * pairs;
    } else {
        path = "aft-tiles", task = run_tiles;
        job.parts = heed_divide_up(n_queries, HEED_AFT_GROUP_TILES * job.kernels->tile_lanes);
        flops = 4.0 * (double)d * pairs;
    }
    int64_t n_tasks = n_heads * job.parts;
    heed_report_start(context, path, heed_aft_worker_bytes(d));
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), task, &job);
    context->report.exact_recomputations = atomic_load_explicit(&job.exact_recomputations, memory_order_relaxed);
}

/* ---- the gate alone ---- */

typedef struct gate_job {
    const heed_kernels *kernels;
    heed_tensor q, x, out;
} gate_job;

static void run_gate(void *argument, int64_t index, int worker)
{
    const gate_job *job = argument;
    const int64_t *shape = job->out.shape;
    (void)worker;
    for (int64_t n = 0; n < shape[2]; n++) {
        int64_t b = index / shape[1], h = index % shape[1];
        job->kernels->gate_array(heed_row(&job->out, b, h, n), heed_row(&job->q, b, h, n), heed_row(&job->x, b, h, n),
                                 shape[3]);
    }
}

void heed_aft_gate_run(heed_context *context, const heed_tensor *q, const heed_tensor *x, const heed_tensor *out)
{
    gate_job job = {context->kernels, *q, *x, *out};
    int64_t n_tasks = out->shape[0] * out->shape[1];
    double flops = EXP_FLOPS * (double)(n_tasks * out->shape[2]) * (double)out->shape[3];
    heed_report_start(context, "aft-gate", 0);
    heed_parallel_for(context, n_tasks, heed_count_workers(context, n_tasks, flops), run_gate, &job);
}
