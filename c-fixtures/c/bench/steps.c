/* Counts the instructions that a program executes between two stops by SIGSTOP, by stepping through them one by one.
 * Works where neither `perf stat` nor root does, and on the real processor, unlike an emulator.
 *
 *   steps PROGRAM [ARGUMENT]...
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int next_stop(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) < 0)
        fail("waitpid");
    if (!WIFSTOPPED(status)) {
        fprintf(stderr, "steps: the program ended before its second SIGSTOP\n");
        exit(1);
    }
    return WSTOPSIG(status);
}

int main(int argc, char **argv)
{
    (void)argc;
    long instructions = 0;
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            fail("ptrace");
        execvp(argv[1], argv + 1);
        fail(argv[1]);
    }
    for (int signal = next_stop(pid); signal != SIGSTOP; signal = next_stop(pid)) {
        if (ptrace(PTRACE_CONT, pid, NULL, signal == SIGTRAP ? 0 : signal) != 0)
            fail("ptrace");
    }
    do {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0)
            fail("ptrace");
        instructions++;
    } while (next_stop(pid) != SIGSTOP);
    printf("%ld instructions\n", instructions);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
