/* Every function of traceshim.h from C++, with temporaries as arguments and regions as RAII.
 *
 * Events, all on the main thread with stack (anonymous namespace)::annotate, main, ...:
 *   log "a message that a temporary std::string holds" in category "log"
 *   region_begin "outer" and region_end "outer" from Region's constructor and destructor, "inner" within
 *   task_begin "task", task_begin "subtask" with the first as its parent, task_end of both, inner first
 *   callback_enter/exit of host_wrapped, depth 1; log "in a wrapped callback": host_wrapped, c_calls_pointer, ...
 *   callback_enter/exit of a lambda, depth 1
 */
#include "fixture.h"
#include "traceshim.h"
#include <cstring>
#include <string>

IMPORT int c_calls_pointer(int (*function)(int), int argument);

namespace {

class Region {
public:
    explicit Region(const char *name) : name_(name) { traceshim_region_begin(name_); }
    ~Region() { traceshim_region_end(name_); }
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;

private:
    const char *name_;
};

REAL int host_wrapped(int x)
{
    traceshim_log("log", "in a wrapped callback");
    return x + 1;
}

REAL void annotate()
{
    traceshim_log("log", (std::string("a message that a temporary ") + "std::string holds").c_str());
    {
        Region outer("outer");
        Region inner("inner");
    }
    uint64_t task = traceshim_task_begin(std::string("task").c_str());
    uint64_t subtask = traceshim_task_begin_in("subtask", task);
    CHECK((task != 0) == (traceshim_enabled() != 0));
    traceshim_task_end(subtask);
    traceshim_task_end(task);
    traceshim_region_begin("unnamed end");
    traceshim_region_end();

    CHECK(c_calls_pointer(traceshim_wrap(host_wrapped), 1) == 2);
    CHECK(c_calls_pointer(traceshim_wrap(+[](int x) { return x * 2; }), 4) == 8);
    void (*log)(const char *, const char *) = traceshim_log;
    CHECK(log != nullptr);
    puts("annotated");
}

} // namespace

int main()
{
    annotate();
    return 0;
}
