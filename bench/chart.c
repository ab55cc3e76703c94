#include "bench/chart.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Colours that differ for colour-blind eyes too, by the variant's place in the list. */
static const char *const colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9",
                                      "#d55e00", "#000000", "#f0e442", "#882255", "#44aa99",
                                      "#999933", "#888888", "#661100", "#6699cc", "#117733"};

enum { N_COLOURS = sizeof colours / sizeof colours[0] };

int chart_check_gnuplot(char *message, size_t message_bytes)
{
    const char *folders = getenv("PATH");
    while (folders && *folders != '\0') {
        const int length = (int)strcspn(folders, ":");
        char program[1024];
        snprintf(program, sizeof program, "%.*s/gnuplot", length, folders);
        if (access(program, X_OK) == 0)
            return 0;
        folders += length + (folders[length] == ':');
    }
    snprintf(message, message_bytes,
             "--svg draws with gnuplot, which is not on PATH (Debian: apt-get install "
             "gnuplot-nox)");
    return -1;
}

/* ---- Text for gnuplot ------------------------------------------------------------------------------------------- */

/* A quoted string; inside single quotes only the quote itself is special. */
static void put_quoted(FILE *script, const char *text)
{
    fputc('\'', script);
    for (; *text != '\0'; text++)
        fprintf(script, *text == '\'' ? "''" : "%c", *text);
    fputc('\'', script);
}

static const char *find_colour(const variant *v)
{
    int place = 0;
    while (strcmp(variant_list[place]->name, v->name) != 0)
        place++;
    return colours[place % N_COLOURS];
}

/* Are there rows with more than one instruction set? */
static int has_several_isas(const compare_row *rows, int n_rows)
{
    for (int i = 1; i < n_rows; i++)
        if (rows[i].setup.isa != rows[0].setup.isa)
            return 1;
    return 0;
}

/* What distinguishes a row in a chart: "softmax avx2, 2 threads". `separator` stands after the variant. */
static void format_label(const compare_row *row, int with_isa, const char *separator, char *text, size_t size)
{
    const int backward = row->variant->result == RESULT_DQ;
    snprintf(text, size, "%s%s%s%s%s%d thread%s", row->variant->name, backward ? " backward" : "", with_isa ? " " : "",
             with_isa ? heed_isa_name(row->setup.isa) : "", separator, row->setup.n_threads,
             row->setup.n_threads == 1 ? "" : "s");
}

static void format_shape(const attention_input *input, int with_n, char *text, size_t size)
{
    const attention_shape *s = &input->shape;
    char n[64] = "";
    if (with_n)
        snprintf(n, sizeof n, ", Nq %" PRId64 ", Nk %" PRId64, s->n_queries, s->n_keys);
    snprintf(text, size, "B %" PRId64 ", heads %" PRId64 " / %" PRId64 "%s, D %" PRId64 ", Dv %" PRId64 "%s", s->batch,
             s->n_query_heads, s->n_kv_heads, n, s->n_channels, s->n_value_channels, input->causal ? ", causal" : "");
}

/* ---- Bars: one line of panels for each input --------------------------------------------------------------------- */

/* More bars than this have labels that stand upright: side by side they would cover each other. */
enum { MAX_PLAIN_BARS = 6 };

static int has_upright_labels(const compare_row *rows, int n_rows)
{
    int n = 0;
    while (n < n_rows && row_same_input(&rows[n], &rows[0]))
        n++;
    return n > MAX_PLAIN_BARS;
}

static void put_bar_data(FILE *script, const compare_row *rows, int n_rows, int with_isa)
{
    const char *separator = has_upright_labels(rows, n_rows) ? ", " : "\\n";
    fprintf(script, "$rows << END\n");
    for (int i = 0; i < n_rows; i++) {
        char label[128];
        format_label(&rows[i], with_isa, separator, label, sizeof label);
        fprintf(script, "\"%s\" %.6g %.6g 0x%s\n", label, rows[i].ms, rows[i].max_abs_err,
                find_colour(rows[i].variant) + 1);
    }
    fprintf(script, "END\n");
}

