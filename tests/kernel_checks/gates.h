/* Gates on results: queries of all kinds, and what gate_array makes of them. */
#ifndef HEED_TEST_KERNEL_GATES_H
#define HEED_TEST_KERNEL_GATES_H

#include "kernel_checks/cases.h"

float draw_gate(random_stream *random);

/* Queries, and what they make of results: the bits of gate_array. */
typedef struct gate_case {
    buffer q, out, want;
} gate_case;

gate_case make_gate_case(int64_t n, guard_side side, random_stream *random);
void gate_results(gate_case *g, const float *results);

/* Looks at the canaries of `out`, and that q is kept. */
void free_gate_case(gate_case *g);

#endif
