#include "bench/row.h"

/* One query row per head reads K and V once and does little with them; but linear attention makes features of them. */
limit_kind row_limit(const compare_row *row)
{
    const int is_linear = row->variant->kinds.linear != 0;
    return row->setup.input->shape.n_queries == 1 && !is_linear ? LIMIT_BANDWIDTH : row->variant->limit;
}

static double find_limit_value(const compare_row *row, const machine *m, const row_rates *rates)
{
    switch (row_limit(row)) {
    case LIMIT_FMA:
        return rates->fma_gflops;
    case LIMIT_STREAMS:
        return machine_row_streams_gbytes(m, row_bytes(row), row->setup.n_threads);
    case LIMIT_UPDATE:
        return machine_row_update_gbytes(m, row_bytes(row), row->setup.n_threads);
    case LIMIT_BANDWIDTH:
    default:
        return rates->bandwidth_gbytes;
    }
}

row_rates row_find_rates(const compare_row *row, const machine *m)
{
    static const char *const names[] = {"fma", "bandwidth", "streams", "update"};
    const variant *v = row->variant;
    const int n_threads = row->setup.n_threads;
    const limit_kind limit = row_limit(row);
    row_rates rates = {
        .gflops = v->flops ? v->flops(row->setup.input) / row->ms * 1e-6 : 0,
        .fma_gflops = machine_fma_gflops(m, row->setup.isa, n_threads),
        .gbytes = v->bytes(row->setup.input) / row->ms * 1e-6,
        .bandwidth_gbytes = machine_row_read_gbytes(m, row_bytes(row), n_threads),
        .limit = names[limit],
        .unit = limit == LIMIT_FMA ? "GFLOP/s" : "GB/s",
    };
    rates.limit_value = find_limit_value(row, m, &rates);
    rates.share = (limit == LIMIT_FMA ? rates.gflops : rates.gbytes) / rates.limit_value;
    return rates;
}

int64_t row_bytes(const compare_row *row)
{
    const double bytes = row->variant->bytes(row->setup.input);
    return (int64_t)(row_limit(row) == LIMIT_UPDATE ? bytes / 2 : bytes);
}

/* Rows that differ in their variants only. */
static int is_beside(const compare_row *a, const compare_row *b)
{
    return row_same_input(a, b) && a->setup.isa == b->setup.isa && a->setup.n_threads == b->setup.n_threads;
}

const compare_row *row_find_softmax(const compare_row *row, const compare_row *rows, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        if (rows[i].variant == &variant_softmax && is_beside(&rows[i], row))
            return &rows[i];
    return NULL;
}

const compare_row *row_find_forward(const compare_row *row, const compare_row *rows, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        if (rows[i].variant->backward == row->variant && is_beside(&rows[i], row))
            return &rows[i];
    return NULL;
}

int row_same_input(const compare_row *a, const compare_row *b) { return a->setup.input == b->setup.input; }
