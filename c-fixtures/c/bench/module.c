/* One of the many modules that the load benchmark links into a program: MODULE is its number, NEXT that of one whose
 * functions it imports. Each exports 16 functions and has 16 slots. */
#define PASTE_(a, b, c, d) a##b##c##d
#define PASTE(a, b, c, d) PASTE_(a, b, c, d)
#define EXPORTED(module, n) PASTE(module_, module, _, n)
#define IMPORTED(n) EXPORTED(NEXT, n)
#define EACH4(m, a) m(a##0) m(a##1) m(a##2) m(a##3)
#define EACH(m) EACH4(m, 0) EACH4(m, 1) EACH4(m, 2) EACH4(m, 3)

#define DECLARE(n) extern long IMPORTED(n)(long);
#define DEFINE(n)                                                                                                      \
    __attribute__((visibility("default"))) long EXPORTED(MODULE, n)(long number)                                       \
    {                                                                                                                  \
        return number > 0 ? IMPORTED(n)(number - 1) + 1 : number;                                                      \
    }

EACH(DECLARE)
EACH(DEFINE)
