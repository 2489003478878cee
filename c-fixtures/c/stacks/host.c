/* Threads with attributes, small stacks, and by other makers than pthread_create: all as without a tracer.
 *
 * Each case is a process (see cases.h). Events, by case:
 *   attributes   a thread for each attribute, with a callback of host_stacks; the thread prints what it finds
 *   smallest     PTHREAD_STACK_MIN, and a stack of that size that the program supplies: callbacks from C on both
 *   full         callbacks from where less than 3 KiB are left of a stack: nothing below it is written to
 *   errors       no thread, and the error that libc gives
 *   keys         the program's keys of thread-specific data are numbered from 0
 *   c11          thrd_create: a birth, origin host
 *   by_libc      a thread that libc makes for a timer (SIGEV_THREAD): its callback comes from an unknown thread
 *   tls          libraries with static TLS are opened until there is no more room for them: as many as without a tracer
 *   clones       tasks without thread-local storage of their own, made by clone with and without CLONE_THREAD, on a stack of
 *                their own and on one that is part of their creator's, call back (host_clones) while their creator does
 *                (host_stacks): the creator's callbacks are recorded; theirs are counted as not recorded
 *   no_pointer   a clone as of vfork whose thread pointer leads to zeros (so does Chromium): it calls back, logs, and calls
 *                what the tracer stands before, and none of it is recorded; its creator's callbacks afterwards are
 *   coroutine    a callback from a large frame on a stack that nobody knows the bounds of
 *   preempted    three coroutines among which the handler of a timer switches, wherever they are, with a large frame of its own
 *   windows      a function of the host's with the calling convention of Windows: its caller keeps rdi, rsi and xmm8
 *   bad_paths    exec of paths that aren't memory: the error of the system
 *   flags        the direction flag, the rounding of both units and the exception masks, in a callback and after it
 */
#define _GNU_SOURCE
#include "cases.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <ucontext.h>

IMPORT void c_calls_host_stacks(void);
IMPORT void c_calls_from_large_frame(void);
IMPORT void c_calls_host_flags(void);
IMPORT int c_calls_host_clones(void *done);
IMPORT long c_calls_host_windows(void);

static int calls;

EXPORT void host_stacks(void)
{
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

/* What a thread can find out about itself. */
FRAME void *tells(void *what)
{
    pthread_attr_t attributes;
    void *address;
    size_t size, guard;
    int detached, cpus;
    cpu_set_t set;
    sigset_t blocked;
    c_calls_from_large_frame();
    CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
    CHECK(pthread_attr_getstack(&attributes, &address, &size) == 0);
    CHECK(pthread_attr_getguardsize(&attributes, &guard) == 0);
    CHECK(pthread_attr_getdetachstate(&attributes, &detached) == 0);
    CHECK(pthread_getaffinity_np(pthread_self(), sizeof set, &set) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &blocked) == 0);
    /* A machine may have no more than one. */
    cpus = strcmp(what, "size") == 0 || strcmp(what, "guard") == 0 ? 0 : CPU_COUNT(&set);
    say("%s: stack %zu, guard %zu, detached %d, on one processor %d, SIGUSR1 blocked %d\n", (char *)what, size, guard,
        detached == PTHREAD_CREATE_DETACHED, cpus == 1, sigismember(&blocked, SIGUSR1));
    CHECK(pthread_attr_destroy(&attributes) == 0);
    return what;
}

FRAME void run(pthread_attr_t *attributes, const char *what)
{
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_create(&thread, attributes, tells, (void *)what) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == what);
}

FRAME void *from_large_frame(void *argument)
{
    c_calls_from_large_frame();
    return argument;
}

FRAME void run_simply(pthread_attr_t *attributes)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, attributes, from_large_frame, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

FRAME void attributes(void)
{
    static _Alignas(4096) char stack[128 << 10];
    pthread_attr_t a;
    cpu_set_t first;
    sigset_t blocked;
    CHECK(sched_getaffinity(0, sizeof first, &first) == 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &first))
        cpu++;
    CPU_ZERO(&first);
    CPU_SET(cpu, &first);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK(pthread_attr_init(&a) == 0);
    run_simply(&a);
    CHECK(pthread_attr_setstacksize(&a, 1 << 20) == 0);
    run(&a, "size");
    CHECK(pthread_attr_setguardsize(&a, 64 << 10) == 0);
    run(&a, "guard");
    CHECK(pthread_attr_setaffinity_np(&a, sizeof first, &first) == 0);
    run(&a, "affinity");
    CHECK(pthread_attr_setsigmask_np(&a, &blocked) == 0);
    run(&a, "mask");
    CHECK(pthread_attr_setstack(&a, stack, sizeof stack) == 0);
    run(&a, "stack");
    CHECK(pthread_attr_destroy(&a) == 0);
    /* From now on what nobody says is this. */
    CHECK(pthread_attr_init(&a) == 0 && pthread_attr_setstacksize(&a, 192 << 10) == 0);
    CHECK(pthread_setattr_default_np(&a) == 0);
    run_simply(NULL);
    CHECK(pthread_attr_destroy(&a) == 0);
}

