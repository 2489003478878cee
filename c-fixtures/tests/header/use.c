/* Every use of traceshim.h that a dialect could dislike. Prints one line: what the uses gave. With the stand-in shim it
 * says how it was called first. */
#include "traceshim.h"
#include <stdio.h>

static int evaluated;

static const char *name(void)
{
    evaluated++;
    return "name";
}

static int twice(int x)
{
    return 2 * x;
}

/* Calls in tail position, which must not become jumps. */
void tail(const char *message);
uint64_t tail_with_value(const char *message);

void tail(const char *message)
{
    traceshim_log("log", message);
}

uint64_t tail_with_value(const char *message)
{
    return traceshim_task_begin(message);
}

int main(void)
{
    int (*wrapped)(int) = traceshim_wrap(twice);
    int (*wrapped_pointer)(int) = traceshim_wrap(&twice);
    int (*none)(int) = NULL;
    void *(*wrap_address)(void *) = traceshim_wrap;
    void (*log_address)(const char *, const char *) = traceshim_log;
    void (*region_end_address)(const char *) = &traceshim_region_end;
    uint64_t (*task_begin_address)(const char *) = traceshim_task_begin;
    int (*enabled_address)(void) = traceshim_enabled;
    uint64_t task;

    tail("tail");
    task = traceshim_task_begin(name());
    traceshim_task_end(traceshim_task_begin_in(name(), traceshim_task_begin_in(name(), traceshim_task_begin("nested"))));
    traceshim_region_begin(name());
    traceshim_region_end(name());
    traceshim_region_end();
    traceshim_region_end(NULL);
    traceshim_task_end(task);
    if (traceshim_enabled())
        traceshim_log("log", name());
    else
        traceshim_log("log", name());
    log_address("log", "by address");
    region_end_address("by address");
    none = traceshim_wrap(none);
    fflush(stdout);

    printf("enabled %d %d, ", traceshim_enabled(), enabled_address());
    printf("evaluated %d, wrapped %d %d %d %d, ", evaluated, wrapped(2), wrapped_pointer(3), none == NULL,
           wrap_address(&evaluated) == (void *)&evaluated);
    printf("tasks %d ", task_begin_address("by address") != 0);
    printf("%d\n", tail_with_value("tail") != 0);
    return 0;
}
