/* Buffers between two pages that nobody may touch.
 *
 * The bytes lie flush against one of the pages, so that an access beyond that end stops the program at once; the gap at
 * the other end, which is shorter than a page, holds canaries. Fresh bytes read as NaN (and as true): whatever a call
 * reads without being told to spoils its result. */
#ifndef HEED_TEST_GUARD_H
#define HEED_TEST_GUARD_H

#include <stddef.h>

typedef enum guard_side {
    GUARD_END,  /* the last byte is the last of its page */
    GUARD_START /* the first byte is the first of its page */
} guard_side;

typedef struct guarded {
    unsigned char *data;
    size_t bytes;
    unsigned char *pages; /* between the two guard pages */
    size_t page_bytes;
} guarded;

/* Ends the program with a message when there is no memory. */
void guarded_create(guarded *buffer, size_t bytes, guard_side side);

/* Writes the NaN pattern over the whole buffer. */
void guarded_clear(guarded *buffer);

/* 1 when no canary has changed. */
int guarded_intact(const guarded *buffer);

/* The byte that a fresh buffer holds at an offset. */
unsigned char guarded_pattern(size_t offset);

void guarded_destroy(guarded *buffer);

#endif
