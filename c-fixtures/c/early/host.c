/* Before main and after it: the library's constructor calls back, and makes a thread that calls back; its destructor
 * and its atexit handler call back after main; and one thread is still in a callback when the process ends.
 *
 * Events:
 *   callback_enter/exit host_early, depth 1, log "constructor": host_early, constructor, the loader's frames
 *   thread_birth        origin c, start_routine early_thread; thread_start; callback_enter/exit host_early, log "early
 *                       thread"; thread_exit; all before main
 *   log "main"          main, libc's start code, _start
 *   thread_birth        origin c, start_routine late_thread; thread_start; callback_enter host_never_leaves, depth 1,
 *                       without an exit; no thread_exit
 *   callback_enter/exit host_early, log "destructor" and log "atexit", after main, in this order
 */
#include "fixture.h"
#include "traceshim.h"
#include <string.h>
#include <unistd.h>

IMPORT void c_makes_late_thread(void);

static int ready_ends[2];

/* Not stdio: it may be gone when the destructors run. */
EXPORT void host_early(const char *when)
{
    char line[64];
    int length = snprintf(line, sizeof line, "%s\n", when);
    traceshim_log("log", when);
    CHECK(write(STDOUT_FILENO, line, (size_t)length) == length);
}

EXPORT void host_never_leaves(void)
{
    char byte = 0;
    CHECK(write(ready_ends[1], &byte, 1) == 1);
    for (;;)
        pause();
}

int main(void)
{
    char byte;
    traceshim_log("log", "main");
    CHECK(write(STDOUT_FILENO, "main\n", 5) == 5);
    CHECK(pipe(ready_ends) == 0);
    c_makes_late_thread();
    CHECK(read(ready_ends[0], &byte, 1) == 1);
    return 0;
}
