/* Calls back until its time is up, or for ever, numbering what it logs: for killing it at a random moment.
 *
 *   spin [MILLISECONDS|forever (default 50) [FILE|- [THREADS (default 1)]]]
 *
 * Threads made by C call back, each as fast as it can. After a callback has returned, its thread stores the number of
 * its callbacks so far in FILE, an array of native uint64_t, one a thread, mapped and shared: what FILE says was
 * published must be in the ring, whatever killed the program.
 *
 * Events, for each thread t from 0 and each number n from 0, in order and without a gap:
 *   callback_enter      host_spin, depth 1; stack host_spin, c_spin_thread, libc's thread start
 *   log "t:n" in category "spin"
 *   callback_exit       how return
 * and one thread_birth, origin c, start_routine c_spin_thread, for each thread.
 */
#define _GNU_SOURCE
#include "fixture.h"
#include "traceshim.h"
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

IMPORT void c_spin(int threads, volatile uint64_t *progress);

static int64_t ends_ns;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Says whether to go on. */
EXPORT int host_spin(int thread, uint64_t number)
{
    char message[48];
    snprintf(message, sizeof message, "%d:%llu", thread, (unsigned long long)number);
    traceshim_log("spin", message);
    return now_ns() < ends_ns;
}

int main(int argc, char **argv)
{
    int threads = argc > 3 ? atoi(argv[3]) : 1;
    size_t size = (size_t)threads * sizeof(uint64_t);
    int file = -1;
    CHECK(threads > 0);
    ends_ns = now_ns() + INT64_C(50000000);
    if (argc > 1 && strcmp(argv[1], "forever") == 0)
        ends_ns = INT64_MAX;
    else if (argc > 1)
        ends_ns = now_ns() + atoll(argv[1]) * INT64_C(1000000);
    if (argc > 2 && strcmp(argv[2], "-") != 0) {
        file = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(file >= 0 && ftruncate(file, (off_t)size) == 0);
    }
    void *progress =
        mmap(NULL, size, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    CHECK(progress != MAP_FAILED);
    c_spin(threads, progress);
    puts("time is up");
    return 0;
}
