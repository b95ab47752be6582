/* SPDX-License-Identifier: Apache-2.0 */
/* human.h - numbers as people read them. All append to `out`. */
#ifndef LECTERN_UI_HUMAN_H
#define LECTERN_UI_HUMAN_H

#include <stdint.h>

#include "engine/base/buf.h"

void human_count(struct buf *out, uint64_t n);        /* 12,345 */
void human_bytes(struct buf *out, uint64_t bytes);    /* 45.2 MB (powers of ten) */
void human_duration(struct buf *out, double seconds); /* 0:32, 1:02:05 */
/* "14:05" today, "3 Mar 14:05" within half a year, "3 Mar 2024" else; "never" for 0. Unix seconds. */
void human_when(struct buf *out, int64_t when, int64_t now);

#endif
