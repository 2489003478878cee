/* The host is a shared library (TRACESHIM_HOST=libversions.so) that exports `version` in two versions: V1 returns 1,
 * and V2, the default, 2. Its clients are linked against one or the other, or against none, which means the first
 * that there was; some have a function `which` of their own (2; the host's returns 1). Whose is meant is for the loader
 * to say.
 *
 * Events, all depth 1, how return. Each client is opened lazily and at once, and calls both functions:
 *   callback_enter/exit   version, twice for each: V1 for old and none, else V2
 *   callback_enter/exit   which, twice for each; not where it means the client's own: for symbolic, and for deep
 *   callback_enter/exit   version by dlsym and dlvsym: four times from the client, twice from the executable
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

IMPORT int version(void);

static void *open_client(const char *name, int flags)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    sprintf(strrchr(path, '/') + 1, "versions-%s.so", name);
    void *client = dlopen(path, flags);
    if (!client)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(client);
    return client;
}

FRAME void use(const char *name, int flags)
{
    void *client = open_client(name, flags);
    int (*run)(void) = NULL;
    *(void **)&run = dlsym(client, "client_run");
    CHECK(run);
    printf("%s %s %d\n", name, flags & RTLD_LAZY ? "lazy" : "now", run());
    CHECK(dlclose(client) == 0);
}

FRAME void look_up(void)
{
    void *client = open_client("new", RTLD_NOW), *handle = dlopen("libversions.so", RTLD_NOW | RTLD_NOLOAD);
    int (*run)(void *) = NULL, (*next)(void) = NULL, (*next_old)(void) = NULL;
    CHECK(handle);
    *(void **)&run = dlsym(client, "client_look_up");
    *(void **)&next = dlsym(RTLD_NEXT, "version");
    *(void **)&next_old = dlvsym(RTLD_NEXT, "version", "V1");
    CHECK(run && next && next_old);
    printf("looked up %d, next %d%d\n", run(handle), next_old(), next());
    CHECK(dlclose(handle) == 0);
    CHECK(dlclose(client) == 0);
}

int main(void)
{
    static const char *const names[] = {"new", "old", "none", "shadow", "symbolic"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        use(names[i], RTLD_LAZY);
        use(names[i], RTLD_NOW);
    }
    use("shadow", RTLD_LAZY | RTLD_DEEPBIND);
    use("shadow", RTLD_NOW | RTLD_DEEPBIND);
    printf("executable %d\n", version());
    look_up();
    return 0;
}
