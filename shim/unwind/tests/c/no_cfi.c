/* Built twice, without unwind tables: NAME keeps a frame pointer or doesn't. */
__attribute__((noinline)) void NAME(void (*f)(const char *), const char *l)
{
    volatile char b[72];
    b[0] = 1;
    f(l);
    b[1] = 2;
    __asm__ volatile("" ::: "memory");
}
