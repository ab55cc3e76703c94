/* The command line of heed-compare. */
#ifndef HEED_BENCH_OPTIONS_H
#define HEED_BENCH_OPTIONS_H

#include "bench/input.h"
#include "bench/rounds.h"
#include "bench/variants.h"

enum { OPTIONS_MAX_SOURCES = 32, OPTIONS_MAX_VARIANTS = 32, OPTIONS_MAX_THREADS = 16, OPTIONS_MAX_ISAS = 4 };

typedef struct compare_options {
    input_source sources[OPTIONS_MAX_SOURCES];
    int n_sources;
    int sweep; /* the sources differ in N = Nq = Nk only */
    input_settings settings;
    const variant *variants[OPTIONS_MAX_VARIANTS];
    int n_variants;
    int threads[OPTIONS_MAX_THREADS];
    int n_threads;
    heed_isa isas[OPTIONS_MAX_ISAS];
    int n_isas;
    rounds_settings rounds;
    int quick;
    const char *json_path, *svg_path, *out_folder; /* NULL: not asked for */
} compare_options;

/* Reads the command line. Ends the program with a message and exit code 2 where it makes no sense. */
void options_parse(int argc, char **argv, compare_options *options);

void options_release(compare_options *options);

#endif
