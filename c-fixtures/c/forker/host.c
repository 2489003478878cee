/* Processes: each makes one callback from C (host_forker, depth 1) and prints a line; parents wait, so that the order is
 * fixed.
 *
 * Events by process, beside the parent's own callback_enter/exit of host_forker ("parent"):
 *   fork in a threaded process   fork; the child calls back, makes a thread in C that calls back (thread_birth, origin
 *                                c), and forks a grandchild, which calls back
 *   fork in a callback           host_forks (depth 1) forks; the child leaves the callback, calls back and exits: its
 *                                callback_exit of host_forks is its own, and so is the parent's
 *   exec chain                   fork, then exec of this program twice: "image 2", "image 1", "image 0" in one process
 *   vfork and exec               "image 0"
 *   posix_spawn                  "image 0"
 *   exec with an empty environment: "image 0", traced where the tracer follows such launches
 * No ring holds events of another process; the parent's threads and depth are undisturbed.
 */
#define _GNU_SOURCE
#include "fixture.h"
#include <pthread.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

IMPORT void c_calls_back(const char *who);
IMPORT void c_calls_host_forks(void);
IMPORT void c_calls_back_on_thread(const char *who);
extern char **environ;

static char self[4096];

/* Not stdio's buffer: a child would print its parent's lines again. */
EXPORT void host_forker(const char *who)
{
    char line[128];
    int length = snprintf(line, sizeof line, "%s\n", who);
    CHECK(write(STDOUT_FILENO, line, (size_t)length) == length);
}

FRAME void wait_for(pid_t child)
{
    int status = -1;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

EXPORT void host_forks(void)
{
    pid_t child = fork();
    if (child == 0)
        return;
    wait_for(child);
}

static pid_t parent;

FRAME void *waits_for_end(void *end)
{
    char byte;
    CHECK(read(*(int *)end, &byte, 1) == 0);
    return NULL;
}

FRAME void fork_in_threaded_process(void)
{
    int ends[2];
    pthread_t thread;
    CHECK(pipe(ends) == 0);
    CHECK(pthread_create(&thread, NULL, waits_for_end, &ends[0]) == 0);
    pid_t child = fork();
    if (child == 0) {
        c_calls_back("child of a threaded process");
        c_calls_back_on_thread("thread of the child");
        pid_t grandchild = fork();
        if (grandchild == 0) {
            c_calls_back("grandchild");
            _exit(0);
        }
        wait_for(grandchild);
        exit(0);
    }
    wait_for(child);
    close(ends[1]);
    CHECK(pthread_join(thread, NULL) == 0);
}

FRAME void fork_in_callback(void)
{
    c_calls_host_forks();
    if (getpid() != parent) {
        c_calls_back("child of a callback");
        exit(0);
    }
}

FRAME void run_image(const char *images, char **environment)
{
    char *arguments[] = {self, (char *)images, NULL};
    execve(self, arguments, environment);
    _exit(1);
}

FRAME void fork_and_run(const char *images, char **environment)
{
    pid_t child = fork();
    if (child == 0)
        run_image(images, environment);
    wait_for(child);
}

FRAME void vfork_and_run(void)
{
    char *arguments[] = {self, (char *)"0", NULL};
    pid_t child = vfork();
    if (child == 0) {
        execve(self, arguments, environ);
        _exit(1);
    }
    wait_for(child);
}

FRAME void spawn(void)
{
    char *arguments[] = {self, (char *)"0", NULL};
    pid_t child = -1;
    CHECK(posix_spawn(&child, self, NULL, NULL, arguments, environ) == 0);
    wait_for(child);
}

int main(int argc, char **argv)
{
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    if (argc > 1) {
        char who[32], next[16];
        int left = atoi(argv[1]);
        snprintf(who, sizeof who, "image %d", left);
        c_calls_back(who);
        snprintf(next, sizeof next, "%d", left - 1);
        if (left > 0)
            run_image(next, environ);
        return 0;
    }
    char *nothing[] = {NULL};
    parent = getpid();
    c_calls_back("parent");
    fork_in_threaded_process();
    fork_in_callback();
    fork_and_run("2", environ);
    vfork_and_run();
    spawn();
    fork_and_run("0", nothing);
    c_calls_back("parent again");
    return 0;
}
