/* SPDX-License-Identifier: Apache-2.0 */
/* human.c - see human.h. Independent of the locale, so that screens can be compared. */
#include "ui/human.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

void human_count(struct buf *out, uint64_t n)
{
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, n);
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            buf_putc(out, ',');
        buf_putc(out, digits[i]);
    }
}

void human_bytes(struct buf *out, uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    if (bytes < 1000) {
        buf_printf(out, "%" PRIu64 " B", bytes);
        return;
    }
    uint64_t tenths = bytes / 100; /* of a kB; integers keep the decimal point a point */
    size_t unit = 0;
    while (tenths >= 10000 && unit + 1 < sizeof units / sizeof *units) {
        tenths /= 1000;
        unit++;
    }
    if (tenths >= 1000)
        buf_printf(out, "%" PRIu64 " %s", tenths / 10, units[unit]);
    else
        buf_printf(out, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10, tenths % 10, units[unit]);
}

void human_duration(struct buf *out, double seconds)
{
    if (!(seconds >= 0) || seconds > 1e9)
        seconds = 0;
    uint64_t s = (uint64_t)(seconds + 0.5);
    if (s >= 3600)
        buf_printf(out, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60), (unsigned)(s % 60));
    else
        buf_printf(out, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
}

void human_when(struct buf *out, int64_t when, int64_t now)
{
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct tm then, today;
    time_t t = (time_t)when, n = (time_t)now;
    if (when <= 0 || !localtime_r(&t, &then) || !localtime_r(&n, &today)) {
        buf_puts(out, "never");
        return;
    }
    if (then.tm_year == today.tm_year && then.tm_yday == today.tm_yday)
        buf_printf(out, "%02d:%02d", then.tm_hour, then.tm_min);
    else if (now >= when && now - when < 182LL * 86400)
        buf_printf(out, "%d %s %02d:%02d", then.tm_mday, months[then.tm_mon], then.tm_hour, then.tm_min);
    else
        buf_printf(out, "%d %s %d", then.tm_mday, months[then.tm_mon], then.tm_year + 1900);
}
