/* Callbacks that take more on the stack than a tracer copies unasked: structures of 2,000 and of 1,600 aligned bytes, by
 * value, on a roomy stack and on a small one, and from each into another one.
 *
 * Events, with TRACESHIM_STACK_WORDS=host_wide*:300:
 *   callback_enter/exit  host_wide (4 times), host_wide_aligned, host_wide_outer (2 times each), how return; stack
 *                        the function, then its caller in lib.c, ..., main or c_on_small_stack
 */
#include "wide.h"

IMPORT void c_wide(const char *where);
IMPORT long c_wide_inner(long seed);
IMPORT void c_wide_on_small_stack(void);

EXPORT long host_wide(long a, struct many many, long b)
{
    return a + sum_of(many.v, 250) + b;
}

EXPORT long host_wide_aligned(long a, long b, long c, long d, long e, long f, long g, struct aligned_many many, long h)
{
    uintptr_t address = (uintptr_t)&many;
    /* The compiler takes the alignment for granted. */
    __asm__ __volatile__("" : "+r"(address));
    CHECK(address % 64 == 0);
    return a + b + c + d + e + f + g + sum_of(many.v, 200) + h;
}

/* Calls C again, while its own arguments lie on the stack. */
EXPORT long host_wide_outer(struct many many, long seed)
{
    long inner = c_wide_inner(seed);
    return sum_of(many.v, 250) + inner;
}

int main(void)
{
    c_wide("main");
    c_wide_on_small_stack();
    return 0;
}
