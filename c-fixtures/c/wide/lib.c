/* The C side of wide. See host.c. */
#include "wide.h"
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#define TAKE(words)                                                                                                    \
    EXPORT long c_takes_##words(struct many##words many)                                                              \
    {                                                                                                                  \
        return sum_of(many.v, words);                                                                                  \
    }                                                                                                                  \
    __attribute__((noinline)) static long jumps_##words(struct many##words many)                                       \
    {                                                                                                                  \
        return host_is_jumped_to_##words(many);                                                                        \
    }                                                                                                                  \
    __attribute__((noinline)) static void calls_##words(void)                                                          \
    {                                                                                                                  \
        struct many##words many;                                                                                      \
        fill(many.v, words, words);                                                                                    \
        long sum = sum_of(many.v, words), last = many.v[words - 1];                                                    \
        CHECK(host_walks_##words(1, many, 2) == 1 + sum + 2);                                                          \
        CHECK(host_takes_##words(many) == many.v[0] + 2 * many.v[words / 2] + 3 * last);                               \
        CHECK(host_copies_##words(many, 3) == last + 3);                                                               \
        CHECK(host_passes_on_##words(many) == sum + 1);                                                                \
        CHECK(host_jumps_##words(many) == sum);                                                                        \
        CHECK(jumps_##words(many) == last);                                                                            \
    }
SIZES(TAKE)

EXPORT long c_wide_inner(long seed)
{
    struct many250 many;
    fill(many.v, 250, seed);
    long got = host_walks_250(seed, many, 2 * seed);
    CHECK(got == seed + sum_of(many.v, 250) + 2 * seed);
    return got;
}

#define TEN(n) (n) + 1L, (n) + 2L, (n) + 3L, (n) + 4L, (n) + 5L, (n) + 6L, (n) + 7L, (n) + 8L, (n) + 9L, (n) + 10L

EXPORT void c_wide(const char *where)
{
    struct many250 many;
    struct aligned_many aligned;
    calls_31();
    calls_32();
    calls_33();
    calls_250();
    calls_512();
    long inner = c_wide_inner(7);
    fill(aligned.v, 200, 11);
    long got = host_aligned(1, 2, 3, 4, 5, 6, 7, aligned, 8);
    CHECK(got == 36 + sum_of(aligned.v, 200));
    fill(many.v, 250, 13);
    CHECK(host_outer(many, 7) == sum_of(many.v, 250) + inner);
    long picked = host_picks(244, 1, 2, 3, 4, 5, many), picks = 15;
    for (int i = 240; i >= 0; i -= 4)
        picks += many.v[i];
    CHECK(picked == (picks ^ many.v[244]));
    long sum = host_adds(60, TEN(0), TEN(10), TEN(20), TEN(30), TEN(40), TEN(50));
    printf("%s: %ld %ld %ld %ld\n", where, inner, got, picked, sum);
}

EXPORT void c_very_wide(void)
{
    calls_8750();
}

static void *on_small_stack(void *unused)
{
    c_wide("a small stack");
    return unused;
}

EXPORT void c_wide_on_small_stack(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, 48 << 10) == 0);
    CHECK(pthread_create(&thread, &attributes, on_small_stack, NULL) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

static ucontext_t here, there;
static long added;

/* Little is on the stack: what a tracer copies for any function goes beyond its end. */
static void at_the_top(void)
{
    added += host_adds(3, 1L, 2L, 3L);
    added += host_adds(8, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L);
}

/* A stack that is the program's own, behind which there is nothing, or nothing that may be read. */
static void at_the_top_with(void (*ends)(char *end, size_t bytes))
{
    enum { PAGE = 4096, PAGES = 16 };
    char *stack = mmap(NULL, (PAGES + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    ends(stack + PAGES * PAGE, PAGE);
    CHECK(getcontext(&there) == 0);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = PAGES * PAGE;
    there.uc_link = &here;
    makecontext(&there, at_the_top, 0);
    CHECK(swapcontext(&here, &there) == 0);
    printf("at the top: %ld\n", added);
    CHECK(munmap(stack, PAGES * PAGE) == 0);
}

static void with_nothing(char *end, size_t bytes)
{
    CHECK(munmap(end, bytes) == 0);
}

static void with_a_guard(char *end, size_t bytes)
{
    CHECK(mprotect(end, bytes, PROT_NONE) == 0);
}

EXPORT void c_at_the_top(void)
{
    at_the_top_with(with_nothing);
    at_the_top_with(with_a_guard);
}
