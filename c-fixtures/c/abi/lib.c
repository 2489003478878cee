/* The C side of abi. See host.c. */
#define _GNU_SOURCE
#include "abi.h"
#include <errno.h>
#include <fenv.h>
#include <string.h>

/* host_large as what it is on the machine: it takes the result's address first and gives it back. */
extern void *large_by_pointer(struct large *result, struct large x, long y) __asm__("host_large");

/* Calls the function with a static chain in r10, and tells what the function gave. (Through a lazily bound PLT entry
 * r10 would get lost even without a tracer, hence the pointer.) */
void *call_with_static_chain(void *(*function)(void), void *chain);
/* Calls the function with known values in rbx, rbp and r12 to r15; tells whether all are as they were. */
int call_keeps_registers(long (*function)(void));
__asm__(".text\n"
        ".type call_with_static_chain, @function\n"
        "call_with_static_chain:\n\t"
        ".cfi_startproc\n\t"
        "subq $8, %rsp\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        "movq %rsi, %r10\n\t"
        "call *%rdi\n\t"
        "addq $8, %rsp\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        "ret\n\t"
        ".cfi_endproc\n"
        ".size call_with_static_chain, . - call_with_static_chain\n"
        ".type call_keeps_registers, @function\n"
        "call_keeps_registers:\n\t"
        ".cfi_startproc\n\t"
        "pushq %rbx\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset rbx, 0\n\t"
        "pushq %rbp\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset rbp, 0\n\t"
        "pushq %r12\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset r12, 0\n\t"
        "pushq %r13\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset r13, 0\n\t"
        "pushq %r14\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset r14, 0\n\t"
        "pushq %r15\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        ".cfi_rel_offset r15, 0\n\t"
        "subq $8, %rsp\n\t"
        ".cfi_adjust_cfa_offset 8\n\t"
        "movl $0x1b, %ebx\n\t"
        "movl $0x1c, %ebp\n\t"
        "movl $0x1d, %r12d\n\t"
        "movl $0x1e, %r13d\n\t"
        "movl $0x1f, %r14d\n\t"
        "movl $0x20, %r15d\n\t"
        "call *%rdi\n\t"
        "cmpq $7, %rax\n\t"
        "movl $0, %eax\n\t"
        "jne 1f\n\t"
        "cmpq $0x1b, %rbx\n\t"
        "jne 1f\n\t"
        "cmpq $0x1c, %rbp\n\t"
        "jne 1f\n\t"
        "cmpq $0x1d, %r12\n\t"
        "jne 1f\n\t"
        "cmpq $0x1e, %r13\n\t"
        "jne 1f\n\t"
        "cmpq $0x1f, %r14\n\t"
        "jne 1f\n\t"
        "cmpq $0x20, %r15\n\t"
        "jne 1f\n\t"
        "movl $1, %eax\n"
        "1:\taddq $8, %rsp\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        "popq %r15\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore r15\n\t"
        "popq %r14\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore r14\n\t"
        "popq %r13\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore r13\n\t"
        "popq %r12\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore r12\n\t"
        "popq %rbp\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore rbp\n\t"
        "popq %rbx\n\t"
        ".cfi_adjust_cfa_offset -8\n\t"
        ".cfi_restore rbx\n\t"
        "ret\n\t"
        ".cfi_endproc\n"
        ".size call_keeps_registers, . - call_keeps_registers\n");

static void *(*volatile static_chain)(void) = host_static_chain;
static long (*volatile clobbers)(void) = host_clobbers;

FRAME void ok(int last, const char *what)
{
    if (last)
        printf("ok %s\n", what);
}

FRAME void words(long n, int last)
{
    long expected = 0;
    for (long i = 1; i <= 26; i++)
        expected += i * (i + n);
    CHECK(host_words(1 + n, 2 + n, 3 + n, 4 + n, 5 + n, 6 + n, 7 + n, 8 + n, 9 + n, 10 + n, 11 + n, 12 + n, 13 + n, 14 + n, 15 + n, 16 + n,
                     17 + n, 18 + n, 19 + n, 20 + n, 21 + n, 22 + n, 23 + n, 24 + n, 25 + n, 26 + n) == expected);
    ok(last, "26 words");
    CHECK(host_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 + (double)n) == 650 + 12.0 * (double)n);
    ok(last, "11 doubles and an int");
    CHECK(host_narrow(-1, 200, -3, 60000, 1, 0.5f, -7, -8, -9));
    ok(last, "narrow integers");
    __int128 big = (__int128)n << 70;
    CHECK(host_int128(big, 1, 2, 3, big + 4) == big * 2 + 10);
    ok(last, "__int128");
}

