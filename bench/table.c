#include "bench/table.h"

#include "bench/check.h"
#include "bench/linear_input.h"
#include "bench/mrsha_input.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static void print_machine(const machine *m)
{
    printf("heed-compare %s: %s, %d core%s; %s; %s\n", HEED_VERSION, machine_cpu(m), machine_n_cores(m),
           machine_n_cores(m) == 1 ? "" : "s", machine_compiler(), machine_blas());
    printf("one thread: FMA");
    const char *comma = " ";
    for (heed_isa isa = HEED_ISA_SCALAR; isa <= HEED_ISA_NEON; isa++) {
        const double gflops = machine_fma_gflops(m, isa, 1);
        if (gflops > 0) {
            printf("%s%s %.0f", comma, heed_isa_name(isa), gflops);
            comma = ", ";
        }
    }
    const machine_reads reads = machine_read_gbytes(m);
    printf(" GFLOP/s; exp %.1f G/s; read L2 %.0f, L3 %.0f, DRAM %.0f GB/s\n", machine_exp_gops(m), reads.l2, reads.l3,
           reads.dram);
}

static void print_window_side(const char *side, int64_t size)
{
    if (size >= 0)
        printf(", window %s %" PRId64, side, size);
}

/* What the forms of AFT that run were asked for. */
static void print_aft(const aft_settings *aft)
{
    const unsigned local = variant_aft_local.kinds.aft;
    if (aft->forms & local)
        printf(", AFT window %" PRId64, aft->window);
    if (aft->forms & (local | variant_aft_full.kinds.aft) && aft->n_factors > 0)
        printf(", AFT w of %" PRId64 " factors", aft->n_factors);
    if (!(aft->forms & variant_aft_conv.kinds.aft))
        return;
    printf(", AFT filters %" PRId64 " x ", aft->conv_heads);
    if (aft->grid_width > 0)
        printf("%" PRId64 "x%" PRId64 " on a grid of %" PRId64 "x%" PRId64, aft->filter_rows, aft->filter_columns,
               aft->grid_height, aft->grid_width);
    else
        printf("%" PRId64, aft->filter_columns);
}

/* What linear attention was asked for. */
static void print_linear(const linear_settings *linear)
{
    const unsigned layered = 1u << LINEAR_OGLU | 1u << LINEAR_AOGLU;
    if (linear->n_features > 0)
        printf(", linear C %" PRId64, linear->n_features);
    if ((linear->kinds & layered) != 0 && linear->n_layers > 0)
        printf(", %" PRId64 " layer%s", linear->n_layers, linear->n_layers == 1 ? "" : "s");
}

/* What mrsha was asked for. */
static void print_mrsha(const mrsha_settings *mrsha)
{
    if (!(mrsha->kinds & variant_mrsha.kinds.mrsha))
        return;
    printf(", mrsha ");
    for (int i = 0; i < mrsha->n_group_sizes; i++)
        printf("%s%" PRId64, i == 0 ? "" : ",", mrsha->group_sizes[i]);
    printf("%s, mode %s", mrsha->n_group_sizes == 0 ? "half 1, half 2" : "", mrsha_mode_name(mrsha->mode));
}

/* Each mechanism is checked on as many rows as its reference allows. The first `n` rows of the list share an input. */
static void print_n_checked(const compare_row *rows, int n)
{
    int64_t fewest = rows[0].rows_checked, most = rows[0].rows_checked;
    for (int i = 1; i < n; i++) {
        fewest = rows[i].rows_checked < fewest ? rows[i].rows_checked : fewest;
        most = rows[i].rows_checked > most ? rows[i].rows_checked : most;
    }
    printf("; errors of %" PRId64, fewest);
    if (most > fewest)
        printf(" to %" PRId64, most);
    printf(" of %" PRId64 " rows\n", check_count_rows(rows[0].setup.input));
}

static void print_input(const compare_row *rows, int n_left)
{
    const attention_input *input = rows[0].setup.input;
    const attention_shape *s = &input->shape;
    printf("\n%s: B %" PRId64 ", Hq %" PRId64 ", Hkv %" PRId64 ", Nq %" PRId64 ", Nk %" PRId64 ", D %" PRId64
           ", Dv %" PRId64 ", %s%s",
           input->name, s->batch, s->n_query_heads, s->n_kv_heads, s->n_queries, s->n_keys, s->n_channels,
           s->n_value_channels, input_layout_name(input->settings.layout), input->causal ? ", causal" : "");
    print_window_side("left", input->settings.window_left);
    print_window_side("right", input->settings.window_right);
    printf("%s%s", input->settings.bias ? ", bias" : "", input->settings.bool_mask ? ", boolean mask" : "");
    if (input->settings.steps)
        printf(", one token with a state");
    print_aft(&input->settings.aft);
    print_linear(&input->settings.linear);
    print_mrsha(&input->settings.mrsha);
    int n = 1;
    while (n < n_left && row_same_input(&rows[0], &rows[n]))
        n++;
    print_n_checked(rows, n);
    printf("  %-15s %-8s %-7s %7s %10s %10s %8s  %-22s %10s  %9s %9s %10s\n", "variant", "mode", "ISA", "threads", "ms",
           "x softmax", "GFLOP/s", "share of limit", "scratch", "max error", "rel error", "to softmax");
}

