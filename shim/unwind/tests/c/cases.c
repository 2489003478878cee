/* Stacks that are hard to walk. Each case is an exported function; it captures
 * under the label of its own name. */
#define _GNU_SOURCE
#include "host.h"
#include <alloca.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static const struct host *host;
static int armed;
static const char *label;

void use_host(const struct host *h) { host = h; }

NOINLINE static void use(volatile void *p) { __asm__ volatile("" ::"r"(p) : "memory"); }

/* libc calls back, from code without frame pointers. */
NOINLINE static int compare(const void *a, const void *b)
{
    if (armed) {
        armed = 0;
        host->capture(label);
    }
    return *(const int *)a - *(const int *)b;
}

void case_qsort(void)
{
    int v[8] = {3, 1, 2, 9, 4, 7, 6, 5};
    armed = 1;
    label = "case_qsort";
    qsort(v, 8, sizeof *v, compare);
    KEEP;
}

void case_bsearch(void)
{
    int v[4] = {1, 2, 3, 4}, key = 3;
    armed = 1;
    label = "case_bsearch";
    use(bsearch(&key, v, 4, sizeof *v, compare));
    KEEP;
}

/* Signals: raised, by a trap in the middle of a function, with rbp in other use. */
NOINLINE static void handler(int s, siginfo_t *i, void *u)
{
    (void)s, (void)i, (void)u;
    host->capture(label);
    KEEP;
}

static void handle(int signal, int flags)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = handler;
    sa.sa_flags = SA_SIGINFO | flags;
    sigaction(signal, &sa, 0);
}

void case_signal_raise(void)
{
    handle(SIGUSR1, 0);
    label = "case_signal_raise";
    raise(SIGUSR1);
    KEEP;
}

void case_signal_trap(void)
{
    handle(SIGTRAP, 0);
    label = "case_signal_trap";
    __asm__ volatile("int3");
    KEEP;
}

void signal_odd_rbp(void);
/* The CFA is counted from rsp throughout, and rbp holds no address. */
__asm__(".text\n.globl signal_odd_rbp\n.type signal_odd_rbp,@function\nsignal_odd_rbp:\n"
        ".cfi_startproc\n push %rbp\n .cfi_adjust_cfa_offset 8\n .cfi_rel_offset rbp,0\n"
        " mov $0x1234,%ebp\n int3\n pop %rbp\n .cfi_adjust_cfa_offset -8\n .cfi_restore rbp\n"
        " ret\n.cfi_endproc\n.size signal_odd_rbp,.-signal_odd_rbp\n");

void case_signal_odd_rbp(void)
{
    handle(SIGTRAP, 0);
    label = "case_signal_odd_rbp";
    signal_odd_rbp();
    KEEP;
}

void signal_first_instruction(void);
/* The exact address is the function's first byte: one before it is another function. */
__asm__(".text\n.globl signal_first_instruction\n.type signal_first_instruction,@function\n"
        ".cfi_startproc\n.cfi_def_cfa_offset 4096\n nop\n.cfi_endproc\n"
        "signal_first_instruction:\n.cfi_startproc\n ud2\n ret\n.cfi_endproc\n"
        ".size signal_first_instruction,.-signal_first_instruction\n");

static void skip_ud2(int s, siginfo_t *i, void *u)
{
    handler(s, i, u);
    ((ucontext_t *)u)->uc_mcontext.gregs[REG_RIP] += 2;
}

void case_signal_first_instruction(void)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = skip_ud2;
    sa.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &sa, 0);
    label = "case_signal_first_instruction";
    signal_first_instruction();
    KEEP;
}

void case_signal_alternate_stack(void)
{
    static char stack[1 << 18];
    stack_t ss, old;
    memset(&ss, 0, sizeof ss);
    ss.ss_sp = stack;
    ss.ss_size = sizeof stack;
    sigaltstack(&ss, &old);
    handle(SIGUSR2, SA_ONSTACK);
    host->stack(stack, stack + sizeof stack);
    label = "case_signal_alternate_stack";
    raise(SIGUSR2);
    host->stack(0, 0);
    sigaltstack(&old, 0);
}

