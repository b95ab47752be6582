/* SPDX-License-Identifier: Apache-2.0 */
/* port.h - the one place where the interface's thread and the engine's thread meet: two bounded queues.
 *
 *   ui_run (one thread)  -- requests -->  the app's engine thread
 *                        <--  events --
 *
 * Messages move: the sender gives its content away, the receiver frees it. The interface never blocks on the
 * engine; the engine blocks on a full event queue until the interface has drawn or has ended. Consecutive
 * TOKEN events melt into one, and a newer PROGRESS or STATUS replaces the one waiting directly before it.
 * Requests are served one at a time and in order: asking for the next one says that the last is finished.
 */
#ifndef LECTERN_UI_PORT_H
#define LECTERN_UI_PORT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "ui/message.h"

struct ui_port;

/* `capacity` is the length of each queue; 0 takes a sensible one. */
int port_create(struct ui_port **out, size_t capacity, struct err *e);
/* Both threads must have stopped using it. Frees what is still queued; NULL is legal. */
void port_free(struct ui_port *port);

/* ---- the engine's side ---- */

/* Waits up to timeout_seconds (< 0: for ever) for a request; *out is owned by the caller (ui_request_fini).
 * Returns 1 with a request, 0 after the time-out. The request taken before is
 * finished by this call (a FINISHED event is sent for it, so the call may wait for room). Once the interface
 * has ended every call returns QUIT at once. Taking a request that was sent after the last cancel clears the
 * flag; one that was sent before it leaves the flag set, so that the step ends at its first check. */
int port_next_request(struct ui_port *port, double timeout_seconds, struct ui_request *out);

/* The flag that a person sets with Esc or Ctrl-C, at once, whatever the queues hold; pass it to every step.
 */
struct cancel *port_cancel(struct ui_port *port);

/* Moves *event into the queue (it is zeroed, on failure too: then it was freed). Blocks while the queue is
 * full. ERR_CANCELLED once the interface has ended: stop sending. */
int port_send_event(struct ui_port *port, struct ui_event *event, struct err *e);

/* Short forms of it; the texts are copied. `what` NULL or "" means idle. */
int port_send_token(struct ui_port *port, const char *text, size_t n, struct err *e);
int port_send_progress(struct ui_port *port, const char *what, uint64_t done, uint64_t total, double rate,
                       double eta_seconds, struct err *e);
int port_send_error(struct ui_port *port, const char *line, struct err *e);
int port_send_notice(struct ui_port *port, const char *line, struct err *e);

/* ---- the interface's side ---- */

/* Moves *request into the queue (zeroed, freed on failure). Never blocks: ERR_BUSY when the queue is full.
 * CANCEL and QUIT always succeed and set the cancel flag before anything else. */
int port_send_request(struct ui_port *port, struct ui_request *request, struct err *e);

/* The next event, without waiting: 1, or 0 when there is none. The caller owns it (ui_event_fini). */
int port_poll_event(struct ui_port *port, struct ui_event *out);

/* Readable while events may be waiting; for poll(2). port_poll_event empties it. */
int port_wake_fd(const struct ui_port *port);

#endif
