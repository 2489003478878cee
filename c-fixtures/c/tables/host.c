/* Callbacks that no call instruction of the library names: it takes their addresses, in a table of function pointers
 * in its data (R_X86_64_64) and in code (R_X86_64_GLOB_DAT).
 *
 * Events, all from main's call of c_tables, depth 1, how return:
 *   callback_enter/exit   host_first, host_second, host_third through the table; stack: itself, c_tables, main, ...
 *   callback_enter/exit   host_by_address through the GOT
 *   callback_enter/exit   host_by_call by an ordinary call (R_X86_64_JUMP_SLOT, or GLOB_DAT with -fno-plt)
 *
 *   callback_enter/exit   host_tail, to which the library jumps: nothing of it is on the stack where that is a jump
 *   callback_enter/exit   host_jumped_to, three times: the library is called through a pointer, and jumps, through a slot that
 *                         it uses for nothing else, to a function of which it has the address in a table, too
 *   callback_enter/exit   host_compared, once: the host's own calls, directly, through a pointer in a register and through one in
 *                         memory, are no callbacks
 *
 * The library also compares the address that it has of host_compared with the one that the host passes: they are
 * equal. A tracer that puts trampolines into slots whose address is taken makes them differ.
 */
#include "fixture.h"

IMPORT int c_tables(void);
IMPORT int c_tail(int x);
IMPORT int c_jumps(int x);
IMPORT int c_is_host_compared(int (*function)(int));

EXPORT int host_first(int x) { return x + 1; }
EXPORT int host_second(int x) { return x + 10; }
EXPORT int host_third(int x) { return x + 100; }
EXPORT int host_by_address(int x) { return x + 1000; }
EXPORT int host_by_call(int x) { return x + 10000; }
EXPORT int host_tail(int x) { return x + 100000; }
EXPORT int host_jumped_to(int x) { return x + 1000000; }
EXPORT int host_compared(int x) { return x; }

static int (*own)(int) = host_compared;
FRAME int calls_own(int x)
{
    int result = own(x);
    STAY();
    return result;
}

int main(void)
{
    printf("sum %d\n", c_tables());
    printf("tail %d\n", c_tail(1));
    int (*volatile jumps)(int) = c_jumps;
    for (int i = 0; i < 3; i++)
        printf("jumped to %d\n", jumps(i));
    int (*volatile compared)(int) = host_compared;
    CHECK(compared(1) + host_compared(2) == 3);
    /* Else it would be a direct call. */
    __asm__ volatile("" : "+m"(own));
    CHECK(calls_own(3) == 3);
    puts(c_is_host_compared(compared) ? "same address" : "another address");
    return 0;
}
