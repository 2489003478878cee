#include "traceshim.h"

void mistakes(void)
{
    traceshim_log("category", 3);
    traceshim_region_end(1);
    traceshim_region_end("one", "two");
    traceshim_task_begin_in("no parent");
}
