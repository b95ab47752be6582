/* SPDX-License-Identifier: Apache-2.0 */
/* fault_world.h - a tiny model, some texts, and data folders in known states, for tests that disturb the real
 * program and look at what is left.
 *
 * The session "keep" is finished and pinned before anything is disturbed, and must never change. The session
 * "x" is what the disturbed commands work on. What an undisturbed run leaves is kept as the measure.
 * With LECTERN_FAULT_KEEP set the folders are left for looking at.
 */
#ifndef LECTERN_TESTS_SUPPORT_FAULT_WORLD_H
#define LECTERN_TESTS_SUPPORT_FAULT_WORLD_H

#include <stdint.h>

#include "tests/support/fault_run.h"

enum step {
    STEP_ADD,
    STEP_ASK,
    STEP_DELETE,
    STEP_GC,
    STEP_STRIP,
    STEP_EXPORT,
    STEP_IMPORT,
    STEP_VERIFY,
    STEPS
};

enum { WORLD_DOCUMENTS = 3, WORLD_ARGS = 32 };

struct world {
    char *root, *model, *heads;
    char *documents[WORLD_DOCUMENTS + 1]; /* the last one is keep's */
    char *plain;                          /* data folder with "keep" alone */
    char *read;                           /* and with "x" read to the end, one question asked */
    char *exported;                       /* x of it as a file */
    uint8_t keep[16], x[16];              /* their digests */
    uint8_t (*spans)[16];                 /* keys of the spans that x has */
    size_t n_spans;
    char *answer; /* to the question that STEP_ASK asks */
    uint64_t plain_spans;
};

/* NULL when the program could not even do it undisturbed (a line says why). */
struct world *world_make(void);
void world_free(struct world *w);

const char *step_name(enum step step);
/* The data folder that a step begins with. */
const char *step_start(const struct world *w, enum step step);

/* A data folder and a folder for output, of one of several workers. */
struct place {
    char *data, *scratch, *file; /* file: where STEP_EXPORT writes */
};
void place_make(const struct world *w, int worker, struct place *p);
void place_free(struct place *p);

/* Sets the step's command; the strings live as long as w and p. */
void step_command(const struct world *w, enum step step, const struct place *p, const char *argv[WORLD_ARGS]);

/* Runs a step in p with a fault or a kill. */
void step_run(const struct world *w, enum step step, const struct place *p, const struct fault *f,
              double kill_after, struct run *r);

/* What must hold at any time: the store opens, verify finds nothing, "keep" is as it was. 1, or 0 with why.
 */
int world_holds(const struct world *w, const struct place *p, char *why, size_t size);

/* What must hold after the step ran undisturbed, whatever happened to it before. */
int step_is_done(const struct world *w, enum step step, const struct place *p, char *why, size_t size);

/* What a command may say when it is done already: the session is gone, or is there. */
int step_may_refuse(enum step step);

/* Runs the step again, undisturbed, and checks both. A second run of a step that was done already may say
 * so. */
int step_goes_on(const struct world *w, enum step step, const struct place *p, char *why, size_t size);

#endif
