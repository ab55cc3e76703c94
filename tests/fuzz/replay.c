/* Runs a fuzz target without libFuzzer, on bytes made from seeds:
 *
 *     PROGRAM [first seed [number of seeds]]
 *
 * so that every compiler and every instruction set goes through the same cases. The seed is printed where one fails. */
#define _DEFAULT_SOURCE
#include "support/random.h"
#include "support/runner.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_BYTES = 192 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Which seed it is, made before each case: the handler of a signal may write, but not format. */
static char seed_text[80];
static size_t seed_bytes;

static void say_seed(long long seed)
{
    const int n = snprintf(seed_text, sizeof seed_text, "seed %lld, HEED_TEST_SEED=%llu\n", seed,
                           (unsigned long long)random_seed());
    seed_bytes = n > 0 ? (size_t)n : 0;
}

/* On abort(). */
static void print_seed(int signal_number)
{
    if (write(STDERR_FILENO, seed_text, seed_bytes) < 0)
        _exit(2);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int main(int n_arguments, char **arguments)
{
    runner_require_isa();
    const long long first = n_arguments > 1 ? atoll(arguments[1]) : 0;
    const long long n_seeds = n_arguments > 2 ? atoll(arguments[2]) : runner_quick() ? 1000 : 10000;
    signal(SIGABRT, print_seed);
    printf("HEED_TEST_SEED=%llu\n", (unsigned long long)random_seed());
    for (long long seed = first; seed < first + n_seeds; seed++) {
        say_seed(seed);
        uint8_t bytes[N_BYTES];
        random_stream random = random_start((uint64_t)seed);
        for (int i = 0; i < N_BYTES; i++)
            bytes[i] = (uint8_t)(random_bits(&random) >> 24);
        LLVMFuzzerTestOneInput(bytes, N_BYTES);
    }
    printf("%lld cases from seed %lld on\n", n_seeds, first);
    return 0;
}
