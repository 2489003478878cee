/* Programs that begin under a seccomp filter, installed by whoever executed them: what kills them must be their own.
 *
 * A launcher installs a filter and executes this program anew, to do what "inner" does: it calls back (host_filters,
 * depth 1) three times, and from a stack of unknown bounds, in a thread that C makes, in a forked child, and opens a
 * library: 5 callbacks, and 1 of the child. Whether that is traced depends on the filter. Each case (see cases.h):
 *   kills_each      one system call after the other kills: how the program ends is compared with how it ends without a
 *                   preloaded library. The launcher forks before it executes: it can be seen that processes can be made
 *   kills_each_at_once  the launcher executes at once
 *   fails_each      the calls fail with EPERM
 *   minimal         all calls kill but those that a trivial program makes
 *   contained       a filter like a container's, which fails what an ordinary program doesn't need: recorded
 *   contained_at_once   the same, without a fork: recorded
 *   contained_unseen    the launcher isn't traced, but forks: recorded
 *   unknown         the launcher isn't traced and executes at once: nothing is known of the filter, nothing recorded
 *   unknown_tried   the same where TRACESHIM_SECCOMP says that it may be tried out: recorded
 *   again           the program under the filter executes itself once more: recorded
 */
#define _GNU_SOURCE
#include "cases.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

IMPORT void c_calls_host_filters(void);
IMPORT int c_makes_thread(void);

enum { NUMBERS = 462 };

static char self[4096];

EXPORT void host_filters(void)
{
}

/* What runs under a filter. */

static ucontext_t back, aside;

static void on_another_stack(void)
{
    c_calls_host_filters();
}

/* The stack begins at the end of what is mapped: an argument's place beyond it can't be read. */
FRAME void calls_from_coroutine(void)
{
    char *stack = mmap(NULL, 32768 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || munmap(stack + 32768, 4096) != 0 || getcontext(&aside) != 0)
        return;
    aside.uc_stack.ss_sp = stack;
    aside.uc_stack.ss_size = 32768;
    aside.uc_link = &back;
    makecontext(&aside, on_another_stack, 0);
    swapcontext(&back, &aside);
}

FRAME int inner(const char *name)
{
    /* A process that hangs is a failure. */
    alarm(30);
    traceshim_log("case", name);
    for (int i = 0; i < 3; i++)
        c_calls_host_filters();
    calls_from_coroutine();
    int status = c_makes_thread() == 0 ? 0 : 1;
    void *library = dlopen("libcrypt.so.1", RTLD_NOW);
    if (library != NULL)
        dlclose(library);
    pid_t child = fork();
    if (child == 0) {
        c_calls_host_filters();
        _exit(2);
    }
    int end = 0;
    if (child < 0 || waitpid(child, &end, 0) != child)
        return status | 4;
    return status | 8 | (WIFSIGNALED(end) ? 16 : WEXITSTATUS(end) == 2 ? 0 : 32);
}

FRAME int small(void)
{
    for (int i = 0; i < 3; i++)
        c_calls_host_filters();
    return 7;
}

