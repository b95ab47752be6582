/* SPDX-License-Identifier: Apache-2.0 */
/* room_events.h - the store's and the reader's facts as events for the interface. */
#ifndef LECTERN_APP_ROOM_EVENTS_H
#define LECTERN_APP_ROOM_EVENTS_H

#include "app/reader.h"
#include "ui/port.h"

int room_send_library(struct ui_port *port, struct store *store, struct err *e);
int room_send_session(struct ui_port *port, struct store *store, struct reader *r, const char *name,
                      struct err *e);
int room_send_answer(struct ui_port *port, const struct reader_answer *a, struct err *e);
int room_send_status(struct ui_port *port, const struct engine *g, const struct reader *r, const char *what,
                     const char *line, struct err *e); /* r may be NULL; line: how the context came */
int room_send_source(struct ui_port *port, struct store *store, struct reader *r, int64_t turn, int number,
                     struct err *e); /* r may be NULL: an error */

/* Progress with a rate and an ETA; borrowed by the port it makes. */
struct room_rate {
    struct ui_port *port;
    const char *unit_what; /* last word reported, borrowed */
    double begun, sent;    /* clock_seconds */
    uint64_t first;        /* done when it began */
};
struct progress room_rate_port(struct room_rate *rate, struct ui_port *port);

#endif
