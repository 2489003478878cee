/* A library of opener that opens others, by what it says of where they are: its RPATH or RUNPATH, and $ORIGIN. With
 * FROM_CONSTRUCTOR it does so before it is open itself. */
#include "opener.h"

static void open_others(void)
{
    static const char *const names[] = {LEAVES};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *leaf = open_library(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!leaf)
            continue;
        void (*run)(void) = NULL;
        *(void **)&run = dlsym(leaf, "leaf_run");
        CHECK(run);
        run();
        CHECK(dlclose(leaf) == 0);
    }
}

#ifdef FROM_CONSTRUCTOR
__attribute__((constructor))
#else
EXPORT
#endif
void branch_run(void)
{
    host_called(NAME " opens");
    open_others();
    STAY();
}
