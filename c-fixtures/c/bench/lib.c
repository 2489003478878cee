/* The C side of bench. See host.c. Built without frame pointers, as libraries are. */
#define _GNU_SOURCE
#include "../fixture.h"
#include "bench.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

IMPORT long host_callback(long number);

#ifndef __x86_64__
#error "names the registers and the clock of x86-64"
#endif

enum { MOST_STACKS = 64 };

static double now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void stay_on(long cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    CHECK(pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0);
}

/* Random numbers that are the same in every run. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- Callbacks from a chosen stack. ---- */

static REAL long c_left(long events, long depth, int64_t path);

/* The loop's counter is in rbp, where compilers put such things in code without frame pointers: what is found there
 * differs in each event and is no address. */
FRAME long c_loop(long events)
{
    register long number __asm__("rbp") = events;
    long sum = 0;
    do {
        __asm__ __volatile__("" : "+r"(number));
        sum += host_callback(number);
    } while (--number > 0);
    return sum;
}

static REAL long c_right(long events, long depth, int64_t path);
static REAL long c_wide(long events, long depth, int64_t path);

/* Each level goes left or right by a bit of the path, so two paths share frames up to their first difference. A right
 * turn has a frame as large as a left one where the path is negative, as it then stays, else a larger one. */
static inline __attribute__((always_inline)) long descend(long events, long depth, int64_t path)
{
    if (depth <= 1)
        return c_loop(events);
    if (!(path & 1))
        return c_left(events, depth - 1, path >> 1);
    if (path < 0)
        return c_right(events, depth - 1, path >> 1);
    return c_wide(events, depth - 1, path >> 1);
}

static REAL long c_left(long events, long depth, int64_t path)
{
    long sum = descend(events, depth, path);
    STAY();
    return sum + 1;
}

static REAL long c_right(long events, long depth, int64_t path)
{
    long sum = descend(events, depth, path);
    STAY();
    return sum + 2;
}

static REAL long c_wide(long events, long depth, int64_t path)
{
    volatile long local[12];
    local[0] = events;
    long sum = descend(events, depth, path);
    STAY();
    return sum + local[0];
}

static void make_paths(const struct job *job, int64_t paths[MOST_STACKS])
{
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < MOST_STACKS; i++)
        paths[i] = job->alike ? (int64_t)(next_random(&random) | INT64_MIN) : (int64_t)(next_random(&random) >> 1);
}

/* So many callbacks, from one stack or each from one of several. */
static inline __attribute__((always_inline)) long call_back(const struct job *job, long events,
                                                            const int64_t paths[MOST_STACKS], uint64_t *random)
{
    long sum = 0;
    if (events <= 0)
        return 0;
    if (job->stacks <= 1)
        return job->depth ? c_left(events, job->depth, 0) : c_loop(events);
    for (long i = 0; i < events; i++)
        sum += c_left(1, job->depth, paths[next_random(random) % (uint64_t)job->stacks]);
    return sum;
}

static void check(const struct job *job)
{
    CHECK(job->events > 0 && job->batches > 0 && job->depth >= 0 && job->threads > 0);
    CHECK(job->stacks >= 1 && job->stacks <= MOST_STACKS && (job->stacks == 1 || job->depth > 0));
}

/* ---- What is printed. ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_summary(const char *what, double *ns, long count)
{
    qsort(ns, (size_t)count, sizeof *ns, ascending);
    printf("%s minimum %.2f median %.2f\n", what, ns[0], ns[count / 2]);
}

struct times {
    double *cpu, *wall;
};

static struct times times_for(const struct job *job)
{
    struct times times = {calloc((size_t)job->batches, sizeof(double)), calloc((size_t)job->batches, sizeof(double))};
    CHECK(times.cpu && times.wall);
    return times;
}

/* A line for each batch, and the summary. */
static void print_times(const char *what, const struct times *times, long batches)
{
    char name[64];
    for (long i = 0; i < batches; i++)
        printf("%s cpu_ns %.2f wall_ns %.2f\n", what, times->cpu[i], times->wall[i]);
    snprintf(name, sizeof name, "%s cpu_ns", what);
    print_summary(name, times->cpu, batches);
    snprintf(name, sizeof name, "%s wall_ns", what);
    print_summary(name, times->wall, batches);
}

/* ---- The modes. ---- */

EXPORT void c_idle(const struct job *job)
{
    (void)job;
}

