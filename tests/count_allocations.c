#include "count_allocations.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif

#if defined(__GLIBC__) && !defined(HAS_SANITIZER)

/* The C library's own allocator, under the names that it keeps for programs that replace the public ones. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes);

static atomic_llong n_allocations;

static void count_one(void) { atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed); }

long long count_allocations(void) { return atomic_load_explicit(&n_allocations, memory_order_relaxed); }

void *malloc(size_t bytes)
{
    count_one();
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    count_one();
    return __libc_calloc(n, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    count_one();
    return __libc_realloc(memory, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    count_one();
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count_one();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    count_one();
    *memory = __libc_memalign(alignment, bytes);
    return *memory == NULL ? 12 /* ENOMEM */ : 0;
}

#else

long long count_allocations(void) { return -1; }

#endif
