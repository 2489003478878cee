/* The C side of stacks. See host.c. */
#include "fixture.h"

IMPORT void host_stacks(void);
IMPORT void host_flags(void);
IMPORT void host_clones(void);

EXPORT void c_calls_host_stacks(void)
{
    BUSY_RBP();
    host_stacks();
    RBP_KEPT();
}

/* From a frame of its own that is larger than a copy of a stack of which nobody knows the bounds. */
EXPORT void c_calls_from_large_frame(void)
{
    volatile char large[48 << 10];
    large[0] = 0;
    host_stacks();
    large[1] = large[0];
}

EXPORT void c_calls_host_flags(void)
{
    BUSY_RBP();
    host_flags();
    RBP_KEPT();
}

/* Runs as a clone: nothing of libc's may be used. */
EXPORT int c_calls_host_clones(void *argument)
{
    for (int i = 0; i < 2500; i++)
        host_clones();
    return argument != NULL;
}

/* What a caller of such a function finds as it was: 7 and 9, and the complement of all ones. */
__asm__(".text\n.p2align 4\n.globl c_calls_host_windows\n.type c_calls_host_windows, @function\nc_calls_host_windows:\n"
        ".cfi_startproc\nendbr64\nsub $40, %rsp\n.cfi_adjust_cfa_offset 40\nmov $7, %edi\nmov $9, %esi\n"
        "pcmpeqd %xmm8, %xmm8\ncall host_windows@PLT\nmovq %xmm8, %rax\nnot %rax\nimul $10, %rdi, %rdi\nadd %rdi, %rax\n"
        "add %rsi, %rax\nadd $40, %rsp\n.cfi_adjust_cfa_offset -40\nret\n.cfi_endproc\n"
        ".size c_calls_host_windows, . - c_calls_host_windows\n");