/* Two lines: what is shown, and of which input. */
static void put_title(FILE *script, const char *what, const attention_input *input, int with_n)
{
    char shape[200], name[300];
    format_shape(input, with_n, shape, sizeof shape);
    snprintf(name, sizeof name, "%s%s",
             with_n                  ? input->name
             : input->settings.steps ? "N = Nk"
                                     : "N = Nq = Nk",
             with_n ? ": " : ", ");
    fprintf(script, "set title ");
    put_quoted(script, what);
    fprintf(script, ".\"\\n\".");
    put_quoted(script, name);
    fprintf(script, ".");
    put_quoted(script, shape);
    fprintf(script, "\n");
}

/* Whole decades round all errors, with room above the largest one; an error of 0 has no place on a log axis. */
static void put_error_axis(FILE *script, const compare_row *rows, int n_rows)
{
    double smallest = 1e-7, largest = 1e-7;
    for (int i = 0; i < n_rows; i++) {
        const double error = rows[i].max_abs_err;
        smallest = error > 0 && error < smallest ? error : smallest;
        largest = error > largest ? error : largest;
    }
    fprintf(script, "set logscale y\nset format y '1e%%T'\nset yrange [1e%.0f:1e%.0f]\nset offsets 0,0,0,0\n",
            floor(log10(smallest)) - 1, floor(log10(largest)) + 2);
}

static void put_bar_panels(FILE *script, const compare_row *rows, int n_rows, int with_isa)
{
    const attention_input *input = rows[0].setup.input;
    const char *of_values = has_upright_labels(rows, n_rows) ? "rotate left offset 0,0.3" : "offset 0,0.7";
    put_bar_data(script, rows, n_rows, with_isa);
    fprintf(script, "set xrange [-0.6:%d.6]\n", n_rows - 1);

    put_title(script, "Time in ms (less is better)", input, 1);
    fprintf(script, "unset logscale y\nset format y '%%g'\nset yrange [0:*]\nset offsets 0,0,graph 0.25,0\n");
    fprintf(script,
            "plot $rows using 0:2:4:xtic(1) with boxes lc rgb variable notitle, "
            "$rows using 0:2:(sprintf('%%.3g', $2)) with labels %s notitle\n",
            of_values);

    put_title(script, "Largest error against float64", input, 1);
    put_error_axis(script, rows, n_rows);
    fprintf(script,
            "plot $rows using 0:3:4:xtic(1) with boxes lc rgb variable notitle, "
            "$rows using 0:3:(sprintf('%%.1e', $3)) with labels %s notitle\n",
            of_values);
}

static void put_bars(FILE *script, const compare_row *rows, int n_rows)
{
    const int with_isa = has_several_isas(rows, n_rows);
    fprintf(
        script,
        "set style fill solid 0.9 noborder\nset boxwidth 0.6\nset bmargin %s\nset grid ytics lt 1 lc rgb '#dddddd'\n",
        has_upright_labels(rows, n_rows) ? "13\nset xtics rotate by 90 right" : "3.5");
    for (int first = 0, last = 0; first < n_rows; first = last) {
        while (last < n_rows && row_same_input(&rows[first], &rows[last]))
            last++;
        put_bar_panels(script, rows + first, last - first, with_isa);
    }
}

static int count_inputs(const compare_row *rows, int n_rows)
{
    int n = 1;
    for (int i = 1; i < n_rows; i++)
        n += !row_same_input(&rows[i], &rows[i - 1]);
    return n;
}

/* ---- Lines: time and error over N -------------------------------------------------------------------------------- */

/* One line of a chart has the variant, instruction set and threads of one row of the first input. */
static int same_line(const compare_row *a, const compare_row *b)
{
    return a->variant == b->variant && a->setup.isa == b->setup.isa && a->setup.n_threads == b->setup.n_threads;
}

static int count_lines(const compare_row *rows, int n_rows)
{
    int n = 0;
    while (n < n_rows && row_same_input(&rows[n], &rows[0]))
        n++;
    return n;
}

static void put_line_data(FILE *script, const compare_row *rows, int n_rows, int n_lines)
{
    for (int line = 0; line < n_lines; line++) {
        fprintf(script, "$line%d << END\n", line);
        for (int i = 0; i < n_rows; i++) {
            if (same_line(&rows[i], &rows[line])) {
                fprintf(script, "%" PRId64 " %.6g %.6g\n", rows[i].setup.input->shape.n_keys, rows[i].ms,
                        rows[i].max_abs_err);
            }
        }
        fprintf(script, "END\n");
    }
}

