/* SPDX-License-Identifier: Apache-2.0 */
/* ingest.h - a document in, UTF-8 text blocks with their source out; the parent's side.
 *
 * The parser runs in another process (lectern-ingest). What arrives from it is treated as hostile: every
 * frame is checked before a callback sees it. The texts of all blocks, one after the other, are the document;
 * source_map.h remembers where each byte of it came from.
 */
#ifndef LECTERN_INGEST_INGEST_H
#define LECTERN_INGEST_INGEST_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A block's text holds at most this many bytes. */
#define INGEST_BLOCK_MAX ((size_t)256 * 1024)

/* Zero in a field means the default named beside it. */
struct ingest_limits {
    uint64_t text_bytes;   /* 1 GiB: all text of the document */
    uint32_t blocks;       /* 4 million */
    uint32_t warnings;     /* 10,000 */
    uint32_t idle_seconds; /* 60: no frame for so long and the worker is killed */
    uint64_t memory_bytes; /* 4 GiB of address space for the worker (none under AddressSanitizer) */
    uint32_t cpu_seconds;  /* 1,800 s of processor time for the worker */
};

struct ingest_options {
    const char *worker; /* path of the lectern-ingest program */
    const char *path;   /* the document: a file or a folder */
    struct ingest_limits limits;
    struct cancel *cancel; /* may be NULL; looked at ten times a second */
};

/* Strings are valid UTF-8 without control characters, never NULL ("" = unknown), and live during the call. */
struct ingest_document {
    const char *kind; /* "pdf", "text", "markdown", "folder" or "git" */
    const char *title;
    const char *author;
    uint32_t pages;        /* 0 for what has no pages */
    uint64_t source_bytes; /* size of the file; 0 for folders */
};

/* How a block's text relates to the source bytes [byte_first, byte_first + byte_len). Neither EXACT nor CRLF:
 * the text was made from that range as a whole (or from no bytes at all when byte_len is 0). */
enum ingest_block_flag {
    INGEST_EXACT = 1, /* the text is these bytes */
    INGEST_CRLF = 2,  /* the text is these bytes with each "\r\n" written "\n" */
    INGEST_MADE = 4,  /* the text was added by the reader (a file's heading, a blank line) */
};

struct ingest_block {
    const char
        *text; /* n >= 1 bytes of valid UTF-8 without NUL, followed by a NUL; at most INGEST_BLOCK_MAX */
    size_t n;
    const char *file;       /* path as given, or the path inside the folder */
    int32_t page_index;     /* from 0; -1 when the document has no pages */
    const char *page_label; /* the printed label ("iv", "17"), or "" */
    uint32_t line_first;    /* from 1: line of the page (PDF) or file where the text starts */
    uint64_t byte_first;
    uint64_t byte_len;
    unsigned flags; /* enum ingest_block_flag */
};

/* What is known only when all is read. */
struct ingest_totals {
    uint64_t text_bytes;
    uint32_t blocks;
    uint32_t pages_without_text;
    uint32_t files;         /* read */
    uint32_t files_skipped; /* binary, too large, unreadable or of a kind not read inside folders */
    uint64_t replaced;      /* U+FFFD put in place of invalid UTF-8 */
};

/* Called in the thread that calls ingest_run, in the order: document once, then blocks in text order and
 * warnings, then finished once, only when everything was received whole. Any member may be NULL. A non-zero
 * return (an err_code, with `e` filled) kills the worker and becomes ingest_run's result. */
struct ingest_sink {
    void *arg;
    int (*document)(void *arg, const struct ingest_document *document, struct err *e);
    int (*block)(void *arg, const struct ingest_block *block, struct err *e);
    int (*finished)(void *arg, const struct ingest_totals *totals, struct err *e);
    void (*warning)(void *arg, const char *line);               /* one line for the person */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* pages, files or bytes */
};

/* Reads one document. Blocks until the worker is gone. ERR_CHILD: the worker died, hung or broke the
 * protocol; ERR_CANCELLED; ERR_LIMIT; otherwise the worker's own verdict on the document (ERR_FORMAT for a
 * damaged file, ERR_UNSUPPORTED, ERR_NOT_FOUND, ERR_IO). The text names the document. */
int ingest_run(const struct ingest_options *options, const struct ingest_sink *sink, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
