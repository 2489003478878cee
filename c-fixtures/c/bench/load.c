/* The program of the load benchmark: a host with many modules, each called once. CALLS is a list of their functions,
 * DECLARATIONS declares them. The script generates both. */
#include "../fixture.h"

EXPORT long host_callback(long number)
{
    return number;
}

DECLARATIONS

int main(void)
{
    return (int)(CALLS);
}