FRAME void structs(long n, int last)
{
    struct two_words w = host_two_words((struct two_words){n, 20}, 3);
    CHECK(w.a == 23 && w.b == n - 3);
    struct two_doubles d = host_two_doubles((struct two_doubles){(double)n, 20}, 3);
    CHECK(d.a == 23 && d.b == (double)n - 3);
    struct word_and_double wd = host_word_and_double((struct word_and_double){n, 1.5});
    CHECK(wd.a == n + 1 && wd.b == 3.5);
    struct three_floats f = host_three_floats((struct three_floats){1, 2, (float)n});
    CHECK(f.a == (float)n && f.b == 1 && f.c == 2);
    ok(last, "small structs");

    struct large in, out;
    for (int i = 0; i < 9; i++)
        in.v[i] = n + i;
    out = host_large(in, 5);
    for (int i = 0; i < 9; i++)
        CHECK(out.v[i] == (n + i) * 5 + i);
    memset(&out, 0, sizeof out);
    CHECK(large_by_pointer(&out, in, 6) == &out);
    for (int i = 0; i < 9; i++)
        CHECK(out.v[i] == (n + i) * 6 + i);
    ok(last, "large struct, hidden pointer");

    struct aligned32 a = {{1, 2, 3, n}}, b = {{5, 6, 7, 8}};
    CHECK(host_aligned32(9, a, 10, b) == 9 + 2 + 3 * n + 40 + 25 + 48);
    struct aligned64 c = {{1, 2, 3, 4, 5, 6, 7, n}}, e = {{9, 0, 0, 0, 0, 0, 0, 16}};
    CHECK(host_aligned64(17, c, 18, e) == 17 + 2 + 3 * n + 72 + 45 + 96);
    ok(last, "over-aligned structs on the stack");
}

FRAME void floating(long n, int last)
{
    long double tiny = 1e-19L * n;
    CHECK(host_long_double(3.0L, 7, 1.0L + tiny) == 21.0L + (1.0L + tiny));
    ok(last, "long double");
    CHECK(host_complex_float(1.0f + 2.0f * I) == 2.0f + 4.0f * I);
    CHECK(host_complex_double((double)n + 2.0 * I) == (double)n * 2 + 4.0 * I);
    CHECK(host_complex_long_double(tiny + 2.0L * I) == tiny * 2 + 4.0L * I);
    ok(last, "complex");
    union long_double_or_word u = {.w = n};
    CHECK(host_union(u).w == n + 1);
    ok(last, "union of long double and word");
    CHECK(host_variadic(5, 1.0, 1, 2.0, 2, 3.0, 3, 4.0, 4, (double)n, 5) == 30 + 5.0 * (double)n + 15);
    CHECK(host_variadic_words(10, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L, n) == 285 + 10 * n);
    ok(last, "variadic");
    CHECK(fesetround(FE_UPWARD) == 0);
    volatile double one = 1, three = 3;
    double upward = host_rounding(one, three);
    CHECK(fegetround() == FE_UPWARD);
    CHECK(fesetround(FE_TONEAREST) == 0);
    CHECK(upward > host_rounding(one, three));
    ok(last, "rounding mode");
}

FRAME void vectors(long n, int last)
{
    __m128 v[9], sum = {0, 0, 0, 0};
    for (int i = 0; i < 9; i++) {
        v[i] = (__m128){(float)i, (float)n, (float)(i + 2), (float)(i + 3)};
        sum += v[i] * (float)(i + 1);
    }
    __m128 got = host_m128(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8]);
    CHECK(memcmp(&got, &sum, sizeof sum) == 0);
    ok(last, "vectors of 128 bits");
}

AVX FRAME void wide_vectors(long n, int last)
{
    __m256 v[10], sum;
    memset(&sum, 0, sizeof sum);
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 8; j++)
            v[i][j] = (float)(i * j + n);
        sum += v[i] * (float)(i + 1);
    }
    __m256 got = host_m256(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], 10, v[9]);
    CHECK(memcmp(&got, &sum, sizeof sum) == 0);
    got = host_m256_none();
    for (int j = 0; j < 8; j++)
        CHECK(got[j] == (float)(j + 1));
    ok(last, "vectors of 256 bits");
}

FRAME void the_rest(long n, int last)
{
    errno = 40 + (int)n;
    CHECK(host_errno(50) == 40 + (int)n);
    CHECK(errno == 50);
    CHECK(host_errno(0) == 50 && errno == 0);
    ok(last, "errno");
    int chain;
    CHECK(call_with_static_chain(static_chain, &chain) == &chain);
    ok(last, "static chain");
    CHECK(call_keeps_registers(clobbers));
    ok(last, "callee-saved registers");
    CHECK(host_direction() == 0 && direction_flag() == 0);
    ok(last, "direction flag");
}

EXPORT void c_abi(int round, int last)
{
    words(round, last);
    structs(round, last);
    floating(round, last);
    vectors(round, last);
    the_rest(round, last);
    if (__builtin_cpu_supports("avx"))
        wide_vectors(round, last);
    else if (last)
        puts("skipped vectors of 256 bits: this processor has no AVX");
}
