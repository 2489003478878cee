/* Every way in which a process ends, with threads that are in the middle of callbacks and without.
 *
 * Each case is a process (see cases.h); how it ended is the result. Events, by case: what each logs, and callbacks of
 * host_ends (depth 1) as often as it says; a process that ended by itself has an end. What is called back after that
 * (late_writers) is lost.
 */
#define _GNU_SOURCE
#include "cases.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

IMPORT void c_calls_host_ends(const char *when);
IMPORT void c_calls_host_leaves(void);
IMPORT void c_makes_busy_threads(int count);
IMPORT void c_makes_thread(void);

static void (*leave)(void);
static atomic_int busy;

EXPORT void host_ends(const char *when)
{
    traceshim_log("log", when);
}

EXPORT void host_leaves(void)
{
    leave();
}

static int late_calls, late_calls_wanted;

/* Whether there are more to come, in a destructor of the library. */
EXPORT int host_is_late(void)
{
    if (late_calls == late_calls_wanted) {
        if (late_calls > 0)
            say("late_writers: %d calls\n", late_calls);
        return 0;
    }
    late_calls++;
    return 1;
}

FRAME void late_writers(void)
{
    late_calls_wanted = 20000;
    c_calls_host_ends("in time");
}

/* In bursts, for the trace's sake. */
EXPORT void host_busy(void)
{
    struct timespec pause = {.tv_nsec = 1000000};
    if (atomic_fetch_add(&busy, 1) % 20 == 19)
        nanosleep(&pause, NULL);
}

/* Until both threads are in the midst of calling back. */
FRAME void make_busy_threads(void)
{
    c_makes_busy_threads(2);
    while (atomic_load(&busy) < 200)
        sched_yield();
}

static void at_exit(void)
{
    c_calls_host_ends("atexit");
    c_makes_thread();
}

static void at_quick_exit_handler(void)
{
    c_calls_host_ends("at_quick_exit");
}

static void leave_exit(void) { exit(10); }
static void leave_exit_now(void) { _exit(11); }
static void leave_exit_c99(void) { _Exit(12); }
static void leave_quick(void) { quick_exit(13); }
static void leave_abort(void) { abort(); }
static void leave_kill(void) { raise(SIGKILL); }
static void leave_trap(void) { __builtin_trap(); }

FRAME void ends_in_callback(void (*how)(void))
{
    CHECK(atexit(at_exit) == 0);
    CHECK(at_quick_exit(at_quick_exit_handler) == 0);
    leave = how;
    c_calls_host_leaves();
}

FRAME void ends_while_busy(void (*how)(void))
{
    make_busy_threads();
    ends_in_callback(how);
}

#define WAYS(way)                                                                                                      \
    static void way##_plain(void) { ends_in_callback(leave_##way); }                                                   \
    static void way##_busy(void) { ends_while_busy(leave_##way); }
WAYS(exit)
WAYS(exit_now)
WAYS(exit_c99)
WAYS(quick)
WAYS(abort)
WAYS(kill)
WAYS(trap)

FRAME void main_returns(void)
{
    CHECK(atexit(at_exit) == 0);
    make_busy_threads();
}

static void *outlives_main(void *main_thread)
{
    CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
    c_calls_host_ends("after main");
    return NULL;
}

FRAME void main_thread_exits(void)
{
    static pthread_t self, thread;
    self = pthread_self();
    CHECK(atexit(at_exit) == 0);
    CHECK(pthread_create(&thread, NULL, outlives_main, &self) == 0);
    pthread_exit(NULL);
}

static void *exits_process(void *argument)
{
    make_busy_threads();
    exit(argument != NULL);
}

FRAME void thread_exits_process(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, exits_process, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(!"came back");
}

static void exits_in_handler(int signal)
{
    c_calls_host_ends("handler");
    _exit(signal);
}

FRAME void handler_exits(void)
{
    CHECK(signal(SIGUSR1, exits_in_handler) != SIG_ERR);
    make_busy_threads();
    raise(SIGUSR1);
}

FRAME void executes(void)
{
    make_busy_threads();
    execl("/proc/self/exe", "ends", "run", "exit_now", NULL);
    CHECK(!"came back");
}

static void *executes_in_thread(void *argument)
{
    executes();
    return argument;
}

FRAME void thread_executes(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, executes_in_thread, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(!"came back");
}

FRAME void forked_child_exits(void)
{
    make_busy_threads();
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            c_calls_host_ends("child");
            c_makes_thread();
            exit(i);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == i);
    }
}

/* Children that call nothing back have no ring, and leave their parent's alone. */
FRAME void quiet_children(void)
{
    static void (*const ends[])(void) = {leave_exit, leave_exit_now, leave_exit_c99, leave_quick};
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0)
            ends[i]();
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        say("quiet child: %s %d\n", WIFEXITED(status) ? "exit status" : "signal",
            WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        c_calls_host_ends("parent of a quiet child");
    }
}

FRAME void exec_fails(void)
{
    c_calls_host_ends("before");
    CHECK(execl("/proc/self/nowhere", "nowhere", NULL) == -1);
    /* More than the first ring has room for at its end. */
    for (int i = 0; i < 2000; i++)
        c_calls_host_ends("after");
}

FRAME void parent_ends_first(void)
{
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    c_calls_host_ends("parent");
    if (fork() != 0)
        _exit(0);
    /* Its parent is gone once this process belongs to another. */
    close(ends[1]);
    CHECK(read(ends[0], &byte, 1) == 0);
    c_calls_host_ends("orphan");
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"exit", exit_plain},         {"exit_busy", exit_busy},
        {"exit_now", exit_now_plain}, {"exit_now_busy", exit_now_busy},
        {"exit_c99", exit_c99_plain}, {"exit_c99_busy", exit_c99_busy},
        {"quick", quick_plain},       {"quick_busy", quick_busy},
        {"abort", abort_plain},       {"abort_busy", abort_busy},
        {"kill", kill_plain},         {"kill_busy", kill_busy},
        {"trap", trap_plain},         {"trap_busy", trap_busy},
        {"late_writers", late_writers},
        {"main_returns", main_returns},
        {"main_thread_exits", main_thread_exits},
        {"thread_exits_process", thread_exits_process},
        {"handler_exits", handler_exits},
        {"executes", executes},
        {"thread_executes", thread_executes},
        {"forked_child_exits", forked_child_exits},
        {"quiet_children", quiet_children},
        {"exec_fails", exec_fails},
        {"parent_ends_first", parent_ends_first},
    };
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
