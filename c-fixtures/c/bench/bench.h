/* What the two sides of the benchmark's workload share. */
#ifndef BENCH_H
#define BENCH_H

/* One run, as the command line asks for it. */
struct job {
    long events;  /* in a batch */
    long batches; /* each is timed by itself */
    long warm;    /* events before the first batch, not timed */
    long depth;   /* frames of C between c_batches and the caller of host_callback */
    long stacks;  /* 1: always the same; else as many different ones, in random order */
    long alike;   /* those have frames of the same sizes, and so the same stack pointer at their end */
    long threads;
    long cpu;     /* the processor to stay on, or -1 */
};

#endif
