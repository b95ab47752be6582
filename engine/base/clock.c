/* SPDX-License-Identifier: Apache-2.0 */
/* clock.c - reads the system's clocks. */
#include "engine/base/clock.h"

#include <time.h>

double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

long long clock_unix(void)
{
    return (long long)time(NULL);
}