FRAME void *calls_back(void *argument)
{
    for (int i = 0; i < 100; i++)
        c_calls_host_stacks();
    return argument;
}

FRAME void smallest(void)
{
    static _Alignas(4096) char stack[16384];
    pthread_attr_t a;
    pthread_t thread;
    CHECK(pthread_attr_init(&a) == 0);
    CHECK(pthread_attr_setstacksize(&a, PTHREAD_STACK_MIN) == 0);
    CHECK(pthread_create(&thread, &a, calls_back, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(pthread_attr_setstack(&a, stack, sizeof stack) == 0);
    CHECK(pthread_create(&thread, &a, calls_back, NULL) == 0 && pthread_join(thread, NULL) == 0);
    say("smallest: %d calls\n", calls);
}

enum { BELOW = 64 << 10, SMALL = 16384, LEFT = 3072 };
static _Alignas(4096) char below_and_stack[BELOW + SMALL];

FRAME void recurse(int *depth)
{
    char here[256];
    __asm__ __volatile__("" ::"r"(here) : "memory");
    if (here - (below_and_stack + BELOW) > LEFT) {
        (*depth)++;
        recurse(depth);
        STAY();
        return;
    }
    for (int i = 0; i < 100; i++)
        c_calls_host_stacks();
}

FRAME void *fills_stack(void *depth)
{
    recurse(depth);
    return depth;
}

FRAME void full(void)
{
    pthread_attr_t a;
    pthread_t thread;
    int depth = 0, changed = 0;
    /* The loader binds calls with more stack than is left. */
    c_calls_host_stacks();
    memset(below_and_stack, 0x5a, BELOW);
    CHECK(pthread_attr_init(&a) == 0 && pthread_attr_setstack(&a, below_and_stack + BELOW, SMALL) == 0);
    CHECK(pthread_create(&thread, &a, fills_stack, &depth) == 0 && pthread_join(thread, NULL) == 0);
    for (int i = 0; i < BELOW; i++)
        changed += below_and_stack[i] != 0x5a;
    say("full: %d calls, deep %d, %d bytes changed below\n", calls, depth > 10, changed);
}

FRAME void errors(void)
{
    pthread_attr_t a;
    pthread_t thread;
    CHECK(pthread_attr_init(&a) == 0);
    CHECK(pthread_attr_setstacksize(&a, (size_t)1 << 46) == 0);
    errno = 77;
    int too_large = pthread_create(&thread, &a, tells, NULL);
    cpu_set_t nowhere;
    CPU_ZERO(&nowhere);
    CHECK(pthread_attr_setstacksize(&a, 1 << 20) == 0);
    CHECK(pthread_attr_setaffinity_np(&a, sizeof nowhere, &nowhere) == 0);
    int no_processor = pthread_create(&thread, &a, tells, NULL);
    say("errors: %d %d\n", too_large, no_processor);
}

FRAME void keys(void)
{
    pthread_key_t mine[3];
    /* As one finds who never sets the variable. */
    CHECK(pthread_getspecific(0) == NULL);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_key_create(&mine[i], NULL) == 0 && pthread_getspecific(mine[i]) == NULL);
    say("keys: %u %u %u, without a value\n", mine[0], mine[1], mine[2]);
}

static int in_c11(void *argument)
{
    c_calls_host_stacks();
    return *(int *)argument;
}

FRAME void c11(void)
{
    int value = 42, result = 0;
    thrd_t thread;
    CHECK(thrd_create(&thread, in_c11, &value) == thrd_success);
    CHECK(thrd_join(thread, &result) == thrd_success);
    say("c11: %d\n", result);
}

static sem_t expired;

static void in_timer(union sigval value)
{
    (void)value;
    c_calls_host_stacks();
    sem_post(&expired);
}

FRAME void by_libc(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_timer};
    struct itimerspec when = {.it_value.tv_nsec = 1000000};
    CHECK(sem_init(&expired, 0, 0) == 0);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &when, NULL) == 0);
    CHECK(sem_wait(&expired) == 0);
    say("by_libc: %d calls\n", calls);
}

