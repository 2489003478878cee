/* The founding program: what the log events of a host look like in a callback, and on a thread that C made.
 *
 * main logs once with no C on the stack, then calls C, which calls back; then C makes a thread, which calls back.
 *
 * Events:
 *   log "host_alone"                 host_alone, main, libc's start code, _start
 *   callback_enter/exit              function host_called_from_c, depth 1, how return
 *   log "host_called_from_c"         host_called_from_c, c_step, c_called_from_host, host_called_from_host, main,
 *                                    libc's start code, _start
 *   thread_birth                     origin c, start_routine c_thread; stack c_called_from_host,
 *                                    host_called_from_host, main, ...
 *   callback_enter/exit              function host_called_from_c_thread, depth 1, how return, on the new thread
 *   log "host_called_from_c_thread"  host_called_from_c_thread, c_thread_step, c_thread, libc's thread start
 *   thread_start (origin c), thread_exit
 */
#include "fixture.h"
#include "traceshim.h"

IMPORT void c_called_from_host(void);

EXPORT void host_called_from_c(void)
{
    traceshim_log("log", "host_called_from_c");
    puts("host_called_from_c");
}

EXPORT void host_called_from_c_thread(void)
{
    traceshim_log("log", "host_called_from_c_thread");
    puts("host_called_from_c_thread");
}

FRAME void host_alone(void)
{
    traceshim_log("log", "host_alone");
    puts("host_alone");
}

FRAME void host_called_from_host(void)
{
    c_called_from_host();
    STAY();
}

int main(void)
{
    host_alone();
    host_called_from_host();
    puts("done");
    return 0;
}
