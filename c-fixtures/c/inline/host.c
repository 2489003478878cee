/* Calls within one image, which pass no slot: the entries of the functions themselves have to be patched. Some can't be.
 *
 * Events with TRACESHIM_CALLBACKS=inline:patched_*,inline:refused_*:
 *   callback_enter/exit   each patched_ function as often as it is called, by its own name, with main's frames behind it:
 *     patched_plain         the compiler's own prologue; compiled together with its caller, which knows its registers
 *     patched_recursive     depths 1 to 4, calling itself
 *     patched_jumped        five times, left by longjmp: how unwound
 *     patched_on_threads    1000 times on each of 4 threads
 *     patched_short         shorter than a jump, with padding behind
 *     patched_ret           one byte
 *     patched_relative      begins with a load relative to the instruction pointer
 *     patched_branch        begins with a short conditional jump
 *     patched_loop_count    begins with jrcxz, which has no long form
 *     patched_call          calls before a jump has room, by distance; patched_far_call through memory
 *     patched_tail          is nothing but a jump to patched_plain
 *     patched_many          three times, with more arguments than registers, on a stack that is not aligned
 *   log                     "step", at every instruction of a call of patched_plain, patched_branch and patched_call, but for
 *                         those inside the tracer: a complete stack, of this function or of what it calls, its caller
 *                         step and main
 *   nothing for the others, and a line in the log for each: refused_back jumps back to its first instructions,
 *   refused_start to its start, refused_call begins with a short call, refused_double has another symbol among its first
 *   instructions, refused_close is shorter than a jump with another function behind it; into the first instructions of
 *   refused_part another part of it jumps, which no symbol names, and tables lead there in refused_table (addresses) and
 *   refused_distances (distances from its beginning).
 */
