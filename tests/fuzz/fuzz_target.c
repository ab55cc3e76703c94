#include "fuzz_target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

void fail_case(const fuzz_case *c, const char *what, const char *details)
{
    fprintf(stderr, "%s: %s\n", what, details);
    print_case(c);
    abort();
}

void print_tensors(const fuzz_case *c, const char *const *names, int n_names, const char *other)
{
    const case_memory m = memory_of(c);
    for (int t = 0; t < m.n_tensors; t++)
        if (is_used(c, t))
            print_tensor(t < n_names ? names[t] : other, &m.tensors[t]);
}

void expect_equal(const fuzz_case *c, const char *name, compare_result result)
{
    if (!result.equal)
        fail_case(c, name, result.text);
}

int are_outputs_apart(const fuzz_case *c)
{
    const case_memory m = memory_of(c);
    for (int t = 0; t < m.n_tensors; t++) {
        if (!is_used(c, t) || !is_written(c, t))
            continue;
        for (int other = 0; other < m.n_tensors; other++)
            if (other != t && is_used(c, other) && shares_elements(&m.tensors[t], &m.tensors[other]))
                return 0;
    }
    return 1;
}

/* ---- The call ---- */

static const char *message_of(const case_memory *m) { return heed_context_message(fuzz_context(m->threads)); }

void expect_success(const fuzz_case *c)
{
    const case_memory m = memory_of(c);
    keep_blocks(m.blocks, m.n_tensors);
    if (run_call(c) != HEED_OK)
        fail_case(c, "a valid call failed", message_of(&m));
    if (message_of(&m)[0] != '\0')
        fail_case(c, "a message without an error", message_of(&m));
    for (int t = 0; t < m.n_tensors && !m.shares_block; t++) {
        if (!(is_used(c, t) && is_written(c, t)) && !block_is_kept(&m.blocks[t]))
            fail_case(c, "an input has changed", "");
        if (is_used(c, t) && is_written(c, t) && !are_gaps_kept(&m.tensors[t], &m.blocks[t]))
            fail_case(c, "written beside the elements of an output", "");
    }
}

void expect_told_scratch(const fuzz_case *c, heed_status status, int64_t bytes)
{
    heed_report report = HEED_REPORT_INIT;
    if (status != HEED_OK)
        fail_case(c, "the scratch of a valid call is not told", heed_status_text(status));
    if (heed_context_report(fuzz_context(memory_of(c).threads), &report) != HEED_OK ||
        report.scratch_bytes > bytes * report.n_workers)
        fail_case(c, "more scratch than told", report.path);
}

/* What the call points to beside tensors lies in the case itself. */
static void check_invalid(const fuzz_case *c)
{
    const case_memory m = memory_of(c);
    void *before = malloc(case_bytes);
    if (before == NULL)
        abort();
    memcpy(before, c, case_bytes);
    keep_blocks(m.blocks, m.n_tensors);
    const heed_status status = run_call(c);
    if (status == HEED_OK)
        fail_case(c, "an invalid call succeeded", "");
    if (message_of(&m)[0] == '\0')
        fail_case(c, "no message", heed_status_text(status));
    for (int t = 0; t < m.n_tensors; t++)
        if (!block_is_kept(&m.blocks[t]))
            fail_case(c, "memory has changed", heed_status_text(status));
    if (memcmp(before, c, case_bytes) != 0)
        fail_case(c, "a number beside the tensors has changed", heed_status_text(status));
    free(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    fuzz_case *c = calloc(1, case_bytes);
    if (c == NULL)
        abort();
    if (make_case(c, (byte_reader){bytes, bytes + n_bytes})) {
        if (is_valid(c))
            check_valid(c);
        else
            check_invalid(c);
    }
    const case_memory m = memory_of(c);
    free_blocks(m.blocks, m.n_tensors);
    free(c);
    return 0;
}
