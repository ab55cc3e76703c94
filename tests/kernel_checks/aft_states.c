/* aft_join, aft_start, aft_refer, aft_gather: states of AFT against other references, against plain loops.
 *
 * With u = 2^-24: a difference of references d is off by u |d|, where they are sums themselves by as much of them too;
 * e^d is off by that, relatively, and by 2 ulp, at most 2^-22; it is anything from 0 to 2^-126 where it is below 2^-126.
 * Each product and each sum behind it is rounded once. */
#include "kernel_checks/checks.h"

#include <float.h>

enum { SUM_ROWS = 3, MAX_STARTED_ROWS = 13, MAX_GATHERED_KEYS = 20 };

/* Rows ref, num, den, as aft_join leaves them. */
enum { ROW_REF, ROW_NUM, ROW_DEN };

/* How far off e^d is, with d off by `off`. */
static double power_error(double d, double off)
{
    const double power = exp(d);
    return power * (expm1(off * (1.0 + 0x1p-20)) + 0x1p-22 * exp(off)) +
           (power < 2.0 * (double)FLT_MIN ? 0x1p-126 : 0.0);
}

static float sum_of(const float *state, int row, int64_t n_channels, int64_t c)
{
    return state[row * n_channels + c] + state[(row + 2) * n_channels + c];
}

static float ref_of(const float *state, int64_t n_channels, int64_t c)
{
    return state[AFT_REF_K * n_channels + c] + state[AFT_REF_W * n_channels + c];
}

/* A state that has seen keys, or in one channel of six none. */
static buffer make_state(int64_t n_channels, int64_t index, random_stream *random)
{
    buffer state = make_buffer(AFT_STATE_ROWS * n_channels, side_of(index));
    for (int64_t c = 0; c < n_channels; c++) {
        const int is_fresh = random_below(random, 6) == 0, is_folded = random_below(random, 3) == 0;
        float *at = state.data + c;
        at[AFT_REF_K * n_channels] = is_fresh ? -INFINITY : random_uniform(random, -30.0f, 30.0f);
        at[AFT_REF_W * n_channels] = is_fresh || random_below(random, 3) == 0 ? 0.0f : random_normal(random);
        for (int row = AFT_NUM; row <= AFT_NEW_NUM; row += 2) {
            const int is_empty = is_fresh || (row == AFT_NEW_NUM && is_folded);
            const float den = is_empty ? 0.0f : random_uniform(random, 0.5f, 50.0f);
            at[row * n_channels] = den * random_normal(random);
            at[(row + 1) * n_channels] = den;
        }
    }
    keep_bits(&state);
    return state;
}

/* ---- aft_join ---- */

typedef struct join_case {
    buffer state;
    source_rows rows, other;
    int64_t n_channels;
} join_case;

/* References of `other` below, at, and above those of the state, and of no key. */
static join_case make_join_case(int64_t index, int64_t n_channels, random_stream *random)
{
    join_case j = {.n_channels = n_channels, .state = make_state(n_channels, index, random)};
    j.rows = make_rows(SUM_ROWS, n_channels, 1 + 5 * index, random);
    j.other = make_rows(SUM_ROWS, n_channels, 1 + 5 * index, random);
    for (int64_t c = 0; c < n_channels; c++) {
        const float apart[] = {0.0f, 1e-3f, -1e-3f, 7.0f, -7.0f, 60.0f, -60.0f, 200.0f, -200.0f};
        const float ref = ref_of(j.state.data, n_channels, c), den = random_uniform(random, 0.5f, 50.0f);
        const int is_fresh = random_below(random, 6) == 0;
        float *at = j.other.memory.data + c;
        at[ROW_REF * j.other.stride] = is_fresh        ? -INFINITY
                                       : isfinite(ref) ? ref + apart[random_below(random, 9)]
                                                       : random_normal(random);
        at[ROW_NUM * j.other.stride] = is_fresh ? 0.0f : den * random_normal(random);
        at[ROW_DEN * j.other.stride] = is_fresh ? 0.0f : den;
    }
    keep_bits(&j.other.memory);
    return j;
}

