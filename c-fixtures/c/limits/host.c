/* Programs that the system grants little: descriptors, memory, file sizes, threads; and what they may notice of a
 * tracer by the numbers of their descriptors, or by lines that end up in the wrong file.
 *
 * Two more lock their memory as an ordinary user, with a limit that leaves a few MiB above what the program needs without
 * any preloaded library: that succeeds, and more can be mapped. "locked" has a small ring, which doesn't
 * stay locked, and is recorded on; in
 * "locked_tight" there is no room for the ring, and what comes after isn't recorded.
 *
 * Each case is a process (see cases.h) that does the same things ("work") under some limit: it calls back (host_limits,
 * depth 1), makes a thread in C that does so, opens a library, and forks a child that calls back. Those whose name ends
 * in "_before" set the limit and execute the program anew: whether that is traced depends on the limit. Of the others
 * every callback is recorded.
 */
#define _GNU_SOURCE
#include "cases.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

IMPORT void c_calls_host_limits(void);
IMPORT int c_makes_thread(void);

static int calls, fd_for_words = STDOUT_FILENO;

EXPORT void host_limits(void)
{
    calls++;
}

/* What descriptor a program gets now. */
FRAME int next_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    CHECK(close(fd) == 0);
    return fd;
}

FRAME void work(const char *name)
{
    int numbers[5];
    numbers[0] = next_descriptor();
    for (int i = 0; i < 100; i++)
        c_calls_host_limits();
    numbers[1] = next_descriptor();
    CHECK(c_makes_thread() == 0);
    numbers[2] = next_descriptor();
    void *library = dlopen("libm.so.6", RTLD_NOW);
    int opened = library != NULL;
    if (opened)
        CHECK(dlclose(library) == 0);
    numbers[3] = next_descriptor();
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 100; i++)
            c_calls_host_limits();
        _exit(calls == 201 ? next_descriptor() & 0x7f : 200);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    numbers[4] = next_descriptor();
    dprintf(fd_for_words, "%s: %d calls, descriptors %d %d %d %d %d, child's %d, library %d\n", name, calls, numbers[0],
            numbers[1], numbers[2], numbers[3], numbers[4], WEXITSTATUS(status), opened);
}

FRAME void limit(int resource, rlim_t value)
{
    struct rlimit limit;
    CHECK(getrlimit(resource, &limit) == 0);
    limit.rlim_cur = value;
    CHECK(setrlimit(resource, &limit) == 0);
}

FRAME void execute(const char *name)
{
    execl("/proc/self/exe", "limits", "run", name, NULL);
    CHECK(!"came back");
}

static void descriptors(void) { work("descriptors"); }

FRAME void no_descriptors(void)
{
    limit(RLIMIT_NOFILE, 3);
    work("no_descriptors");
}

FRAME void no_descriptors_before(void)
{
    /* The loader needs one, and it is all that there is. */
    limit(RLIMIT_NOFILE, 4);
    execute("descriptors");
}

FRAME void closes_all(void)
{
    for (int i = 0; i < 20; i++) {
        closefrom(3);
        c_calls_host_limits();
        CHECK(c_makes_thread() == 0);
    }
    calls = 0;
    work("closes_all");
}

/* Standard input, output and error are closed at the start; words go to a descriptor far up. */
FRAME void closed_before(void)
{
    CHECK(dup2(STDOUT_FILENO, 50) == 50);
    closefrom(51);
    for (int fd = 0; fd < 50; fd++)
        close(fd);
    execl("/proc/self/exe", "limits", "run", "words_to_50", NULL);
}

FRAME void words_to_50(void)
{
    fd_for_words = 50;
    work("closed_before");
}

/* How large the file is that has become descriptor 2, after a child's ring couldn't be made. */
FRAME void error_is_a_file(void)
{
    char path[] = "/tmp/limits-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0);
    CHECK(dup2(fd, STDERR_FILENO) == STDERR_FILENO && close(fd) == 0);
    limit(RLIMIT_FSIZE, 4096);
    work("error_is_a_file");
    say("error_is_a_file: %ld bytes\n", (long)lseek(STDERR_FILENO, 0, SEEK_END));
}

FRAME void error_is_broken_before(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO && close(ends[0]) == 0 && close(ends[1]) == 0);
    limit(RLIMIT_FSIZE, 4096);
    execute("descriptors");
}

FRAME void error_is_full_before(void)
{
    static char much[4096];
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(ends[1], much, sizeof much) > 0)
        ;
    CHECK(fcntl(ends[1], F_SETFL, 0) == 0);
    CHECK(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO && close(ends[1]) == 0);
    CHECK(dup2(ends[0], 40) == 40 && close(ends[0]) == 0);
    limit(RLIMIT_FSIZE, 4096);
    execute("descriptors");
}

FRAME void file_size(void)
{
    limit(RLIMIT_FSIZE, 4096);
    work("file_size");
}

FRAME void file_size_before(void)
{
    limit(RLIMIT_FSIZE, 4096);
    execute("descriptors");
}

FRAME void data_before(void)
{
    limit(RLIMIT_DATA, 20 << 20);
    execute("descriptors");
}

