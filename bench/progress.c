#include "bench/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 30 };

/* Carriage return, and erase to the end of the line. */
static const char wipe[] = "\r\033[K";

progress progress_start(int n_steps) { return (progress){.shown = isatty(STDERR_FILENO), .n_steps = n_steps}; }

void progress_step(progress *p, const char *what)
{
    if (!p->shown)
        return;
    const int done = p->n_done < p->n_steps ? p->n_done++ : p->n_steps;
    const int filled = BAR_WIDTH * done / p->n_steps;
    char bar[BAR_WIDTH + 1];
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "%s[%s] %3d %%  %.60s", wipe, bar, 100 * done / p->n_steps, what);
}

void progress_end(progress *p)
{
    if (p->shown)
        fputs(wipe, stderr);
    p->shown = 0;
}
