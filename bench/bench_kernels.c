/* A benchmark of every kernel of every instruction set: slot/isa, one call on a full tile as softmax attention makes it
 * (128 keys, 64 channels, 3 vectors), or as AFT makes it (128 keys, 64 channels, one row; a group of rows where they are
 * mixed), or as linear attention makes it (64 features), or MrsHA (groups of 2 tokens), all operands in L1 or L2.
 * Generated from the kernel list: a slot without a benchmark here is a compile error. */
#include "bench/clock.h"
#include "bench/machine.h"
#include "bench/shim.h"
#include "core/isa.h"
#include "core/tuning.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

/* CHANNELS of a head, or the numerators and denominators of a panel of AFT. */
enum {
    KEYS = HEED_BLOCK_KEYS,
    CHANNELS = 64,
    PANEL_ROW = 2 * AFT_PANEL,
    LANES = HEED_MAX_TILE_LANES,
    ROWS = 4,
    GROUP_TOKENS = 2,
    ARRAY = 4096
};
enum { MIXED_ROWS = LANES / HEED_AFT_TILE_ROWS * HEED_AFT_TILE_ROWS };
_Static_assert((int)CHANNELS == 2 * AFT_PANEL, "mix_rows is measured on whole panels");

/* Operands of all kernels. Sized for the widest tile; a narrower one uses the front. */
typedef struct operands {
    alignas(64) float x[ARRAY];
    alignas(64) float y[ARRAY];
    alignas(64) float q[CHANNELS * LANES];
    alignas(64) float s[KEYS * LANES];
    alignas(64) float p[KEYS * LANES];
    alignas(64) float o[CHANNELS * LANES];
    alignas(64) float keys[KEYS * CHANNELS];
    alignas(64) float values[KEYS * CHANNELS];
    alignas(64) float weighed[KEYS * 2 * CHANNELS];
    alignas(64) float sums[LANES * (CHANNELS + 1)];
    alignas(64) float token_rows[LANES * CHANNELS];
    alignas(64) float bias_rows[LANES * KEYS];
    uint8_t visible_rows[LANES * KEYS];
    alignas(64) float m[LANES];
    alignas(64) float l[LANES];
    alignas(64) float rescale[CHANNELS];
    alignas(64) float slope[LANES];
    alignas(64) float distance[LANES];
    alignas(64) float begin[LANES];
    alignas(64) float end[LANES];
    alignas(64) float state[AFT_STATE_ROWS * CHANNELS];
    float *rows[LANES];        /* of token_rows */
    const float *bias[LANES];  /* rows of bias_rows */
    const uint8_t *see[LANES]; /* rows of visible_rows */
} operands;

static operands ops;

/* One kernel table, and the ceiling of its instruction set. */
typedef struct bench_tier {
    const heed_kernels *kernels;
    double fma_gflops;
} bench_tier;

/* ---- One call of each kernel ------------------------------------------------------------------------------------- */

static void call_exp2_array(const heed_kernels *k) { k->exp2_array(ops.x, ops.y, ARRAY); }

static void call_exp_array(const heed_kernels *k) { k->exp_array(ops.x, ops.y, ARRAY); }

static void call_pack_tile(const heed_kernels *k)
{
    k->pack_tile(ops.q, (const float *const *)ops.rows, k->tile_lanes, CHANNELS, 0.125f);
}

static void call_scores_tile(const heed_kernels *k)
{
    k->scores_tile(ops.s, ops.q, ops.keys, CHANNELS, KEYS, CHANNELS, HEED_TILE_VECTORS, NULL, 0);
}

static void call_softcap_tile(const heed_kernels *k) { k->softcap_tile(ops.s, KEYS, HEED_TILE_VECTORS, 30.0f); }

static void call_bias_tile(const heed_kernels *k) { k->bias_tile(ops.s, ops.bias, k->tile_lanes, KEYS); }

static void call_alibi_tile(const heed_kernels *k)
{
    k->alibi_tile(ops.s, ops.slope, ops.distance, KEYS, HEED_TILE_VECTORS);
}

static void call_range_tile(const heed_kernels *k)
{
    k->range_tile(ops.s, ops.begin, ops.end, KEYS, HEED_TILE_VECTORS);
}

static void call_visible_tile(const heed_kernels *k) { k->visible_tile(ops.s, ops.see, k->tile_lanes, KEYS); }

static void call_softmax_tile(const heed_kernels *k)
{
    k->softmax_tile(ops.s, ops.m, ops.l, ops.rescale, KEYS, HEED_TILE_VECTORS);
}

