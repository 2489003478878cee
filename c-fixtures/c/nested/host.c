/* Callbacks in callbacks: host, C, host, C, host, ... as deep as the argument says (default 3).
 *
 * Events, for each depth d from 1 to N:
 *   callback_enter  function host_nested, depth d
 *   log "depth d"   report, then d times {host_nested, c_nested}, then host_calls_c, main, ...
 *   callback_exit   function host_nested, how return; innermost first
 * and log "depth 0" from main before and after: no C on the stack.
 */
#include "fixture.h"
#include "traceshim.h"

IMPORT int c_nested(int depth);

static int deepest = 3;

FRAME void report(int depth)
{
    char message[32];
    snprintf(message, sizeof message, "depth %d", depth);
    puts(message);
    traceshim_log("log", message);
}

EXPORT int host_nested(int depth)
{
    int below = 0;
    report(depth);
    if (depth < deepest)
        below = c_nested(depth + 1);
    STAY();
    return below + depth;
}

FRAME int host_calls_c(void)
{
    int sum = deepest > 0 ? c_nested(1) : 0;
    STAY();
    return sum;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        deepest = atoi(argv[1]);
    report(0);
    CHECK(host_calls_c() == deepest * (deepest + 1) / 2);
    report(0);
    return 0;
}
