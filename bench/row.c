#include "bench/row.h"

/* One query row per head reads K and V once and does little with them, whatever the variant. */
limit_kind row_limit(const compare_row *row)
{
    return row->setup.input->shape.n_queries == 1 ? LIMIT_BANDWIDTH : row->variant->limit;
}

row_rates row_find_rates(const compare_row *row, const machine *m)
{
    static const char *const names[] = {"fma", "bandwidth", "streams"};
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
    rates.limit_value = limit == LIMIT_FMA         ? rates.fma_gflops
                        : limit == LIMIT_BANDWIDTH ? rates.bandwidth_gbytes
                                                   : machine_row_streams_gbytes(m, row_bytes(row), n_threads);
    rates.share = (limit == LIMIT_FMA ? rates.gflops : rates.gbytes) / rates.limit_value;
    return rates;
}

int64_t row_bytes(const compare_row *row) { return (int64_t)row->variant->bytes(row->setup.input); }

const compare_row *row_find_softmax(const compare_row *row, const compare_row *rows, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        if (rows[i].variant == &variant_softmax && row_same_input(&rows[i], row) &&
            rows[i].setup.isa == row->setup.isa && rows[i].setup.n_threads == row->setup.n_threads)
            return &rows[i];
    return NULL;
}

int row_same_input(const compare_row *a, const compare_row *b) { return a->setup.input == b->setup.input; }
