/* Scratch: one function per mechanism places its parts here, and the same function, with no memory behind it, tells
 * how much they need. Under AddressSanitizer a red zone stands behind every part. */
#ifndef HEED_CORE_SCRATCH_H
#define HEED_CORE_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define HEED_SCRATCH_RED_ZONE 64
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEED_SCRATCH_RED_ZONE 64
#endif
#endif

#ifdef HEED_SCRATCH_RED_ZONE
#include <sanitizer/asan_interface.h>
#else
#define HEED_SCRATCH_RED_ZONE 0
#endif

enum { HEED_SCRATCH_ALIGNMENT = 64 };

/* Beyond so many channels a worker's bytes might not fit in int64; no context has that much. */
#define HEED_MAX_SCRATCH_CHANNELS ((int64_t)1 << 48)

/* n + a * b channels, none of them negative; where that is beyond HEED_MAX_SCRATCH_CHANNELS, some number that is too. */
static inline int64_t heed_add_scratch_channels(int64_t n, int64_t a, int64_t b)
{
    if (n > HEED_MAX_SCRATCH_CHANNELS || (a > 0 && b > (HEED_MAX_SCRATCH_CHANNELS - n) / a))
        return HEED_MAX_SCRATCH_CHANNELS + 1;
    return n + a * b;
}

typedef struct heed_arena {
    char *memory; /* aligned, or NULL to count only */
    int64_t bytes;
} heed_arena;

/* Opens a part for use and closes what lies behind it; nothing outside AddressSanitizer. */
static inline void heed_arena_fence(const heed_arena *arena, char *part, int64_t bytes, int64_t whole)
{
#if HEED_SCRATCH_RED_ZONE
    if (arena->memory) {
        ASAN_UNPOISON_MEMORY_REGION(part, (size_t)bytes);
        ASAN_POISON_MEMORY_REGION(part + bytes, (size_t)(whole - bytes));
    }
#else
    (void)arena, (void)part, (void)bytes, (void)whole;
#endif
}

/* The next part of `bytes` bytes; not an address while only counting. */
static inline void *heed_arena_take(heed_arena *arena, int64_t bytes)
{
    int64_t whole = (bytes + HEED_SCRATCH_ALIGNMENT - 1) / HEED_SCRATCH_ALIGNMENT * HEED_SCRATCH_ALIGNMENT;
    char *part = (char *)((uintptr_t)arena->memory + (uintptr_t)arena->bytes);
    heed_arena_fence(arena, part, bytes, whole + HEED_SCRATCH_RED_ZONE);
    arena->bytes += whole + HEED_SCRATCH_RED_ZONE;
    return part;
}

static inline float *heed_arena_take_floats(heed_arena *arena, int64_t n)
{
    return heed_arena_take(arena, n * (int64_t)sizeof(float));
}

/* All of it again open, before it is given back. */
static inline void heed_arena_open(void *memory, size_t bytes)
{
#if HEED_SCRATCH_RED_ZONE
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#else
    (void)memory, (void)bytes;
#endif
}

#endif