EXPORT void c_batches(const struct job *job)
{
    int64_t paths[MOST_STACKS];
    uint64_t random = 1;
    check(job);
    stay_on(job->cpu);
    make_paths(job, paths);
    struct times times = times_for(job);
    call_back(job, job->warm, paths, &random);
    for (long i = 0; i < job->batches; i++) {
        double wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
        call_back(job, job->events, paths, &random);
        times.cpu[i] = (now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)job->events;
        times.wall[i] = (now_ns(CLOCK_MONOTONIC) - wall) / (double)job->events;
    }
    print_times("callback", &times, job->batches);
}

/* For whoever counts the instructions between two stops. What isn't the events' own is the same in two counts of
 * different length. */
EXPORT void c_stops(const struct job *job)
{
    int64_t paths[MOST_STACKS];
    uint64_t random = 1;
    check(job);
    make_paths(job, paths);
    call_back(job, job->warm, paths, &random);
    raise(SIGSTOP);
    call_back(job, job->events, paths, &random);
    raise(SIGSTOP);
}

/* What the clocks of this machine cost, below which no event can be. */
EXPORT void c_floors(const struct job *job)
{
    check(job);
    stay_on(job->cpu);
    struct times tsc = times_for(job), clock = times_for(job);
    for (long i = 0; i < job->batches; i++) {
        double cpu[3], wall[3];
        for (int step = 0; step < 3; step++) {
            wall[step] = now_ns(CLOCK_MONOTONIC);
            cpu[step] = now_ns(CLOCK_THREAD_CPUTIME_ID);
            for (long n = 0; n < job->events && step < 2; n++) {
                if (step == 0)
                    (void)*(volatile uint64_t *)&(uint64_t){__builtin_ia32_rdtsc()};
                else
                    now_ns(CLOCK_MONOTONIC);
            }
        }
        tsc.cpu[i] = (cpu[1] - cpu[0]) / (double)job->events;
        tsc.wall[i] = (wall[1] - wall[0]) / (double)job->events;
        clock.cpu[i] = (cpu[2] - cpu[1]) / (double)job->events;
        clock.wall[i] = (wall[2] - wall[1]) / (double)job->events;
    }
    print_times("rdtsc", &tsc, job->batches);
    print_times("clock_gettime", &clock, job->batches);
}

FRAME void *c_nothing(void *argument)
{
    return argument;
}

