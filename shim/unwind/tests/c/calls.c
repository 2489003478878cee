/* Random call trees for benchmarks: four functions with frames of their own
 * kinds call each other, and the innermost one calls back. */
#include "calls.h"
#include "host.h"

/* Which function is next: a hash of the seed for this level (Murmur's finaliser). */
static unsigned pick(const struct job *j, int level)
{
    unsigned long x = (level < j->split ? j->inner : j->outer) + 0x9e3779b97f4a7c15ul * (unsigned)level;
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdul;
    return (unsigned)((x ^ x >> 29) >> 20) & 3;
}

static long down(int level, struct job *j);

#define FUNCTION(name, words, work)                                                                \
    NOINLINE static long name(int level, struct job *j)                                           \
    {                                                                                              \
        volatile long local[words];                                                                \
        local[0] = level;                                                                          \
        long a = j->sum + level;                                                                   \
        long r = down(level, j);                                                                   \
        work;                                                                                      \
        return r + a + local[0];                                                                   \
    }

FUNCTION(small, 1, KEEP)
FUNCTION(middle, 5, r ^= a)
FUNCTION(large, 12, r += 3 * a + level)
/* Uses every register that it must save. */
FUNCTION(busy, 2, __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15"))

static long (*const functions[])(int, struct job *) = {small, middle, large, busy};

__attribute__((always_inline)) static inline long down(int level, struct job *j)
{
    if (level == 0) {
        j->callback(j->argument);
        KEEP;
        return 1;
    }
    long r = functions[pick(j, level)](level - 1, j);
    KEEP;
    return r;
}

NOINLINE static void run_job(struct job *j)
{
    unsigned long seed = j->seed;
    for (long i = 0; i < j->events; i++) {
        seed = seed * 6364136223846793005ul + 1442695040888963407ul;
        unsigned long n = (seed >> 33) % (unsigned long)j->stacks;
        j->inner = n * 0x2545f4914f6cdd1dul + 1;
        j->outer = j->split > 0 ? 7 : j->inner;
        j->sum += functions[pick(j, j->depth)](j->depth - 1, j);
    }
}

/* The outermost frame of a benchmark's thread: below it there is only C. */
void *thread(void *p)
{
    struct job *j = p;
    while (j->next(j->argument, j))
        run_job(j);
    return 0;
}
