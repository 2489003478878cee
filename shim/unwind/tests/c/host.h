/* What a fixture may call: filled in by the test that opened it. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif
struct host {
    /* Takes the stack here and compares it. */
    void (*capture)(const char *label);
    /* Tells of a stack beside the thread's own, or takes it back (0, 0). */
    void (*stack)(const void *lo, const void *hi);
};
#ifdef __cplusplus
}
#endif
#define NOINLINE __attribute__((noinline))
/* Keeps the call before it from becoming a jump. */
#define KEEP __asm__ volatile("" ::: "memory")
