#include "bench/rounds.h"

#include "bench/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* OpenBLAS's threads look for work for some 30 ms before they sleep. */
static const struct timespec pause_time = {.tv_sec = 0, .tv_nsec = 50000000};

/* ---- One cell --------------------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double find_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof values[0], compare_doubles);
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void rest(const compare_row *row)
{
    if (row->variant->needs_pause && row->setup.n_threads > 1)
        nanosleep(&pause_time, NULL);
}

/* One run; *seconds receives its time. */
static int run_once(const compare_row *row, double *seconds, char *message, size_t message_bytes)
{
    char reason[256];
    const double start = clock_seconds();
    const int result = row->variant->run(row->state, reason, sizeof reason);
    *seconds = clock_seconds() - start;
    if (result != 0)
        snprintf(message, message_bytes, "%s: %s", row->variant->name, reason);
    return result;
}

static int run_cell(compare_row *row, char *message, size_t message_bytes)
{
    double seconds[ROUNDS_MAX_REPEATS];
    for (int i = 0; i < row->n_repeats; i++)
        if (run_once(row, &seconds[i], message, message_bytes) != 0)
            return -1;
    const int n_calls = row->variant->n_calls > 0 ? row->variant->n_calls : 1;
    const double median_ms = 1e3 * find_median(seconds, row->n_repeats) / n_calls;
    row->ms = median_ms < row->ms ? median_ms : row->ms;
    rest(row);
    return 0;
}

/* ---- Before the rounds ------------------------------------------------------------------------------------------ */

/* Runs a row untimed until a cell's time is over: pages, caches and clocks settle, and the fastest run says how many
 * fill a cell. */
static int warm_up(compare_row *row, const rounds_settings *settings, char *message, size_t message_bytes)
{
    const double start = clock_seconds();
    double fastest = INFINITY;
    do {
        double seconds;
        if (run_once(row, &seconds, message, message_bytes) != 0)
            return -1;
        fastest = seconds < fastest ? seconds : fastest;
    } while (clock_seconds() - start < settings->cell_seconds);
    const double wanted = ceil(settings->cell_seconds / (fastest > 1e-7 ? fastest : 1e-7));
    row->n_repeats = settings->n_repeats > 0 ? settings->n_repeats : (int)fmin(wanted, ROUNDS_MAX_REPEATS);
    row->scratch_bytes = row->variant->scratch_bytes(row->state);
    return 0;
}

static int prepare_row(compare_row *row, const rounds_settings *settings, char *message, size_t message_bytes)
{
    char reason[256] = "";
    row->ms = INFINITY;
    row->state = row->variant->prepare(&row->setup, reason, sizeof reason);
    if (!row->state) {
        snprintf(message, message_bytes, "%s: %s", row->variant->name, reason);
        return -1;
    }
    const int result = warm_up(row, settings, message, message_bytes);
    rest(row);
    return result;
}

/* ---- Rounds ----------------------------------------------------------------------------------------------------- */

/* Takes the ceilings of every kind of row once more. */
static int take_ceilings(const compare_row *rows, int n_rows, machine *m, char *message, size_t message_bytes)
{
    for (int i = 0; i < n_rows; i++) {
        const int64_t bytes = row_bytes(&rows[i]);
        const int n_threads = rows[i].setup.n_threads;
        const limit_kind limit = row_limit(&rows[i]);
        int fma_taken = 0, read_taken = 0, limit_taken = limit != LIMIT_STREAMS && limit != LIMIT_UPDATE;
        for (int j = 0; j < i; j++) {
            const int same_threads = rows[j].setup.n_threads == n_threads;
            const int same_loop = same_threads && row_bytes(&rows[j]) == bytes;
            fma_taken |= same_threads && rows[j].setup.isa == rows[i].setup.isa;
            read_taken |= same_loop;
            limit_taken |= same_loop && row_limit(&rows[j]) == limit;
        }
        if (!fma_taken && machine_take_fma(m, rows[i].setup.isa, n_threads) != 0) {
            snprintf(message, message_bytes, "out of memory for the rates");
            return -1;
        }
        const int updates = limit == LIMIT_UPDATE;
        if ((!read_taken && machine_take_read(m, bytes, n_threads) != 0) ||
            (!limit_taken && (updates ? machine_take_update : machine_take_streams)(m, bytes, n_threads) != 0)) {
            snprintf(message, message_bytes, "out of memory for the bandwidth loops");
            return -1;
        }
    }
    return 0;
}

/* Round 0 prepares and warms up. */
static void describe(const compare_row *row, int round, int n_rounds, char *text, size_t size)
{
    char when[48] = "warming up";
    if (round > 0)
        snprintf(when, sizeof when, "round %d of %d", round, n_rounds);
    snprintf(text, size, "%.12s, %.12s, %s, %d thread%s, %s", row->setup.input->name, row->variant->name,
             heed_isa_name(row->setup.isa), row->setup.n_threads, row->setup.n_threads == 1 ? "" : "s", when);
}

static int run_rounds(compare_row *rows, int n_rows, const rounds_settings *settings, machine *m, progress *bar,
                      char *message, size_t message_bytes)
{
    for (int round = 0; round <= settings->n_rounds; round++) {
        for (int i = 0; i < n_rows; i++) {
            char text[128];
            describe(&rows[i], round, settings->n_rounds, text, sizeof text);
            progress_step(bar, text);
            const int result = round == 0 ? prepare_row(&rows[i], settings, message, message_bytes)
                                          : run_cell(&rows[i], message, message_bytes);
            if (result != 0)
                return -1;
        }
        if (take_ceilings(rows, n_rows, m, message, message_bytes) != 0)
            return -1;
    }
    return 0;
}

rounds_settings rounds_default(int quick)
{
    return (rounds_settings){.n_rounds = quick ? 1 : 5, .cell_seconds = quick ? 2e-3 : 40e-3};
}

int rounds_run(compare_row *rows, int n_rows, const rounds_settings *settings, machine *m, progress *bar, char *message,
               size_t message_bytes)
{
    const int result = run_rounds(rows, n_rows, settings, m, bar, message, message_bytes);
    for (int i = 0; i < n_rows; i++) {
        if (!rows[i].state)
            continue;
        if (result == 0 && rows[i].variant->finish)
            rows[i].variant->finish(rows[i].state);
        rows[i].variant->release(rows[i].state);
        rows[i].state = NULL;
    }
    return result;
}
