/* The way of a case, the same in all fuzz targets: it is made from bytes, judged by the rules of heed.h, run, and
 * looked at. A call that is right by the rules succeeds and writes nothing but the elements of its outputs; any other
 * one fails, says why, and changes nothing.
 *
 * Built with -fsanitize=fuzzer a target is one of libFuzzer; with replay.c it runs cases made from seeds. */
#ifndef HEED_FUZZ_TARGET_H
#define HEED_FUZZ_TARGET_H

#include "fuzz_parts.h"
#include "support/compare.h"

/* Each target has its own, and in it what its call points to. */
typedef struct fuzz_case fuzz_case;

/* The part that all of them have. */
typedef struct case_memory {
    const heed_tensor *tensors;
    const memory_block *blocks; /* of a tensor that shares another one's block, or that is not used: empty */
    int n_tensors;
    int shares_block; /* something that is written was moved into the block of another tensor */
    int threads;      /* which of the contexts runs the call */
} case_memory;

/* ---- What a target says of its cases ---- */

extern const size_t case_bytes;

/* From a case of zeros. Returns 0 when the bytes make none that is worth running; its blocks are given back in any
 * event. */
int make_case(fuzz_case *c, byte_reader reader);

case_memory memory_of(const fuzz_case *c);

/* Whether the call sees this tensor, and whether it writes it, if so. */
int is_used(const fuzz_case *c, int t);
int is_written(const fuzz_case *c, int t);

/* What heed.h says of the arguments: 1 when the call must succeed. */
int is_valid(const fuzz_case *c);

heed_status run_call(const fuzz_case *c);

/* Runs a valid case by expect_success(), and looks at its results. */
void check_valid(const fuzz_case *c);

void print_case(const fuzz_case *c);

/* ---- What it can use ---- */

/* Prints what was wrong, and the case, and ends the program. */
_Noreturn void fail_case(const fuzz_case *c, const char *what, const char *details);

void expect_equal(const fuzz_case *c, const char *name, compare_result result);

/* Remembers the blocks and runs the call. */
void expect_success(const fuzz_case *c);

/* The call has just succeeded with no more scratch for each worker than a function tells: its status, its bytes. */
void expect_told_scratch(const fuzz_case *c, heed_status status, int64_t bytes);

/* 1 when nothing that is written shares an element with another tensor of the call. */
int are_outputs_apart(const fuzz_case *c);

/* Prints the tensors that are used; names[t], or `other` from n_names on. */
void print_tensors(const fuzz_case *c, const char *const *names, int n_names, const char *other);

#endif
