/* SPDX-License-Identifier: Apache-2.0 */
/* room.h - the engine thread behind the reading room: takes the port's requests, sends its events. */
#ifndef LECTERN_APP_ROOM_H
#define LECTERN_APP_ROOM_H

#include "app/config.h"
#include "engine/base/err.h"
#include "ui/port.h"

struct room;

/* Starts the thread, which loads the engine first. `creatable` (may be NULL) is a session that may be made
 * when it is opened and missing. config and port are borrowed until room_stop. */
int room_start(struct room **out, const struct config *c, struct ui_port *port, const char *creatable,
               struct err *e);

/* Waits for the thread, which ends when the interface has; what it failed with at the start, if anything. */
int room_stop(struct room *room, struct err *e);

#endif
