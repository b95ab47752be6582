/* SPDX-License-Identifier: Apache-2.0 */
/* interrupt.h - Ctrl-C as a request to stop at the next safe place.
 *
 * The one flag of the program: file scope, because a signal handler can reach nothing else.
 */
#ifndef LECTERN_APP_INTERRUPT_H
#define LECTERN_APP_INTERRUPT_H

#include "engine/base/clock.h"

/* From the first call on SIGINT and SIGTERM set the flag; a second signal ends the program at once (what is
 * committed stays). Pass the result to every long step. */
struct cancel *interrupt_watch(void);

#endif
