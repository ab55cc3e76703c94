#include "bench/memory.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

void *memory_allocate(int64_t bytes)
{
    if (bytes < 0 || bytes > PTRDIFF_MAX - ALIGNMENT)
        return NULL;
    const size_t rounded = ((size_t)bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, rounded);
    if (memory)
        memset(memory, 0, rounded);
    return memory;
}

float *memory_allocate_floats(int64_t a, int64_t b, int64_t c, int64_t d)
{
    int64_t bytes = sizeof(float);
    if (__builtin_mul_overflow(bytes, a, &bytes) || __builtin_mul_overflow(bytes, b, &bytes) ||
        __builtin_mul_overflow(bytes, c, &bytes) || __builtin_mul_overflow(bytes, d, &bytes))
        return NULL;
    return memory_allocate(bytes);
}