/* The alternate stack's bounds aren't told. */
void case_signal_unknown_stack(void)
{
    static char stack[1 << 18];
    stack_t ss, old;
    memset(&ss, 0, sizeof ss);
    ss.ss_sp = stack;
    ss.ss_size = sizeof stack;
    sigaltstack(&ss, &old);
    handle(SIGUSR2, SA_ONSTACK);
    label = "case_signal_unknown_stack";
    raise(SIGUSR2);
    sigaltstack(&old, 0);
}

NOINLINE static void nested_handler(int s)
{
    (void)s;
    host->capture("case_signal_nested");
    KEEP;
}

static void outer_handler(int s)
{
    (void)s;
    signal(SIGUSR2, nested_handler);
    raise(SIGUSR2);
    KEEP;
}

void case_signal_nested(void)
{
    signal(SIGUSR1, outer_handler);
    raise(SIGUSR1);
    KEEP;
}

/* Frames of odd shapes. */
NOINLINE static void with_alloca(int n)
{
    volatile char *p = alloca(n);
    p[0] = 1;
    host->capture("case_alloca");
    p[n - 1] = 2;
}

void case_alloca(void)
{
    with_alloca(500);
    KEEP;
}

void case_realigned(void)
{
    char b[256] __attribute__((aligned(64)));
    use(b);
    host->capture("case_realigned");
    use(b);
}

NOINLINE static void drap(int n, int a, int b, int c, int d, int e, int f, int g)
{
    char bb[256] __attribute__((aligned(64)));
    volatile char *p = alloca(n);
    p[0] = 1;
    use(bb);
    use(p);
    host->capture("case_drap");
    use(&g);
    use(bb);
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
}

void case_drap(void)
{
    drap(300, 1, 2, 3, 4, 5, 6, 7);
    KEEP;
}

NOINLINE static void large_frame(void)
{
    volatile char b[200000];
    b[0] = 1;
    use(b);
    host->capture("case_large_frame");
    use(b);
}

void case_large_frame(void)
{
    large_frame();
    KEEP;
}

/* The CFA is counted from another callee-saved register. */
void cfa_on_register(void (*f)(const char *), const char *l);
__asm__(".text\n.globl cfa_on_register\n.type cfa_on_register,@function\ncfa_on_register:\n"
        ".cfi_startproc\n push %r13\n .cfi_adjust_cfa_offset 8\n .cfi_rel_offset r13,0\n"
        " mov %rsp,%r13\n .cfi_def_cfa_register r13\n and $-64,%rsp\n sub $64,%rsp\n"
        " mov %rdi,%rax\n mov %rsi,%rdi\n call *%rax\n mov %r13,%rsp\n .cfi_def_cfa_register rsp\n"
        " pop %r13\n .cfi_adjust_cfa_offset -8\n .cfi_restore r13\n ret\n.cfi_endproc\n"
        ".size cfa_on_register,.-cfa_on_register\n");

NOINLINE static void saves_registers(const char *l)
{
    /* Pushes all the callee-saved registers and uses them for something else. */
    __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15");
    host->capture(l);
    __asm__ volatile("xor %%ebx,%%ebx\n xor %%r13d,%%r13d" ::: "rbx", "r12", "r13", "r14", "r15");
}

void case_cfa_on_register(void)
{
    cfa_on_register(saves_registers, "case_cfa_on_register");
    KEEP;
}

NOINLINE static void tail2(void)
{
    host->capture("case_tail_call");
    KEEP;
}

NOINLINE static void tail1(int x)
{
    use(&x);
    tail2();
}

void case_tail_call(void)
{
    tail1(3);
    KEEP;
}

static jmp_buf back;

