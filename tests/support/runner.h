/* What a test program needs to run heed: the instruction set it was asked for, contexts, hooks, and how much to test.
 *
 * HEED_ISA         the instruction set to test; unset: the best one of this machine
 * HEED_TEST_QUICK  set: run a sample of the cases (sanitizers, emulators)
 * HEED_TEST_SEED   see random.h */
#ifndef HEED_TEST_RUNNER_H
#define HEED_TEST_RUNNER_H

#include "heed.h"

/* First thing in main(): ends the program with 77 (skipped) when the machine lacks the instruction set, with 1 when
 * there is no such name. */
void runner_require_isa(void);

/* The instruction set under test, never AUTO. */
heed_isa runner_isa(void);

/* Lanes of the widest query tile on that instruction set: lengths are chosen around it. */
int64_t runner_tile_lanes(void);

/* 1 when only a sample of the cases should run. */
int runner_quick(void);

/* 0 for the cases that a quick run leaves out: all but every seventh. */
int runner_takes(int64_t case_index);

/* A context for the instruction set under test, with default scratch. hook may be NULL. Returns NULL when this build
 * has no threads of its own and n_threads > 1 without a hook asks for them; ends the program on any other failure. */
heed_context *runner_context(int n_threads, heed_parallel_for_fn hook);

/* Hooks. `pool` of all of them is an int, the number of workers, set by runner_context(). */
void hook_serial(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job);
void hook_reverse(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job);

/* In an order that jumps about, each task as another worker than the one before. */
void hook_scattered(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job);

/* Two threads, whatever the context was promised. */
void hook_fewer(void *pool, int64_t n_tasks, void (*task)(void *job, int64_t index, int worker), void *job);

/* Ways to run one problem that must all give the same bits. */
typedef struct runner_threading {
    const char *name;
    int n_threads;
    heed_parallel_for_fn hook;
} runner_threading;

enum { N_THREADINGS = 7 };
extern const runner_threading runner_threadings[N_THREADINGS];

#endif
