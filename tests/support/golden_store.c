/* SPDX-License-Identifier: Apache-2.0 */
/* golden_store.c - makes the frozen samples of tests/golden/store. */
#include "tests/support/golden_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "data/transfer/transfer.h"
#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "tests/support/fault_run.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static const char making_folder[] = "/tmp/lectern-golden"; /* its name is kept in the samples */
const char golden_question[] = "How many lines has it?";

char *golden_hex(const uint8_t *bytes, size_t n)
{
    struct buf b = {0};
    for (size_t i = 0; i < n; i++)
        buf_printf(&b, "%02x", bytes[i]);
    return buf_take(&b);
}

/* ---- what samples are made of ------------------------------------------------------------------------ */

void golden_model(const struct golden *g)
{
    struct tiny_model m = tiny_model_default();
    m.L = 1, m.H = 2, m.HK = 2, m.D = 16, m.C = 32, m.F = 32;
    if (tiny_model_write(&m, g->model) || mkdir(g->heads, 0700))
        abort();
    temp_text(g->heads, "full_attention_heads.tsv", "0.9\t0.1\n");
    temp_text(g->heads, "config.json", "{\"sink_size\": 16, \"recent_size\": 64}\n");
}

int golden_engine(const struct golden *g, struct engine **out, struct err *e)
{
    struct engine_options o = {.model_path = g->model,
                               .heads_path = g->heads,
                               .sparsity = 0.5,
                               .sink = -1,
                               .recent = -1,
                               .threads = 1,
                               .kernels = "ref"};
    return engine_open(out, &o, e);
}

int golden_reader(const struct engine *engine, struct store *s, int create, struct reader **r, struct err *e)
{
    static char worker[4096]; /* borrowed */
    const char *build = getenv("LECTERN_BUILD");
    snprintf(worker, sizeof worker, "%s/lectern-ingest", build ? build : ".");
    struct reader_options o = {
        .engine = engine, .store = s, .worker = worker, .name = "golden", .create = create};
    return reader_open(r, &o, e);
}

const int golden_formats[GOLDEN_FORMATS] = {KV_RAW, KV_8, KV_K8V4, KV_4, KV_K4V2, KV_3};

/* Keys with a mean of their own in each channel, as models have them; exact in fp16. */
static void page_values(uint16_t *k, uint16_t *v)
{
    uint64_t random = 42;
    for (size_t i = 0; i < (size_t)KV_PAGE_TOKENS * GOLDEN_PAGE_D; i++) {
        k[i] = (uint16_t)(0x3000 + (i % GOLDEN_PAGE_D) * 64 + fault_random(&random) % 700 +
                          (i % GOLDEN_PAGE_D % 3 ? 0 : 0x8000));
        v[i] = (uint16_t)(0x2c00 + fault_random(&random) % 4000 + (fault_random(&random) % 2) * 0x8000);
    }
}

/* The record and its scan summary, one behind the other. */
uint8_t *golden_page(const struct kernels *kernels, int format, size_t *n)
{
    static uint16_t k[KV_PAGE_TOKENS * GOLDEN_PAGE_D], v[KV_PAGE_TOKENS * GOLDEN_PAGE_D];
    size_t record = kv_page_bytes(format, GOLDEN_PAGE_D), scan = kv_scan_bytes(GOLDEN_PAGE_D);
    uint8_t *bytes = aligned_alloc(64, (record + scan + 63) / 64 * 64);
    if (!bytes)
        abort();
    memset(bytes, 0, record + scan);
    page_values(k, v);
    struct kv_page_pack_args a = {.k = k,
                                  .ldk = GOLDEN_PAGE_D,
                                  .v = v,
                                  .ldv = GOLDEN_PAGE_D,
                                  .D = GOLDEN_PAGE_D,
                                  .format = format,
                                  .record = bytes,
                                  .scan = bytes + record};
    kernels->kv_page_pack(&a);
    *n = record + scan;
    return bytes;
}

uint64_t golden_page_meaning(const struct kernels *kernels, int format, const void *record)
{
    static float k[KV_PAGE_TOKENS * GOLDEN_PAGE_D], v[KV_PAGE_TOKENS * GOLDEN_PAGE_D];
    struct kv_page_unpack_args a = {.record = record, .format = format, .D = GOLDEN_PAGE_D, .k = k, .v = v};
    kernels->kv_page_unpack(&a);
    return XXH3_64bits(k, sizeof k) ^ (XXH3_64bits(v, sizeof v) << 1);
}

