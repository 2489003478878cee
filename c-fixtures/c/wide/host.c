/* Callbacks that take little and much on the stack, in every way in which a compiler gets at it: structures by value of
 * 248, 256 and 264 bytes, 2 KB, 4 KB and 70 KB; walked over, copied, passed on, and left in place for a function that is
 * jumped to; indexed; aligned; and 60 arguments by `...`. On a roomy stack, on a small one, at the top of one, and from
 * each into another one. Nobody says how much it is.
 *
 * Events:
 *   callback_enter/exit  each function with a number of words: 2 times, on both stacks, or once, where there are 8750;
 *                        host_aligned, host_picks, host_outer: 2 times; host_adds: 6, at the top of a stack, too;
 *                        how return; stack the function, then its caller in lib.c, ..., main or on_small_stack
 */
#include "wide.h"
#include <string.h>

IMPORT void c_wide(const char *where);
IMPORT void c_very_wide(void);
IMPORT long c_wide_inner(long seed);
IMPORT void c_wide_on_small_stack(void);
IMPORT void c_at_the_top(void);

static volatile int last;

#define DEFINE(words)                                                                                                  \
    EXPORT long host_walks_##words(long a, struct many##words many, long b)                                           \
    {                                                                                                                  \
        return a + sum_of(many.v, words) + b;                                                                          \
    }                                                                                                                  \
    EXPORT long host_takes_##words(struct many##words many)                                                           \
    {                                                                                                                  \
        return many.v[0] + 2 * many.v[words / 2] + 3 * many.v[words - 1];                                              \
    }                                                                                                                  \
    EXPORT long host_copies_##words(struct many##words many, long b)                                                  \
    {                                                                                                                  \
        struct many##words copy;                                                                                      \
        memcpy(&copy, &many, sizeof copy);                                                                             \
        __asm__ __volatile__("" : : "r"(&copy) : "memory");                                                            \
        return copy.v[words - 1 - last] + b;                                                                           \
    }                                                                                                                  \
    EXPORT long host_passes_on_##words(struct many##words many)                                                       \
    {                                                                                                                  \
        return c_takes_##words(many) + 1;                                                                              \
    }                                                                                                                  \
    EXPORT long host_jumps_##words(struct many##words many)                                                           \
    {                                                                                                                  \
        return c_takes_##words(many);                                                                                  \
    }
SIZES(DEFINE)

#define DEFINE_LAST(words)                                                                                             \
    EXPORT long host_is_jumped_to_##words(struct many##words many)                                                     \
    {                                                                                                                  \
        return many.v[words - 1];                                                                                      \
    }
SIZES(DEFINE_LAST)

EXPORT long host_aligned(long a, long b, long c, long d, long e, long f, long g, struct aligned_many many, long h)
{
    uintptr_t address = (uintptr_t)&many;
    /* The compiler takes the alignment for granted. */
    __asm__ __volatile__("" : "+r"(address));
    CHECK(address % 64 == 0);
    return a + b + c + d + e + f + g + sum_of(many.v, 200) + h;
}

/* Not at the beginning: by an index that may be anything, and less than it. */
EXPORT long host_picks(int n, long a, long b, long c, long d, long e, struct many250 many)
{
    long sum = a + b + c + d + e;
    for (int i = n; i > 3; i -= 4)
        sum += many.v[i - 4];
    switch (n % 8) {
    case 1: return sum + many.v[101];
    case 2: return sum - many.v[202];
    case 3: return sum * many.v[33];
    case 4: return sum ^ many.v[244];
    case 5: return sum | many.v[5];
    case 6: return sum & many.v[166];
    default: return sum;
    }
}

EXPORT long host_adds_list(int n, va_list list)
{
    long sum = 0;
    for (int i = 1; i <= n; i++)
        sum += i * va_arg(list, long);
    return sum;
}

EXPORT long host_adds(int n, ...)
{
    va_list list;
    va_start(list, n);
    long sum = host_adds_list(n, list);
    va_end(list);
    return sum;
}

/* Calls C again, while its own arguments lie on the stack. */
EXPORT long host_outer(struct many250 many, long seed)
{
    long inner = c_wide_inner(seed);
    return sum_of(many.v, 250) + inner;
}

int main(void)
{
    c_wide("main");
    c_very_wide();
    c_wide_on_small_stack();
    c_at_the_top();
    return 0;
}
