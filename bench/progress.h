/* A progress bar on stderr where that is a terminal, nothing elsewhere. */
#ifndef HEED_BENCH_PROGRESS_H
#define HEED_BENCH_PROGRESS_H

typedef struct progress {
    int shown; /* stderr is a terminal */
    int n_steps, n_done;
} progress;

progress progress_start(int n_steps);

/* One more step; `what` comes next. */
void progress_step(progress *p, const char *what);

/* Wipes the bar. Must come before anything else is printed. */
void progress_end(progress *p);

#endif
