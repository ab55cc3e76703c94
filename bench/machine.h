/* What the machine can do: the ceilings that benchmarks are compared with.
 *
 * A rate taken in a bad moment makes every share too good. So rates are taken again and again during a run, and the
 * largest one counts. */
#ifndef HEED_BENCH_MACHINE_H
#define HEED_BENCH_MACHINE_H

#include "heed.h"

typedef struct machine machine;

/* Looks at the machine and takes its fixed rates: the FMA rate of every instruction set on one thread, exp, and read
 * bandwidth from L2, L3 and DRAM; in all about two seconds, most of it touching the DRAM buffer. `quick` takes rough
 * figures in a tenth of a second: short runs, and a DRAM buffer of 64 MiB. Returns NULL without memory. */
machine *machine_create(int quick);
void machine_destroy(machine *m);

/* Plain facts: the processor's name, the processors online, the compiler of this program. */
const char *machine_cpu(const machine *m);
int machine_n_cores(const machine *m);
const char *machine_compiler(void);

/* The BLAS that heed calls, or "none" in a build without. */
const char *machine_blas(void);

/* Billions of exp per second that heed's exp2_array does in L1, best instruction set, one thread. */
double machine_exp_gops(const machine *m);

/* GB/s (1e9 bytes) that one thread reads by a sum loop, best instruction set. The buffers: half of L2; 32 MiB, or 4 x
 * L2 where that is more, or half of a smaller L3; twice the L3 within 256 MiB .. 1 GiB and a quarter of the memory. */
typedef struct machine_reads {
    double l2, l3, dram;
} machine_reads;
machine_reads machine_read_gbytes(const machine *m);

/* Takes the FMA rate of an instruction set on that many threads once more (about 5 ms); nothing where the machine does
 * not have it. Returns -1 without memory, else 0. */
int machine_take_fma(machine *m, heed_isa isa, int n_threads);

/* GFLOP/s, two operations for one multiply-add: the largest rate taken so far, 0 when none was. */
double machine_fma_gflops(const machine *m, heed_isa isa, int n_threads);

/* Takes once more the read bandwidth of that many threads over `bytes` bytes, each thread its contiguous part. The
 * figure of a row is the loop over as many bytes as the row reads: what lies in a cache for one lies there for both.
 * Returns -1 without memory, else 0. */
int machine_take_read(machine *m, int64_t bytes, int n_threads);

/* GB/s: the largest rate taken so far for these bytes and threads, 0 when none was. */
double machine_row_read_gbytes(const machine *m, int64_t bytes, int n_threads);

/* The same for a loop that reads three arrays and writes a fourth past the caches, `bytes` bytes all together. */
int machine_take_streams(machine *m, int64_t bytes, int n_threads);
double machine_row_streams_gbytes(const machine *m, int64_t bytes, int n_threads);

/* The same for a loop that changes `bytes` bytes in place; each counts twice, as it is read and written. */
int machine_take_update(machine *m, int64_t bytes, int n_threads);
double machine_row_update_gbytes(const machine *m, int64_t bytes, int n_threads);

#endif