static void free_join_case(join_case *j)
{
    free_buffer(&j->state);
    free_buffer(&j->rows.memory);
    free_buffer(&j->other.memory);
}

static void run_join(join_case *j, int has_other)
{
    restore_bits(&j->rows.memory);
    kernels->aft_join(j->rows.memory.data, j->rows.stride, j->state.data, has_other ? j->other.memory.data : NULL,
                      j->other.stride, j->n_channels);
}

/* The two levels added up. */
static int is_level_sum(const join_case *j, int64_t c)
{
    return same_value(row_value(&j->rows, ROW_REF, c), ref_of(j->state.data, j->n_channels, c)) &&
           same_value(row_value(&j->rows, ROW_NUM, c), sum_of(j->state.data, AFT_NUM, j->n_channels, c)) &&
           same_value(row_value(&j->rows, ROW_DEN, c), sum_of(j->state.data, AFT_DEN, j->n_channels, c));
}

/* The lower of both is multiplied by e^(lower - higher). */
static void compare_joined(const join_case *j, int64_t c)
{
    const float ref = ref_of(j->state.data, j->n_channels, c), other = row_value(&j->other, ROW_REF, c);
    if (other == -INFINITY) {
        if (!is_level_sum(j, c))
            fail_case("channel %d: joined with no key it changes", (int)c);
        return;
    }
    if (row_value(&j->rows, ROW_REF, c) != (other > ref ? other : ref))
        fail_case("channel %d: references %a and %a become %a", (int)c, (double)ref, (double)other,
                  (double)row_value(&j->rows, ROW_REF, c));
    const double d = -fabs((double)other - ref), power = exp(d), off = power_error(d, HALF_ULP * -d);
    for (int row = ROW_NUM; row <= ROW_DEN; row++) {
        const double of_state = sum_of(j->state.data, AFT_NUM + row - ROW_NUM, j->n_channels, c),
                     of_other = row_value(&j->other, row, c);
        const double higher = other > ref ? of_other : of_state, lower = other > ref ? of_state : of_other;
        const double error =
            (isinf(d) ? 0.0 : off * fabs(lower)) + 3.0 * HALF_ULP * (fabs(higher) + power * fabs(lower)) + 0x1p-148;
        if (!is_close(row_value(&j->rows, row, c), higher + power * lower, error))
            fail_case("channel %d, row %d: %a at %a and %a at %a give %a, want %a", (int)c, row, of_state, (double)ref,
                      of_other, (double)other, (double)row_value(&j->rows, row, c), higher + power * lower);
    }
}

static void expect_join_kept(const join_case *j)
{
    const buffer *rows = &j->rows.memory;
    expect_kept(&j->state, "state");
    expect_kept(&j->other.memory, "other");
    for (size_t i = 0; i < rows->n_floats; i++)
        if ((int64_t)i % j->rows.stride >= j->n_channels && !is_kept(rows, i))
            fail_case("float %d behind row %d has changed", (int)((int64_t)i % j->rows.stride),
                      (int)((int64_t)i / j->rows.stride));
    if (!guarded_intact(&rows->memory))
        fail_case("rows: written outside their bounds");
}

/* The rows may be `other` itself. */
static void join_in_place(join_case *j)
{
    kernels->aft_join(j->other.memory.data, j->other.stride, j->state.data, j->other.memory.data, j->other.stride,
                      j->n_channels);
    for (int row = 0; row < SUM_ROWS; row++)
        for (int64_t c = 0; c < j->n_channels; c++)
            if (!same_value(row_value(&j->other, row, c), row_value(&j->rows, row, c)))
                fail_case("in place of `other`: row %d, channel %d differs", row, (int)c);
    restore_bits(&j->other.memory);
}