static void call_softmax_row(const heed_kernels *k)
{
    k->softmax_row(ops.p, ops.s, ops.bias_rows, KEYS, ops.m, ops.rescale);
}

static void call_softmax_careful_tile(const heed_kernels *k)
{
    k->softmax_careful_tile(ops.s, ops.m, ops.l, ops.rescale, KEYS, HEED_TILE_VECTORS);
}

static void call_values_tile(const heed_kernels *k)
{
    k->values_tile(ops.o, ops.p, ops.values, CHANNELS, ops.rescale, KEYS, CHANNELS, HEED_TILE_VECTORS, NULL, 0);
}

static void call_values_careful_tile(const heed_kernels *k)
{
    k->values_careful_tile(ops.o, ops.p, ops.values, CHANNELS, ops.rescale, KEYS, CHANNELS, HEED_TILE_VECTORS, NULL, 0);
}

static void call_output_tile(const heed_kernels *k) { k->output_tile(ops.rows, ops.o, ops.l, k->tile_lanes, CHANNELS); }

static int rows_of(const heed_kernels *k) { return ROWS < k->tile_lanes ? ROWS : k->tile_lanes; }

static void call_scores_rows(const heed_kernels *k)
{
    k->scores_rows(ops.s, ops.q, CHANNELS, ops.keys, CHANNELS, KEYS, CHANNELS, rows_of(k));
}

static void call_values_rows(const heed_kernels *k)
{
    k->values_rows(ops.o, ops.x, ops.p, ops.values, CHANNELS, ops.rescale, KEYS, CHANNELS, rows_of(k));
}

static void call_values_careful_rows(const heed_kernels *k)
{
    k->values_careful_rows(ops.o, ops.x, ops.p, ops.values, CHANNELS, ops.rescale, KEYS, CHANNELS, rows_of(k));
}

static void call_output_rows(const heed_kernels *k) { k->output_rows(ops.rows, ops.o, ops.l, rows_of(k), CHANNELS); }

static void call_aft_keys(const heed_kernels *k)
{
    k->aft_keys(ops.state, ops.keys, CHANNELS, ops.values, CHANNELS, ops.bias_rows, KEYS, CHANNELS, 0);
}

static void call_aft_fold(const heed_kernels *k) { k->aft_fold(ops.state, CHANNELS); }

static void call_aft_join(const heed_kernels *k)
{
    k->aft_join(ops.y, CHANNELS, ops.state, ops.sums, CHANNELS, CHANNELS);
}

static void call_aft_start(const heed_kernels *k)
{
    k->aft_start(ops.weighed, PANEL_ROW, MIXED_ROWS * PANEL_ROW, ops.sums, ops.rescale, MIXED_ROWS, CHANNELS);
}

static void call_aft_refer(const heed_kernels *k) { k->aft_refer(ops.state, ops.rescale, CHANNELS); }

static void call_aft_gather(const heed_kernels *k)
{
    k->aft_gather(ops.state, ops.weighed, KEYS * PANEL_ROW, KEYS, CHANNELS);
}

static void call_aft_row(const heed_kernels *k) { k->aft_row(ops.y, ops.q, ops.state, CHANNELS); }

static void call_aft_ratio(const heed_kernels *k)
{
    k->aft_ratio(ops.y, ops.q, ops.sums, PANEL_ROW, CHANNELS, CHANNELS);
}

static void call_aft_move(const heed_kernels *k) { k->aft_move(ops.y, ops.x, ops.keys, CHANNELS); }

static void call_aft_weigh(const heed_kernels *k)
{
    int n_clean;
    k->aft_weigh(ops.weighed, KEYS * PANEL_ROW, ops.y, ops.keys, CHANNELS, ops.values, CHANNELS, KEYS, CHANNELS,
                 &n_clean);
}

static void call_transpose(const heed_kernels *k)
{
    k->transpose(ops.token_rows, LANES, ops.o, CHANNELS, LANES, CHANNELS);
}

static void call_mix_rows(const heed_kernels *k)
{
    k->mix_rows(ops.o, CHANNELS, ops.rescale, ops.p, KEYS, 1, ops.values, CHANNELS, KEYS, MIXED_ROWS, CHANNELS, NULL);
}

static void call_pool_rows(const heed_kernels *k)
{
    k->pool_rows(ops.o, CHANNELS, ops.keys, GROUP_TOKENS * CHANNELS, CHANNELS, NULL, 1.0f / GROUP_TOKENS, GROUP_TOKENS,
                 rows_of(k), CHANNELS, 0);
}