FRAME void small_stack_before(void)
{
    limit(RLIMIT_STACK, 256 << 10);
    execute("descriptors");
}

FRAME void unlimited_stack_before(void)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    execute("descriptors");
}

/* Memory runs out step by step; whatever is asked for then fails as it does without a tracer, and the rest goes on. */
FRAME void no_memory(void)
{
    static void *taken[100000];
    int count = 0, errors[256] = {0};
    struct rlimit before;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    limit(RLIMIT_AS, 1 << 20);
    for (size_t size = 1 << 20; size >= 16; size /= 4)
        while (count < 100000 && (taken[count] = malloc(size)) != NULL)
            count++;
    for (int i = 0; i < 100; i++) {
        c_calls_host_limits();
        errors[c_makes_thread() & 0xff]++;
        errors[dlopen("libcrypt.so.1", RTLD_NOW) == NULL ? 2 : 3]++;
    }
    /* What the tracer must remember of these it has no memory for. */
    for (int i = 0; i < 4000; i++)
        CHECK(traceshim_wrap((char *)(void *)work + i) != NULL);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    while (count > 0)
        free(taken[--count]);
    say("no_memory: %d refused threads, %d refused libraries\n", errors[EAGAIN], errors[2]);
    calls = 0;
    work("no_memory");
}

FRAME void memory_before(rlim_t megabytes)
{
    limit(RLIMIT_AS, megabytes << 20);
    execute("descriptors");
}

/* A thread of 8 MiB is more than most of these have room for. */
static void memory_24_before(void) { memory_before(24); }
static void memory_40_before(void) { memory_before(40); }
static void memory_64_before(void) { memory_before(64); }

FRAME void no_threads(void)
{
    limit(RLIMIT_NPROC, 1);
    if (getuid() == 0)
        CHECK(setuid(65534) == 0);
    int error = c_makes_thread();
    say("no_threads: %s\n", error == 0 ? "a thread" : strerror(error));
    c_calls_host_limits();
}

/* The size of this process, in bytes. */
FRAME rlim_t vm_size(void)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    CHECK(statm != NULL && fscanf(statm, "%lu", &pages) == 1 && fclose(statm) == 0);
    return (rlim_t)pages * 4096;
}

static void prints_size(void)
{
    rlim_t size = vm_size();
    CHECK(write(STDOUT_FILENO, &size, sizeof size) == sizeof size);
}

/* What it is without a preloaded library. */
FRAME rlim_t plain_size(void)
{
    int ends[2];
    rlim_t size = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        unsetenv("LD_PRELOAD");
        dup2(ends[1], STDOUT_FILENO);
        execute("prints_size");
    }
    CHECK(close(ends[1]) == 0 && read(ends[0], &size, sizeof size) == sizeof size && close(ends[0]) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
    return size;
}

FRAME void locks(const char *name, rlim_t more, rlim_t rest)
{
    rlim_t need = plain_size();
    for (int i = 0; i < 3; i++)
        c_calls_host_limits();
    limit(RLIMIT_MEMLOCK, need + more);
    if (getuid() == 0)
        CHECK(setuid(65534) == 0);
    errno = 0;
    int locked = mlockall(MCL_CURRENT | MCL_FUTURE);
    int error = errno;
    for (int i = 0; i < 3; i++)
        c_calls_host_limits();
    void *mapped = mmap(NULL, rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say("%s: mlockall %d %d, mapped %d\n", name, locked, error, mapped != MAP_FAILED);
}

static void locked_tight(void) { locks("locked_tight", 4 << 20, 1 << 20); }
static void locked(void) { locks("locked", 4608 << 10, 1 << 20); }

FRAME void locked_before(void)
{
    CHECK(setenv("TRACESHIM_RING_BYTES", "256K", 1) == 0);
    execute("locked");
}

int main(int argc, char **argv)
{
    static const struct named_case cases[] = {
        {"descriptors", descriptors},
        {"no_descriptors", no_descriptors},
        {"no_descriptors_before", no_descriptors_before},
        {"closes_all", closes_all},
        {"closed_before", closed_before},
        {"error_is_a_file", error_is_a_file},
        {"error_is_broken_before", error_is_broken_before},
        {"error_is_full_before", error_is_full_before},
        {"file_size", file_size},
        {"file_size_before", file_size_before},
        {"data_before", data_before},
        {"small_stack_before", small_stack_before},
        {"unlimited_stack_before", unlimited_stack_before},
        {"no_memory", no_memory},
        {"memory_24_before", memory_24_before},
        {"memory_40_before", memory_40_before},
        {"memory_64_before", memory_64_before},
        {"no_threads", no_threads},
        {"locked_tight", locked_tight},
        {"locked_before", locked_before},
    };
    static const struct named_case inner[] = {{"words_to_50", words_to_50}, {"prints_size", prints_size}, {"locked", locked}};
    for (int i = 0; argc == 3 && i < 3; i++) {
        if (strcmp(argv[2], inner[i].name) == 0)
            return run_cases(inner, 3, argc, argv);
    }
    return run_cases(cases, sizeof cases / sizeof cases[0], argc, argv);
}
