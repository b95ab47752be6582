/* SPDX-License-Identifier: Apache-2.0 */
/* doctor.h - the report of `lectern doctor` and the probes that fill it. Internal to the command. */
#ifndef LECTERN_APP_DOCTOR_H
#define LECTERN_APP_DOCTOR_H

#include <jansson.h>

#include "app/config.h"
#include "engine/base/buf.h"

enum doctor_state { DOCTOR_FINE, DOCTOR_PROBLEM };

struct doctor {
    json_t *root;
    struct buf text;
    int problems;
    int failed; /* out of memory somewhere */
};

/* One line of text and one value: root[group][key] = value (taken over). The text may hold anything. */
void doctor_add(struct doctor *d, const char *group, const char *key, enum doctor_state state, json_t *value,
                const char *format, ...) __attribute__((format(printf, 6, 7)));
json_t *doctor_string(const char *text);

void doctor_program(struct doctor *d, const struct config *c);
void doctor_processor(struct doctor *d, const struct config *c);
void doctor_memory(struct doctor *d);
void doctor_disk(struct doctor *d, const struct config *c); /* writes and reads for 150 ms at most */
void doctor_gpu(struct doctor *d, const struct config *c);  /* starts the card, when there is one */
void doctor_libraries(struct doctor *d);
void doctor_sandbox(struct doctor *d, const struct config *c);
void doctor_model(struct doctor *d, const struct config *c);
void doctor_terminal(struct doctor *d, const struct config *c);

#endif
