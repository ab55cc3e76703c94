/* What was wrong, in words. Checks write here; NULL where nobody listens. */
#ifndef HEED_CORE_MESSAGE_H
#define HEED_CORE_MESSAGE_H

#include "heed.h"

typedef struct heed_message {
    char text[256];
} heed_message;

/* Writes the message and returns the status, so that a check can end with `return heed_complain(...)`. */
heed_status heed_complain(heed_message *message, heed_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
