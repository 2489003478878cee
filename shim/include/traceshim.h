/* traceshim.h - what a program tells its trace. SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Include it and call; there is nothing to link. Where libtraceshim.so is preloaded, the calls record events
 * with the caller's stack; where it isn't, each costs a load, a test and a branch. For C (C89 and later, GNU
 * dialect or not) and C++ (98 and later), gcc and clang. On other systems than x86-64 Linux nothing is recorded.
 *
 *   void     traceshim_log(const char *category, const char *message);
 *   void     traceshim_region_begin(const char *name);           a stretch of one thread's time; they nest
 *   void     traceshim_region_end(const char *name);             ends the innermost of that name
 *   void     traceshim_region_end();                             ends the innermost
 *   uint64_t traceshim_task_begin(const char *name);             work that may cross threads; 0: not traced
 *   uint64_t traceshim_task_begin_in(const char *name, uint64_t parent);
 *   void     traceshim_task_end(uint64_t task);                  from any thread; 0 is ignored
 *   int      traceshim_enabled(void);                            worth preparing a costly message?
 *   FN       traceshim_wrap(FN function);                        FN: any function pointer. What to hand to the
 *                                                                code that will call it back: a trampoline that
 *                                                                records each call, or `function` itself
 *
 * Strings are copied before the call returns. Arguments are evaluated once, traced or not. Calls are safe in any
 * thread, in signal handlers too.
 *
 * Each name is a macro and also a function, so that its address can be taken: `hook = traceshim_log`. The function
 * is never null and does nothing where there is no shim.
 *
 * Who can't include this file (Rust, Zig, ...) declares the same names with the signatures above (`traceshim_wrap`
 * takes and gives `void *`) as weak symbols or finds them by dlsym; the shim exports them.
 */
#ifndef TRACESHIM_H
#define TRACESHIM_H

#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <stdint.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__LP64__) && defined(__linux__)

/* Why macros: a stack begins with the caller of what is written here. A function would be one more frame at -O0, and
 * at -O2 an inlined one in the debug information.
 *
 * Why assembly: in an executable that is linked with -no-pie, `ld` resolves every plain reference to an undefined
 * weak symbol to null for good, and the preloaded definition is never seen. A symbol that is reached through the GOT
 * only keeps its dynamic relocation in every kind of link. One plain reference from anywhere in the same link
 * (`extern ... __attribute__((weak))` in code that is compiled with -fno-pie) spoils that for all, so don't declare
 * these names by hand beside this file. With -static, -z nodynamic-undefined-weak, or mold as the linker of an
 * executable, they are null. */
#define TRACESHIM_LOAD_(pointer, name)                                                                                 \
    __asm__(".weak " #name "\n\t{movq " #name "@GOTPCREL(%%rip), %0|mov %0, QWORD PTR " #name "@GOTPCREL[rip]}"        \
            : "=r"(pointer))

/* After the call: else the compiler may jump instead of calling, and the caller has left the stack. */
#define TRACESHIM_STAY_ __asm__ __volatile__("")

/* The arguments stand in the call itself and again in the branch not taken, of which one runs: a C++ temporary
 * (`std::string(...).c_str()`) lives until the call is over, which it wouldn't in a variable of the macro. */
