/* SPDX-License-Identifier: Apache-2.0 */
/* utf8_repair.c - strict UTF-8 by ranges: only the second byte's range depends on the first. */
#include "ingest/utf8_repair.h"

#include <string.h>

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* Unicode table 3-7: bytes that must follow `lead`, and the range of the first of them. */
static size_t following(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 1;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0)
            *low = 0xa0; /* else overlong */
        if (lead == 0xed)
            *high = 0x9f; /* else a surrogate */
        return 2;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0)
            *low = 0x90; /* else overlong */
        if (lead == 0xf4)
            *high = 0x8f; /* else above U+10FFFF */
        return 3;
    }
    return 0;
}

size_t utf8_sequence(const uint8_t *p, size_t n, size_t *bad)
{
    *bad = 1;
    if (p[0] < 0x80)
        return 1;
    uint8_t low, high;
    size_t more = following(p[0], &low, &high);
    if (more == 0)
        return 0;
    for (size_t i = 1; i <= more; i++) {
        if (i >= n || p[i] < low || p[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return more + 1;
}

static size_t ascii_prefix(const uint8_t *p, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, sizeof word);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

size_t utf8_valid_prefix(const void *text, size_t n)
{
    const uint8_t *p = text;
    size_t i = 0;
    while (i < n) {
        i += ascii_prefix(p + i, n - i);
        size_t bad;
        size_t length = i < n ? utf8_sequence(p + i, n - i, &bad) : 0;
        if (length == 0)
            break;
        i += length;
    }
    return i;
}

uint64_t utf8_repair(struct buf *out, const void *text, size_t n)
{
    const uint8_t *p = text;
    uint64_t replaced = 0;
    size_t i = 0;
    while (i < n) {
        size_t good = utf8_valid_prefix(p + i, n - i);
        buf_add(out, p + i, good);
        i += good;
        if (i == n)
            break;
        size_t bad;
        utf8_sequence(p + i, n - i, &bad);
        buf_add(out, replacement, 3);
        i += bad;
        replaced++;
    }
    return replaced;
}

void utf8_clean_label(struct buf *out, const char *text, size_t limit)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = strlen(text);
    size_t start = out->len;
    for (size_t i = 0; i < n;) {
        size_t bad;
        size_t length = utf8_sequence(p + i, n - i, &bad);
        int control = p[i] < 0x20 || p[i] == 0x7f || (length == 2 && p[i] == 0xc2 && p[i + 1] < 0xa0);
        size_t adds = length && !control ? length : 3;
        if (out->len - start + adds > limit || out->failed)
            break;
        buf_add(out, length && !control ? text + i : replacement, adds);
        i += length ? length : bad;
    }
    buf_add(out, "", 0); /* so that data is a string even when nothing was added */
}
