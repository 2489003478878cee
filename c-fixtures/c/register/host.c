/* Function pointers handed over at run time: no slot names the callbacks, which are static functions of the host.
 *
 * Events with TRACESHIM_CALLBACK_ARGS=qsort:4,c_register:2,c_register_far:2,c_register_far:7,c_register_far:8,
 * c_set:2@1=20000-29999 (none of these callbacks without it):
 *   callback_enter/exit   by_value, called by libc's qsort; stack: itself, ... qsort_r, main, ...
 *   callback_enter/exit   on_event, twice, depth 1, from c_fire; stack: itself, c_fire, main, ...
 *   callback_enter/exit   on_near, on_far and on_farther, from c_register_far: arguments 7 and 8 are on the stack
 *   none of                c_own, which is the library's, and of libc's abs
 *   callback_enter/exit   on_option, from c_set with option 20011; none with option 10001
 *
 * The library compares two pointers that it was given: equal ones stay equal, null stays null, and a small number that
 * stands for something else is not touched.
 */
#include "fixture.h"

IMPORT void c_register(int place, int (*callback)(int));
IMPORT int c_fire(int place, int argument);
IMPORT int c_are_same(int a, int b);
IMPORT long c_number(int place);
IMPORT int c_register_far(long a, int (*near)(int), long c, long d, long e, long f, int (*far)(int),
                          int (*farther)(int), long i);
IMPORT int c_set(int option, ...);
IMPORT int c_own(int argument);
IMPORT int c_is_own(int place);

static int compared;

FRAME int by_value(const void *a, const void *b)
{
    compared++;
    return *(const int *)a - *(const int *)b;
}

FRAME int on_event(int argument)
{
    return argument + 1;
}

FRAME int on_near(int argument)
{
    return argument + 2;
}

FRAME int on_far(int argument)
{
    return argument + 3;
}

FRAME int on_farther(int argument)
{
    return argument + 4;
}

FRAME int on_option(int argument)
{
    return argument + 5;
}

int main(void)
{
    int values[] = {3, 1, 2};
    qsort(values, 3, sizeof *values, by_value);
    CHECK(values[0] == 1 && values[1] == 2 && values[2] == 3 && compared > 0);
    c_register(0, on_event);
    c_register(1, on_event);
    c_register(2, NULL);
    c_register(3, (int (*)(int))1);
    printf("fired %d %d\n", c_fire(0, 10), c_fire(1, 20));
    printf("same %d, null %ld, number %ld\n", c_are_same(0, 1), c_number(2), c_number(3));
    c_register(2, c_own);
    c_register(3, abs);
    printf("own %d, its own %d, libc's %d\n", c_is_own(2), c_fire(2, 30), c_fire(3, -40));
    printf("far %d\n", c_register_far(1, on_near, 3, 4, 5, 6, on_far, on_farther, 9));
    printf("set %d %d\n", c_set(20011, on_option), c_set(10001, on_option));
    return 0;
}
