/* SPDX-License-Identifier: Apache-2.0 */
/* frame.h - the bytes that lectern-ingest says to its parent, both ways.
 *
 *   hello  "LCTI" u16 version u16 0
 *   frame  u8 type  u32 length (<= 1 MiB)  payload[length]         all numbers little-endian
 *
 * Order: hello; WARNING and PROGRESS at will; DOCUMENT once, before any BLOCK; END or ERROR last, then
 * nothing. A string is u16 length + bytes (BLOCK's text: u32). Nothing read is believed: every length, count,
 * string and the order are checked before a sink sees them, and END's counts must equal what was received.
 */
#ifndef LECTERN_INGEST_FRAME_H
#define LECTERN_INGEST_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "ingest/ingest.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FRAME_VERSION 1
#define FRAME_HELLO_BYTES 8
#define FRAME_HEAD_BYTES 5
#define FRAME_PAYLOAD_MAX ((size_t)1 << 20)
#define FRAME_STRING_MAX ((size_t)4096) /* paths, titles, warnings; labels too */

enum frame_type {
    FRAME_DOCUMENT = 1,
    FRAME_BLOCK = 2,
    FRAME_WARNING = 3,
    FRAME_PROGRESS = 4,
    FRAME_ERROR = 5,
    FRAME_END = 6,
};

/* Writing. Strings must already be clean UTF-8 of at most FRAME_STRING_MAX bytes (utf8_clean_label). */
void frame_put_hello(struct buf *out);
void frame_put_document(struct buf *out, const struct ingest_document *document);
void frame_put_block(struct buf *out, const struct ingest_block *block);
void frame_put_warning(struct buf *out, const char *line);
void frame_put_progress(struct buf *out, uint64_t done, uint64_t total);
void frame_put_error(struct buf *out, enum err_code code, const char *line);
void frame_put_end(struct buf *out, const struct ingest_totals *totals);

/* Reading: bytes in pieces of any size, frames to the sink as they are complete. */
struct frame_stream {
    const char *name; /* the document, for error texts; borrowed */
    const struct ingest_sink *sink;
    struct ingest_limits limits; /* no zeros */
    struct buf pending;          /* bytes of an incomplete frame */
    struct buf text, file, label;
    int greeted, have_document, ended;
    int verdict; /* the sender's own error, once an ERROR frame came; its text is in verdict_text */
    struct buf verdict_text;
    uint32_t pages;
    int32_t last_page;
    uint32_t warnings;
    uint64_t frames; /* complete frames so far */
    struct ingest_totals seen;
};

void frame_stream_init(struct frame_stream *s, const char *name, const struct ingest_sink *sink,
                       const struct ingest_limits *limits);
void frame_stream_fini(struct frame_stream *s);

/* The next n bytes. ERR_CHILD when they break the protocol, ERR_LIMIT beyond a limit, or the sink's code. */
int frame_stream_feed(struct frame_stream *s, const void *bytes, size_t n, struct err *e);

/* No more bytes will come: 0 only after END. An ERROR frame's code and text otherwise, or ERR_CHILD. */
int frame_stream_finish(const struct frame_stream *s, struct err *e);

/* Replaces zeros by the defaults named in ingest.h. */
struct ingest_limits frame_limits(const struct ingest_limits *limits);

#ifdef __cplusplus
}
#endif
#endif
