/* Plugins: opens two of them by a path with a slash, RTLD_LOCAL, one after the other and the first again; each calls
 * back at once from its constructor, then from an ordinary function, and from its destructor in dlclose. They are laid
 * out alike, so that the loader is likely to put one where the other was: what was learned of an address before is
 * wrong then.
 *
 * Events, for a, b, a again:
 *   module_load of loader-plugin-X.so
 *   callback_enter/exit host_loader, depth 1; log "X constructor": host_loader, constructor, the loader's frames,
 *                       dlopen's, use, main, ...
 *   the same            log "X run": host_loader, plugin_step, plugin_run, use, main, ... (b: one more, plugin_detour)
 *   callback_enter/exit host_loader_by_name, found by the plugin's dlsym, where dlsym is followed
 *   the same            log "X destructor"
 *   module_unload
 */
#define _GNU_SOURCE
#include "fixture.h"
#include "traceshim.h"
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

EXPORT void host_loader(const char *what)
{
    traceshim_log("log", what);
    puts(what);
}

EXPORT void host_loader_by_name(const char *what)
{
    puts(what);
}

FRAME void use(const char *name, int flags)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    CHECK(length > 0);
    path[length] = '\0';
    strcpy(strrchr(path, '/') + 1, name);
    void *plugin = dlopen(path, flags);
    if (!plugin)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(plugin);
    void (*run)(void) = NULL;
    *(void **)&run = dlsym(plugin, "plugin_run");
    CHECK(run);
    run();
    CHECK(dlclose(plugin) == 0);
}

int main(void)
{
    use("loader-plugin-a.so", RTLD_LAZY | RTLD_LOCAL);
    use("loader-plugin-b.so", RTLD_NOW | RTLD_LOCAL);
    use("loader-plugin-a.so", RTLD_NOW | RTLD_LOCAL);
    puts("done");
    return 0;
}
