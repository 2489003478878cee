/* What comes and goes leaves nothing: threads that C makes and that call back, and a library that is opened and closed,
 * many times. Memory of the process's own, mappings and descriptors are no more at the end than they were after a tenth
 * of it.
 *
 * Events:
 *   thread_birth          THREADS of origin c, start routine c_thread
 *   callback_enter/exit   host_leaks: one in each thread, and one from each opening
 *   module_load/unload    of each opening
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <dirent.h>
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 10000, OPENINGS = 1000 };

IMPORT void c_thread_once(void);

static long calls;

EXPORT void host_leaks(void) { calls++; }

struct use {
    long kilobytes, mappings, descriptors;
};

static struct use now(void)
{
    struct use use = {0};
    char line[4096];
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "RssAnon:", 8) == 0)
            use.kilobytes = atol(line + 8);
    fclose(file);
    CHECK((file = fopen("/proc/self/maps", "r")));
    while (fgets(line, sizeof line, file))
        use.mappings++;
    fclose(file);
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    while (readdir(directory))
        use.descriptors++;
    closedir(directory);
    return use;
}

FRAME void many(const char *what, void (*once)(void), int times)
{
    struct use before = {0}, after;
    for (int i = 0; i < times; i++) {
        if (i == times / 10)
            before = now();
        once();
    }
    after = now();
    printf("%s: %ld calls; ", what, calls);
    /* libc keeps a stack or two. */
    if (after.kilobytes - before.kilobytes < 512 && after.mappings - before.mappings < 8 &&
        after.descriptors == before.descriptors)
        puts("nothing is left");
    else
        printf("left: %ld KB, %ld mappings, %ld descriptors\n", after.kilobytes - before.kilobytes,
               after.mappings - before.mappings, after.descriptors - before.descriptors);
}

FRAME void open_once(void)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, "leaks-plugin-a.so");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    void (*run)(void) = NULL;
    *(void **)&run = dlsym(library, "plugin_run");
    CHECK(run);
    run();
    CHECK(dlclose(library) == 0);
}

int main(void)
{
    many("threads", c_thread_once, THREADS);
    many("openings", open_once, OPENINGS);
    return 0;
}
