/* A C++ host: exceptions thrown in a callback cross the C library and are caught in the host; destructors run on the
 * way; names are mangled but for the exported callbacks.
 *
 * Events:
 *   callback_enter  host_returns, depth 1            callback_exit  how return
 *   callback_enter  host_throws, depth 1             callback_exit  how unwound
 *   callback_enter  host_nests, depth 1; host_throws, depth 2 (both unwound by one exception, innermost first)
 *   callback_enter  host_catches_inside, depth 1; host_throws, depth 2 (unwound); host_catches_inside returns
 *   log "caught N"  from fixture::Host::run, N from 1 to 3
 *   callback_enter  host_returns, depth 1 again after each: the depth has not drifted
 *   thread_birth    origin host (std::thread); in it one more exception crosses C: callback_exit how unwound
 */
#include "fixture.h"
#include "traceshim.h"
#include <stdexcept>
#include <string>
#include <thread>

IMPORT int c_calls_host_returns(int argument);
IMPORT int c_calls_host_throws(int argument);
IMPORT int c_calls_host_nests(int argument);
IMPORT int c_calls_host_catches_inside(int argument);

static thread_local int alive;

struct Counted {
    Counted() { alive++; }
    ~Counted() { alive--; }
};

EXPORT int host_returns(int argument)
{
    Counted counted;
    return argument + 1;
}

EXPORT int host_throws(int argument)
{
    Counted counted;
    throw std::runtime_error("thrown in a callback with " + std::to_string(argument));
}

EXPORT int host_nests(int argument)
{
    Counted counted;
    int result = c_calls_host_throws(argument + 1);
    STAY();
    return result;
}

EXPORT int host_catches_inside(int argument)
{
    Counted counted;
    try {
        return c_calls_host_throws(argument);
    } catch (const std::exception &) {
        return -argument;
    }
}

namespace fixture {
class Host {
public:
    template <typename Call> REAL void run(const char *what, Call call)
    {
        try {
            Counted counted;
            call();
            CHECK(!"an exception came");
        } catch (const std::runtime_error &error) {
            CHECK(alive == 0);
            caught++;
            traceshim_log("log", ("caught " + std::to_string(caught)).c_str());
            printf("%s: caught: %s\n", what, error.what());
        }
        CHECK(c_calls_host_returns(caught) == caught + 1);
        CHECK(alive == 0);
    }

private:
    int caught = 0;
};
} // namespace fixture

int main()
{
    fixture::Host host;
    CHECK(c_calls_host_returns(1) == 2);
    host.run("throws", [] { c_calls_host_throws(1); });
    host.run("nests", [] { c_calls_host_nests(1); });
    CHECK(c_calls_host_catches_inside(5) == -5);
    puts("catches inside: -5");
    std::thread thread([&host] { host.run("throws on a thread", [] { c_calls_host_throws(3); }); });
    thread.join();
    puts("done");
    return 0;
}