#define _GNU_SOURCE
#include "fixture.h"
#include "traceshim.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#define CODE(name, body)                                                                                               \
    long name(long x);                                                                                                 \
    __asm__(".text\n.p2align 4\n.globl " #name "\n.type " #name ", @function\n" #name ":\n.cfi_startproc\n" body       \
            "\n.cfi_endproc\n.size " #name ", . - " #name "\n.p2align 4\n")

long seven = 7;
/* Calls have to return to where they came from: it is seen by exceptions, debuggers, and whoever asks. */
static const char *callers[2];
__attribute__((noinline, used)) long has_caller(long x)
{
    callers[x] = __builtin_return_address(0);
    return x + 3;
}
long (*caller_checker)(long) = has_caller;

CODE(patched_short, "mov %rdi, %rax\nret");
CODE(patched_ret, "ret");
CODE(patched_relative, "endbr64\nmov seven(%rip), %rax\nadd %rdi, %rax\nret");
CODE(patched_branch, "test %rdi, %rdi\njs 1f\nlea 1(%rdi), %rax\nret\n1: lea -1(%rdi), %rax\nret");
CODE(patched_loop_count, "mov %rdi, %rcx\njrcxz 1f\nlea 2(%rdi), %rax\nret\n1: mov $100, %eax\nret");
CODE(patched_tail, "jmp patched_plain");
CODE(refused_back, "xor %eax, %eax\n1: add %rdi, %rax\ndec %rdi\njnz 1b\nret");
CODE(refused_start, "dec %rdi\njns refused_start\nmov %rdi, %rax\nnop\nret");
CODE(patched_call, "sub $8, %rsp\n.cfi_adjust_cfa_offset 8\ncall has_caller\nadd $8, %rsp\n.cfi_adjust_cfa_offset -8\nret");
CODE(patched_far_call, "push %rdi\n.cfi_adjust_cfa_offset 8\ncall *caller_checker(%rip)\npop %rdi\n"
                       ".cfi_adjust_cfa_offset -8\nret");
CODE(refused_call, "call *%rdi\nmov $4, %eax\nret");
CODE(refused_double, "xor %eax, %eax\n.globl second_entry\nsecond_entry: lea 4(%rdi), %rax\nret");
CODE(refused_part, "lea 4(%rdi), %rax\n1: test %rdi, %rdi\njs 2f\nret\n.pushsection .text.unlikely, \"ax\", @progbits\n"
                   "2: neg %rdi\nlea 40(%rdi), %rax\njmp 1b\n.popsection");
CODE(refused_table, "xor %eax, %eax\n1: add %rdi, %rax\ndec %rdi\nxor %ecx, %ecx\ntest %rdi, %rdi\nsete %cl\n"
                    "lea 3f(%rip), %rdx\njmp *(%rdx, %rcx, 8)\n2: ret\n"
                    ".pushsection .data.rel.ro, \"aw\"\n.p2align 3\n3: .quad 1b, 2b\n.popsection");
CODE(refused_distances, "xor %eax, %eax\n1: add %rdi, %rax\ndec %rdi\nxor %ecx, %ecx\ntest %rdi, %rdi\nsete %cl\n"
                        "lea 3f(%rip), %rdx\nmovslq (%rdx, %rcx, 4), %rcx\nadd %rdx, %rcx\njmp *%rcx\n2: ret\n"
                        ".pushsection .rodata\n.p2align 2\n3: .long 1b - 3b, 2b - 3b\n.popsection");
__asm__(".text\n.p2align 4\n.globl refused_close\n.type refused_close, @function\nrefused_close: mov %rdi, %rax\nret\n"
        ".size refused_close, . - refused_close\n"
        ".globl behind\n.type behind, @function\nbehind: lea 5(%rdi), %rax\nret\n.size behind, . - behind\n");
long refused_close(long x);
long behind(long x);
long second_entry(long x);
/* Calls patched_many with a stack that is off by eight, as compilers do where they know that it doesn't matter. */
long calls_many(long x);
__asm__(".text\n.p2align 4\n.type calls_many, @function\ncalls_many:\n.cfi_startproc\n"
        "push $10\n.cfi_adjust_cfa_offset 8\npush $9\n.cfi_adjust_cfa_offset 8\npush $8\n.cfi_adjust_cfa_offset 8\n"
        "push $7\n.cfi_adjust_cfa_offset 8\n"
        "mov $2, %esi\nmov $3, %edx\nmov $4, %ecx\nmov $5, %r8d\nmov $6, %r9d\n"
        "call patched_many\nadd $32, %rsp\n.cfi_adjust_cfa_offset -32\nret\n.cfi_endproc\n"
        ".size calls_many, . - calls_many\n");
CODE(patched_many, "lea (%rdi, %rsi), %rax\nadd %rdx, %rax\nadd %rcx, %rax\nadd %r8, %rax\nadd %r9, %rax\n"
                   "add 8(%rsp), %rax\nadd 16(%rsp), %rax\nadd 24(%rsp), %rax\nadd 32(%rsp), %rax\nret");

/* Not REAL: compilers may use what they know of each other. */
__attribute__((noinline, used)) long patched_plain(long x)
{
    return x * 3 + seven;
}

__attribute__((noinline, used)) static long patched_recursive(long x)
{
    if (x == 0)
        return 0;
    long below = patched_recursive(x - 1);
    STAY();
    return below + x;
}

static jmp_buf place;

__attribute__((noinline, used)) static void patched_jumped(long x)
{
    longjmp(place, (int)x);
}

static _Thread_local long calls;

__attribute__((noinline, used)) static void patched_on_threads(long x)
{
    calls += x;
    STAY();
}

static void *on_thread(void *unused)
{
    for (int i = 0; i < 1000; i++)
        patched_on_threads(2);
    CHECK(calls == 2000);
    return unused;
}

/* Many values that are alive across the calls: they end up in every register that the callee leaves alone. */
FRAME void keeps_values(volatile long *values)
{
    long a = values[0], b = values[1], c = values[2], d = values[3], e = values[4], f = values[5], g = values[6];
    long h = values[7], i = values[8], j = values[9], k = values[10], l = values[11];
    double u = values[0], v = values[1], w = values[2], x = values[3], y = values[4], z = values[5];
    long sum = patched_plain(a) + patched_plain(b);
    printf("kept %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld %ld, %g %g %g %g %g %g, sum %ld\n", a, b, c, d, e, f, g, h,
           i, j, k, l, u, v, w, x, y, z, sum);
}

static volatile sig_atomic_t stepping;

/* One instruction after the other, wherever they are: the processor traps after each as long as the flag is set. */
FRAME void on_step(int signal, siginfo_t *info, void *context)
{
    const greg_t trap = 1 << 8;
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    (void)signal, (void)info;
    *flags = stepping ? *flags | trap : *flags & ~trap;
    if (stepping)
        traceshim_log("step", "");
}

FRAME long step(long (*function)(long), long x)
{
    stepping = 1;
    raise(SIGTRAP);
    long result = function(x);
    stepping = 0;
    return result;
}

int main(void)
{
    struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
    printf("steps %ld %ld %ld\n", step(patched_plain, 2), step(patched_branch, 3), step(patched_call, 0));
    volatile long values[12];
    for (int i = 0; i < 12; i++)
        values[i] = i + 1;
    keeps_values(values);
    printf("recursive %ld\n", patched_recursive(3));
    for (volatile int i = 0; i < 5; i++)
        if (setjmp(place) == 0)
            patched_jumped(i + 1);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, on_thread, NULL) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    patched_ret(0);
    printf("call %ld, far call %ld", patched_call(0), patched_far_call(1));
    printf(", from %td and %td\n", callers[0] - (const char *)patched_call, callers[1] - (const char *)patched_far_call);
    printf("short %ld, relative %ld, branch %ld %ld\n", patched_short(1), patched_relative(1), patched_branch(1),
           patched_branch(-1));
    printf("loop count %ld %ld, tail %ld\n", patched_loop_count(0), patched_loop_count(1), patched_tail(1));
    for (int i = 0; i < 3; i++)
        printf("many %ld\n", calls_many(i));
    printf("refused %ld %ld %ld %ld %ld, %ld %ld\n", refused_back(3), refused_start(2), refused_call((long)patched_ret),
           refused_double(1), refused_close(1), second_entry(1), behind(1));
    printf("refused %ld, %ld %ld\n", refused_part(-3), refused_table(3), refused_distances(3));
    return 0;
}
