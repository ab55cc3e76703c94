/* Counts what a program takes from the C library's allocator: malloc(), calloc(), realloc(), aligned_alloc(),
 * posix_memalign() and memalign() of the whole process, whoever calls them. */
#ifndef HEED_TEST_COUNT_ALLOCATIONS_H
#define HEED_TEST_COUNT_ALLOCATIONS_H

/* Allocations so far, in all threads; -1 where they cannot be counted (another C library, or a sanitizer that has
 * replaced the allocator itself). */
long long count_allocations(void);

#endif