char *golden_page_file(const struct golden *g, int format)
{
    char name[64];
    snprintf(name, sizeof name, "pages/%s.bin", kv_format_name(format));
    return temp_path(g->folder, name);
}

/* ---- making ------------------------------------------------------------------------------------------ */

static void write_text(const char *path)
{
    static const char *const words[] = {"oak ", "ash ", "elm ", "fir ", "yew ", "box ", "bay ", "fig "};
    struct buf text = {0};
    struct err e;
    uint64_t random = 7;
    for (unsigned i = 1; i <= 44; i++) {
        buf_printf(&text, "%u. ", i);
        for (int k = 0; k < 5; k++)
            buf_puts(&text, words[fault_random(&random) % 8]);
        buf_puts(&text, "\n");
    }
    if (file_write(path, text.data, text.len, &e))
        abort();
    buf_free(&text);
    const struct timespec when[2] = {{.tv_sec = 1767225600}, {.tv_sec = 1767225600}};
    if (utimensat(AT_FDCWD, path, when, 0))
        abort();
}

static int make_book(const struct golden *g, struct buf *facts, struct err *e)
{
    struct engine *engine = NULL;
    struct store *s = NULL;
    struct reader *r = NULL;
    struct transfer_result result;
    struct reader_answer a = {0};
    uint8_t digest[16] = {0}, model[16];
    struct reader_question q = {.text = golden_question, .top_p = 1, .seed = 1, .max_tokens = 3};
    char *text = temp_path(g->work, "trees.txt"), *file = temp_path(g->folder, "book.lectern");
    write_text(text);
    int rc = golden_engine(g, &engine, e);
    if (!rc)
        rc = store_open(g->data, &s, e);
    if (!rc)
        rc = golden_reader(engine, s, 1, &r, e);
    if (!rc)
        rc = reader_add(r, text, NULL, NULL, NULL, e);
    if (!rc)
        rc = reader_ask(r, &q, NULL, NULL, &a, e);
    int64_t id = rc ? 0 : reader_session(r);
    if (!rc) {
        engine_model_hash(engine, model);
        buf_printf(facts, "tokens %zu\n", reader_corpus_tokens(r));
    }
    reader_answer_fini(&a);
    reader_close(r);
    if (!rc)
        rc = store_session_digest(s, id, digest, e);
    if (!rc)
        rc = transfer_export(s, id, file, NULL, &result, e);
    store_close(s);
    engine_close(engine);
    if (!rc) {
        char *hashes[2] = {golden_hex(model, 16), golden_hex(digest, 16)};
        buf_printf(facts, "model %s\ndigest %s\n", hashes[0], hashes[1]);
        free(hashes[0]);
        free(hashes[1]);
        char *to = temp_path(g->folder, "book");
        char *locks = temp_path(to, "locks"); /* has the number of a process */
        tree_copy(g->data, to);
        tree_remove(locks);
        free(locks);
        free(to);
    }
    free(text);
    free(file);
    return rc;
}

static int make_pages(const struct golden *g, struct buf *facts, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < GOLDEN_FORMATS; i++) {
        size_t n;
        uint8_t *bytes = golden_page(kernels_get("ref"), golden_formats[i], &n);
        char *path = golden_page_file(g, golden_formats[i]);
        rc = file_write(path, bytes, n, e);
        buf_printf(facts, "page-%s %016llx\n", kv_format_name(golden_formats[i]),
                   (unsigned long long)golden_page_meaning(kernels_get("ref"), golden_formats[i], bytes));
        free(path);
        free(bytes);
    }
    return rc;
}

