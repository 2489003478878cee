/* The tracepoints that the callback gets for LTTng-UST: as small as they can be, an integer each. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER bench
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "lttng.h"

#if !defined(BENCH_LTTNG_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define BENCH_LTTNG_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(bench, enter, LTTNG_UST_TP_ARGS(int, function),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, function, function)))
LTTNG_UST_TRACEPOINT_EVENT(bench, exit, LTTNG_UST_TP_ARGS(int, function),
                           LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, function, function)))

#endif

#include <lttng/tracepoint-event.h>