/* NaN and infinities stay in their channel, and those of sums do not vanish there. Takes the results from clean
 * inputs. */
static void spoil_join(join_case *j, random_stream *random)
{
    const float spoilers[] = {NAN, INFINITY};
    const int64_t n = j->n_channels, c = random_below(random, n);
    const float value = spoilers[random_below(random, 2)];
    const int in_state = (int)random_below(random, 2);
    const int64_t row = random_below(random, in_state ? AFT_STATE_ROWS : SUM_ROWS);
    buffer clean = make_buffer((int64_t)j->rows.memory.n_floats, GUARD_END);
    memcpy(clean.data, j->rows.memory.data, clean.n_floats * sizeof(float));
    if (in_state)
        j->state.data[row * n + c] = value;
    else
        j->other.memory.data[row * j->other.stride + c] = value;
    run_join(j, 1);
    for (int r = 0; r < SUM_ROWS; r++)
        for (int64_t i = 0; i < n; i++)
            if (i != c && !same_bits(row_value(&j->rows, r, i), clean.data[r * j->rows.stride + i]))
                fail_case("%g in channel %d reaches row %d, channel %d", (double)value, (int)c, r, (int)i);
    const int64_t reached = !in_state || row < AFT_NUM ? row : ROW_NUM + (row - AFT_NUM) % 2;
    if ((in_state ? row >= AFT_NUM : row > ROW_REF) && isfinite(row_value(&j->rows, reached, c)))
        fail_case("channel %d: %g in row %d of %s becomes %a", (int)c, (double)value, (int)row,
                  in_state ? "the state" : "other", (double)row_value(&j->rows, reached, c));
    restore_bits(&j->state);
    restore_bits(&j->other.memory);
    free_buffer(&clean);
}

static void check_join_case(int64_t index, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(80000 + index));
    join_case j = make_join_case(index, n_channels, &random);
    describe_case("aft_join", "%d channels, strides %d and %d", (int)n_channels, (int)j.rows.stride,
                  (int)j.other.stride);
    run_join(&j, 0);
    for (int64_t c = 0; c < n_channels; c++)
        if (!is_level_sum(&j, c))
            fail_case("channel %d alone: not its two levels added up", (int)c);
    run_join(&j, 1);
    for (int64_t c = 0; c < n_channels; c++)
        compare_joined(&j, c);
    join_in_place(&j);
    spoil_join(&j, &random);
    expect_join_kept(&j);
    free_join_case(&j);
}

void check_aft_join(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_join_case(i, channel_count(i / 2));
}

/* ---- panels ---- */

/* Rows of sums in panels, as aft_weigh lays them out. */
typedef struct panels {
    buffer memory;
    int64_t row_stride, panel_stride, n_channels;
    int n_rows;
} panels;

static int64_t panel_width(const panels *p, int64_t c)
{
    const int64_t left = p->n_channels - c / AFT_PANEL * AFT_PANEL;
    return left < AFT_PANEL ? left : AFT_PANEL;
}

/* Where num of row r, channel c stands; its den follows panel_width() behind it. */
static int64_t place_of(const panels *p, int64_t r, int64_t c)
{
    return c / AFT_PANEL * p->panel_stride + r * p->row_stride + c % AFT_PANEL;
}

static panels make_panels(int n_rows, int64_t n_channels, int64_t row_stride, int64_t gap, guard_side side)
{
    panels p = {.n_channels = n_channels, .n_rows = n_rows, .row_stride = row_stride};
    const int64_t last = n_channels - 1;
    p.panel_stride = n_rows * row_stride + gap;
    p.memory = make_buffer(n_rows > 0 ? place_of(&p, n_rows - 1, last) + panel_width(&p, last) + 1 : 0, side);
    return p;
}

/* ---- aft_start ---- */

typedef struct start_case {
    panels o;
    buffer rows, ref;
} start_case;