#define TRACESHIM_VOID_CALL_(name, parameters, arguments, discarded)                                                   \
    __extension__({                                                                                                    \
        void(*name##_) parameters;                                                                                     \
        TRACESHIM_LOAD_(name##_, name);                                                                                \
        if (name##_) {                                                                                                 \
            name##_ arguments;                                                                                         \
            TRACESHIM_STAY_;                                                                                           \
        } else {                                                                                                       \
            discarded;                                                                                                 \
        }                                                                                                              \
        (void)0;                                                                                                       \
    })

#define TRACESHIM_VALUE_CALL_(type, name, parameters, arguments, discarded)                                            \
    __extension__({                                                                                                    \
        type(*name##_) parameters;                                                                                     \
        type name##_result_ = 0;                                                                                       \
        TRACESHIM_LOAD_(name##_, name);                                                                                \
        if (name##_) {                                                                                                 \
            name##_result_ = name##_ arguments;                                                                        \
            TRACESHIM_STAY_;                                                                                           \
        } else {                                                                                                       \
            discarded;                                                                                                 \
        }                                                                                                              \
        name##_result_;                                                                                                \
    })

/* The functions, for those who take an address. They jump, so that they leave no frame either; their name for the
 * assembler differs, or they would be what the macros find. */
#if defined(__clang__) || __GNUC__ >= 8
#if defined(__CET__)
#define TRACESHIM_LANDING_ "endbr64\n\t"
#else
#define TRACESHIM_LANDING_ ""
#endif
/* What a compiler would put into them besides, for profiles and coverage, would lose the arguments. */
#ifdef __has_attribute
#if __has_attribute(no_profile_instrument_function)
#define TRACESHIM_NO_PROFILE_ __attribute__((no_profile_instrument_function))
#endif
#if defined(__clang__) && __clang_major__ >= 13
#define TRACESHIM_NO_COVERAGE_ __attribute__((no_sanitize("coverage")))
#elif __has_attribute(no_sanitize_coverage)
#define TRACESHIM_NO_COVERAGE_ __attribute__((no_sanitize_coverage))
#endif
#endif
#ifndef TRACESHIM_NO_PROFILE_
#define TRACESHIM_NO_PROFILE_
#endif
#ifndef TRACESHIM_NO_COVERAGE_
#define TRACESHIM_NO_COVERAGE_
#endif
#define TRACESHIM_BARE_                                                                                                \
    __attribute__((naked, unused, no_instrument_function)) TRACESHIM_NO_PROFILE_ TRACESHIM_NO_COVERAGE_
#define TRACESHIM_FUNCTION_(type, name, parameters, otherwise)                                                         \
    static type name parameters __asm__(#name ".through");                                                             \
    static TRACESHIM_BARE_ type name parameters {                                                                      \
        __asm__ __volatile__(TRACESHIM_LANDING_ ".weak " #name "\n\t"                                                  \
                             "{movq " #name "@GOTPCREL(%%rip), %%r11|mov r11, QWORD PTR " #name "@GOTPCREL[rip]}\n\t"  \
                             "{testq %%r11, %%r11|test r11, r11}\n\t"                                                  \
                             "jz 1f\n\t"                                                                               \
                             "{jmp *%%r11|jmp r11}\n"                                                                  \
                             "1:\n\t" otherwise "ret"                                                                  \
                             :                                                                                         \
                             :);                                                                                       \
    }
#else
#define TRACESHIM_FUNCTION_(type, name, parameters, otherwise) extern type name parameters __attribute__((weak));
#endif
#define TRACESHIM_GIVE_NOTHING_ ""
#define TRACESHIM_GIVE_ZERO_ "{xorl %%eax, %%eax|xor eax, eax}\n\t"
#define TRACESHIM_GIVE_ARGUMENT_ "{movq %%rdi, %%rax|mov rax, rdi}\n\t"

#ifdef __cplusplus
extern "C" {
#endif
TRACESHIM_FUNCTION_(void, traceshim_log, (const char *category, const char *message), TRACESHIM_GIVE_NOTHING_)
TRACESHIM_FUNCTION_(void, traceshim_region_begin, (const char *name), TRACESHIM_GIVE_NOTHING_)
TRACESHIM_FUNCTION_(void, traceshim_region_end, (const char *name), TRACESHIM_GIVE_NOTHING_)
TRACESHIM_FUNCTION_(uint64_t, traceshim_task_begin, (const char *name), TRACESHIM_GIVE_ZERO_)
TRACESHIM_FUNCTION_(uint64_t, traceshim_task_begin_in, (const char *name, uint64_t parent), TRACESHIM_GIVE_ZERO_)
TRACESHIM_FUNCTION_(void, traceshim_task_end, (uint64_t task), TRACESHIM_GIVE_NOTHING_)
TRACESHIM_FUNCTION_(int, traceshim_enabled, (void), TRACESHIM_GIVE_ZERO_)
TRACESHIM_FUNCTION_(void *, traceshim_wrap, (void *function), TRACESHIM_GIVE_ARGUMENT_)
#ifdef __cplusplus
}
#endif

#define traceshim_log(category, message)                                                                               \
    TRACESHIM_VOID_CALL_(traceshim_log, (const char *, const char *), (category, message),                             \
                         ((void)(category), (void)(message)))
#define traceshim_region_begin(name)                                                                                   \
    TRACESHIM_VOID_CALL_(traceshim_region_begin, (const char *), (name), (void)(name))
#define traceshim_task_begin(name)                                                                                     \
    TRACESHIM_VALUE_CALL_(uint64_t, traceshim_task_begin, (const char *), (name), (void)(name))
#define traceshim_task_begin_in(name, parent)                                                                          \
    TRACESHIM_VALUE_CALL_(uint64_t, traceshim_task_begin_in, (const char *, uint64_t), (name, parent),                 \
                          ((void)(name), (void)(parent)))
#define traceshim_task_end(task) TRACESHIM_VOID_CALL_(traceshim_task_end, (uint64_t), (task), (void)(task))
#define traceshim_enabled() TRACESHIM_VALUE_CALL_(int, traceshim_enabled, (void), (), (void)0)

/* The array takes none or one initialiser, which strict C89 offers no other way to tell apart. */
#define traceshim_region_end(...)                                                                                      \
    __extension__({                                                                                                    \
        void (*traceshim_region_end_)(const char *);                                                                   \
        const char *const traceshim_region_name_[1] = {__VA_ARGS__};                                                   \
        TRACESHIM_LOAD_(traceshim_region_end_, traceshim_region_end);                                                  \
        if (traceshim_region_end_) {                                                                                   \
            traceshim_region_end_(traceshim_region_name_[0]);                                                          \
            TRACESHIM_STAY_;                                                                                           \
        }                                                                                                              \
        (void)0;                                                                                                       \
    })

#if !defined(__cplusplus)
#define TRACESHIM_POINTER_TYPE_(function) __auto_type
#elif __cplusplus >= 201103L
#define TRACESHIM_POINTER_TYPE_(function) auto
#else
#define TRACESHIM_POINTER_TYPE_(function) __typeof__(&*(function))
#endif
#define traceshim_wrap(function)                                                                                       \
    __extension__({                                                                                                    \
        TRACESHIM_POINTER_TYPE_(function) traceshim_wrapped_ = (function);                                             \
        typedef __typeof__(traceshim_wrapped_) traceshim_pointer_;                                                     \
        traceshim_pointer_ (*traceshim_wrap_)(traceshim_pointer_);                                                     \
        TRACESHIM_LOAD_(traceshim_wrap_, traceshim_wrap);                                                              \
        if (traceshim_wrap_) {                                                                                         \
            traceshim_wrapped_ = traceshim_wrap_(traceshim_wrapped_);                                                  \
            TRACESHIM_STAY_;                                                                                           \
        }                                                                                                              \
        traceshim_wrapped_;                                                                                            \
    })

#else /* not a system that is traced */

#if defined(__cplusplus) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L)
#define TRACESHIM_INLINE_ static inline
#elif defined(__GNUC__)
#define TRACESHIM_INLINE_ static __inline__ __attribute__((unused))
#else
#define TRACESHIM_INLINE_ static
#endif

TRACESHIM_INLINE_ void traceshim_log(const char *category, const char *message) { (void)category, (void)message; }
TRACESHIM_INLINE_ void traceshim_region_begin(const char *name) { (void)name; }
TRACESHIM_INLINE_ uint64_t traceshim_task_begin(const char *name) { return (void)name, (uint64_t)0; }
TRACESHIM_INLINE_ uint64_t traceshim_task_begin_in(const char *name, uint64_t parent) {
    return (void)name, (void)parent, (uint64_t)0;
}
TRACESHIM_INLINE_ void traceshim_task_end(uint64_t task) { (void)task; }
TRACESHIM_INLINE_ int traceshim_enabled(void) { return 0; }
TRACESHIM_INLINE_ void *traceshim_wrap(void *function) { return function; }
#define traceshim_wrap(function) (function)
#if defined(__cplusplus)
TRACESHIM_INLINE_ void traceshim_region_end(const char *name = 0) { (void)name; }
#else
TRACESHIM_INLINE_ void traceshim_region_end(const char *name) { (void)name; }
#if defined(__GNUC__)
#define traceshim_region_end(...)                                                                                      \
    __extension__({                                                                                                    \
        const char *const traceshim_region_name_[1] = {__VA_ARGS__};                                                   \
        (void)traceshim_region_name_;                                                                                  \
    })
#else
#define traceshim_region_end(...) ((void)0)
#endif
#endif

#endif

#endif
