/* No memory is writable and executable at once, before and after a library calls back in every way: through a slot,
 * through a table, through a pointer that is handed over, to a function whose entry is patched.
 *
 * Events with TRACESHIM_CALLBACKS=auto,inline:patched and TRACESHIM_CALLBACK_ARGS=c_calls:1:
 *   callback_enter/exit   host_by_slot, host_by_table, handed_over and patched, once each
 */
#include "fixture.h"
#include <string.h>

IMPORT int c_calls(int (*handed_over)(int));

EXPORT int host_by_slot(int x) { return x + 1; }
EXPORT int host_by_table(int x) { return x + 2; }
static REAL int handed_over(int x) { return x + 3; }
static REAL __attribute__((used)) int patched(int x)
{
    STAY();
    return x * x + x + 4;
}

FRAME void look(void)
{
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    int mappings = 0, both = 0;
    while (fgets(line, sizeof line, maps)) {
        const char *access = strchr(line, ' ');
        CHECK(access);
        mappings++;
        if (access[2] == 'w' && access[3] == 'x') {
            both++;
            fputs(line, stdout);
        }
    }
    fclose(maps);
    CHECK(mappings > 10);
    printf("writable and executable: %d\n", both);
}

int main(void)
{
    look();
    printf("sum %d\n", c_calls(handed_over) + patched(0));
    look();
    return 0;
}