static void format_bytes(int64_t bytes, char *text, size_t size)
{
    if (bytes >= INT64_C(10) << 20)
        snprintf(text, size, "%.0f MiB", (double)bytes / (1 << 20));
    else
        snprintf(text, size, "%.0f KiB", (double)bytes / (1 << 10));
}

/* How many times as fast as softmax, or of gradients how many times as long as forward; nothing where that did not
 * run. */
static void format_ratio(const compare_row *row, const compare_row *rows, int n_rows, char *text, size_t size)
{
    const int backward = row->variant->result == RESULT_DQ;
    const compare_row *other = (backward ? row_find_forward : row_find_softmax)(row, rows, n_rows);
    if (!other)
        snprintf(text, size, "-");
    else if (backward)
        snprintf(text, size, "%.2f fwd", row->ms / other->ms);
    else
        snprintf(text, size, "%.2f", other->ms / row->ms);
}

static void print_row(const compare_row *row, const compare_row *rows, int n_rows, const machine *m)
{
    const row_rates rates = row_find_rates(row, m);
    char scratch[24], ratio[24], gflops[24] = "-", share[48], distance[24] = "-";
    format_bytes(row->scratch_bytes, scratch, sizeof scratch);
    if (row->variant->flops)
        snprintf(gflops, sizeof gflops, "%.1f", rates.gflops);
    if (row->variant->result == RESULT_OUT)
        snprintf(distance, sizeof distance, "%.1e", row->softmax_distance);
    format_ratio(row, rows, n_rows, ratio, sizeof ratio);
    snprintf(share, sizeof share, "%3.0f %% of %.0f %s", 100 * rates.share, rates.limit_value, rates.unit);
    printf("  %-15s %-8s %-7s %7d %10.*f %10s %8s  %-22s %10s  %9.1e %9.1e %10s\n", row->variant->name,
           row->variant->mode, heed_isa_name(row->setup.isa), row->setup.n_threads, row->ms < 0.1 ? 5 : 3, row->ms,
           ratio, gflops, share, scratch, row->max_abs_err, row->rel_err, distance);
}

/* Which heads are how far from softmax, where they differ in resolution. */
static void print_resolutions(const compare_row *row)
{
    for (int i = 0; i < row->n_resolutions && row->n_resolutions > 1; i++) {
        const row_resolution *resolution = &row->resolutions[i];
        char what[100], distance[24] = "-";
        snprintf(what, sizeof what, "S = %" PRId64 ": %" PRId64 " of %" PRId64 " heads", resolution->group_size,
                 resolution->n_heads, row->setup.input->shape.n_query_heads);
        if (!isnan(resolution->softmax_distance))
            snprintf(distance, sizeof distance, "%.1e", resolution->softmax_distance);
        printf("    %-125s %10s\n", what, distance); /* in the last column */
    }
}

/* What the columns mean that do not say so themselves. */
static void print_legend(const compare_row *rows, int n_rows)
{
    int others = 0, backward = 0, resolutions = 0;
    for (int i = 0; i < n_rows; i++) {
        others |= rows[i].variant->kinds.aft != 0 || rows[i].variant->kinds.linear != 0;
        backward |= rows[i].variant->result == RESULT_DQ;
        resolutions |= rows[i].n_resolutions > 0;
    }
    printf(
        "\nms: best of the rounds' medians. x softmax: how many times as fast. Errors: against the same mechanism in "
        "float64.\n");
    if (others || resolutions)
        printf("to softmax: |out - softmax| / |softmax|%s.\n",
               others ? "; what was not trained for it is far off" : "");
    if (resolutions)
        printf("S: tokens in a group; beneath a row, the same of the heads with each S alone.\n");
    if (backward)
        printf(
            "backward: gradients of q, k, v and all matrices, errors of that of q; fwd: times as long as forward.\n");
}

void table_print(const compare_row *rows, int n_rows, const machine *m)
{
    print_machine(m);
    for (int i = 0; i < n_rows; i++) {
        if (i == 0 || !row_same_input(&rows[i], &rows[i - 1]))
            print_input(&rows[i], n_rows - i);
        print_row(&rows[i], rows, n_rows, m);
        print_resolutions(&rows[i]);
    }
    print_legend(rows, n_rows);
}
