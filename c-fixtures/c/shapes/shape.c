/* The library of shapes. See host.c. */
#include "fixture.h"

IMPORT void host_constructor(void);
IMPORT int host_call(const char *what);
IMPORT int host_address(void);
IMPORT int host_table(void);
IMPORT int host_indirect(void);
IMPORT int host_protected(void);
IMPORT int host_missing(void) __attribute__((weak));

#ifdef TABLE_IN_CODE
extern int (*const table[])(void);
__asm__(".section .rodata\n"
        ".balign 8\n"
        "table: .quad host_table\n"
        ".previous\n");
#elif defined TABLE_IS_WRITTEN
static int (*table[])(void) = {host_table, 0};
#else
static int (*const table[])(void) = {host_table};
#endif

__attribute__((constructor)) static void constructor(void)
{
    host_constructor();
    STAY();
}

/* Defined here and called through a slot, unless the library is linked to prefer its own. */
EXPORT int shape_own(void) { return 0; }

EXPORT int shape_run(const char *what)
{
    int (*volatile by_address)(void) = host_address;
    int (*const *volatile through)(void) = table;
    int sum = host_call(what);
#ifdef TABLE_IS_WRITTEN
    table[1] = by_address;
    through = table;
#endif
    sum += by_address();
    sum += through[0]();
    sum += host_indirect();
    sum += host_protected();
    sum += shape_own();
    if (host_missing)
        sum += host_missing();
    STAY();
    return sum;
}
