/* What the libraries of opener call. See host.c. */
#ifndef OPENER_H
#define OPENER_H

#include "fixture.h"
#include <dlfcn.h>

IMPORT void host_called(const char *what);

/* Opens a library and says how that went; null where it isn't there. */
static inline void *open_library(const char *path, int flags)
{
    void *library = dlopen(path, flags);
    if (!library)
        printf("can't open %s: %s\n", path, dlerror() ? "as it should" : "without a reason");
    else if (dlerror())
        printf("%s is open, and there is an error\n", path);
    return library;
}

#endif
