/* What the fixtures share: frames that stay real, and checks that speak. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdio.h>
#include <stdlib.h>

#ifdef __has_attribute
#if __has_attribute(noipa)
#define REAL __attribute__((noipa))
#endif
#endif
#ifndef REAL
#define REAL __attribute__((noinline))
#endif

/* A function that keeps a frame of its own and is called as written, at any level of optimisation. */
#define FRAME static REAL
/* The same, and visible to other modules: hosts are linked with -rdynamic. */
#ifdef __cplusplus
#define EXPORT extern "C" REAL __attribute__((visibility("default")))
#define IMPORT extern "C"
#else
#define EXPORT REAL __attribute__((visibility("default")))
#define IMPORT extern
#endif

/* After a call in tail position: the compiler may not jump instead, and so take the frame away. */
#define STAY() __asm__ __volatile__("" ::: "memory")

/* Stands on while NDEBUG or not: a fixture that goes wrong must say so and fail. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Code without frame pointers keeps whatever it likes in rbp. BUSY_RBP makes sure that it does: from here to RBP_KEPT
 * the register holds a number that is no address, so that a walk along frame pointers ends here. It also shows that
 * the callee gives rbp back. */
#define BUSY_RBP()                                                                                                     \
    register unsigned long busy_rbp __asm__("rbp") = 0x2a;                                                             \
    __asm__ __volatile__("" : "+r"(busy_rbp))
#define RBP_KEPT()                                                                                                     \
    do {                                                                                                               \
        __asm__ __volatile__("" : "+r"(busy_rbp));                                                                     \
        CHECK(busy_rbp == 0x2a);                                                                                       \
    } while (0)

#endif
