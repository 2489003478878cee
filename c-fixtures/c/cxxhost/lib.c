/* The C side of cxxhost, built with -fexceptions as a C library is that lets exceptions pass. See host.cc. */
#include "fixture.h"

IMPORT int host_returns(int argument);
IMPORT int host_throws(int argument);
IMPORT int host_nests(int argument);
IMPORT int host_catches_inside(int argument);

/* One exported function for each callback: the calls must be calls through this library's slots. */
#define CALLS(function)                                                                                                \
    EXPORT int c_calls_##function(int argument)                                                                        \
    {                                                                                                                  \
        BUSY_RBP();                                                                                                    \
        int result = function(argument);                                                                               \
        RBP_KEPT();                                                                                                    \
        return result;                                                                                                 \
    }
CALLS(host_returns)
CALLS(host_throws)
CALLS(host_nests)
CALLS(host_catches_inside)
