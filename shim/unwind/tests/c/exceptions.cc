// Captures while an exception is on its way.
#include "host.h"

static const struct host *host;
extern "C" void use_host(const struct host *h) { host = h; }

namespace {
struct Guard {
    ~Guard() { host->capture("case_destructor_in_unwinding"); }
};

NOINLINE void throws(int x)
{
    if (x)
        throw x;
    KEEP;
}

NOINLINE void holds_guard()
{
    Guard g;
    throws(2);
    KEEP;
}
} // namespace

extern "C" void case_catch_handler()
{
    try {
        throws(1);
    } catch (int) {
        host->capture("case_catch_handler");
        KEEP;
    }
}

extern "C" void case_destructor_in_unwinding()
{
    try {
        holds_guard();
    } catch (int) {
        KEEP;
    }
}
