/* Programs with many cases: each runs in a process of its own, and how it ended is printed. The process says which
 * case it is in a log event of category "case", so that its events are found. */
#ifndef CASES_H
#define CASES_H

#include "fixture.h"
#include "traceshim.h"
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct named_case {
    const char *name;
    void (*run)(void);
};

/* Past stdio: a process that ends halfway has a buffer that nobody writes. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[256];
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    __builtin_va_end(arguments);
    if (length > 0 && write(STDOUT_FILENO, line, (size_t)length) < 0)
        _exit(3);
}

static void report(const char *name, pid_t child)
{
    int status = -1;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status))
        say("%s: killed by signal %d\n", name, WTERMSIG(status));
    else
        say("%s: exit status %d\n", name, WEXITSTATUS(status));
}

/* Without arguments every case, else those that are named; "run NAME" is one in this process. */
static int run_cases(const struct named_case *cases, int count, int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "run") == 0) {
        for (int i = 0; i < count; i++) {
            if (strcmp(argv[2], cases[i].name) == 0) {
                /* A process that hangs is a failure. */
                alarm(120);
                traceshim_log("case", cases[i].name);
                cases[i].run();
                return 0;
            }
        }
        fprintf(stderr, "%s: no such case\n", argv[2]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (!wanted)
            continue;
        pid_t child = fork();
        if (child == 0) {
            char *arguments[] = {argv[0], (char *)"run", (char *)cases[i].name, NULL};
            execv("/proc/self/exe", arguments);
            _exit(127);
        }
        report(cases[i].name, child);
    }
    return 0;
}

#endif
