// Every use of traceshim.h that a dialect of C++ could dislike. Prints one line: what the uses gave.
#include "traceshim.h"
#include <cstdio>
#include <string>

static int evaluated;

static std::string name()
{
    evaluated++;
    return "a name too long for the room that a std::string has in itself";
}

static int twice(int x)
{
    return 2 * x;
}

struct Region {
    explicit Region(const char *n) : name(n) { traceshim_region_begin(name); }
    ~Region() { traceshim_region_end(name); }
    const char *name;
};

template <typename F> static F *wrap_any(F *function)
{
    return traceshim_wrap(function);
}

int main()
{
    int (*wrapped)(int) = traceshim_wrap(twice);
    int (*wrapped_pointer)(int) = wrap_any(&twice);
    int (*none)(int) = 0;
    void *(*wrap_address)(void *) = traceshim_wrap;
    void (*log_address)(const char *, const char *) = &traceshim_log;
    uint64_t task;
    {
        Region region("region");
        traceshim_log("log", (name() + "!").c_str());
    }
    task = traceshim_task_begin(name().c_str());
    traceshim_task_end(traceshim_task_begin_in(name().c_str(), traceshim_task_begin_in("a", traceshim_task_begin("b"))));
    traceshim_region_begin("region");
    traceshim_region_end();
    traceshim_region_end(NULL);
    traceshim_task_end(task);
    log_address("log", "by address");
#if __cplusplus >= 201103L
    traceshim_region_end(nullptr);
    traceshim_log("log", [] { return "from a lambda"; }());
    if (traceshim_wrap(+[](int x) { return x + 1; })(1) != 2)
        return 1;
#endif
    none = traceshim_wrap(none);
    std::fflush(stdout);

    std::printf("enabled %d, ", traceshim_enabled());
    std::printf("evaluated %d, wrapped %d %d %d %d\n", evaluated, wrapped(2), wrapped_pointer(3), none == 0,
                wrap_address(&evaluated) == static_cast<void *>(&evaluated));
    return 0;
}
