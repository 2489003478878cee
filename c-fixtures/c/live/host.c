/* A library is opened that has host functions' addresses in a table, while other threads call these functions all the
 * time, from the host itself and from another library: the entries are patched under way where one instruction gives
 * room for it.
 *
 * Events:
 *   callback_enter/exit  each of the 16 functions 100 times from plugin-a.c, how return; stack the function, then
 *                        plugin_calls, main; and as often as the threads call them by way of lib.c
 */
#include "live.h"
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

IMPORT void c_calls(long x);

/* One long instruction at the entry, which may have the mark of indirect calls before it. */
#define DEFINE(n)                                                                                                      \
    __asm__(".text\n.p2align 4\n.globl host_live_" #n "\n.type host_live_" #n ", @function\nhost_live_" #n ":\n"       \
            ".cfi_startproc\n.if " #n " % 2\nendbr64\n.endif\nlea " #n "(%rdi, %rdi), %rax\nret\n.cfi_endproc\n"       \
            ".size host_live_" #n ", . - host_live_" #n "\n");
FUNCTIONS(DEFINE)

static const struct function table[] = TABLE;
enum { COUNT = sizeof table / sizeof *table };
static int started, over;

static void *calls(void *of_c)
{
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    for (long x = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED); x++) {
        if (of_c && x < 2000)
            c_calls(x);
        for (int i = 0; i < COUNT; i++)
            CHECK(table[i].call(x) == 2 * x + table[i].n);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    char path[4096];
    pthread_t threads[4];
    for (long i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, calls, (void *)(i % 2)) == 0);
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < 4)
        ;
    (void)argc;
    *strrchr(argv[0], '/') = 0;
    snprintf(path, sizeof path, "%s/live-plugin-a.so", argv[0]);
    void *plugin = dlopen(path, RTLD_NOW);
    CHECK(plugin != NULL);
    int (*plugin_calls)(const struct function *) = (int (*)(const struct function *))dlsym(plugin, "plugin_calls");
    CHECK(plugin_calls != NULL);
    printf("%d functions at the same address\n", plugin_calls(table));
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
