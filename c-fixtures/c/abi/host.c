/* Every way of passing arguments and results, checked on both sides of a callback: stack arguments (20 words), small and
 * large structs, long double and _Complex, variadic, vectors of 128 and 256 bits, over-aligned arguments on the stack,
 * the static chain, errno, the rounding mode, callee-saved registers, the direction flag.
 *
 * Prints one "ok" line for each, the same with and without the shim. A case that needs AVX prints "skipped" without.
 *
 * Events: callback_enter/exit of each function in abi.h, three times, depth 1, how return (host_errno six times). A
 * tracer that bounds the stack arguments it copies must copy 64 words at least: host_aligned64 takes 18 of them and up
 * to 8 of padding, host_words 20.
 */
#define _GNU_SOURCE
#include "abi.h"
#include <errno.h>
#include <stdarg.h>

IMPORT void c_abi(int round, int last);

EXPORT long host_words(WORDS_PARAMETERS)
{
    return 1 * a1 + 2 * a2 + 3 * a3 + 4 * a4 + 5 * a5 + 6 * a6 + 7 * a7 + 8 * a8 + 9 * a9 + 10 * a10 + 11 * a11 + 12 * a12 + 13 *
           a13 + 14 * a14 + 15 * a15 + 16 * a16 + 17 * a17 + 18 * a18 + 19 * a19 + 20 * a20 + 21 * a21 + 22 * a22 + 23
           * a23 + 24 * a24 + 25 * a25 + 26 * a26;
}

EXPORT double host_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i,
                           double j, int k, double l)
{
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j + 11 * k + 12 * l;
}

EXPORT int host_narrow(signed char a, unsigned char b, short c, unsigned short d, _Bool e, float f, signed char g,
                       signed char h, short i)
{
    return a == -1 && b == 200 && c == -3 && d == 60000 && e && f == 0.5f && g == -7 && h == -8 && i == -9;
}

EXPORT struct two_words host_two_words(struct two_words x, long y)
{
    return (struct two_words){x.b + y, x.a - y};
}

EXPORT struct two_doubles host_two_doubles(struct two_doubles x, double y)
{
    return (struct two_doubles){x.b + y, x.a - y};
}

EXPORT struct word_and_double host_word_and_double(struct word_and_double x)
{
    return (struct word_and_double){x.a + 1, x.b + 2};
}

EXPORT struct three_floats host_three_floats(struct three_floats x)
{
    return (struct three_floats){x.c, x.a, x.b};
}

EXPORT struct large host_large(struct large x, long y)
{
    for (int i = 0; i < 9; i++)
        x.v[i] = x.v[i] * y + i;
    return x;
}

EXPORT long double host_long_double(long double x, int y, long double z)
{
    return x * y + z;
}

EXPORT float _Complex host_complex_float(float _Complex x) { return x * 2.0f; }
EXPORT double _Complex host_complex_double(double _Complex x) { return x * 2.0; }
EXPORT long double _Complex host_complex_long_double(long double _Complex x) { return x * 2.0L; }

EXPORT union long_double_or_word host_union(union long_double_or_word x)
{
    x.w += 1;
    return x;
}

EXPORT double host_variadic(int count, ...)
{
    va_list arguments;
    double sum = 0;
    va_start(arguments, count);
    for (int i = 1; i <= count; i++)
        sum += i * va_arg(arguments, double) + va_arg(arguments, int);
    va_end(arguments);
    return sum;
}

EXPORT long host_variadic_words(int count, ...)
{
    va_list arguments;
    long sum = 0;
    va_start(arguments, count);
    for (int i = 1; i <= count; i++)
        sum += i * va_arg(arguments, long);
    va_end(arguments);
    return sum;
}

EXPORT __m128 host_m128(__m128 a, __m128 b, __m128 c, __m128 d, __m128 e, __m128 f, __m128 g, __m128 h, __m128 i)
{
    return a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8 + i * 9;
}

EXPORT __int128 host_int128(__int128 a, long b, long c, long d, __int128 e)
{
    return a + b + c + d + e;
}

/* The compiler takes the alignment of an argument for granted; this doesn't. */
FRAME int is_aligned(const void *argument, uintptr_t alignment)
{
    uintptr_t address = (uintptr_t)argument;
    __asm__ __volatile__("" : "+r"(address));
    return address % alignment == 0;
}

EXPORT long host_aligned32(long a, struct aligned32 x, long b, struct aligned32 y)
{
    CHECK(is_aligned(&x, 32) && is_aligned(&y, 32));
    return a + 2 * x.v[0] + 3 * x.v[3] + 4 * b + 5 * y.v[0] + 6 * y.v[3];
}

EXPORT long host_aligned64(long a, struct aligned64 x, long b, struct aligned64 y)
{
    CHECK(is_aligned(&x, 64) && is_aligned(&y, 64));
    return a + 2 * x.v[0] + 3 * x.v[7] + 4 * b + 5 * y.v[0] + 6 * y.v[7];
}

EXPORT int host_errno(int set)
{
    int found = errno;
    errno = set;
    return found;
}

EXPORT double host_rounding(double a, double b)
{
    return a / b;
}

/* The static chain of a nested function comes in r10. */
__asm__(".globl host_static_chain\n"
        ".type host_static_chain, @function\n"
        "host_static_chain:\n\t"
        ".cfi_startproc\n\t"
        "movq %r10, %rax\n\t"
        "ret\n\t"
        ".cfi_endproc\n"
        ".size host_static_chain, . - host_static_chain\n");

/* Leaves nothing as it was in the registers that a function may change. */
EXPORT long host_clobbers(void)
{
    __asm__ __volatile__("" ::: "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "rbx", "r12", "r13", "r14", "r15");
    return 7;
}

EXPORT long host_direction(void)
{
    return direction_flag();
}

AVX EXPORT __m256 host_m256(__m256 a, __m256 b, __m256 c, __m256 d, __m256 e, __m256 f, __m256 g, __m256 h, __m256 i,
                            int j, __m256 k)
{
    return a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8 + i * 9 + (float)j * k;
}

AVX EXPORT __m256 host_m256_none(void)
{
    return (__m256){1, 2, 3, 4, 5, 6, 7, 8};
}

int main(void)
{
    for (int round = 1; round <= 3; round++)
        c_abi(round, round == 3);
    return 0;
}
