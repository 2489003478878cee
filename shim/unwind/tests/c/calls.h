/* What a benchmark asks of `calls.c`; the same in `benches/capture.rs`. */
#pragma once
struct job {
    void (*callback)(void *);
    /* Sets what the next run does; 0 at the end. */
    int (*next)(void *, struct job *);
    void *argument;
    /* Calls between the outermost function and the callback. */
    long depth;
    /* Different stacks, picked at random. */
    long stacks;
    /* Only the innermost so many calls differ; 0: all of them. */
    long split;
    long events;
    unsigned long seed, inner, outer;
    long sum;
};
