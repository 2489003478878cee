/* One library, linked in every way that changes how its slots look, where they are and how the loader finds its names.
 * Each is opened lazily and at once, and calls back from its constructor, by call, by address, through a table, and to
 * an indirect function (whose implementation the loader asks a resolver for) and a protected one.
 *
 * Events, all depth 1, how return, for each library and each way of opening it:
 *   callback_enter/exit   host_constructor; not of shapes-bare, which is linked without the C runtime's startup files
 *   callback_enter/exit   host_call, host_address, host_table, host_indirect, host_protected, from shape_run
 *   log                   "NAME FLAGS" from host_call
 * The table of shapes-text is in code, where nothing is written; the entry of host_table is patched.
 */
#define _GNU_SOURCE
#include "fixture.h"
#include "traceshim.h"
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

EXPORT void host_constructor(void) { STAY(); }
EXPORT int host_call(const char *what)
{
    traceshim_log("log", what);
    return 1;
}
EXPORT int host_address(void) { return 10; }
EXPORT int host_table(void) { return 100; }
static REAL int indirect(void) { return 1000; }
static int (*resolve_indirect(void))(void) { return indirect; }
extern int host_indirect(void) __attribute__((ifunc("resolve_indirect")));
__attribute__((visibility("protected"))) REAL int host_protected(void) { return 10000; }

static const char *const libraries[] = {
    "lazy", "now", "no-relro", "sysv", "gnu", "no-plt", "symbolic", "relative", "text", "bare", "stripped",
    "beyond",
};

FRAME void use(const char *name, int flags)
{
    char path[4096], what[64];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    sprintf(strrchr(path, '/') + 1, "shapes-%s.so", name);
    snprintf(what, sizeof what, "%s %s", name, flags == RTLD_LAZY ? "lazy" : "now");
    void *library = dlopen(path, flags);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    int (*run)(const char *) = NULL;
    *(void **)&run = dlsym(library, "shape_run");
    CHECK(run);
    printf("%s %d\n", what, run(what));
    CHECK(dlclose(library) == 0);
}

int main(void)
{
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        use(libraries[i], RTLD_LAZY);
        use(libraries[i], RTLD_NOW);
    }
    return 0;
}
