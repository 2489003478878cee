/* The functions that the abi fixture's host exports, with one way of passing arguments or results each. */
#ifndef ABI_H
#define ABI_H

#include "fixture.h"
#include <complex.h>
#include <immintrin.h>
#include <stdint.h>

/* Passed in: two integer registers; two vector registers; one of each; the stack and a hidden pointer. */
struct two_words { long a, b; };
struct two_doubles { double a, b; };
struct word_and_double { long a; double b; };
struct three_floats { float a, b, c; };
struct large { long v[9]; };
struct aligned32 { long v[4]; } __attribute__((aligned(32)));
struct aligned64 { long v[8]; } __attribute__((aligned(64)));
union long_double_or_word { long double d; long w; };

#define WORDS_PARAMETERS long a1, long a2, long a3, long a4, long a5, long a6, long a7, long a8, long a9, long a10, \
    long a11, long a12, long a13, long a14, long a15, long a16, long a17, long a18, long a19, long a20, long a21, long \
    a22, long a23, long a24, long a25, long a26
IMPORT long host_words(WORDS_PARAMETERS);
IMPORT double host_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i,
                           double j, int k, double l);
IMPORT int host_narrow(signed char a, unsigned char b, short c, unsigned short d, _Bool e, float f, signed char g,
                       signed char h, short i);
IMPORT struct two_words host_two_words(struct two_words x, long y);
IMPORT struct two_doubles host_two_doubles(struct two_doubles x, double y);
IMPORT struct word_and_double host_word_and_double(struct word_and_double x);
IMPORT struct three_floats host_three_floats(struct three_floats x);
IMPORT struct large host_large(struct large x, long y);
IMPORT long double host_long_double(long double x, int y, long double z);
IMPORT float _Complex host_complex_float(float _Complex x);
IMPORT double _Complex host_complex_double(double _Complex x);
IMPORT long double _Complex host_complex_long_double(long double _Complex x);
IMPORT union long_double_or_word host_union(union long_double_or_word x);
IMPORT double host_variadic(int count, ...);
IMPORT long host_variadic_words(int count, ...);
IMPORT __m128 host_m128(__m128 a, __m128 b, __m128 c, __m128 d, __m128 e, __m128 f, __m128 g, __m128 h, __m128 i);
IMPORT __int128 host_int128(__int128 a, long b, long c, long d, __int128 e);
IMPORT long host_aligned32(long a, struct aligned32 x, long b, struct aligned32 y);
IMPORT long host_aligned64(long a, struct aligned64 x, long b, struct aligned64 y);
IMPORT int host_errno(int set);
IMPORT double host_rounding(double a, double b);
IMPORT void *host_static_chain(void);
IMPORT long host_clobbers(void);
IMPORT long host_direction(void);

/* Whether string instructions go downwards, as no function may find or leave it. */
static inline long direction_flag(void)
{
    return __builtin_ia32_readeflags_u64() >> 10 & 1;
}

#define AVX __attribute__((target("avx")))
AVX IMPORT __m256 host_m256(__m256 a, __m256 b, __m256 c, __m256 d, __m256 e, __m256 f, __m256 g, __m256 h, __m256 i,
                            int j, __m256 k);
AVX IMPORT __m256 host_m256_none(void);

#endif