/* More threads, longer dashes: the colour says which variant. */
static void put_line_plot(FILE *script, const compare_row *rows, int n_lines, int column, int with_isa)
{
    for (int line = 0; line < n_lines; line++) {
        char label[128];
        format_label(&rows[line], with_isa, ", ", label, sizeof label);
        int kind = 1;
        for (int earlier = 0; earlier < line; earlier++)
            kind += rows[earlier].variant == rows[line].variant;
        fprintf(script, "%s $line%d using 1:%d with linespoints lw 2 pt %d ps 0.7 dt %d lc rgb '%s' title ",
                line == 0 ? "plot" : ",", line, column, kind % 2 == 1 ? 7 : 6, kind, find_colour(rows[line].variant));
        put_quoted(script, label);
    }
    fprintf(script, "\n");
}

/* A log axis over N with a mark at every N of the sweep. */
static void put_sweep_axis(FILE *script, const compare_row *rows, int n_rows, int n_lines)
{
    double smallest = INFINITY, largest = 0;
    fprintf(script, "set logscale x\nset xlabel 'N'\nset xtics (");
    for (int i = 0; i < n_rows; i += n_lines) {
        const double n = (double)rows[i].setup.input->shape.n_keys;
        fprintf(script, "%s%.0f", i == 0 ? "" : ", ", n);
        smallest = fmin(smallest, n);
        largest = fmax(largest, n);
    }
    fprintf(script, ")\nset xrange [%g:%g]\n", smallest / 1.2, largest * 1.2);
}

static void put_lines(FILE *script, const compare_row *rows, int n_rows)
{
    const int n_lines = count_lines(rows, n_rows), with_isa = has_several_isas(rows, n_rows);
    const attention_input *input = rows[0].setup.input;
    put_line_data(script, rows, n_rows, n_lines);
    put_sweep_axis(script, rows, n_rows, n_lines);
    fprintf(script, "set grid lt 1 lc rgb '#dddddd'\nset key top left reverse Left samplen 3\n");
    put_title(script, "Time in ms (less is better)", input, 0);
    fprintf(script, "set logscale y\nset format y '%%g'\nset yrange [*:*]\n");
    put_line_plot(script, rows, n_lines, 2, with_isa);
    put_title(script, "Largest error against float64", input, 0);
    put_error_axis(script, rows, n_rows);
    fprintf(script, "unset key\n"); /* the first panel has it */
    put_line_plot(script, rows, n_lines, 3, with_isa);
}

/* ---- The picture ------------------------------------------------------------------------------------------------ */

static void put_script(FILE *script, const char *path, const compare_row *rows, int n_rows, int sweep, const machine *m)
{
    const int n_lines = sweep ? 1 : count_inputs(rows, n_rows);
    char title[256];
    snprintf(title, sizeof title, "heed %s on %s, %s", HEED_VERSION, machine_cpu(m), machine_compiler());
    fprintf(script, "set terminal svg size 1000,%d noenhanced font 'sans-serif,13' background rgb 'white'\nset output ",
            40 + (!sweep && has_upright_labels(rows, n_rows) ? 480 : 340) * n_lines);
    put_quoted(script, path);
    fprintf(script, "\nset multiplot layout %d,2 title ", n_lines);
    put_quoted(script, title);
    fprintf(script, "\nset border 3\nset xtics nomirror\nset ytics nomirror\nset tics scale 0.5\n");
    if (sweep)
        put_lines(script, rows, n_rows);
    else
        put_bars(script, rows, n_rows);
    fprintf(script, "unset multiplot\n");
}

int chart_write(const char *path, const compare_row *rows, int n_rows, int sweep, const machine *m, char *message,
                size_t message_bytes)
{
    signal(SIGPIPE, SIG_IGN); /* a gnuplot that ends early is an error of pclose, not the end of this program */
    FILE *script = popen("gnuplot", "w");
    if (!script) {
        snprintf(message, message_bytes, "gnuplot cannot be started");
        return -1;
    }
    put_script(script, path, rows, n_rows, sweep, m);
    if (pclose(script) != 0) {
        snprintf(message, message_bytes, "%s: gnuplot could not draw it", path);
        return -1;
    }
    return 0;
}
