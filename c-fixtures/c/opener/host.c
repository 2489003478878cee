/* Libraries that open libraries, in every way in which it matters to the loader who asks. Two folders have a library of
 * the same name: which one is found hangs on the caller's RPATH, RUNPATH or $ORIGIN.
 *
 * Events, for each line that is printed by host_called:
 *   callback_enter/exit   host_called, how return; log with the same words
 * and:
 *   thread_birth, origin c   of the thread that the deeply bound library makes in its constructor
 *
 * It prints what a program can see of the loader as well: errors, addresses' names, counts of modules, and whether
 * two ways to a function lead to the same.
 */
#define _GNU_SOURCE
#include "opener.h"
#include "traceshim.h"
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

EXPORT void host_called(const char *what)
{
    traceshim_log("log", what);
    puts(what);
}

struct counts {
    size_t modules;
    unsigned long long adds, subs;
};

static int count(struct dl_phdr_info *info, size_t size, void *data)
{
    struct counts *counts = data;
    (void)size;
    counts->modules++;
    counts->adds = info->dlpi_adds;
    counts->subs = info->dlpi_subs;
    return 0;
}

static struct counts count_modules(void)
{
    struct counts counts = {0};
    dl_iterate_phdr(count, &counts);
    return counts;
}

static const char *beside(const char *file)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, file);
    return path;
}

FRAME void use(const char *file, int flags, const char *function)
{
    struct counts before = count_modules();
    void *library = open_library(beside(file), flags);
    CHECK(library);
    void (*run)(void) = NULL;
    *(void **)&run = dlsym(library, function);
    if (run)
        run();
    else
        printf("no %s: %s\n", function, strstr(dlerror(), "undefined symbol") ? "undefined" : "?");
    CHECK(dlclose(library) == 0);
    struct counts after = count_modules();
    printf("%s: %zu modules more, loaded %llu, unloaded %llu\n", file, after.modules - before.modules,
           after.adds - before.adds, after.subs - before.subs);
}

FRAME void errors(void)
{
    CHECK(!dlsym(RTLD_DEFAULT, "no_such_function"));
    host_called("an error is waiting");
    puts(dlerror() ? "it is still there" : "it is gone");
    CHECK(!dlopen(beside("opener-missing.so"), RTLD_NOW));
    puts(strstr(dlerror(), "opener-missing.so: cannot open shared object file") ? "missing" : "?");
    CHECK(!dlopen(beside("opener-one/opener-leaf.so"), RTLD_NOW | RTLD_NOLOAD));
    void *leaf = open_library(beside("opener-one/opener-leaf.so"), RTLD_NOW);
    CHECK(leaf == dlopen(beside("opener-one/opener-leaf.so"), RTLD_NOW | RTLD_NOLOAD));
    CHECK(!dlsym(leaf, "no_such_function"));
    puts(strstr(dlerror(), "undefined symbol: no_such_function") ? "undefined" : "?");
    CHECK(!dlvsym(RTLD_DEFAULT, "puts", "NO_SUCH_VERSION") && dlerror() && !dlerror());
    CHECK(dlclose(leaf) == 0 && dlclose(leaf) == 0);
}

static void name(const char *what, void *address)
{
    Dl_info info = {0};
    void *symbol = NULL;
    CHECK(dladdr(address, &info));
    printf("%s is %s in %s\n", what, info.dli_sname, strrchr(info.dli_fname, '/') + 1);
    CHECK(dladdr1(address, &info, &symbol, RTLD_DL_SYMENT) && symbol);
    CHECK(info.dli_sname && info.dli_saddr);
}

FRAME void addresses(void)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(libc);
    name("host_called", dlsym(RTLD_DEFAULT, "host_called"));
    /* Of an executable that isn't position-independent the first is an entry of its own. */
    printf("pthread_create by default: %s\n",
           dlsym(RTLD_DEFAULT, "pthread_create") == (void *)pthread_create ? "the same" : "another");
    printf("pthread_create: %s\n",
           dlsym(RTLD_NEXT, "pthread_create") == dlsym(libc, "pthread_create") ? "the same" : "another");
    printf("puts: %s\n", dlsym(RTLD_NEXT, "puts") == dlsym(libc, "puts") ? "the same" : "another");
    CHECK(dlclose(libc) == 0);
}

static int add(int x) { return x + 1; }

FRAME void apart(void)
{
    void *library = dlmopen(LM_ID_NEWLM, beside("opener-apart.so"), RTLD_NOW);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    int (*run)(int (*)(int)) = NULL;
    *(void **)&run = dlsym(library, "apart_run");
    CHECK(run);
    printf("in a namespace %d\n", run(add));
    /* A library goes unseen, and comes back where it was. */
    int (*close)(void *) = NULL;
    *(void **)&close = dlsym(library, "apart_close");
    CHECK(close);
    CHECK(close(open_library(beside("opener-two/opener-leaf.so"), RTLD_NOW)) == 0);
    void *again = open_library(beside("opener-two/opener-leaf.so"), RTLD_NOW);
    CHECK(again && dlclose(again) == 0);
    CHECK(dlclose(library) == 0);
    library = dlmopen(LM_ID_BASE, beside("opener-one/opener-leaf.so"), RTLD_NOW);
    CHECK(library && dlclose(library) == 0);
}

int main(void)
{
    use("opener-rpath.so", RTLD_NOW, "branch_run");
    use("opener-runpath.so", RTLD_LAZY, "branch_run");
    use("opener-nowhere.so", RTLD_LAZY, "branch_run");
    use("opener-early.so", RTLD_LAZY | RTLD_LOCAL, "no_such_function");
    use("opener-needs.so", RTLD_NOW | RTLD_GLOBAL, "leaf_run");
    errors();
    addresses();
    apart();
    use("opener-deep.so", RTLD_NOW | RTLD_DEEPBIND, "deep_run");
    use("opener-deep.so", RTLD_LAZY | RTLD_DEEPBIND, "deep_run");
    return 0;
}