/* The filters. */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define IF(number, value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##number, 0, 1), RETURN(value)
#define ALLOW(number) IF(number, SECCOMP_RET_ALLOW)
#define REFUSE(number) IF(number, SECCOMP_RET_ERRNO | EPERM)

static struct sock_filter one[] = {
    LOAD(nr),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
    RETURN(0),
    RETURN(SECCOMP_RET_ALLOW),
};
static struct sock_filter minimal_calls[] = {
    LOAD(nr), ALLOW(execve), ALLOW(brk), ALLOW(mmap), ALLOW(munmap), ALLOW(mprotect), ALLOW(openat), ALLOW(read),
    ALLOW(pread64), ALLOW(newfstatat), ALLOW(fstat), ALLOW(access), ALLOW(close), ALLOW(arch_prctl), ALLOW(prlimit64),
    ALLOW(getrandom), ALLOW(rseq), ALLOW(set_robust_list), ALLOW(set_tid_address), ALLOW(exit_group),
    /* By the loader, for $ORIGIN. */
    ALLOW(readlink),
    RETURN(SECCOMP_RET_KILL_PROCESS),
};
static struct sock_filter container[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
    RETURN(SECCOMP_RET_KILL_PROCESS),
    LOAD(nr), REFUSE(add_key), REFUSE(keyctl), REFUSE(bpf), REFUSE(mount), REFUSE(umount2), REFUSE(ptrace),
    REFUSE(kexec_load), REFUSE(unshare), REFUSE(setns), REFUSE(userfaultfd), REFUSE(perf_event_open),
    REFUSE(process_vm_readv), REFUSE(process_vm_writev), IF(clone3, SECCOMP_RET_ERRNO | ENOSYS),
    /* Of clone, what makes namespaces. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
    LOAD(args[0]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x7e020000, 0, 1),
    RETURN(SECCOMP_RET_ERRNO | EPERM),
    RETURN(SECCOMP_RET_ALLOW),
};

FRAME void install(struct sock_filter *filter, size_t count)
{
    struct sock_fprog program = {.len = (unsigned short)count, .filter = filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

FRAME void execute(const char *what, const char *name)
{
    char *arguments[] = {(char *)"filters", (char *)what, (char *)name, NULL};
    execv(self, arguments);
    _exit(99);
}

/* How a launcher's child ends, as a number. */
FRAME int launch(struct sock_filter *filter, size_t count, int forks, const char *what, const char *name)
{
    pid_t launcher = fork();
    CHECK(launcher >= 0);
    if (launcher == 0) {
        install(filter, count);
        pid_t child = forks ? fork() : 0;
        if (child == 0)
            execute(what, name);
        int status = 98 << 8;
        if (child > 0)
            waitpid(child, &status, 0);
        _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
    int status = -1;
    CHECK(waitpid(launcher, &status, 0) == launcher);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

struct way {
    const char *name;
    unsigned verdict;
    int forks;
};
static const struct way ways[] = {
    {"kills_each", SECCOMP_RET_KILL_PROCESS, 1},
    {"kills_each_at_once", SECCOMP_RET_KILL_PROCESS, 0},
    {"fails_each", SECCOMP_RET_ERRNO | EPERM, 0},
};

FRAME void launch_each(const struct way *way, unsigned char *ends)
{
    for (unsigned number = 0; number < NUMBERS; number++) {
        one[1].k = number;
        one[2].k = way->verdict;
        /* Libc tries for ever to end a thread. */
        if (number == SYS_exit && way->verdict != SECCOMP_RET_KILL_PROCESS)
            continue;
        ends[number] = (unsigned char)launch(one, sizeof one / sizeof one[0], way->forks, "inner", way->name);
    }
}

/* In a process without a preloaded library: its results go to standard output. */
FRAME int launch_each_plainly(const char *name)
{
    static unsigned char ends[NUMBERS];
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (strcmp(ways[i].name, name) == 0)
            launch_each(&ways[i], ends);
    }
    return write(STDOUT_FILENO, ends, sizeof ends) != sizeof ends;
}

FRAME void compare_each(const struct way *way)
{
    static unsigned char plain[NUMBERS], ends[NUMBERS];
    int pipes[2], differences = 0, error = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    if (getenv("LD_PRELOAD") == NULL) {
        say("%s: %d calls, 0 differences\n", way->name, NUMBERS);
        return;
    }
    CHECK(pipe(pipes) == 0);
    /* What the loader and the library have to say is of no interest. */
    CHECK(dup2(null, STDERR_FILENO) == STDERR_FILENO && close(null) == 0);
    pid_t child = fork();
    if (child == 0) {
        unsetenv("LD_PRELOAD");
        dup2(pipes[1], STDOUT_FILENO);
        execute("plainly", way->name);
    }
    CHECK(close(pipes[1]) == 0);
    for (size_t have = 0; have < sizeof plain;) {
        ssize_t more = read(pipes[0], plain + have, sizeof plain - have);
        CHECK(more > 0);
        have += (size_t)more;
    }
    CHECK(waitpid(child, NULL, 0) == child && close(pipes[0]) == 0);
    launch_each(way, ends);
    CHECK(dup2(error, STDERR_FILENO) == STDERR_FILENO && close(error) == 0);
    for (int number = 0; number < NUMBERS; number++) {
        if (plain[number] != ends[number]) {
            differences++;
            say("%s: system call %d: ends with %d, and %d without a preloaded library\n", way->name, number,
                ends[number], plain[number]);
        }
    }
    say("%s: %d calls, %d differences\n", way->name, NUMBERS, differences);
}

static void kills_each(void) { compare_each(&ways[0]); }
static void kills_each_at_once(void) { compare_each(&ways[1]); }
static void fails_each(void) { compare_each(&ways[2]); }

#define LAUNCH(filter, forks, what, name) launch(filter, sizeof filter / sizeof filter[0], forks, what, name)

FRAME void minimal(void)
{
    say("minimal: %d\n", LAUNCH(minimal_calls, 0, "small", "minimal"));
}

FRAME void contained(void)
{
    say("contained: %d\n", LAUNCH(container, 1, "inner", "inner_contained"));
}

FRAME void contained_at_once(void)
{
    say("contained_at_once: %d\n", LAUNCH(container, 0, "inner", "inner_contained_at_once"));
}

/* A launcher without the library, which gives it to the program alone. */
FRAME void launch_unseen(const char *forks, const char *name)
{
    pid_t child = fork();
    if (child == 0) {
        const char *preloaded = getenv("LD_PRELOAD");
        setenv("PRELOAD", preloaded != NULL ? preloaded : "", 1);
        unsetenv("LD_PRELOAD");
        execute(forks, name);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    say("%s: %d\n", name + strlen("inner_"), WEXITSTATUS(status));
}

static void contained_unseen(void) { launch_unseen("unseen_forks", "inner_contained_unseen"); }
static void unknown(void) { launch_unseen("unseen", "inner_unknown"); }

FRAME void unknown_tried(void)
{
    CHECK(setenv("TRACESHIM_SECCOMP", "try", 1) == 0);
    launch_unseen("unseen", "inner_unknown_tried");
}

FRAME void again(void)
{
    say("again: %d\n", LAUNCH(container, 0, "again", "inner_again"));
}

FRAME int unseen(int forks, const char *name)
{
    const char *preloaded = getenv("PRELOAD");
    if (preloaded != NULL && preloaded[0] != 0)
        setenv("LD_PRELOAD", preloaded, 1);
    return LAUNCH(container, forks, "inner", name);
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"kills_each", kills_each},
        {"kills_each_at_once", kills_each_at_once},
        {"fails_each", fails_each},
        {"minimal", minimal},
        {"contained", contained},
        {"contained_at_once", contained_at_once},
        {"contained_unseen", contained_unseen},
        {"unknown", unknown},
        {"unknown_tried", unknown_tried},
        {"again", again},
    };
    ssize_t length = argc > 1 && strcmp(argv[1], "small") == 0 ? 0 : readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length >= 0);
    if (argc == 3) {
        if (strcmp(argv[1], "inner") == 0)
            return inner(argv[2]);
        if (strcmp(argv[1], "small") == 0)
            return small();
        if (strcmp(argv[1], "plainly") == 0)
            return launch_each_plainly(argv[2]);
        if (strcmp(argv[1], "unseen") == 0)
            return unseen(0, argv[2]);
        if (strcmp(argv[1], "unseen_forks") == 0)
            return unseen(1, argv[2]);
        if (strcmp(argv[1], "again") == 0)
            execute("inner", argv[2]);
    }
    CHECK(setenv("TRACESHIM_RING_BYTES", "256K", 1) == 0);
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
