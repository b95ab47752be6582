/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - lectern-ingest: reads one document and says what is in it, as frames or as text. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ingest/frame.h"
#include "ingest/utf8_repair.h"
#include "ingest/worker/emit.h"
#include "ingest/worker/readers.h"

#ifndef LECTERN_VERSION
#define LECTERN_VERSION "0.1"
#endif

#if defined(__SANITIZE_ADDRESS__)
/* poppler, glib and fontconfig keep what they allocate until the exit; that is not a leak of ours. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

static const char usage[] =
    "usage: lectern-ingest --text FILE     print a document's text, with page heads\n"
    "       lectern-ingest --frames FILE   the same for lectern, as binary frames\n"
    "       lectern-ingest --help | --version\n"
    "\n"
    "FILE is a PDF, a UTF-8 text, a Markdown file or a folder of such texts (in a git repository: the\n"
    "tracked files). Warnings go to standard error. Exit status: 0 read, 1 not readable, 2 wrong usage.\n";

static int run(int as_text, const char *path)
{
    struct emit m;
    emit_init(&m, as_text);
    struct err e = {0};
    struct buf name = {0};
    utf8_clean_label(&name, path, FRAME_STRING_MAX);
    int rc = name.failed ? err_memory(&e, "a path") : read_document(&m, path, name.data, &e);
    if (!rc)
        rc = emit_end(&m, &e);
    if (rc)
        emit_error(&m, &e);
    buf_free(&name);
    emit_fini(&m);
    return rc ? 1 : 0;
}

static int say(FILE *to, const char *text, int status)
{
    return fputs(text, to) < 0 || fflush(to) ? 1 : status;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return say(stdout, usage, 0);
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return say(stdout, "lectern-ingest " LECTERN_VERSION "\n", 0);
    int as_text = argc > 1 && strcmp(argv[1], "--text") == 0;
    int as_frames = argc > 1 && strcmp(argv[1], "--frames") == 0;
    int at = argc > 2 && strcmp(argv[2], "--") == 0 ? 3 : 2;
    if ((!as_text && !as_frames) || argc != at + 1 || !argv[at][0])
        return say(stderr, usage, 2);
    if (as_frames && isatty(STDOUT_FILENO))
        return say(stderr, "lectern-ingest: frames are not for a terminal; use --text\n", 2);
    return run(as_text, argv[at]);
}