static start_case make_start_case(int64_t index, int n_rows, int64_t n, random_stream *random)
{
    start_case s = {.rows = make_buffer(SUM_ROWS * n, side_of(index)), .ref = make_buffer(n, side_of(index))};
    s.o = make_panels(n_rows, n, 2 * AFT_PANEL + random_below(random, 2) * 3, random_below(random, 3) * 5,
                      side_of(index));
    for (int64_t c = 0; c < n; c++) {
        const int64_t kind = random_below(random, 8);
        const float den = kind == 0 ? 0.0f : random_uniform(random, 0.5f, 50.0f);
        const float ref = kind == 0 && random_below(random, 2) ? -INFINITY : random_uniform(random, -30.0f, 30.0f);
        s.rows.data[ROW_REF * n + c] = ref;
        s.rows.data[ROW_NUM * n + c] = kind == 1 ? den : den * random_normal(random);
        s.rows.data[ROW_DEN * n + c] = den;
        s.ref.data[c] = kind == 2                       ? ref
                        : kind == 3                     ? ref - 60.0f
                        : kind == 4                     ? ref + random_uniform(random, 60.0f, 200.0f)
                        : kind == 0 && ref == -INFINITY ? (random_below(random, 2) ? -INFINITY : 1.0f)
                                                        : ref + 3.0f * random_normal(random);
    }
    keep_bits(&s.rows);
    keep_bits(&s.ref);
    return s;
}

static void run_start(start_case *s)
{
    restore_bits(&s->o.memory);
    kernels->aft_start(s->o.memory.data, s->o.row_stride, s->o.panel_stride, s->rows.data, s->ref.data, s->o.n_rows,
                       s->o.n_channels);
}

static void compare_started(const start_case *s, int64_t c)
{
    const int64_t n = s->o.n_channels;
    const float *first = s->o.memory.data + place_of(&s->o, 0, c);
    const float num = s->rows.data[ROW_NUM * n + c], den = s->rows.data[ROW_DEN * n + c];
    const double d = (double)s->rows.data[ROW_REF * n + c] - s->ref.data[c];
    const double power = den == 0.0f ? 0.0 : exp(d), off = den == 0.0f ? 0.0 : power_error(d, HALF_ULP * fabs(d));
    for (int i = 0; i < 2; i++) {
        const double sum = i ? den : num, want = power * sum;
        const float got = first[i * panel_width(&s->o, c)];
        if (!is_close(got, want, off * fabs(sum) + HALF_ULP * (fabs(want) + off * fabs(sum)) + 0x1p-149) ||
            (d == 0.0 && got != (float)sum))
            fail_case("channel %d: %a at %a is %a at %a, want %a", (int)c, sum, (double)s->rows.data[ROW_REF * n + c],
                      (double)got, (double)s->ref.data[c], want);
    }
    if (num == den && !same_value(first[0], first[panel_width(&s->o, c)]))
        fail_case("channel %d: num = den become %a and %a", (int)c, (double)first[0],
                  (double)first[panel_width(&s->o, c)]);
    for (int r = 1; r < s->o.n_rows; r++) {
        const float *row = s->o.memory.data + place_of(&s->o, r, c);
        if (!same_bits(row[0], first[0]) || !same_bits(row[panel_width(&s->o, c)], first[panel_width(&s->o, c)]))
            fail_case("channel %d: row %d is not row 0", (int)c, r);
    }
}

static void expect_start_kept(const start_case *s)
{
    const panels *o = &s->o;
    expect_kept(&s->rows, "rows");
    expect_kept(&s->ref, "ref");
    for (int64_t i = 0; i < (int64_t)o->memory.n_floats; i++) {
        const int64_t c = i / o->panel_stride * AFT_PANEL, in_panel = i % o->panel_stride;
        if ((in_panel / o->row_stride >= o->n_rows || in_panel % o->row_stride >= 2 * panel_width(o, c)) &&
            !is_kept(&o->memory, (size_t)i))
            fail_case("float %d of row %d of panel %d has changed", (int)(in_panel % o->row_stride),
                      (int)(in_panel / o->row_stride), (int)(c / AFT_PANEL));
    }
    if (!guarded_intact(&o->memory.memory))
        fail_case("o: written outside its bounds");
}

