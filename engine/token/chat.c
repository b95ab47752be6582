/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - see chat.h. Every function appends pieces in order: control tokens as ids, text with special off.
 */
#include "engine/token/chat.h"

#include <stdlib.h>
#include <string.h>

#define QUESTION "\n\nQuestion: "

struct chat {
    const struct tokenizer *t;
    enum chat_kind kind;
    const char *system; /* static storage */
    uint32_t begin,
        end; /* of a turn: <|im_start|> <|im_end|>, <|start_header_id|> <|eot_id|>, [INST] [/INST] */
    uint32_t header_end; /* CHAT_LLAMA3 */
};

/* Default system texts that templates carry. The first one found counts. */
static const char *const systems[] = {
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
};

static int contains(struct gguf_str text, const char *what)
{
    return memmem(text.data, text.len, what, strlen(what)) != NULL;
}

static uint32_t control(const struct tokenizer *t, const char *name)
{
    uint32_t id = tokenizer_find(t, name);
    return id != TOKEN_NONE && tokenizer_is_control(t, id) ? id : TOKEN_NONE;
}

/* Takes the kind if the vocabulary has the tokens that it is made of. */
static int try_tokens(struct chat *c, enum chat_kind kind, const char *begin, const char *end,
                      const char *header_end)
{
    c->begin = control(c->t, begin);
    c->end = control(c->t, end);
    c->header_end = header_end ? control(c->t, header_end) : TOKEN_NONE;
    if (c->begin == TOKEN_NONE || c->end == TOKEN_NONE || (header_end && c->header_end == TOKEN_NONE))
        return 0;
    c->kind = kind;
    return 1;
}

static void detect(struct chat *c, struct gguf_str template)
{
    int any = !template.len;
    if ((any || contains(template, "<|im_start|>")) &&
        try_tokens(c, CHAT_CHATML, "<|im_start|>", "<|im_end|>", NULL))
        return;
    if ((any || contains(template, "<|start_header_id|>")) &&
        try_tokens(c, CHAT_LLAMA3, "<|start_header_id|>", "<|eot_id|>", "<|end_header_id|>"))
        return;
    if (!contains(template, "[INST]")) {
        c->kind = CHAT_NONE;
        return;
    }
    int has_tokens = try_tokens(c, CHAT_MISTRAL, "[INST]", "[/INST]", NULL);
    if (!has_tokens)
        c->begin = c->end = TOKEN_NONE;
    c->kind = !has_tokens && contains(template, "<<SYS>>") ? CHAT_LLAMA2 : CHAT_MISTRAL;
}

int chat_open(const struct tokenizer *t, const struct gguf *g, struct chat **out, struct err *e)
{
    struct chat *c = calloc(1, sizeof *c);
    *out = c;
    if (!c)
        return err_memory(e, "the chat frame");
    struct gguf_str template = {"", 0};
    if (g)
        gguf_str(g, "tokenizer.chat_template", &template);
    c->t = t;
    c->system = "";
    detect(c, template);
    for (size_t i = 0; i < sizeof systems / sizeof *systems && !*c->system && c->kind != CHAT_NONE; i++)
        if (contains(template, systems[i]))
            c->system = systems[i];
    return 0;
}

void chat_close(struct chat *c)
{
    free(c);
}

enum chat_kind chat_kind(const struct chat *c)
{
    return c->kind;
}

const char *chat_kind_name(enum chat_kind kind)
{
    static const char *const names[] = {
        [CHAT_NONE] = "none",     [CHAT_CHATML] = "chatml",   [CHAT_LLAMA3] = "llama3",
        [CHAT_LLAMA2] = "llama2", [CHAT_MISTRAL] = "mistral",
    };
    return names[kind];
}

const char *chat_default_system(const struct chat *c)
{
    return c->system;
}

int chat_is_stop(const struct chat *c, uint32_t id)
{
    return tokenizer_is_stop(c->t, id);
}

/* What is being appended to, with the first error kept: later pieces are then left out. */
struct pen {
    const struct chat *c;
    struct token_list *out;
    size_t before;
    struct err *e;
    int rc;
};

static void put_id(struct pen *p, uint32_t id)
{
    if (!p->rc && id != TOKEN_NONE)
        p->rc = token_list_add(p->out, id, 0, p->e);
}

