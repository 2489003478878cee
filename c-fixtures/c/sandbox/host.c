/* Programs that forbid themselves system calls, with seccomp: what the tracer may no longer do it leaves undone.
 *
 * Each case is a process (see cases.h), which goes on to call back (host_sandbox, depth 1) 100 times, and from a
 * stack of unknown bounds once more; both are recorded:
 *   strict          read, write, exit and sigreturn are all that is left, and no clock: nothing more is recorded
 *   kills           the same by a filter, and the end of the process. A call from a stack whose end is near, where the
 *                   system would have to be asked what may be read of it, isn't recorded
 *   kills_syscall   entered through syscall() and not prctl()
 *   kills_thread    threads can still be made: one calls back, too
 *   kills_memory    threads, but no memory: one that has its stack from the program calls back, too
 *   contained       what an ordinary program doesn't need fails: all is recorded, also a forked child, and the ring is cut
 *   refuses         open, mkdir, fallocate, ftruncate, unlink and more fail, also in a forked child, which is not traced
 *   refuses_before  as refuses, from before an exec on: the new image runs, traced or not
 *   not_entered     a filter that can't be installed changes nothing: a forked child is traced
 */
#define _GNU_SOURCE
#include "cases.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

IMPORT void c_calls_host_sandbox(void);
IMPORT void c_makes_thread(const pthread_attr_t *attributes);

static int calls;

