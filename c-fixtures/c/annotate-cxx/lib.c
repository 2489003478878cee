/* The C side of annotate-cxx. See host.cc. */
#include "fixture.h"

EXPORT int c_calls_pointer(int (*function)(int), int argument)
{
    BUSY_RBP();
    int result = function(argument);
    RBP_KEPT();
    return result;
}
