/* Signal handlers that come at any moment: they call back, nest, jump away, fork and end threads.
 *
 * Each case is a process (see cases.h), which prints what it counted itself. Events, by case:
 *   nested     host_handles (depth 1) in a handler, which is interrupted by another: depth 2
 *   alternate  host_handles on alternate stacks of 8 KiB, in main and in a thread
 *   storm      a timer's handler calls back (host_handles) while main calls back, logs and makes threads: the calls that
 *              main made are all there
 *   storm_within  the same on an alternate stack that is part of main's own, above all that main is in
 *   jumps      a timer's handler jumps out of whatever main is in, 300 times; the callbacks after that are all there,
 *              at depth 1
 *   first_calls  a timer's handler jumps out of calls of functions that were never called before, of which the tracer
 *              has much to find out; all of them are called, from ever deeper
 *   forks      a timer's handler forks while main calls back from ever new stacks and opens and closes a plugin; the
 *              children call back, too, and end at once or go on where main was
 *   forks_plainly  the same past fork's handlers: by _Fork, and by the system calls fork, clone and clone3, while another
 *              thread calls back, too
 *   forks_at_first  a process forks past fork's handlers while another thread of it calls back for the first time; the
 *              child calls back, too
 *   cancelled  threads that may be cancelled at any instruction are, while they call back from ever new stacks
 *   pending    a thread that is to be cancelled calls back, makes threads and opens a library first: none of it is a
 *              cancellation point
 */
#define _GNU_SOURCE
#include "cases.h"
#include "firsts.h"
#include <dlfcn.h>
#include <linux/sched.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

IMPORT void c_calls_host_handles(void);
IMPORT void c_calls_host_counts(void);
IMPORT void c_calls_from_depth(int depth);
IMPORT void c_makes_thread(void);
IMPORT void c_calls_first(int n);

static volatile sig_atomic_t handled;
static volatile long counted;

EXPORT void host_counts(void)
{
    counted++;
}

EXPORT void host_handles(void)
{
    int now = ++handled;
    if (now == 1)
        raise(SIGUSR2);
}

static void calls_back(int signal)
{
    (void)signal;
    c_calls_host_handles();
}

FRAME void handle(int signal, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static timer_t timer;

/* Each handler sets the timer again at its end: however slow it is, main gets somewhere in between. */
FRAME void set_timer(long microseconds)
{
    struct itimerspec when = {.it_value.tv_nsec = microseconds * 1000};
    if (timer_settime(timer, 0, &when, NULL) != 0)
        _exit(4);
}

FRAME void handle_timer(void (*handler)(int), int flags)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    handle(SIGPROF, handler, flags);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    set_timer(1000);
}

FRAME void nested(void)
{
    handle(SIGUSR1, calls_back, 0);
    handle(SIGUSR2, calls_back, 0);
    raise(SIGUSR1);
    say("nested: handled %d\n", (int)handled);
}

FRAME void *on_alternate_stack(void *argument)
{
    static char stacks[2][8192];
    stack_t stack = {.ss_sp = stacks[argument != NULL], .ss_size = sizeof stacks[0]};
    CHECK(sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 100; i++)
        pthread_kill(pthread_self(), SIGUSR1);
    return argument;
}

