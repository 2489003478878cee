/* Every function of traceshim.h from C.
 *
 * Events, all on the main thread with stack annotate, main, ... unless said otherwise:
 *   log "plain" in category "log"; log "by address" through a pointer to traceshim_log, stack by_address, main, ...
 *   region_begin "outer", region_begin "inner", region_end (innermost: "inner"), region_end "outer"
 *   task_begin "task", task_begin "subtask" with the first as its parent; task_end of the subtask on another thread
 *     (origin host, stack ends_task, libc's thread start), task_end of the task on the main thread
 *   callback_enter/exit of host_wrapped, depth 1, twice: the wrapped pointers; none for the bare one
 *   log "in a wrapped callback" three times: host_wrapped, c_calls_pointer, annotate, main, ...
 * With the argument "enabled" it prints what traceshim_enabled says: 1 where the shim records, else 0.
 */
#include "fixture.h"
#include "traceshim.h"
#include <pthread.h>
#include <string.h>

IMPORT int c_calls_pointer(int (*function)(int), int argument);

static int evaluated;

FRAME const char *counted(const char *text)
{
    evaluated++;
    return text;
}

FRAME int host_wrapped(int x)
{
    traceshim_log("log", "in a wrapped callback");
    return x + 1;
}

FRAME void *ends_task(void *argument)
{
    traceshim_task_end(*(uint64_t *)argument);
    return NULL;
}

FRAME void by_address(void)
{
    void (*volatile log)(const char *, const char *) = traceshim_log;
    log("log", "by address");
    STAY();
}

FRAME void annotate(void)
{
    pthread_t thread;
    traceshim_log(counted("log"), counted("plain"));
    traceshim_region_begin("outer");
    traceshim_region_begin(counted("inner"));
    traceshim_region_end();
    traceshim_region_end(counted("outer"));

    uint64_t task = traceshim_task_begin(counted("task"));
    uint64_t subtask = traceshim_task_begin_in("subtask", task);
    CHECK((task != 0) == (traceshim_enabled() != 0) && (subtask != 0) == (task != 0));
    CHECK(pthread_create(&thread, NULL, ends_task, &subtask) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    traceshim_task_end(task);
    traceshim_task_end(0);

    int (*wrapped)(int) = traceshim_wrap(host_wrapped);
    int (*again)(int) = traceshim_wrap(&host_wrapped);
    int (*none)(int) = traceshim_wrap((int (*)(int))NULL);
    CHECK(wrapped == again && none == NULL);
    CHECK(c_calls_pointer(wrapped, 1) == 2);
    CHECK(c_calls_pointer(again, 2) == 3);
    CHECK(c_calls_pointer(host_wrapped, 3) == 4);
    CHECK(evaluated == 5);
    puts("annotated");
}

int main(int argc, char **argv)
{
    annotate();
    by_address();
    if (argc > 1 && strcmp(argv[1], "enabled") == 0)
        printf("enabled %d\n", traceshim_enabled());
    return 0;
}
