/* SPDX-License-Identifier: Apache-2.0 */
/* turn.c - questions and answers of a session, in order. */
#include "data/store/store_internal.h"

#include <limits.h>
#include <stdlib.h>

#include "engine/base/clock.h"

int store_turn_add(struct store *s, int64_t session, const struct store_turn *t, int *ordinal, struct err *e)
{
    int64_t next = 0;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = session_exists(s, session, e);
    if (!rc)
        rc = sql_number(s, &next, "SELECT coalesce(max(ordinal) + 1, 0) FROM turns WHERE session=?1",
                        SQL_ARGS(sql_int(session)), e);
    if (!rc && (next < 0 || next >= INT_MAX))
        rc = err_set(e, ERR_LIMIT, "session %lld has no room for another turn; fork it", (long long)session);
    if (!rc)
        rc = sql_run(s,
                     "INSERT INTO turns(session, ordinal, question, answer, json, time, seal)"
                     " VALUES(?1, ?2, ?3, ?4, ?5, ?6, lectern_seal(?1, ?2, ?3, ?4, ?5, ?6))",
                     SQL_ARGS(sql_int(session), sql_int(next), sql_text(t->question), sql_text(t->answer),
                              sql_text(t->json), sql_int(t->time ? t->time : clock_unix())),
                     e);
    rc = sql_end(s, rc, e);
    if (!rc && ordinal)
        *ordinal = (int)next;
    return rc;
}

static void turn_free(struct store_turn *t)
{
    free(t->question);
    free(t->answer);
    free(t->json);
}

static int take(sqlite3_stmt *st, struct store_turn *out, struct err *e)
{
    *out = (struct store_turn){
        .ordinal = sqlite3_column_int(st, 0),
        .question = sql_text_copy(st, 1),
        .answer = sql_text_copy(st, 2),
        .json = sql_text_copy(st, 3),
        .time = sqlite3_column_int64(st, 4),
        .damaged = !sqlite3_column_int(st, 5),
    };
    if (out->question && out->answer && out->json)
        return 0;
    turn_free(out);
    return err_memory(e, "a turn");
}

int store_turn_list(struct store *s, int64_t session, struct store_turn_list *out, struct err *e)
{
    *out = (struct store_turn_list){0};
    sqlite3_stmt *st;
    int more = 1;
    size_t cap = 0;
    int rc = session_exists(s, session, e);
    if (rc)
        return rc;
    rc = sql_query(s, &st,
                   "SELECT ordinal, question, answer, json, time, seal IS " SEAL_OF_TURN
                   " FROM turns WHERE session=?1 ORDER BY ordinal",
                   SQL_ARGS(sql_int(session)), e);
    while (!rc && !(rc = sql_step(s, st, &more, e)) && more) {
        if (out->n == cap) {
            cap = cap ? 2 * cap : 16;
            struct store_turn *grown = realloc(out->items, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "the list of turns");
                break;
            }
            out->items = grown;
        }
        rc = take(st, &out->items[out->n], e);
        out->n += !rc;
    }
    sqlite3_finalize(st);
    if (rc)
        store_turn_list_free(out);
    return rc;
}

void store_turn_list_free(struct store_turn_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        turn_free(&list->items[i]);
    free(list->items);
    *list = (struct store_turn_list){0};
}
