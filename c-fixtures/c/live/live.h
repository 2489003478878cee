/* What host.c, lib.c and plugin-a.c of live agree on: functions that give 2 * x + n. */
#include "fixture.h"

#define FUNCTIONS(OF) OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) OF(7) OF(8) OF(9) OF(10) OF(11) OF(12) OF(13) OF(14) OF(15) OF(16)
#define DECLARE(n) IMPORT long host_live_##n(long x);
FUNCTIONS(DECLARE)

struct function {
    long n;
    long (*call)(long x);
};
#define ENTRY(n) { n, host_live_##n },
#define TABLE { FUNCTIONS(ENTRY) }
