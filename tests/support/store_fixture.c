/* SPDX-License-Identifier: Apache-2.0 */
/* store_fixture.c - see the header. */
#include "tests/support/store_fixture.h"

#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"

char *fixture_dir_make(void)
{
    const char *base = getenv("TMPDIR");
    struct buf name = {0};
    buf_printf(&name, "%s/lectern-store-XXXXXX", base && base[0] == '/' ? base : "/tmp");
    char *dir = buf_take(&name);
    if (dir && !mkdtemp(dir)) {
        free(dir);
        return NULL;
    }
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void fixture_dir_remove(char *dir)
{
    if (dir)
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

char *fixture_segment(const char *dir, int number)
{
    struct buf name = {0};
    buf_printf(&name, "%s/segments/%06d.seg", dir, number);
    return buf_take(&name);
}

int fixture_sql(const char *dir, const char *statements)
{
    struct buf name = {0};
    buf_printf(&name, "%s/lectern.db", dir);
    sqlite3 *db = NULL;
    int status = sqlite3_open(name.data, &db);
    if (!status)
        sqlite3_busy_timeout(db, 5000);
    if (!status)
        status = sqlite3_exec(db, statements, NULL, NULL, NULL);
    sqlite3_close(db);
    buf_free(&name);
    return status;
}

static uint32_t mix(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void fixture_key(unsigned i, uint8_t key[STORE_KEY_BYTES])
{
    for (unsigned k = 0; k < STORE_KEY_BYTES; k++)
        key[k] = (uint8_t)mix(i * 16 + k);
}

size_t fixture_size(unsigned i)
{
    static const size_t sizes[] = {0,      1,      4095,   4096,   4097,   262143,
                                   262144, 262145, 524288, 700001, 999999, 1300000};
    return sizes[i % (sizeof sizes / sizeof sizes[0])];
}

static uint8_t byte_of(unsigned i, size_t at)
{
    return (uint8_t)(mix(i + 77) + at * 167 + (at >> 9));
}

void fixture_bytes(unsigned i, uint8_t *bytes)
{
    size_t n = fixture_size(i);
    for (size_t k = 0; k < n; k++)
        bytes[k] = byte_of(i, k);
}

int fixture_put(struct store *s, unsigned i, struct err *e)
{
    size_t n = fixture_size(i);
    uint8_t *bytes = malloc(n + 1);
    if (!bytes)
        return err_memory(e, "test bytes");
    fixture_bytes(i, bytes);
    /* Three parts with cuts that are no friend of groups. */
    size_t a = n / 3, b = n / 2;
    const struct iovec parts[] = {{bytes, a}, {bytes + a, b - a}, {bytes + b, n - b}};
    uint8_t key[STORE_KEY_BYTES];
    fixture_key(i, key);
    const struct span_put put = {
        .kind = 1, .key = key, .meta = &i, .meta_size = sizeof i, .parts = parts, .n = 3};
    int rc = store_span_put(s, &put, e);
    free(bytes);
    return rc;
}

int fixture_check(struct store *s, unsigned i, struct err *e)
{
    uint8_t key[STORE_KEY_BYTES];
    fixture_key(i, key);
    struct span_map m;
    int rc = store_span_map(s, 1, key, &m, e);
    if (rc)
        return rc;
    int wrong = m.size != fixture_size(i);
    for (size_t k = 0; !wrong && k < m.size; k++)
        wrong = m.data[k] != byte_of(i, k);
    store_span_unmap(s, &m);
    return wrong ? -1 : 0;
}
