/* SPDX-License-Identifier: Apache-2.0 */
/* fault_run.h - runs a built program with a fault in its way, or killed at some moment, and says what came of
 * it. The fault comes from fault_io/fault_io.c. What fails in here ends the test program.
 */
#ifndef LECTERN_TESTS_SUPPORT_FAULT_RUN_H
#define LECTERN_TESTS_SUPPORT_FAULT_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "tests/support/fault_io/fault_class.h"

struct fault {
    const char *program; /* NULL: lectern */
    const char *classes; /* "write,sync"; NULL: nothing fails, calls are counted */
    const char *how;     /* FAULT_HOW */
    const char *under;   /* paths that count; NULL: all */
    uint64_t at;         /* the n-th call, from 1; 0: see every */
    uint64_t times;      /* calls that fail from there on; 0: all further ones */
    uint64_t every;      /* every k-th, when not 0 */
};

struct run {
    int status;     /* as waitpid gives it */
    double seconds; /* it took */
    char *out, *err;
    uint64_t chosen;                /* calls of the classes named */
    uint64_t counts[FAULT_CLASSES]; /* calls of each class */
};

/* argv[0] is a program of LECTERN_BUILD by name; `scratch` a folder for its output. kill_after: seconds until
 * SIGKILL, negative: never. f may be NULL. A program that takes more than 120 s is killed: status SIGALRM. */
void fault_run(const char *const *argv, const struct fault *f, const char *scratch, double kill_after,
               struct run *r);
void run_free(struct run *r);

/* Ended by itself. */
int run_exited(const struct run *r);
int run_exit(const struct run *r); /* its status; -1 after a signal */

/* Exit status 0, or 1 with exactly one line on the standard error that begins "lectern: ". A text that says
 * what else it did goes to `why`. */
int run_is_clear(const struct run *r, char *why, size_t size);

/* Copies a folder of folders and regular files; `to` is removed first. */
void tree_copy(const char *from, const char *to);
void tree_remove(const char *folder);

/* A small generator, so that one printed seed says everything. */
uint64_t fault_random(uint64_t *state);

/* Runs work(arg, k, n) in n processes at once, k = 0..n-1; returns how many of them returned non-zero or
 * died. Output must be short lines. */
int fault_parallel(int n, int (*work)(void *arg, int k, int n), void *arg);

#endif