/* A manifest that names a version to come, with its checksum right. */
static int make_newer_export(const struct golden *g, struct buf *bad, struct err *e)
{
    char *path = temp_path(g->folder, "book.lectern"), *all;
    size_t size;
    int rc = file_read(path, 1 << 24, &all, &size, e);
    free(path);
    if (rc)
        return rc;
    XXH128_canonical_t sum;
    char *begin = memmem(all, size, "{", 1), *version = memmem(all, size, "\"version\":", 10), *end = NULL;
    for (char *p = begin; p && p < all + size && *p; p++)
        end = p + 1; /* a file in a tar ends in zeros */
    char *digit = version ? version + 10 + strspn(version + 10, " ") : NULL;
    if (!digit || !end) {
        free(all);
        return err_set(e, ERR_FORMAT, "the export has no manifest with a version");
    }
    XXH128_canonicalFromHash(&sum, XXH3_128bits(begin, (size_t)(end - begin)));
    char *was = golden_hex(sum.digest, 16), *at = memmem(all, size, was, strlen(was));
    *digit = '9';
    XXH128_canonicalFromHash(&sum, XXH3_128bits(begin, (size_t)(end - begin)));
    char *is = golden_hex(sum.digest, 16);
    if (at) {
        char *letters = golden_hex((const uint8_t *)is, strlen(is));
        buf_printf(bad, "newer-export book.lectern write %zu 39 import unsupported newer\n",
                   (size_t)(digit - all));
        buf_printf(bad, "newer-export book.lectern write %zu %s import unsupported newer\n",
                   (size_t)(at - all), letters);
        free(letters);
    } else {
        rc = err_set(e, ERR_FORMAT, "the export's manifest has no checksum");
    }
    free(was);
    free(is);
    free(all);
    return rc;
}

static int make_bad(const struct golden *g, struct err *e)
{
    struct buf bad = {0};
    buf_puts(&bad, "# name, file, what is done to it (write, xor or cut) where and with "
                   "which bytes; who finds it, the\n"
                   "# error's name, a word of its text\n"
                   "newer-store book/lectern.db write 60 000003e7 open unsupported newer\n"
                   "foreign-database book/lectern.db write 68 00000007 open format lectern\n"
                   "no-database book/lectern.db write 0 4e6f742061206461746162617365 open "
                   "format move\n"
                   "cut-database book/lectern.db cut 4096 - open format move\n"
                   "cut-to-nothing book/lectern.db cut 700 - open format move\n"
                   "damaged-schema book/lectern.db xor 110 ffffffff open format move\n"
                   "damaged-block book/segments/000001.seg xor 4200 01 verify - 000001.seg\n"
                   "damaged-header book/segments/000001.seg xor 20 80 verify - 000001.seg\n"
                   "cut-segment book/segments/000001.seg cut 9000 - verify - 000001.seg\n"
                   "empty-segment book/segments/000001.seg cut 0 - verify - 000001.seg\n"
                   "cut-export book.lectern cut 3000 - import format -\n"
                   "empty-export book.lectern cut 0 - import format -\n"
                   "damaged-manifest book.lectern xor 600 04 import format -\n"
                   "no-export book.lectern write 0 504b030414000000 import format -\n");
    struct stat st;
    char *path = temp_path(g->folder, "book.lectern");
    if (stat(path, &st))
        abort();
    buf_printf(&bad, "damaged-span book.lectern xor %lld 10 import format -\n", (long long)st.st_size / 2);
    free(path);
    int rc = make_newer_export(g, &bad, e);
    path = temp_path(g->folder, "bad.txt");
    if (!rc)
        rc = file_write(path, bad.data, bad.len, e);
    free(path);
    buf_free(&bad);
    return rc;
}

struct golden golden_open(const char *folder, const char *work)
{
    struct golden g = {.folder = strdup(folder), .work = strdup(work)};
    g.model = temp_path(work, "tiny.gguf");
    g.heads = temp_path(work, "heads");
    g.data = temp_path(work, "data");
    return g;
}

void golden_close(struct golden *g)
{
    tree_remove(g->work);
    free(g->folder);
    free(g->work);
    free(g->model);
    free(g->heads);
    free(g->data);
}

int golden_make(const char *folder)
{
    struct buf facts = {0};
    struct err e = {0};
    tree_remove(making_folder);
    char *pages = temp_path(folder, "pages"), *path = temp_path(folder, "facts.txt");
    int rc = dir_make(making_folder, &e);
    struct golden g = golden_open(folder, making_folder);
    if (!rc)
        rc = dir_make(pages, &e);
    golden_model(&g);
    if (!rc)
        rc = make_book(&g, &facts, &e);
    if (!rc)
        rc = make_pages(&g, &facts, &e);
    if (!rc)
        rc = make_bad(&g, &e);
    if (!rc)
        rc = file_write(path, facts.data, facts.len, &e);
    if (rc)
        fprintf(stderr, "%s\n", e.text);
    golden_close(&g);
    buf_free(&facts);
    free(pages);
    free(path);
    return rc != 0;
}
