/* Function pointers that libc takes, and values in their place that aren't functions of a module.
 *
 * Events with TRACESHIM_CALLBACK_ARGS=qsort:4,qsort_r:4,bsearch:5,scandir:3,scandir:4,pthread_key_create:2,
 * pthread_once:2,atexit:1,c_register:2 (none of these callbacks without it):
 *   callback_enter/exit   by_value, called by libc's qsort and bsearch; stack: itself, ... qsort_r, main, ...
 *   callback_enter/exit   by_value_with, called by libc's qsort_r, which the library has looked up
 *   callback_enter/exit   only_dots and by_name, called by libc's scandir
 *   callback_enter/exit   at_thread_end, once, by libc at the end of a thread; once_only, once; at_end, once
 *   callback_enter/exit   on_event, from c_fire; depth 1; stack: itself, c_fire, main, ...
 *   callback_enter/exit   one without a name, twice: code that was made at run time
 *
 * A trampoline that the library hands back and that is handed over again stays the same. So does what isn't code: small
 * numbers that stand for something else, and pointers to data of every kind.
 */
#include "fixture.h"
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

typedef int (*callback)(int);

IMPORT void c_register(int place, callback function);
IMPORT callback c_registered(int place);
IMPORT int c_fire(int place, int argument);
IMPORT int c_are_same(int a, int b);
IMPORT void c_sort_looked_up(int *values, size_t count, int (*compare)(const void *, const void *, void *));

static int compared;

FRAME int by_value(const void *a, const void *b)
{
    compared++;
    return *(const int *)a - *(const int *)b;
}

FRAME int by_value_with(const void *a, const void *b, void *count)
{
    ++*(int *)count;
    return *(const int *)a - *(const int *)b;
}

FRAME int only_dots(const struct dirent *entry)
{
    return entry->d_name[0] == '.' && strlen(entry->d_name) < 3;
}

FRAME int by_name(const struct dirent **a, const struct dirent **b)
{
    return -alphasort(a, b);
}

static int ended;

FRAME void at_thread_end(void *value)
{
    ended += value == &ended;
}

static int initialised;

FRAME void once_only(void)
{
    initialised++;
}

FRAME void at_end(void)
{
    puts("at the end");
}

FRAME int on_event(int argument)
{
    return argument + 1;
}

static pthread_key_t key;

static void *on_thread(void *unused)
{
    CHECK(pthread_setspecific(key, &ended) == 0);
    return unused;
}

/* A closure, as libffi makes them: lea 3(%rdi), %eax; ret. */
FRAME callback made_at_run_time(void)
{
    static const unsigned char code[] = {0x8d, 0x47, 0x03, 0xc3};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page, code, sizeof code);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    return (callback)page;
}

static const int constant = 1;
static int variable = 1;

/* Pointers to data stay what they are. */
FRAME void hand_over_data(void)
{
    int local = 1;
    int *heap = malloc(sizeof *heap);
    const void *data[] = {&constant, &variable, &local, heap, stdout, (void *)-1, (void *)1, (void *)0x7fffffffffffUL};
    for (size_t i = 0; i < sizeof data / sizeof *data; i++) {
        c_register(2, (callback)data[i]);
        CHECK((const void *)c_registered(2) == data[i]);
    }
    free(heap);
}

int main(void)
{
    int values[] = {3, 1, 2};
    qsort(values, 3, sizeof *values, by_value);
    CHECK(values[0] == 1 && values[1] == 2 && values[2] == 3 && compared > 0);
    CHECK(bsearch(&values[1], values, 3, sizeof *values, by_value) == &values[1]);
    c_sort_looked_up(values, 3, by_value_with);

    struct dirent **names;
    CHECK(scandir("/", &names, only_dots, by_name) == 2);
    printf("scandir %s %s\n", names[0]->d_name, names[1]->d_name);

    CHECK(pthread_key_create(&key, at_thread_end) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, on_thread, NULL) == 0 && pthread_join(thread, NULL) == 0 && ended == 1);
    pthread_once_t once = PTHREAD_ONCE_INIT;
    CHECK(pthread_once(&once, once_only) == 0 && pthread_once(&once, once_only) == 0 && initialised == 1);
    CHECK(atexit(at_end) == 0);

    c_register(0, on_event);
    c_register(1, c_registered(0));
    printf("fired %d %d, same %d\n", c_fire(0, 10), c_fire(1, 20), c_are_same(0, 1));
    c_register(1, on_event);
    printf("still the same %d\n", c_are_same(0, 1));
    c_register(2, made_at_run_time());
    c_register(3, c_registered(2));
    printf("made at run time %d %d\n", c_fire(2, 1), c_fire(3, 2));
    hand_over_data();
    return 0;
}
