/* The workload of scripts/bench.py: a host that C calls back, in a loop, from a chosen depth of the stack. Prints what
 * an event costs, measured here, so that nothing of the program's start is in it. Not a fixture of the table: the
 * script builds it, with flags of its own.
 *
 *   bench MODE [NAME=NUMBER]...
 *
 * Events (MODE callback):
 *   warm + batches * events  callback_enter/exit   host_callback; stack host_callback, c_loop, depth times c_left,
 *                                                  c_right or c_wide, c_batches, main, libc's start
 */
#include "../fixture.h"
#include "bench.h"
#include <string.h>

IMPORT void c_idle(const struct job *job);
IMPORT void c_batches(const struct job *job);
IMPORT void c_stops(const struct job *job);
IMPORT void c_floors(const struct job *job);
IMPORT void c_threads(const struct job *job);
IMPORT void c_parallel(const struct job *job);
IMPORT void c_stack(const struct job *job);
IMPORT void c_memory(const struct job *job);

#ifdef WITH_LTTNG
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng.h"
/* The same callback, with its source edited for LTTng-UST as its manual says. */
EXPORT long host_callback(long number)
{
    lttng_ust_tracepoint(bench, enter, 0);
    long result = number + 1;
    lttng_ust_tracepoint(bench, exit, 0);
    return result;
}
#else
EXPORT long host_callback(long number)
{
    return number + 1;
}
#endif

static const struct {
    const char *name, *help;
    void (*run)(const struct job *job);
} modes[] = {
    {"idle", "nothing: what loading and ending cost", c_idle},
    {"callback", "CPU time of a callback", c_batches},
    {"stops", "callbacks between two SIGSTOPs", c_stops},
    {"floors", "CPU time of reading the clocks", c_floors},
    {"threads", "CPU time of the process for a thread's creation and join", c_threads},
    {"parallel", "CPU time of a callback on one thread, then on several at once", c_parallel},
    {"stack", "bytes of the stack that calls use", c_stack},
    {"memory", "resident memory with all threads alive", c_memory},
};

static _Noreturn void usage(const char *wrong)
{
    fprintf(stderr, "bench: %s\nusage: bench MODE [NAME=NUMBER]...\nmodes:\n", wrong);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        fprintf(stderr, "  %-9s %s\n", modes[i].name, modes[i].help);
    fputs("names: events batches warm depth stacks alike threads cpu\n", stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    struct job job = {.events = 100000, .batches = 5, .stacks = 1, .threads = 2, .cpu = -1};
    const struct {
        const char *name;
        long *to;
    } numbers[] = {
        {"events=", &job.events},   {"batches=", &job.batches}, {"warm=", &job.warm}, {"depth=", &job.depth},
        {"stacks=", &job.stacks},   {"alike=", &job.alike},     {"threads=", &job.threads},
        {"cpu=", &job.cpu},
    };
    for (int i = 2; i < argc; i++) {
        long *to = NULL;
        char *end = argv[i];
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
            size_t length = strlen(numbers[n].name);
            if (strncmp(argv[i], numbers[n].name, length) == 0) {
                to = numbers[n].to;
                *to = strtol(argv[i] + length, &end, 10);
            }
        }
        if (!to || *end)
            usage(argv[i]);
    }
    for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run(&job);
            return 0;
        }
    }
    usage(argc > 1 ? argv[1] : "no mode");
}