static void create_and_join(long count)
{
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, c_nothing, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

EXPORT void c_threads(const struct job *job)
{
    check(job);
    stay_on(job->cpu);
    struct times times = times_for(job);
    create_and_join(job->warm);
    for (long i = 0; i < job->batches; i++) {
        double wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        create_and_join(job->events);
        times.cpu[i] = (now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (double)job->events;
        times.wall[i] = (now_ns(CLOCK_MONOTONIC) - wall) / (double)job->events;
    }
    print_times("thread", &times, job->batches);
}

/* One of several threads, on a processor of its own. */
struct caller {
    const struct job *job;
    pthread_barrier_t *together;
    long number;
    struct times alone, at_once;
};

static void timed_batch(const struct job *job, const int64_t paths[MOST_STACKS], uint64_t *random,
                        struct times *times, long batch)
{
    double wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
    call_back(job, job->events, paths, random);
    times->cpu[batch] = (now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)job->events;
    times->wall[batch] = (now_ns(CLOCK_MONOTONIC) - wall) / (double)job->events;
}

/* The first thread alone, all at once, in turn, so that both see the same moods of the machine. */
FRAME void *c_caller(void *argument)
{
    struct caller *caller = argument;
    const struct job *job = caller->job;
    int64_t paths[MOST_STACKS];
    uint64_t random = (uint64_t)caller->number + 1;
    stay_on(job->cpu < 0 ? -1 : job->cpu + caller->number);
    make_paths(job, paths);
    call_back(job, job->warm, paths, &random);
    for (long i = 0; i < job->batches; i++) {
        pthread_barrier_wait(caller->together);
        if (caller->number == 0)
            timed_batch(job, paths, &random, &caller->alone, i);
        pthread_barrier_wait(caller->together);
        timed_batch(job, paths, &random, &caller->at_once, i);
    }
    return NULL;
}

EXPORT void c_parallel(const struct job *job)
{
    check(job);
    pthread_barrier_t together;
    struct caller *callers = calloc((size_t)job->threads, sizeof *callers);
    pthread_t *threads = calloc((size_t)job->threads, sizeof *threads);
    CHECK(callers && threads);
    CHECK(pthread_barrier_init(&together, NULL, (unsigned)job->threads) == 0);
    for (long i = 0; i < job->threads; i++) {
        callers[i] = (struct caller){job, &together, i, times_for(job), times_for(job)};
        CHECK(pthread_create(&threads[i], NULL, c_caller, &callers[i]) == 0);
    }
    for (long i = 0; i < job->threads; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    print_times("alone", &callers[0].alone, job->batches);
    for (long i = 0; i < job->threads; i++)
        print_times("at_once", &callers[i].at_once, job->batches);
}

/* ---- How much of the stack a call uses. ---- */

enum { PAINTED_BYTES = 48 << 10, PAINT = 0xa5 };

/* Paints the stack below, makes the call, and finds the deepest byte that it changed. All in one function, and with no
 * other call in it, whose frames would be mistaken for the call's. */
#define BYTES_USED_BY(call)                                                                                            \
    ({                                                                                                                 \
        volatile unsigned char *sp_, *byte_;                                                                           \
        __asm__ __volatile__("mov %%rsp, %0" : "=r"(sp_));                                                             \
        for (byte_ = sp_ - PAINTED_BYTES; byte_ < sp_; byte_++)                                                        \
            *byte_ = PAINT;                                                                                            \
        call;                                                                                                          \
        for (byte_ = sp_ - PAINTED_BYTES; byte_ < sp_ && *byte_ == PAINT; byte_++)                                     \
            ;                                                                                                          \
        (long)(sp_ - byte_);                                                                                           \
    })

FRAME long callback_uses(void)
{
    return BYTES_USED_BY(host_callback(1));
}

FRAME long thread_uses(void)
{
    pthread_t thread;
    long used = BYTES_USED_BY(CHECK(pthread_create(&thread, NULL, c_nothing, NULL) == 0));
    CHECK(pthread_join(thread, NULL) == 0);
    return used;
}

/* A caller of its own: a new path. */
FRAME long callback_uses_from_elsewhere(long depth)
{
    long used = depth > 0 ? callback_uses_from_elsewhere(depth - 1) : BYTES_USED_BY(host_callback(2));
    STAY();
    return used;
}

FRAME void *c_measured(void *argument)
{
    *(long *)argument = callback_uses();
    return NULL;
}

EXPORT void c_stack(const struct job *job)
{
    pthread_t thread;
    long of_thread = 0, hot = 0;
    check(job);
    long first = callback_uses();
    long elsewhere = callback_uses_from_elsewhere(job->depth);
    for (long i = 0; i < job->events; i++) {
        /* The deepest of many, and by then the stack is known. */
        long used = callback_uses();
        if (i >= job->warm && used > hot)
            hot = used;
    }
    CHECK(pthread_create(&thread, NULL, c_measured, &of_thread) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    long create = thread_uses();
    printf("stack_bytes callback/first %ld\n", first);
    printf("stack_bytes callback/new-path %ld\n", elsewhere);
    printf("stack_bytes callback/hot %ld\n", hot);
    printf("stack_bytes callback/first-of-thread %ld\n", of_thread);
    printf("stack_bytes pthread_create/hot %ld\n", create);
}

/* ---- Memory. ---- */

struct resident {
    const struct job *job;
    pthread_barrier_t *all_alive, *measured;
};

FRAME void *c_resident(void *argument)
{
    struct resident *resident = argument;
    int64_t paths[MOST_STACKS];
    uint64_t random = 1;
    make_paths(resident->job, paths);
    call_back(resident->job, resident->job->warm, paths, &random);
    pthread_barrier_wait(resident->all_alive);
    pthread_barrier_wait(resident->measured);
    return NULL;
}

static void print_resident(void)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status);
    while (fgets(line, sizeof line, status)) {
        if (strncmp(line, "Rss", 3) == 0)
            fputs(line, stdout);
    }
    fclose(status);
}

/* `threads` threads, each of which has called back `warm` times and lives on. */
EXPORT void c_memory(const struct job *job)
{
    check(job);
    pthread_barrier_t all_alive, measured;
    pthread_t *threads = calloc((size_t)job->threads, sizeof *threads);
    CHECK(threads);
    CHECK(pthread_barrier_init(&all_alive, NULL, (unsigned)job->threads + 1) == 0);
    CHECK(pthread_barrier_init(&measured, NULL, (unsigned)job->threads + 1) == 0);
    struct resident resident = {job, &all_alive, &measured};
    for (long i = 0; i < job->threads; i++)
        CHECK(pthread_create(&threads[i], NULL, c_resident, &resident) == 0);
    pthread_barrier_wait(&all_alive);
    print_resident();
    pthread_barrier_wait(&measured);
    for (long i = 0; i < job->threads; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}
