#include "bench/row.h"

/* One query row per head reads K and V once and does little with them. Everything else is arithmetic. */
int row_is_limited_by_bandwidth(const compare_row *row) { return row->setup.input->shape.n_queries == 1; }

row_rates row_find_rates(const compare_row *row, const machine *m)
{
    const attention_input *input = row->setup.input;
    const int bandwidth = row_is_limited_by_bandwidth(row);
    row_rates rates = {
        .gflops = row->variant->flops(input) / row->ms * 1e-6,
        .fma_gflops = machine_fma_gflops(m, row->setup.isa, row->setup.n_threads),
        .gbytes = row->variant->bytes(input) / row->ms * 1e-6,
        .bandwidth_gbytes = machine_row_read_gbytes(m, row_read_bytes(row), row->setup.n_threads),
        .limit = bandwidth ? "bandwidth" : "fma",
    };
    rates.limit_value = bandwidth ? rates.bandwidth_gbytes : rates.fma_gflops;
    rates.share = (bandwidth ? rates.gbytes : rates.gflops) / rates.limit_value;
    return rates;
}

int64_t row_read_bytes(const compare_row *row) { return (int64_t)row->variant->bytes(row->setup.input); }

const compare_row *row_find_softmax(const compare_row *row, const compare_row *rows, int n_rows)
{
    for (int i = 0; i < n_rows; i++)
        if (rows[i].variant == &variant_softmax && row_same_input(&rows[i], row) &&
            rows[i].setup.isa == row->setup.isa && rows[i].setup.n_threads == row->setup.n_threads)
            return &rows[i];
    return NULL;
}

int row_same_input(const compare_row *a, const compare_row *b) { return a->setup.input == b->setup.input; }
