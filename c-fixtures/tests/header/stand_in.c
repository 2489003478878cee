/* Stands in for the shim: exports its names and says on stderr how they were called. */
#include <stdint.h>
#include <stdio.h>

static uint64_t last_task;

void traceshim_log(const char *category, const char *message) { fprintf(stderr, "log %s %s\n", category, message); }
void traceshim_region_begin(const char *name) { fprintf(stderr, "region_begin %s\n", name); }
void traceshim_region_end(const char *name) { fprintf(stderr, "region_end %s\n", name ? name : "(innermost)"); }
int traceshim_enabled(void) { return 1; }

uint64_t traceshim_task_begin(const char *name)
{
    fprintf(stderr, "task_begin %s: %d\n", name, (int)++last_task);
    return last_task;
}

uint64_t traceshim_task_begin_in(const char *name, uint64_t parent)
{
    fprintf(stderr, "task_begin_in %s %d: %d\n", name, (int)parent, (int)++last_task);
    return last_task;
}

void traceshim_task_end(uint64_t task) { fprintf(stderr, "task_end %d\n", (int)task); }

void *traceshim_wrap(void *function)
{
    fprintf(stderr, "wrap\n");
    return function;
}
