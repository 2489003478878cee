/* 256 functions: FIRSTS(EACH) is EACH(00) to EACH(ff). */
#ifndef FIRSTS_H
#define FIRSTS_H

#define SIXTEEN(EACH, x)                                                                                               \
    EACH(x##0) EACH(x##1) EACH(x##2) EACH(x##3) EACH(x##4) EACH(x##5) EACH(x##6) EACH(x##7)                            \
    EACH(x##8) EACH(x##9) EACH(x##a) EACH(x##b) EACH(x##c) EACH(x##d) EACH(x##e) EACH(x##f)
#define FIRSTS(EACH)                                                                                                   \
    SIXTEEN(EACH, 0) SIXTEEN(EACH, 1) SIXTEEN(EACH, 2) SIXTEEN(EACH, 3)                                                \
    SIXTEEN(EACH, 4) SIXTEEN(EACH, 5) SIXTEEN(EACH, 6) SIXTEEN(EACH, 7)                                                \
    SIXTEEN(EACH, 8) SIXTEEN(EACH, 9) SIXTEEN(EACH, a) SIXTEEN(EACH, b)                                                \
    SIXTEEN(EACH, c) SIXTEEN(EACH, d) SIXTEEN(EACH, e) SIXTEEN(EACH, f)

#endif