/* The loader knows files by device and inode: each library has to be a copy. */
FRAME int open_with_tls(void)
{
    static char bytes[1 << 20];
    char path[4096], copy[] = "/tmp/stacks-XXXXXX";
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
    CHECK(length > 0);
    strcpy(path + length, "-plugin-tls.so");
    int fd = open(path, O_RDONLY | O_CLOEXEC), opened = 0;
    CHECK(fd >= 0);
    length = read(fd, bytes, sizeof bytes);
    CHECK(length > 0 && length < (ssize_t)sizeof bytes);
    for (int i = 0; i < 100; i++) {
        strcpy(copy, "/tmp/stacks-XXXXXX");
        int to = mkstemp(copy);
        CHECK(to >= 0 && write(to, bytes, (size_t)length) == length && close(to) == 0);
        opened += dlopen(copy, RTLD_NOW) != NULL;
        CHECK(unlink(copy) == 0);
    }
    return opened;
}

static void count_tls(void)
{
    exit(open_with_tls());
}

/* How many there is room for hangs on libc: a process without any preloaded library tells. */
FRAME void tls(void)
{
    int opened = open_with_tls(), status = -1;
    pid_t child = fork();
    if (child == 0) {
        unsetenv("LD_PRELOAD");
        execl("/proc/self/exe", "stacks", "run", "count_tls", NULL);
        _exit(127);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    say("tls: some %d, all %d, as many as without a preloaded library %d\n", opened > 0, opened == 100,
        opened == WEXITSTATUS(status));
}

static int calls_of_clones;

EXPORT void host_clones(void)
{
    __atomic_fetch_add(&calls_of_clones, 1, __ATOMIC_RELAXED);
}

FRAME void call_beside_clone(int flags, char *stack, size_t size)
{
    volatile pid_t running = 1;
    pid_t made = clone(c_calls_host_clones, stack + size, CLONE_VM | CLONE_CHILD_CLEARTID | flags, NULL, NULL, NULL,
                       (pid_t *)&running);
    CHECK(made > 0);
    for (int i = 0; i < 2500; i++)
        c_calls_host_stacks();
    while (running)
        sched_yield();
    if (!(flags & CLONE_THREAD))
        CHECK(waitpid(made, NULL, __WALL) == made);
}

FRAME void call_beside_clones(int flags)
{
    static _Alignas(4096) char elsewhere[64 << 10];
    _Alignas(4096) char within[64 << 10];
    call_beside_clone(flags, elsewhere, sizeof elsewhere);
    call_beside_clone(flags, within, sizeof within);
}

static void *in_thread(void *argument)
{
    const int thread_flags = CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    call_beside_clones(SIGCHLD);
    call_beside_clones(thread_flags);
    return argument;
}

FRAME void clones(void)
{
    pthread_t thread;
    in_thread(NULL);
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    say("clones: %d calls, and %d of clones\n", calls, calls_of_clones);
}

/* In the clone only what needs nothing of libc's thread. */
static int without_pointer(void *argument)
{
    (void)argument;
    traceshim_log("log", "without a thread pointer");
    c_calls_host_clones(NULL);
    if (prctl(PR_SET_NAME, "clone", 0, 0, 0) != 0 || chroot("/nowhere") == 0 || syscall(SYS_getppid) == 0)
        _exit(1);
    _exit(0);
}

FRAME void no_pointer(void)
{
    static _Alignas(64) char stack[64 << 10], zeros[8192];
    int status = -1;
    pid_t made = clone(without_pointer, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_VFORK | CLONE_SETTLS | SIGCHLD, NULL,
                       NULL, zeros + sizeof zeros / 2, NULL);
    CHECK(made > 0 && waitpid(made, &status, 0) == made);
    for (int i = 0; i < 10; i++)
        c_calls_host_stacks();
    say("no_pointer: status %d, %d calls, and %d of the clone\n", status, calls, calls_of_clones);
}

static ucontext_t back, aside;

static void on_coroutine(void)
{
    c_calls_from_large_frame();
    STAY();
}

FRAME void coroutine(void)
{
    const size_t size = 256 << 10;
    CHECK(getcontext(&aside) == 0);
    aside.uc_stack.ss_sp = malloc(size);
    CHECK(aside.uc_stack.ss_sp != NULL);
    aside.uc_stack.ss_size = size;
    aside.uc_link = &back;
    makecontext(&aside, on_coroutine, 0);
    CHECK(swapcontext(&back, &aside) == 0);
    free(aside.uc_stack.ss_sp);
    say("coroutine: %d calls\n", calls);
}

#define COROUTINES 3
#define OF_EACH 20000
static ucontext_t among[COROUTINES];
static volatile int running = -1, over[COROUTINES];

static int next_of(int n)
{
    for (int i = 1; i <= COROUTINES; i++)
        if (!over[(n + i) % COROUTINES])
            return (n + i) % COROUTINES;
    return -1;
}

static void switches(int signal)
{
    volatile char large[200 << 10];
    for (size_t i = 0; i < sizeof large; i += 4096)
        large[i] = (char)signal;
    int from = running, to = next_of(from);
    if (to >= 0 && to != from) {
        running = to;
        CHECK(swapcontext(&among[from], &among[to]) == 0);
    }
}

static void calls_often(void)
{
    for (int i = 0; i < OF_EACH; i++)
        c_calls_host_stacks();
    sigset_t alarm;
    CHECK(sigemptyset(&alarm) == 0 && sigaddset(&alarm, SIGALRM) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &alarm, NULL) == 0);
    over[running] = 1;
    running = next_of(running);
    if (running >= 0)
        setcontext(&among[running]);
}