EXPORT void host_sandbox(void)
{
    calls++;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define IF(number, value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##number, 0, 1), RETURN(value)

#define BASICS                                                                                                         \
    LOAD(nr), IF(read, SECCOMP_RET_ALLOW), IF(write, SECCOMP_RET_ALLOW), IF(exit, SECCOMP_RET_ALLOW),                  \
        IF(exit_group, SECCOMP_RET_ALLOW), IF(rt_sigreturn, SECCOMP_RET_ALLOW)

static struct sock_filter kill_most[] = {BASICS, RETURN(SECCOMP_RET_KILL_PROCESS)};
static struct sock_filter kill_but_threads[] = {
    BASICS,
    IF(clone, SECCOMP_RET_ALLOW),
    IF(clone3, SECCOMP_RET_ALLOW),
    IF(mmap, SECCOMP_RET_ALLOW),
    IF(munmap, SECCOMP_RET_ALLOW),
    IF(mprotect, SECCOMP_RET_ALLOW),
    IF(madvise, SECCOMP_RET_ALLOW),
    IF(futex, SECCOMP_RET_ALLOW),
    IF(rseq, SECCOMP_RET_ALLOW),
    IF(set_robust_list, SECCOMP_RET_ALLOW),
    IF(rt_sigprocmask, SECCOMP_RET_ALLOW),
    IF(rt_sigaction, SECCOMP_RET_ALLOW),
    IF(brk, SECCOMP_RET_ALLOW),
    IF(getrandom, SECCOMP_RET_ALLOW),
    RETURN(SECCOMP_RET_KILL_PROCESS),
};

static struct sock_filter kill_memory[] = {
    BASICS,
    IF(clone, SECCOMP_RET_ALLOW),
    IF(clone3, SECCOMP_RET_ALLOW),
    IF(futex, SECCOMP_RET_ALLOW),
    IF(rseq, SECCOMP_RET_ALLOW),
    IF(set_robust_list, SECCOMP_RET_ALLOW),
    IF(rt_sigprocmask, SECCOMP_RET_ALLOW),
    IF(rt_sigaction, SECCOMP_RET_ALLOW),
    RETURN(SECCOMP_RET_KILL_PROCESS),
};

#define REFUSED (SECCOMP_RET_ERRNO | EPERM)
static struct sock_filter refuse_much[] = {
    LOAD(nr),
    IF(memfd_create, REFUSED),
    IF(mkdir, REFUSED),
    IF(fallocate, REFUSED),
    IF(ftruncate, REFUSED),
    IF(unlink, REFUSED),
    IF(madvise, REFUSED),
    IF(getrandom, REFUSED),
    IF(process_vm_readv, REFUSED),
    IF(sigaltstack, REFUSED),
    RETURN(SECCOMP_RET_ALLOW),
};

static struct sock_filter contain[] = {
    LOAD(nr),
    IF(ptrace, REFUSED),
    IF(mount, REFUSED),
    IF(bpf, REFUSED),
    RETURN(SECCOMP_RET_ALLOW),
};

#define FILTER(code) {.len = sizeof code / sizeof code[0], .filter = code}

FRAME void enter(struct sock_fprog program, int by_syscall)
{
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (by_syscall)
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
    else
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static ucontext_t back, aside;

static void on_another_stack(void)
{
    c_calls_host_sandbox();
}

/* Switching masks signals, which is not allowed any more: what makes the switch is made before. */
FRAME void calls_back(const char *name)
{
    for (int i = 0; i < 100; i++)
        c_calls_host_sandbox();
    say("%s: %d calls\n", name, calls);
}

FRAME void strict(void)
{
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    calls_back("strict");
    syscall(SYS_exit, 5);
}

/* Calls with the stack pointer at `top`, without the kernel. */
FRAME void call_on(void (*function)(void), char *top)
{
    __asm__ __volatile__("movq %%rsp, %%rbx\n\tmovq %1, %%rsp\n\tcall *%0\n\tmovq %%rbx, %%rsp"
                         : "+r"(function), "+r"(top)
                         :
                         : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

FRAME void kills(void)
{
    struct sock_fprog program = FILTER(kill_most);
    char *stack = mmap(NULL, 69632, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED && munmap(stack + 65536, 4096) == 0);
    enter(program, 0);
    call_on(c_calls_host_sandbox, stack + 65536);
    calls_back("kills");
}

FRAME void kills_syscall(void)
{
    struct sock_fprog program = FILTER(kill_most);
    enter(program, 1);
    calls_back("kills_syscall");
}

FRAME void kills_thread(void)
{
    struct sock_fprog program = FILTER(kill_but_threads);
    enter(program, 0);
    c_makes_thread(NULL);
    calls_back("kills_thread");
}

FRAME void kills_memory(void)
{
    static _Alignas(4096) char stack[65536];
    struct sock_fprog program = FILTER(kill_memory);
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, sizeof stack) == 0);
    /* Libc asks for memory before that is deadly. */
    void *volatile some = malloc(100000);
    free(some);
    enter(program, 0);
    c_makes_thread(&attributes);
    calls_back("kills_memory");
}

FRAME void calls_from_coroutine(void)
{
    static char stack[16384];
    CHECK(getcontext(&aside) == 0);
    aside.uc_stack.ss_sp = stack;
    aside.uc_stack.ss_size = sizeof stack;
    aside.uc_link = &back;
    makecontext(&aside, on_another_stack, 0);
    CHECK(swapcontext(&back, &aside) == 0);
}

FRAME void goes_on(const char *name)
{
    c_makes_thread(NULL);
    calls_from_coroutine();
    calls_back(name);
    pid_t child = fork();
    if (child == 0) {
        calls = 0;
        calls_back("child");
        exit(0);
    }
    report("child", child);
}

FRAME void contained(void)
{
    struct sock_fprog program = FILTER(contain);
    enter(program, 0);
    goes_on("contained");
}

FRAME void refuses(void)
{
    struct sock_fprog program = FILTER(refuse_much);
    enter(program, 0);
    CHECK(mkdir("/tmp", 0700) == -1 && errno == EPERM);
    goes_on("refuses");
}

FRAME void refuses_before(void)
{
    struct sock_fprog program = FILTER(refuse_much);
    enter(program, 0);
    execl("/proc/self/exe", "sandbox", "run", "after_exec", NULL);
    CHECK(!"came back");
}

FRAME void after_exec(void)
{
    goes_on("after_exec");
}

FRAME void not_entered(void)
{
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) == -1 && errno == EFAULT);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == -1 && errno == EFAULT);
    /* So libseccomp asks what there is. */
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL) == -1 && errno == EINVAL);
    CHECK(prctl(PR_SET_SECCOMP, 99, NULL) == -1 && errno == EINVAL);
    goes_on("not_entered");
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"strict", strict},
        {"kills", kills},
        {"kills_syscall", kills_syscall},
        {"kills_thread", kills_thread},
        {"kills_memory", kills_memory},
        {"contained", contained},
        {"refuses", refuses},
        {"refuses_before", refuses_before},
        {"not_entered", not_entered},
    };
    static const struct named_case inner[] = {{"after_exec", after_exec}};
    if (argc == 3 && strcmp(argv[2], inner[0].name) == 0)
        return run_cases(inner, 1, argc, argv);
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