__attribute__((noreturn, noinline)) static void never2(void)
{
    host->capture("case_noreturn");
    longjmp(back, 1);
}

/* The return address of the call is beyond the function's end. */
__attribute__((noreturn, noinline)) static void never1(void) { never2(); }

void case_noreturn(void)
{
    if (!setjmp(back))
        never1();
    KEEP;
}

/* Code without unwind information: in the module, and in no module. */
void no_cfi_frame_pointer(void (*f)(const char *), const char *l);
void no_cfi_no_frame_pointer(void (*f)(const char *), const char *l);

void case_no_cfi_frame_pointer(void)
{
    no_cfi_frame_pointer(host->capture, "case_no_cfi_frame_pointer");
    KEEP;
}

void case_no_cfi_no_frame_pointer(void)
{
    no_cfi_no_frame_pointer(host->capture, "case_no_cfi_no_frame_pointer");
    KEEP;
}

void case_jit(void)
{
    /* sub $8,%rsp; call *%rsi; add $8,%rsp; ret */
    static const unsigned char code[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd6, 0x48, 0x83, 0xc4, 8, 0xc3};
    unsigned char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(p, code, sizeof code);
    mprotect(p, 4096, PROT_READ | PROT_EXEC);
    ((void (*)(const char *, void (*)(const char *)))p)("case_jit", host->capture);
    munmap(p, 4096);
}

/* The outermost frames of threads and coroutines. */
static void *thread(void *a)
{
    host->capture("case_thread");
    KEEP;
    return a;
}

void case_thread(void)
{
    pthread_t t;
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, 0);
}

static ucontext_t main_context, context;

static void coroutine(void)
{
    host->capture(label);
    KEEP;
}

static void in_coroutine(int told)
{
    static char stack[1 << 18];
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = sizeof stack;
    context.uc_link = &main_context;
    makecontext(&context, coroutine, 0);
    if (told)
        host->stack(stack, stack + sizeof stack);
    swapcontext(&main_context, &context);
    host->stack(0, 0);
}

void case_coroutine(void)
{
    label = "case_coroutine";
    in_coroutine(1);
}

void case_coroutine_unknown_stack(void)
{
    label = "case_coroutine_unknown_stack";
    in_coroutine(0);
}

static void in_once(void)
{
    host->capture("case_once");
    KEEP;
}

void case_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, in_once);
    KEEP;
}

static int each_module(struct dl_phdr_info *i, size_t n, void *data)
{
    (void)i, (void)n, (void)data;
    host->capture("case_dl_iterate_phdr");
    return 1;
}

void case_dl_iterate_phdr(void)
{
    dl_iterate_phdr(each_module, 0);
    KEEP;
}

static void destructor(void *a)
{
    (void)a;
    host->capture("case_tsd_destructor");
    KEEP;
}

static void *sets_key(void *key)
{
    pthread_setspecific(*(pthread_key_t *)key, (void *)1);
    return 0;
}

void case_tsd_destructor(void)
{
    pthread_key_t key;
    pthread_t t;
    pthread_key_create(&key, destructor);
    pthread_create(&t, 0, sets_key, &key);
    pthread_join(t, 0);
    pthread_key_delete(key);
}

static void cleanup(void *a)
{
    (void)a;
    host->capture("case_pthread_exit");
    KEEP;
}

static void *exits(void *a)
{
    pthread_cleanup_push(cleanup, 0);
    pthread_exit(a);
    pthread_cleanup_pop(0);
    return 0;
}

void case_pthread_exit(void)
{
    pthread_t t;
    pthread_create(&t, 0, exits, 0);
    pthread_join(t, 0);
}

/* A function that is picked at its first call, through the lazy linkage table. */
static void picked_body(void) { KEEP; }

static void (*pick(void))(void)
{
    if (host)
        host->capture("case_lazy_binding");
    return picked_body;
}

__attribute__((ifunc("pick"))) void picked(void);

void case_lazy_binding(void)
{
    picked();
    KEEP;
}