/* What is not finite in one channel stays there. */
static void spoil_start(start_case *s, random_stream *random)
{
    const int64_t n = s->o.n_channels, c = random_below(random, n), kind = random_below(random, SUM_ROWS + 1);
    const float value = random_below(random, 2) ? NAN : INFINITY;
    buffer clean = make_buffer((int64_t)s->o.memory.n_floats, GUARD_END);
    memcpy(clean.data, s->o.memory.data, clean.n_floats * sizeof(float));
    *(kind < SUM_ROWS ? &s->rows.data[kind * n + c] : &s->ref.data[c]) = value;
    run_start(s);
    for (int r = 0; r < s->o.n_rows; r++)
        for (int64_t i = 0; i < n; i++)
            for (int half = 0; half < 2; half++) {
                const int64_t place = place_of(&s->o, r, i) + half * panel_width(&s->o, i);
                if (i != c && !same_bits(s->o.memory.data[place], clean.data[place]))
                    fail_case("%g in channel %d reaches channel %d", (double)value, (int)c, (int)i);
            }
    restore_bits(&s->rows);
    restore_bits(&s->ref);
    free_buffer(&clean);
}

static void check_start_case(int64_t index, int n_rows, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(81000 + index));
    start_case s = make_start_case(index, n_rows, n_channels, &random);
    describe_case("aft_start", "%d rows, %d channels, strides %d, %d", n_rows, (int)n_channels, (int)s.o.row_stride,
                  (int)s.o.panel_stride);
    run_start(&s);
    for (int64_t c = 0; n_rows > 0 && c < n_channels; c++)
        compare_started(&s, c);
    expect_start_kept(&s);
    spoil_start(&s, &random);
    expect_start_kept(&s);
    free_buffer(&s.o.memory);
    free_buffer(&s.rows);
    free_buffer(&s.ref);
}

void check_aft_start(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_start_case(i, i % (MAX_STARTED_ROWS + 1), channel_count(i / 2));
}

/* ---- aft_refer ---- */

typedef enum { GOES, STAYS, MAY_GO } fate;

/* Where a reference stands to the one wanted. */
typedef enum {
    SAME,   /* k + w = ref, or no key seen and none in ref */
    NEAR,   /* moves */
    HIGHER, /* moves, whatever the distance */
    EDGE,   /* den becomes about AFT_LARGE_SUM */
    LOST,   /* far below ref, or no key seen: stays */
    ODD,    /* ref is not finite: stays */
    N_PLACES
} ref_place;

static float draw_ref(float own, float den, ref_place place, random_stream *random)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    switch (place) {
    case NEAR:
        return own + 3.0f * random_normal(random);
    case HIGHER:
        return own - random_uniform(random, 0.0f, 75.0f);
    case EDGE:
        return own + logf(den) - logf(AFT_LARGE_SUM) + (float)(random_below(random, 5) - 2) * 1e-5f;
    case LOST:
        return own + random_uniform(random, 55.0f, 300.0f);
    case ODD:
        return odd[random_below(random, own == -INFINITY ? 2 : 3)];
    default:
        return own;
    }
}

static void fill_refs(buffer *state, buffer *ref, random_stream *random)
{
    const int64_t n = (int64_t)ref->n_floats;
    const int all_go = random_below(random, 2) == 0;
    for (int64_t c = 0; c < n; c++) {
        const float own = ref_of(state->data, n, c), den = sum_of(state->data, AFT_DEN, n, c);
        const ref_place place = (ref_place)random_below(random, all_go ? EDGE : N_PLACES);
        if (own == -INFINITY && all_go)
            ref->data[c] = own;
        else if (own == -INFINITY && place != ODD && place != SAME)
            ref->data[c] = random_normal(random);
        else
            ref->data[c] = draw_ref(own, den, place, random);
    }
    keep_bits(ref);
}