static void call_ask_rows(const heed_kernels *k) { k->ask_rows(ops.token_rows, CHANNELS, rows_of(k), CHANNELS); }

static void call_scale_rows(const heed_kernels *k)
{
    k->scale_rows(ops.o, CHANNELS, ops.rescale, MIXED_ROWS, CHANNELS);
}

static void call_tap_rows(const heed_kernels *k)
{
    k->tap_rows(ops.p, ops.m, 1, ops.s, ops.bias_rows, KEYS, rows_of(k));
}

static void call_ratio_rows(const heed_kernels *k)
{
    k->ratio_rows(ops.token_rows, CHANNELS, ops.q, CHANNELS, ops.sums, CHANNELS + 1, rows_of(k), CHANNELS);
}

static void call_favor_rows(const heed_kernels *k)
{
    memcpy(ops.token_rows, ops.o, sizeof(float) * (size_t)rows_of(k) * CHANNELS); /* the call is in place */
    k->favor_rows(ops.token_rows, FEATURE_PANEL * rows_of(k), NULL, 0.35f, 0, 0.125f, rows_of(k), CHANNELS);
}

static void call_dot_rows(const heed_kernels *k)
{
    k->dot_rows(ops.m, ops.q, CHANNELS, ops.rescale, 0, rows_of(k), CHANNELS);
}

static void call_divide_rows(const heed_kernels *k)
{
    k->divide_rows(ops.o, CHANNELS, ops.o, CHANNELS, ops.l, rows_of(k), CHANNELS);
}

static void call_finite_rows(const heed_kernels *k) { k->finite_rows(ops.keys, CHANNELS, rows_of(k), CHANNELS); }

static void call_prefix_tile(const heed_kernels *k) { k->prefix_tile(ops.s, ops.m, ops.end, KEYS, HEED_TILE_VECTORS); }

static void call_weigh_tile(const heed_kernels *k)
{
    k->weigh_tile(ops.s, ops.rescale, ops.l, ops.end, KEYS, HEED_TILE_VECTORS);
}

static void call_dot_tile(const heed_kernels *k) { k->dot_tile(ops.m, ops.s, ops.p, ops.end, KEYS, HEED_TILE_VECTORS); }

static void call_elu1_array(const heed_kernels *k) { k->elu1_array(ops.y, ops.x, ARRAY); }

static void call_relu_array(const heed_kernels *k) { k->relu_array(ops.y, ops.x, 0.35f, 1e-3f, ARRAY); }

static void call_softplus_array(const heed_kernels *k) { k->softplus_array(ops.y, ops.x, ARRAY); }

static void call_elu1_slope_array(const heed_kernels *k) { k->elu1_slope_array(ops.y, ops.x, ops.x, ARRAY); }

static void call_relu_slope_array(const heed_kernels *k) { k->relu_slope_array(ops.y, ops.x, ops.x, 0.35f, ARRAY); }

static void call_gate_slope_array(const heed_kernels *k) { k->gate_slope_array(ops.y, ops.x, ops.x, ops.x, ARRAY); }

static void call_favor_slope_array(const heed_kernels *k) { k->favor_slope_array(ops.y, ops.x, ops.x, 0.35f, ARRAY); }

static void call_gate_array(const heed_kernels *k) { k->gate_array(ops.y, ops.x, ops.x, ARRAY); }

static void call_stream_gate(const heed_kernels *k) { k->stream_gate(ops.y, ops.x, ops.x, ARRAY); }

static void call_stream_fence(const heed_kernels *k) { k->stream_fence(); }

static void call_blend_rows(const heed_kernels *k) { k->blend_rows(ops.y, ops.x, 0.25f, ops.y, 0.75f, ARRAY); }

/* ---- What a call does -------------------------------------------------------------------------------------------- */

/* Elements of the result: of a tile for one lane, of rows for one row, of an array all; of aft_keys,
 * aft_weigh, aft_gather and tap_rows the weights. */
