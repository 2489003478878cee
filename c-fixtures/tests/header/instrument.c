/* What instrumented functions call: it spoils every register that a call may. */
#define SPOIL_                                                                                                         \
    __asm__ __volatile__("movq $-1, %%rax; movq %%rax, %%rdi; movq %%rax, %%rsi; movq %%rax, %%rdx; movq %%rax, %%rcx; " \
                         "movq %%rax, %%r8; movq %%rax, %%r9; movq %%rax, %%r10; movq %%rax, %%r11" ::                 \
                             : "rax", "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11")
#define PLAIN_ __attribute__((no_instrument_function))

PLAIN_ void __cyg_profile_func_enter(void *function, void *caller)
{
    SPOIL_;
    (void)function, (void)caller;
}

PLAIN_ void __cyg_profile_func_exit(void *function, void *caller)
{
    SPOIL_;
    (void)function, (void)caller;
}

#ifdef __clang__
__attribute__((no_sanitize("coverage")))
#else
__attribute__((no_sanitize_coverage))
#endif
PLAIN_ void __sanitizer_cov_trace_pc(void)
{
    SPOIL_;
}

#ifdef __clang__
__attribute__((no_sanitize("coverage")))
PLAIN_ void __sanitizer_cov_trace_pc_guard(unsigned *guard)
{
    SPOIL_;
    (void)guard;
}

__attribute__((no_sanitize("coverage")))
PLAIN_ void __sanitizer_cov_trace_pc_guard_init(unsigned *start, unsigned *stop)
{
    (void)start, (void)stop;
}
#endif
