/* Every way out of a callback but returning, and every end of a thread.
 *
 * Events, in this order; each callback's depth is 1 unless said otherwise, and the host_plain after each way shows
 * that nothing has drifted:
 *   longjmp           host_jumps exits unwound; 100 times, or as often as the argument says
 *   nested longjmp    host_nests depth 1, host_jumps depth 2: both unwound by one jump; a hundredth as often
 *   pthread_exit      thread_birth origin c; host_exits unwound; thread_exit
 *   cancelled at once thread_birth origin c; host_cancels_itself unwound; thread_exit
 *   cancelled waiting thread_birth origin c; host_waits unwound, cancelled by main while it reads from a pipe
 *   cleanup           host_exits under a pthread_cleanup_push of C, whose handler calls host_plain back, depth 1
 *   thread returns, exits, is cancelled, each made by the host: thread_birth origin host, thread_exit; no callback
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <unistd.h>

IMPORT void c_calls_host_plain(void);
IMPORT void c_calls_host_jumps(void);
IMPORT void c_calls_host_nests(void);
IMPORT void c_makes_thread_that_exits(void **result);
IMPORT void c_makes_thread_that_cancels_itself(void **result);
IMPORT void c_makes_thread_that_waits(pthread_t *thread);
IMPORT void c_makes_thread_with_cleanup(void **result);

static jmp_buf way_out;
static int plain_calls, pipe_ends[2], ready_ends[2];
static char exited;

EXPORT void host_plain(void)
{
    plain_calls++;
}

EXPORT void host_jumps(void)
{
    longjmp(way_out, 1);
}

EXPORT void host_nests(void)
{
    c_calls_host_jumps();
    CHECK(!"came back");
}

EXPORT void host_exits(void)
{
    pthread_exit(&exited);
}

EXPORT void host_cancels_itself(void)
{
    CHECK(pthread_cancel(pthread_self()) == 0);
    pthread_testcancel();
    CHECK(!"still here");
}

EXPORT void host_waits(void)
{
    char byte = 0;
    CHECK(write(ready_ends[1], &byte, 1) == 1);
    CHECK(read(pipe_ends[0], &byte, 1) == 1);
    CHECK(!"still here");
}

FRAME void jumps(void (*call)(void))
{
    if (setjmp(way_out) == 0) {
        call();
        CHECK(!"came back");
    }
}

FRAME void *returns(void *argument) { return argument; }
FRAME void *exits(void *argument) { pthread_exit(argument); }
FRAME void *waits(void *argument)
{
    host_waits();
    STAY();
    return argument;
}

FRAME void *ends(pthread_t thread)
{
    void *result = NULL;
    CHECK(pthread_join(thread, &result) == 0);
    return result;
}

FRAME void cancel_when_ready(pthread_t thread)
{
    char byte;
    CHECK(read(ready_ends[0], &byte, 1) == 1);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(ends(thread) == PTHREAD_CANCELED);
}

FRAME void plain(const char *after)
{
    int before = plain_calls;
    c_calls_host_plain();
    CHECK(plain_calls == before + 1);
    puts(after);
}

int main(int argc, char **argv)
{
    int jumps_wanted = argc > 1 ? atoi(argv[1]) : 100;
    pthread_t thread;
    void *result = NULL;
    CHECK(pipe(pipe_ends) == 0 && pipe(ready_ends) == 0);
    plain("start");

    for (volatile int i = 0; i < jumps_wanted; i++)
        jumps(c_calls_host_jumps);
    plain("longjmp");
    for (volatile int i = 0; i < jumps_wanted / 100; i++)
        jumps(c_calls_host_nests);
    plain("nested longjmp");

    c_makes_thread_that_exits(&result);
    CHECK(result == &exited);
    plain("pthread_exit");
    c_makes_thread_that_cancels_itself(&result);
    CHECK(result == PTHREAD_CANCELED);
    plain("cancelled at once");
    c_makes_thread_that_waits(&thread);
    cancel_when_ready(thread);
    plain("cancelled waiting");
    c_makes_thread_with_cleanup(&result);
    CHECK(result == &exited);
    plain("cleanup");

    CHECK(pthread_create(&thread, NULL, returns, &result) == 0 && ends(thread) == &result);
    puts("thread returns");
    CHECK(pthread_create(&thread, NULL, exits, &exited) == 0 && ends(thread) == &exited);
    puts("thread exits");
    CHECK(pthread_create(&thread, NULL, waits, NULL) == 0);
    cancel_when_ready(thread);
    puts("thread is cancelled");
    printf("%d plain calls\n", plain_calls);
    return 0;
}