enum {
    elements_exp2_array = ARRAY,
    elements_exp_array = ARRAY,
    elements_pack_tile = CHANNELS,
    elements_scores_tile = KEYS,
    elements_softcap_tile = KEYS,
    elements_bias_tile = KEYS,
    elements_alibi_tile = KEYS,
    elements_range_tile = KEYS,
    elements_visible_tile = KEYS,
    elements_softmax_tile = KEYS,
    elements_softmax_row = KEYS,
    elements_softmax_careful_tile = KEYS,
    elements_values_tile = CHANNELS,
    elements_values_careful_tile = CHANNELS,
    elements_output_tile = CHANNELS,
    elements_scores_rows = KEYS,
    elements_values_rows = CHANNELS,
    elements_values_careful_rows = CHANNELS,
    elements_output_rows = CHANNELS,
    elements_aft_keys = KEYS * CHANNELS,
    elements_aft_fold = 2 * CHANNELS,
    elements_aft_join = 3 * CHANNELS,
    elements_aft_start = 2 * CHANNELS,
    elements_aft_refer = CHANNELS,
    elements_aft_gather = KEYS * CHANNELS,
    elements_aft_row = CHANNELS,
    elements_aft_ratio = CHANNELS,
    elements_aft_move = CHANNELS,
    elements_aft_weigh = KEYS * CHANNELS,
    elements_mix_rows = CHANNELS,
    elements_pool_rows = CHANNELS,
    elements_transpose = LANES * CHANNELS,
    elements_ask_rows = CHANNELS,
    elements_scale_rows = CHANNELS,
    elements_tap_rows = KEYS,
    elements_ratio_rows = CHANNELS,
    elements_favor_rows = CHANNELS,
    elements_dot_rows = CHANNELS,
    elements_divide_rows = CHANNELS,
    elements_finite_rows = CHANNELS,
    elements_prefix_tile = KEYS,
    elements_weigh_tile = KEYS,
    elements_dot_tile = KEYS,
    elements_elu1_array = ARRAY,
    elements_relu_array = ARRAY,
    elements_softplus_array = ARRAY,
    elements_elu1_slope_array = ARRAY,
    elements_relu_slope_array = ARRAY,
    elements_gate_slope_array = ARRAY,
    elements_favor_slope_array = ARRAY,
    elements_gate_array = ARRAY,
    elements_stream_gate = ARRAY,
    elements_stream_fence = 1,
    elements_blend_rows = ARRAY
};

/* One slot of the list. */
typedef struct bench_slot {
    const char *name;
    void (*call)(const heed_kernels *k);
    int n_elements;
} bench_slot;

#define BENCH_SLOT(result, name, arguments) {#name, call_##name, elements_##name},
static const bench_slot slots[] = {HEED_KERNEL_LIST(BENCH_SLOT)};

enum { N_SLOTS = sizeof slots / sizeof slots[0], N_ISAS = 4 };

/* A slot on a tier. */
typedef struct bench_case {
    const bench_slot *slot;
    const bench_tier *tier;
    int is_denormal; /* its values, the weights of its keys and so all that it sums are denormal */
} bench_case;

static int is_array(const bench_slot *slot) { return slot->n_elements == ARRAY; }

static int starts_with(const bench_slot *slot, const char *prefix)
{
    return strncmp(slot->name, prefix, strlen(prefix)) == 0;
}

static int ends_with(const bench_slot *slot, const char *suffix)
{
    const size_t length = strlen(slot->name), n = strlen(suffix);
    return length >= n && strcmp(slot->name + length - n, suffix) == 0;
}

/* Multiply-adds count twice; a product of a block runs over KEYS x CHANNELS for each lane or row. */
static int is_product(const bench_slot *slot)
{
    return starts_with(slot, "scores_") || starts_with(slot, "values_") || starts_with(slot, "mix_");
}

/* Lanes of a tile, or rows, that a call works on. The name of a slot says which: all others have one row or array. */
static int lanes_of(const bench_slot *slot, const heed_kernels *k)
{
    if (is_array(slot))
        return 1;
    if (slot->call == call_mix_rows || slot->call == call_scale_rows || slot->call == call_aft_start)
        return MIXED_ROWS;
    return ends_with(slot, "_tile") ? k->tile_lanes : ends_with(slot, "_rows") ? rows_of(k) : 1;
}

/* Sets all operands to values that no number of calls drives out of range: weights and rescale below 1, scores near
 * 0, everything visible. */
