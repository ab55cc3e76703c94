/* heed-compare: attention variants side by side on the same input.
 *
 * For each input: make it, time its rows in interleaved rounds, compare the outputs with float64. Everything is printed
 * at the end, since every share is of the largest rate of the whole run. */
#include "bench/chart.h"
#include "bench/check.h"
#include "bench/json.h"
#include "bench/machine.h"
#include "bench/memory.h"
#include "bench/options.h"
#include "bench/outputs.h"
#include "bench/parallel.h"
#include "bench/progress.h"
#include "bench/table.h"

#include <stdio.h>
#include <stdlib.h>

/* All that main holds. */
typedef struct comparison {
    compare_options options;
    machine *machine;
    attention_input *inputs[OPTIONS_MAX_SOURCES];
    compare_row *rows; /* those of input i start at i * rows_per_input */
    int rows_per_input, n_rows;
    char message[1500];
} comparison;

/* ---- One input -------------------------------------------------------------------------------------------------- */

static int make_rows(comparison *c, const attention_input *input, compare_row *rows)
{
    const compare_options *o = &c->options;
    const attention_shape *s = &input->shape;
    int n = 0;
    for (int isa = 0; isa < o->n_isas; isa++) {
        for (int t = 0; t < o->n_threads; t++) {
            for (int v = 0; v < o->n_variants; v++) {
                const int64_t n_channels = variant_n_channels(o->variants[v], input);
                float *out = memory_allocate_floats(s->batch, s->n_query_heads, s->n_queries, n_channels);
                if (!out) {
                    snprintf(c->message, sizeof c->message, "out of memory for the outputs");
                    return -1;
                }
                rows[n++] = (compare_row){.variant = o->variants[v],
                                          .setup = {.input = input,
                                                    .isa = o->isas[isa],
                                                    .n_threads = o->threads[t],
                                                    .out = input_output_view(input, n_channels, out)}};
            }
        }
    }
    return 0;
}

/* Several inputs write their outputs into folders of their names. */
static int write_outputs(comparison *c, const attention_input *input, const compare_row *rows)
{
    char folder[1024];
    snprintf(folder, sizeof folder, "%s%s%s", c->options.out_folder, c->options.n_sources > 1 ? "/" : "",
             c->options.n_sources > 1 ? input->name : "");
    return outputs_write(folder, rows, c->rows_per_input, c->message, sizeof c->message);
}

static int run_rows(comparison *c, const attention_input *input, compare_row *rows, progress *bar)
{
    if (make_rows(c, input, rows) != 0 ||
        rounds_run(rows, c->rows_per_input, &c->options.rounds, c->machine, bar, c->message, sizeof c->message) != 0)
        return -1;
    progress_step(bar, "comparing with float64");
    const int n_threads = parallel_available() ? machine_n_cores(c->machine) : 1;
    if (check_rows(rows, c->rows_per_input, n_threads) != 0) {
        snprintf(c->message, sizeof c->message, "out of memory for the reference");
        return -1;
    }
    return c->options.out_folder ? write_outputs(c, input, rows) : 0;
}

static int run_input(comparison *c, int index, progress *bar)
{
    compare_row *rows = c->rows + (ptrdiff_t)index * c->rows_per_input;
    attention_input *input =
        input_create(&c->options.sources[index], &c->options.settings, c->message, sizeof c->message);
    c->inputs[index] = input;
    if (!input)
        return -1;
    const int result = run_rows(c, input, rows, bar);
    for (int i = 0; i < c->rows_per_input; i++) {
        free(rows[i].setup.out.data);
        rows[i].setup.out.data = NULL;
    }
    return result;
}

/* ---- The run ---------------------------------------------------------------------------------------------------- */

static int start(comparison *c)
{
    const compare_options *o = &c->options;
    c->rows = calloc((size_t)c->n_rows, sizeof *c->rows);
    c->machine = c->rows ? machine_create(o->quick) : NULL;
    if (!c->machine) {
        snprintf(c->message, sizeof c->message, "out of memory");
        return -1;
    }
    return 0;
}

static int run_inputs(comparison *c)
{
    const compare_options *o = &c->options;
    if (o->svg_path && chart_check_gnuplot(c->message, sizeof c->message) != 0)
        return -1; /* before anything is measured, not after */
    c->rows_per_input = o->n_isas * o->n_threads * o->n_variants;
    c->n_rows = c->rows_per_input * o->n_sources;
    const int steps_per_input = c->rows_per_input * (o->rounds.n_rounds + 1) + 1;
    progress bar = progress_start(1 + o->n_sources * steps_per_input);
    progress_step(&bar, "measuring the machine");
    int result = start(c);
    for (int i = 0; i < o->n_sources && result == 0; i++)
        result = run_input(c, i, &bar);
    progress_end(&bar);
    return result;
}

static int report(comparison *c)
{
    const compare_options *o = &c->options;
    table_print(c->rows, c->n_rows, c->machine);
    if (o->json_path && json_write(o->json_path, c->rows, c->n_rows, c->machine, c->message, sizeof c->message) != 0)
        return -1;
    if (!o->svg_path)
        return 0;
    return chart_write(o->svg_path, c->rows, c->n_rows, o->sweep, c->machine, c->message, sizeof c->message);
}

int main(int argc, char **argv)
{
    static comparison c;
    options_parse(argc, argv, &c.options);
    const int result = run_inputs(&c) == 0 ? report(&c) : -1;
    if (result != 0)
        fprintf(stderr, "heed-compare: %s\n", c.message);
    for (int i = 0; i < c.options.n_sources; i++)
        input_destroy(c.inputs[i]);
    machine_destroy(c.machine);
    free(c.rows);
    options_release(&c.options);
    return result == 0 ? 0 : 1;
}
