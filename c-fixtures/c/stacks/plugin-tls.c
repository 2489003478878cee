/* A library that takes static TLS. See host.c. */
#include "fixture.h"

static __thread char much[64] __attribute__((tls_model("initial-exec")));

EXPORT char *plugin_tls(void)
{
    return much;
}
