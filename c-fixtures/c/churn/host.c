/* Threads that open and close libraries, each its own ones, while others call back and one forks. From a library's
 * function the host is called back to open another: dlopen inside a callback. The libraries differ in size, so that
 * one is put where another was.
 *
 * Arguments: how often each opener does it (default 100).
 *
 * Events:
 *   callback_enter/exit   host_from_leaf: from the constructors, the functions (but the ones that open) and the
 *                         destructors; host_opens; host_steady, as often as it is printed, and one in each child
 *   module_load/unload    of every opening, where it is noticed before the library is gone
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPENERS = 2, CALLERS = 2, FORKS = 20, STEADY = 20000 };

IMPORT void c_steady(void);

static atomic_int from_leaf, opens, steady;
static int times = 100;

EXPORT void host_from_leaf(void) { atomic_fetch_add(&from_leaf, 1); }
EXPORT void host_steady(void) { atomic_fetch_add(&steady, 1); }

static void use(const char *file, const char *another)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, file);
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    void (*run)(const char *) = NULL;
    *(void **)&run = dlsym(library, "leaf_run");
    CHECK(run);
    run(another);
    CHECK(dlclose(library) == 0);
}

EXPORT void host_opens(const char *file)
{
    atomic_fetch_add(&opens, 1);
    use(file, NULL);
}

static void *opener(void *argument)
{
    static const char *const files[OPENERS][2] = {
        {"churn-a.so", "churn-b.so"},
        {"churn-c.so", "churn-d.so"},
    };
    const char *const *own = files[(size_t)argument];
    for (int i = 0; i < times; i++) {
        use(own[0], i % 2 ? own[1] : NULL);
        use(own[1], NULL);
    }
    return NULL;
}

static void *caller(void *unused)
{
    for (int i = 0; i < STEADY; i++)
        c_steady();
    return unused;
}

static void *forker(void *unused)
{
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            c_steady();
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[OPENERS + CALLERS + 1];
    size_t n = 0;
    if (argc > 1)
        times = atoi(argv[1]);
    for (size_t i = 0; i < OPENERS; i++)
        CHECK(pthread_create(&threads[n++], NULL, opener, (void *)i) == 0);
    for (size_t i = 0; i < CALLERS; i++)
        CHECK(pthread_create(&threads[n++], NULL, caller, NULL) == 0);
    CHECK(pthread_create(&threads[n++], NULL, forker, NULL) == 0);
    while (n)
        CHECK(pthread_join(threads[--n], NULL) == 0);
    printf("from libraries %d, opening %d, steady %d\n", from_leaf, opens, steady);
    return 0;
}
