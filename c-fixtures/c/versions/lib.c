/* The host of versions, a shared library, with two versions of one function. See host.c. */
#include "fixture.h"

#ifdef FIRST_RELEASE
EXPORT int version(void) { return 1; }
#else
__attribute__((used)) REAL int version_1(void) { return 1; }
__attribute__((used)) REAL int version_2(void) { return 2; }
__asm__(".symver version_1, version@V1");
__asm__(".symver version_2, version@@V2");
#endif

EXPORT int which(void) { return 1; }