/* What becomes of channel c, from the state before. */
static fate fate_of(const buffer *state, const float *ref, int64_t n, int64_t c)
{
    const float own = ref_of(state->before, n, c), den = sum_of(state->before, AFT_DEN, n, c);
    if (own == ref[c])
        return GOES;
    if (!isfinite(ref[c]) || own == -INFINITY)
        return STAYS;
    const double d = (double)own - ref[c], becomes = exp(d) * den;
    const double off = (power_error(d, HALF_ULP * fabs(d)) * den + HALF_ULP * becomes) * (1.0 + 0x1p-20);
    return becomes - off > (double)AFT_LARGE_SUM ? GOES : becomes + off < (double)AFT_LARGE_SUM ? STAYS : MAY_GO;
}

static int has_gone(const buffer *state, const float *ref, int64_t n, int64_t c)
{
    return same_value(state->data[AFT_REF_K * n + c], ref[c]) && same_bits(state->data[AFT_REF_W * n + c], 0.0f);
}

static int has_stayed(const buffer *state, int64_t n, int64_t c)
{
    for (int row = 0; row < AFT_STATE_ROWS; row++)
        if (!is_kept(state, (size_t)(row * n + c)))
            return 0;
    return 1;
}

static void compare_gone(const buffer *state, const float *ref, int64_t n, int64_t c)
{
    const float own = ref_of(state->before, n, c);
    const double k = state->before[AFT_REF_K * n + c], w = state->before[AFT_REF_W * n + c];
    /* The reference is k + w; it was rounded on its way. */
    const double d = own == ref[c] ? 0.0 : k + w - (double)ref[c];
    const double off = own == ref[c] ? 0.0 : power_error(d, HALF_ULP * (fabs(k + w) + fabs(d)) * (1.0 + 0x1p-20));
    for (int row = AFT_NUM; row < AFT_STATE_ROWS; row++) {
        const double before = state->before[row * n + c], want = before * exp(d);
        const float got = state->data[row * n + c];
        if (!is_close(got, want,
                      off * fabs(before) * (1.0 + HALF_ULP) + (own == ref[c] ? 0.0 : HALF_ULP * fabs(want) + 0x1p-149)))
            fail_case("channel %d, row %d: %a at %a is %a at %a, want %a", (int)c, row, before, (double)own,
                      (double)got, (double)ref[c], want);
    }
}

static void compare_referred(const buffer *state, const buffer *ref, int all_stand)
{
    const int64_t n = (int64_t)ref->n_floats;
    int all_gone = 1;
    for (int64_t c = 0; c < n; c++) {
        const fate want = fate_of(state, ref->data, n, c);
        const int gone = has_gone(state, ref->data, n, c);
        if (want == GOES ? !gone : want == STAYS ? !has_stayed(state, n, c) : !gone && !has_stayed(state, n, c))
            fail_case("channel %d from %a, den %a, to %a: has %s", (int)c, (double)ref_of(state->before, n, c),
                      (double)sum_of(state->before, AFT_DEN, n, c), (double)ref->data[c],
                      want == GOES ? "not gone" : "not stayed");
        if (want == GOES || (want == MAY_GO && !has_stayed(state, n, c)))
            compare_gone(state, ref->data, n, c);
        else
            all_gone = 0;
    }
    if ((all_stand != 0) != all_gone)
        fail_case("returns %d, %s", all_stand, all_gone ? "all stand at ref" : "not all stand at ref");
}