FRAME void preempted(void)
{
    const size_t size = 1 << 20;
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    for (volatile int i = 0; i < COROUTINES; i++) {
        CHECK(getcontext(&among[i]) == 0);
        among[i].uc_stack.ss_sp = malloc(size);
        CHECK(among[i].uc_stack.ss_sp != NULL);
        among[i].uc_stack.ss_size = size;
        among[i].uc_link = &back;
        makecontext(&among[i], calls_often, 0);
    }
    CHECK(signal(SIGALRM, switches) != SIG_ERR && setitimer(ITIMER_REAL, &often, NULL) == 0);
    running = 0;
    CHECK(swapcontext(&back, &among[0]) == 0);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    say("preempted: %d calls\n", calls);
}

EXPORT __attribute__((ms_abi)) void host_windows(void)
{
    calls++;
}

FRAME void windows(void)
{
    for (int i = 0; i < 3; i++)
        say("windows: kept %ld\n", c_calls_host_windows());
}

FRAME void bad_paths(void)
{
    char *none[] = {NULL};
    const char *volatile low = (const char *)1, *volatile high = (const char *)-1;
    CHECK(execve(low, none, none) == -1);
    int first = errno;
    CHECK(execv(high, none) == -1);
    say("bad_paths: %d %d\n", first, errno);
}

static unsigned long flags_in_callback;
static unsigned short x87_in_callback;
static unsigned mxcsr_in_callback;

EXPORT void host_flags(void)
{
    __asm__ __volatile__("pushfq\n\tpopq %0" : "=r"(flags_in_callback));
    __asm__ __volatile__("fnstcw %0" : "=m"(x87_in_callback));
    __asm__ __volatile__("stmxcsr %0" : "=m"(mxcsr_in_callback));
}

FRAME void flags(void)
{
    unsigned short x87 = 0x0f7f, x87_after;
    unsigned mxcsr = 0x7f80, mxcsr_after;
    unsigned long flags_after;
    for (int i = 0; i < 3; i++) {
        __asm__ __volatile__("fldcw %0" ::"m"(x87));
        __asm__ __volatile__("ldmxcsr %0" ::"m"(mxcsr));
        c_calls_host_flags();
        __asm__ __volatile__("pushfq\n\tpopq %0" : "=r"(flags_after));
        __asm__ __volatile__("fnstcw %0" : "=m"(x87_after));
        __asm__ __volatile__("stmxcsr %0" : "=m"(mxcsr_after));
        say("flags: direction %lu %lu, x87 %x %x, mxcsr %x %x\n", flags_in_callback >> 10 & 1, flags_after >> 10 & 1,
            x87_in_callback, x87_after, mxcsr_in_callback & 0xffc0, mxcsr_after & 0xffc0);
    }
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"attributes", attributes}, {"smallest", smallest}, {"full", full},     {"errors", errors},
        {"keys", keys},             {"c11", c11},           {"by_libc", by_libc}, {"tls", tls},
        {"clones", clones},         {"no_pointer", no_pointer}, {"coroutine", coroutine}, {"preempted", preempted},
        {"windows", windows},       {"bad_paths", bad_paths}, {"flags", flags},
    };
    static const struct named_case inner[] = {{"count_tls", count_tls}};
    if (argc == 3 && strcmp(argv[2], inner[0].name) == 0)
        return run_cases(inner, 1, argc, argv);
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