/* The three parts are encoded as one text. */
static void put_text(struct pen *p, const char *before, const char *text, size_t n, const char *after)
{
    struct buf b = {0};
    buf_puts(&b, before);
    buf_add(&b, text, n);
    buf_puts(&b, after);
    size_t at = p->out->n;
    if (!p->rc)
        p->rc = b.failed ? err_memory(p->e, "the prompt")
                         : tokenizer_encode(p->c->t, b.data, b.len, 0, p->out, NULL, p->e);
    for (; at < p->out->n; at++)
        p->out->ends[at] = 0;
    buf_free(&b);
}

static void put(struct pen *p, const char *text)
{
    put_text(p, text, "", 0, "");
}

static int finish(struct pen *p)
{
    if (p->rc)
        p->out->n = p->before;
    return p->rc;
}

/* A turn's beginning, up to and with `text`; its end is not put in. */
static void put_turn(struct pen *p, const char *role, const char *text, size_t n)
{
    struct buf b = {0};
    put_id(p, p->c->begin);
    if (p->c->kind == CHAT_LLAMA3) {
        put(p, role);
        put_id(p, p->c->header_end);
        buf_puts(&b, "\n\n");
    } else {
        buf_puts(&b, role);
        buf_puts(&b, "\n");
    }
    if (b.failed && !p->rc)
        p->rc = err_memory(p->e, "the prompt");
    if (!p->rc)
        put_text(p, b.data, text, n, "");
    buf_free(&b);
}

static void put_turn_end(struct pen *p, int token)
{
    if (token)
        put_id(p, p->c->end);
    if (p->c->kind == CHAT_CHATML)
        put(p, "\n");
}

static void open_inst(struct pen *p, const char *system)
{
    if (p->c->begin != TOKEN_NONE)
        put_id(p, p->c->begin);
    else
        put(p, "[INST] ");
    if (!*system)
        return;
    if (p->c->kind == CHAT_LLAMA2)
        put_text(p, "<<SYS>>\n", system, strlen(system), "\n<</SYS>>\n\n");
    else
        put_text(p, "", system, strlen(system), "\n\n");
}

int chat_corpus_open(const struct chat *c, const char *system, struct token_list *out, struct err *e)
{
    struct pen p = {.c = c, .out = out, .before = out->n, .e = e};
    if (!system)
        system = c->system;
    if (tokenizer_adds_bos(c->t))
        put_id(&p, tokenizer_bos(c->t));
    switch (c->kind) {
    case CHAT_CHATML:
    case CHAT_LLAMA3:
        if (*system) {
            put_turn(&p, "system", system, strlen(system));
            put_turn_end(&p, 1);
        }
        put_turn(&p, "user", "", 0);
        break;
    case CHAT_LLAMA2:
    case CHAT_MISTRAL:
        open_inst(&p, system);
        break;
    case CHAT_NONE:
        if (*system)
            put_text(&p, "", system, strlen(system), "\n\n");
        break;
    }
    return finish(&p);
}

static void ask_inst(struct pen *p, int first, int answer_ended, const char *question, size_t n)
{
    const struct chat *c = p->c;
    const char *close = c->end == TOKEN_NONE ? " [/INST]" : "";
    if (first) {
        put_text(p, QUESTION, question, n, close);
    } else {
        if (!answer_ended)
            put_id(p, tokenizer_eos(c->t));
        if (c->kind == CHAT_LLAMA2)
            put_id(p, tokenizer_bos(c->t));
        put_id(p, c->begin);
        put_text(p, c->begin == TOKEN_NONE ? "[INST] " : "", question, n, close);
    }
    put_id(p, c->end);
}

int chat_question(const struct chat *c, int first, int answer_ended, const char *question, size_t n,
                  struct token_list *out, struct err *e)
{
    struct pen p = {.c = c, .out = out, .before = out->n, .e = e};
    switch (c->kind) {
    case CHAT_CHATML:
    case CHAT_LLAMA3:
        if (first) {
            put_text(&p, QUESTION, question, n, "");
        } else {
            put_turn_end(&p, !answer_ended);
            put_turn(&p, "user", question, n);
        }
        put_turn_end(&p, 1);
        put_turn(&p, "assistant", "", 0);
        break;
    case CHAT_LLAMA2:
    case CHAT_MISTRAL:
        ask_inst(&p, first, answer_ended, question, n);
        break;
    case CHAT_NONE:
        put_text(&p, QUESTION, question, n, "\nAnswer:");
        break;
    }
    return finish(&p);
}
