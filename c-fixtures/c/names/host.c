/* Threads' names, by every way to give one that libc has. A new thread has the name of the thread that made it.
 *
 * Events, in this order:
 *   thread_name   first   main, by prctl; too long a name is cut by the kernel
 *   thread_start  its thread, with that name
 *   thread_name   second  main, by pthread_setname_np
 *   thread_start  its thread
 *   thread_name   third   main, named by a thread that it made
 *   thread_start  its thread, made by main
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>

IMPORT void c_runs(void *(*start)(void *));

static pthread_t main_thread;

static void *says_name(void *argument)
{
    char name[16];
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0);
    puts(name);
    return argument;
}

static void *names_main(void *argument)
{
    CHECK(pthread_setname_np(main_thread, "third") == 0);
    return argument;
}

int main(void)
{
    char name[16];
    main_thread = pthread_self();
    /* As the last bytes of a page would be read: not behind the closing zero, and no more than the kernel does. */
    CHECK(prctl(PR_SET_NAME, "first-and-much-too-long") == 0);
    CHECK(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "first-and-much-") == 0);
    c_runs(says_name);
    CHECK(pthread_setname_np(main_thread, "second") == 0);
    CHECK(pthread_setname_np(main_thread, "sixteen letters!") == ERANGE);
    c_runs(says_name);
    c_runs(names_main);
    c_runs(says_name);
    errno = 0;
    CHECK(prctl(PR_SET_NAME, (char *)1) == -1 && errno == EFAULT);
    CHECK(prctl(-1, 1, 2, 3, 4) == -1 && errno == EINVAL);
    return 0;
}
