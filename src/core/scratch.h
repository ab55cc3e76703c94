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
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

enum { HEED_SCRATCH_ALIGNMENT = 64 };

typedef struct heed_arena {
    char *memory; /* aligned, or NULL to count only */
    int64_t bytes;
} heed_arena;

/* The next part of `bytes` bytes; NULL while only counting. */
static inline void *heed_arena_take(heed_arena *arena, int64_t bytes)
{
    int64_t whole = (bytes + HEED_SCRATCH_ALIGNMENT - 1) / HEED_SCRATCH_ALIGNMENT * HEED_SCRATCH_ALIGNMENT;
    char *part = arena->memory ? arena->memory + arena->bytes : NULL;
    arena->bytes += whole + HEED_SCRATCH_RED_ZONE;
    if (part) {
        ASAN_UNPOISON_MEMORY_REGION(part, (size_t)bytes);
        ASAN_POISON_MEMORY_REGION(part + bytes, (size_t)(whole - bytes + HEED_SCRATCH_RED_ZONE));
    }
    return part;
}

#endif