FRAME void alternate(void)
{
    pthread_t thread;
    handled = 1;
    handle(SIGUSR1, calls_back, SA_ONSTACK);
    on_alternate_stack(NULL);
    CHECK(pthread_create(&thread, NULL, on_alternate_stack, (void *)"") == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    say("alternate: handled %d\n", (int)handled - 1);
}

static void calls_back_soon_again(int signal)
{
    calls_back(signal);
    set_timer(1000);
}

FRAME void storm_of(int flags, const char *name)
{
    char message[32];
    handled = 1;
    handle_timer(calls_back_soon_again, SA_RESTART | flags);
    while (handled < 100) {
        for (int i = 0; i < 300; i++)
            c_calls_from_depth(i);
        c_makes_thread();
        traceshim_log("log", "storm");
    }
    timer_delete(timer);
    snprintf(message, sizeof message, "%ld", counted);
    traceshim_log("counted", message);
    traceshim_log("log", "after the storm");
    long from = counted;
    for (int i = 0; i < 1000; i++)
        c_calls_host_counts();
    say("%s: %ld calls\n", name, counted - from);
}

FRAME void storm(void)
{
    storm_of(0, "storm");
}

FRAME void storm_within(void)
{
    char within[64 << 10];
    stack_t stack = {.ss_sp = within, .ss_size = sizeof within};
    CHECK(sigaltstack(&stack, NULL) == 0);
    storm_of(SA_ONSTACK, "storm_within");
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
}

static sigjmp_buf out;

static void jumps_out(int signal)
{
    (void)signal;
    handled++;
    set_timer(200 + handled % 100);
    siglongjmp(out, 1);
}

FRAME void jumps(void)
{
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGPROF);
    CHECK(sigprocmask(SIG_BLOCK, &alarm, NULL) == 0);
    handle_timer(jumps_out, 0);
    while (handled < 300) {
        if (sigsetjmp(out, 1) == 0) {
            CHECK(sigprocmask(SIG_UNBLOCK, &alarm, NULL) == 0);
            for (volatile int i = 0;; i++) {
                c_calls_from_depth(i % 300);
                if (i % 8 == 0)
                    traceshim_log("log", "before a jump");
            }
        }
    }
    timer_delete(timer);
    counted = 0;
    traceshim_log("log", "after the jumps");
    for (int i = 0; i < 1000; i++)
        c_calls_host_counts();
    say("jumps: %ld calls\n", counted);
}

static volatile sig_atomic_t first;

#define COUNTS_FIRST(n)                                                                                                \
    EXPORT void host_first_##n(void)                                                                                   \
    {                                                                                                                  \
        first = 0x##n + 1;                                                                                             \
    }
FIRSTS(COUNTS_FIRST)

static void jumps_soon(int signal)
{
    (void)signal;
    handled++;
    set_timer(20 + handled % 64 + handled / 8); /* However slow it is, main gets there. */
    siglongjmp(out, 1);
}

FRAME void calls_first_from(int depth)
{
    if (depth > 0)
        calls_first_from(depth - 1);
    else
        c_calls_first(first);
    STAY();
}

FRAME void first_calls(void)
{
    handle_timer(jumps_soon, 0);
    set_timer(20);
    while (first < 256) {
        if (sigsetjmp(out, 1) == 0)
            while (first < 256)
                calls_first_from(handled);
    }
    timer_delete(timer);
    /* Not on standard output: without the tracer they are too fast to be interrupted. */
    traceshim_log("log", handled > 0 ? "interrupted" : "not interrupted");
    say("first calls: %d\n", first);
}

static volatile sig_atomic_t forked, is_child, is_in_loader;

static int is_plain;

FRAME pid_t fork_in_some_way(void)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    switch (is_plain ? forked % 4 : -1) {
    case 0:
        return _Fork();
    case 1:
        return (pid_t)syscall(SYS_fork);
    case 2:
        return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    case 3:
        return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    default:
        return fork();
    }
}

static void forks(int signal)
{
    (void)signal;
    int status = -1;
    pid_t child = fork_in_some_way();
    if (child == 0) {
        /* One that hangs is a failure. */
        alarm(30);
        c_calls_host_counts();
        /* Others go on where their parent was, which libc's own dlopen doesn't survive. */
        if (is_in_loader)
            _exit(0);
        is_child = 1;
        return;
    }
    if (waitpid(child, &status, 0) != child || status != 0)
        _exit(4);
    forked++;
    set_timer(500 + forked * 10);
}

/* Each takes a lock of the tracer's, so that a fork finds it taken or waited for. */
FRAME void wrap_much(void)
{
    for (int i = 0; i < 3000; i++)
        CHECK(traceshim_wrap(host_counts) != NULL);
}

