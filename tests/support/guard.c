#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "support/guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CANARY = 0xa5 };

unsigned char guarded_pattern(size_t offset)
{
    /* Little endian 0x7fe1d2c3: a quiet NaN that no computation makes. */
    static const unsigned char pattern[4] = {0xc3, 0xd2, 0xe1, 0x7f};
    return pattern[offset % 4];
}

void guarded_clear(guarded *buffer)
{
    for (size_t i = 0; i < buffer->bytes; i++)
        buffer->data[i] = guarded_pattern(i);
}

void guarded_create(guarded *buffer, size_t bytes, guard_side side)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t page_bytes = (bytes + page - 1) / page * page;
    unsigned char *map = mmap(NULL, page_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || (page_bytes > 0 && mprotect(map + page, page_bytes, PROT_READ | PROT_WRITE) != 0)) {
        fprintf(stderr, "no memory for a guarded buffer of %zu bytes\n", bytes);
        exit(1);
    }
    buffer->bytes = bytes;
    buffer->pages = map + page;
    buffer->page_bytes = page_bytes;
    buffer->data = side == GUARD_START ? buffer->pages : buffer->pages + (page_bytes - bytes);
    for (size_t i = 0; i < page_bytes; i++)
        buffer->pages[i] = CANARY;
    guarded_clear(buffer);
}

int guarded_intact(const guarded *buffer)
{
    if (!buffer->pages)
        return 1;
    const unsigned char *end = buffer->data + buffer->bytes;
    for (const unsigned char *canary = buffer->pages; canary < buffer->pages + buffer->page_bytes; canary++) {
        if ((canary < buffer->data || canary >= end) && *canary != CANARY)
            return 0;
    }
    return 1;
}

void guarded_destroy(guarded *buffer)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (buffer->pages)
        munmap(buffer->pages - page, buffer->page_bytes + 2 * page);
    *buffer = (guarded){NULL, 0, NULL, 0};
}