/* What is not finite in one channel is nothing to the others. Takes the clean results. */
static void spoil_refer(buffer *state, const buffer *ref, random_stream *random)
{
    const int64_t n = (int64_t)ref->n_floats, spoiled = random_below(random, n);
    buffer clean = make_buffer((int64_t)state->n_floats, GUARD_END);
    memcpy(clean.data, state->data, clean.n_floats * sizeof(float));
    restore_bits(state);
    state->data[random_below(random, AFT_STATE_ROWS) * n + spoiled] = random_below(random, 2) ? NAN : INFINITY;
    kernels->aft_refer(state->data, ref->data, n);
    for (int64_t i = 0; i < AFT_STATE_ROWS * n; i++)
        if (i % n != spoiled && !same_bits(state->data[i], clean.data[i]))
            fail_case("channel %d spoils channel %d", (int)spoiled, (int)(i % n));
    free_buffer(&clean);
}

static void check_refer_case(int64_t index, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(82000 + index));
    buffer state = make_state(n_channels, index, &random), ref = make_buffer(n_channels, side_of(index));
    describe_case("aft_refer", "case %d, %d channels", (int)index, (int)n_channels);
    fill_refs(&state, &ref, &random);
    compare_referred(&state, &ref, kernels->aft_refer(state.data, ref.data, n_channels));
    spoil_refer(&state, &ref, &random);
    expect_kept(&ref, "ref");
    keep_bits(&state);
    expect_kept(&state, "state"); /* the canaries */
    free_buffer(&state);
    free_buffer(&ref);
}

void check_aft_refer(void **state)
{
    (void)state;
    for (int i = 0; i < 4 * n_channel_counts(); i++)
        check_refer_case(i, channel_count(i / 4));
}

/* ---- aft_gather ---- */

static void compare_gathered(const buffer *state, const panels *e)
{
    const int64_t n = e->n_channels;
    for (int64_t c = 0; c < n; c++)
        for (int half = 0; half < 2; half++) {
            const int64_t place = (AFT_NEW_NUM + half) * n + c;
            float want = state->before[place];
            for (int j = 0; j < e->n_rows; j++)
                want += e->memory.data[place_of(e, j, c) + half * panel_width(e, c)];
            if (!same_value(state->data[place], want))
                fail_case("channel %d, %s: %a, want %a", (int)c, half ? "den" : "num", (double)state->data[place],
                          (double)want);
        }
    for (int64_t i = 0; i < AFT_NEW_NUM * n; i++)
        if (!is_kept(state, (size_t)i))
            fail_case("row %d of the state has changed", (int)(i / n));
}

static void check_gather_case(int64_t index, int n_keys, int64_t n_channels)
{
    random_stream random = random_start((uint64_t)(83000 + index));
    buffer state = make_state(n_channels, index, &random);
    panels e = make_panels(n_keys, n_channels, 2 * AFT_PANEL, random_below(&random, 3) * 5, side_of(index));
    describe_case("aft_gather", "%d keys, %d channels, panels %d apart", n_keys, (int)n_channels, (int)e.panel_stride);
    for (int j = 0; j < n_keys; j++)
        for (int64_t c = 0; c < n_channels; c++) {
            float *at = e.memory.data + place_of(&e, j, c);
            at[0] = random_normal(&random);
            at[panel_width(&e, c)] = random_uniform(&random, 0.0f, 1.0f);
        }
    if (n_keys > 0 && index % 3 == 0)
        e.memory.data[place_of(&e, random_below(&random, n_keys), random_below(&random, n_channels))] =
            index % 2 ? NAN : INFINITY;
    keep_bits(&e.memory);
    kernels->aft_gather(state.data, e.memory.data, e.panel_stride, n_keys, n_channels);
    compare_gathered(&state, &e);
    expect_kept(&e.memory, "e");
    keep_bits(&state);
    expect_kept(&state, "state"); /* the canaries */
    free_buffer(&state);
    free_buffer(&e.memory);
}

void check_aft_gather(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_channel_counts(); i++)
        check_gather_case(i, i % (MAX_GATHERED_KEYS + 1), channel_count(i / 2));
}