FRAME void forks_in_handler(void)
{
    char plugin_path[4096];
    ssize_t length = readlink("/proc/self/exe", plugin_path, sizeof plugin_path - 32);
    CHECK(length > 0);
    strcpy(plugin_path + length, "-plugin-empty.so");
    handle_timer(forks, SA_RESTART);
    for (int i = 0; forked < 60; i++) {
        for (int depth = 0; depth < 300; depth += 30)
            c_calls_from_depth(depth + i % 30);
        if (is_plain)
            wrap_much();
        is_in_loader = 1;
        void *plugin = dlopen(plugin_path, RTLD_NOW);
        CHECK(plugin != NULL && dlclose(plugin) == 0);
        is_in_loader = 0;
        if (is_child)
            _exit(0);
    }
    timer_delete(timer);
    say("%s: done\n", is_plain ? "forks_plainly" : "forks");
}

static void *calls_from_depths(void *argument)
{
    for (int i = 0;; i++) {
        c_calls_from_depth(i % 300);
        wrap_much();
    }
    return argument;
}

FRAME void *calls_first(void *started)
{
    atomic_store((atomic_int *)started, 1);
    c_calls_first(0);
    return NULL;
}

FRAME void wait_for(pid_t child)
{
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0)
        _exit(4);
}

FRAME void forks_at_first(void)
{
    for (int i = 0; i < 40; i++) {
        /* To have a first time each. */
        pid_t busy = fork();
        if (busy != 0) {
            wait_for(busy);
            continue;
        }
        atomic_int started = 0;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, calls_first, &started) == 0);
        while (atomic_load(&started) == 0)
            ;
        for (volatile int spin = 0; spin < i * 4000; spin++)
            ;
        pid_t child = _Fork();
        if (child == 0) {
            c_calls_first(1);
            _exit(0);
        }
        wait_for(child);
        CHECK(pthread_join(thread, NULL) == 0);
        _exit(0);
    }
    say("forks at first: %d\n", 40);
}

FRAME void forks_plainly(void)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    is_plain = 1;
    /* The thread has no handler run at any time: its children would go on for ever. */
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(pthread_create(&thread, NULL, calls_from_depths, NULL) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    forks_in_handler();
}

static atomic_int ready;

FRAME void *at_any_instruction(void *argument)
{
    CHECK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
    for (int i = 0;; i++) {
        c_calls_from_depth(i % 300);
        if (i == 20)
            atomic_store(&ready, 1);
    }
    return argument;
}

FRAME void cancelled(void)
{
    int ends = 0;
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        void *result = NULL;
        atomic_store(&ready, 0);
        CHECK(pthread_create(&thread, NULL, at_any_instruction, NULL) == 0);
        while (!atomic_load(&ready))
            sched_yield();
        /* Somewhere in the next few hundred callbacks. */
        for (volatile int wait = 0; wait < i * 100; wait++)
            ;
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0);
        ends += result == PTHREAD_CANCELED;
    }
    say("cancelled: %d threads\n", ends);
}

FRAME void *has_to_end(void *reached)
{
    CHECK(pthread_cancel(pthread_self()) == 0);
    for (int i = 0; i < 100; i++)
        c_calls_from_depth(i);
    void *library = dlopen("libm.so.6", RTLD_NOW);
    CHECK(library != NULL && dlsym(library, "cos") != NULL && dlclose(library) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, on_alternate_stack, NULL) == 0);
    CHECK(pthread_detach(thread) == 0);
    *(int *)reached = 1;
    pthread_testcancel();
    return NULL;
}

FRAME void pending(void)
{
    handled = 1;
    handle(SIGUSR1, calls_back, SA_ONSTACK);
    int reached = 0;
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_create(&thread, NULL, has_to_end, &reached) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    say("pending: reached %d, cancelled %d\n", reached, result == PTHREAD_CANCELED);
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"nested", nested}, {"alternate", alternate},        {"storm", storm}, {"storm_within", storm_within},
        {"jumps", jumps},
        {"first_calls", first_calls},
        {"forks", forks_in_handler},
        {"forks_plainly", forks_plainly}, {"forks_at_first", forks_at_first}, {"cancelled", cancelled}, {"pending", pending},
    };
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