static void fill_operands(void)
{
    for (int i = 0; i < ARRAY; i++) {
        ops.x[i] = -20.0f * (float)i / ARRAY;
        ops.y[i] = 0;
    }
    for (int i = 0; i < KEYS * CHANNELS; i++) {
        ops.keys[i] = (float)(i % 31 - 15) / 64;
        ops.values[i] = (float)(i % 29 - 14) / 64;
    }
    for (int i = 0; i < KEYS * LANES; i++) {
        ops.s[i] = (float)(i % 37 - 18) / 8;
        ops.p[i] = (float)(i % 41) / 41;
        ops.visible_rows[i] = 1;
        ops.bias_rows[i] = (float)(i % 3 - 1) / 8;
    }
    for (int i = 0; i < CHANNELS * LANES; i++) {
        ops.q[i] = (float)(i % 23 - 11) / 64;
        ops.token_rows[i] = ops.q[i];
        ops.o[i] = 0;
    }
    for (int i = 0; i < LANES * (CHANNELS + 1); i++)
        ops.sums[i] = (float)(1 + i % 7);
    for (int i = 0; i < CHANNELS; i++)
        ops.rescale[i] = 0.5f;
    for (int r = 0; r < LANES; r++) {
        ops.m[r] = 1;
        ops.l[r] = 1;
        ops.slope[r] = 0x1p-20f;
        ops.distance[r] = -KEYS;
        ops.begin[r] = 0;
        ops.end[r] = KEYS;
        ops.rows[r] = ops.token_rows + r * CHANNELS;
        ops.bias[r] = ops.bias_rows + r * KEYS;
        ops.see[r] = ops.visible_rows + r * KEYS;
    }
    /* No key seen. The sums stop growing when a weight is less than half an ulp of them. */
    for (int i = 0; i < AFT_STATE_ROWS * CHANNELS; i++)
        ops.state[i] = i < CHANNELS ? -HUGE_VALF : 0;
}

/* Where processors take denormals by a slow path it is seen here. */
static int takes_values(const bench_slot *slot)
{
    return slot->call == call_values_tile || slot->call == call_values_rows || slot->call == call_mix_rows;
}

static void make_denormal(void)
{
    for (int i = 0; i < KEYS * CHANNELS; i++)
        ops.values[i] *= 0x1p-130f;
    for (int i = 0; i < KEYS * LANES; i++)
        ops.p[i] = i % 2 ? ops.p[i] : ops.p[i] * 0x1p-130f;
}

static void run_case(shim_state *state, const void *argument)
{
    const bench_case *c = argument;
    const heed_kernels *kernels = c->tier->kernels;
    fill_operands();
    if (c->is_denormal)
        make_denormal();
    double n_calls = 0;
    const double start = clock_seconds();
    while (shim_keep_running(state)) {
        c->slot->call(kernels);
        n_calls++;
    }
    const double seconds = clock_seconds() - start;
    const double lanes = lanes_of(c->slot, kernels);
    shim_set_rate(state, "elements", lanes * c->slot->n_elements);
    if (is_product(c->slot)) {
        const double flops = 2.0 * lanes * KEYS * CHANNELS;
        shim_set_rate(state, "flops", flops);
        shim_set_value(state, "share_of_fma", flops * n_calls / seconds * 1e-9 / c->tier->fma_gflops);
    }
}

/* ---- The program ------------------------------------------------------------------------------------------------- */

static void register_case(bench_case *c, const bench_slot *slot, const bench_tier *tier, int is_denormal)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%s%s", slot->name, tier->kernels->isa, is_denormal ? "/denormal" : "");
    *c = (bench_case){slot, tier, is_denormal};
    shim_register(name, run_case, c);
}

/* Registers all slots of one instruction set; 0 where this machine does not have it. */
static int register_tier(heed_isa isa, machine *m, bench_tier *tier, bench_case cases[2 * N_SLOTS])
{
    tier->kernels = heed_isa_kernels(isa);
    if (!tier->kernels)
        return 0;
    for (int i = 0; i < 10; i++)
        (void)machine_take_fma(m, isa, 1); /* needs no memory: the machine took this rate when it was made */
    tier->fma_gflops = machine_fma_gflops(m, isa, 1);
    for (int i = 0; i < N_SLOTS; i++) {
        register_case(&cases[2 * i], &slots[i], tier, 0);
        if (takes_values(&slots[i]))
            register_case(&cases[2 * i + 1], &slots[i], tier, 1);
    }
    char label[64], rate[32];
    snprintf(label, sizeof label, "fma_gflops/%s", heed_isa_name(isa));
    snprintf(rate, sizeof rate, "%.1f", tier->fma_gflops);
    shim_add_context(label, rate);
    return 1;
}

int main(int argc, char **argv)
{
    static bench_tier tiers[N_ISAS];
    static bench_case cases[N_ISAS][2 * N_SLOTS];
    machine *m = machine_create(1);
    if (!m) {
        fprintf(stderr, "bench_kernels: out of memory\n");
        return 1;
    }
    int n_tiers = 0;
    for (heed_isa isa = HEED_ISA_SCALAR; isa <= HEED_ISA_NEON; isa++)
        n_tiers += register_tier(isa, m, &tiers[n_tiers], cases[n_tiers]);
    const int result = shim_run(argc, argv);
    machine_destroy(m);
    return result;
}
