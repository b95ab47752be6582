/* SPDX-License-Identifier: Apache-2.0 */
/* cite.c - scores every sentence of the documents against an answer.
 *
 * A term is a case-folded run of letters or digits that the answer or the question holds. One pass over the
 * text counts in how many sentences each term occurs (its rarity weight is log(1 + sentences / occurrences)),
 * a second scores. Sentences end at . ! ? with a space behind, at an empty line, or after SENTENCE_MAX bytes;
 * a line break alone ends only a heading, since PDF text breaks lines anywhere.
 */
#include "engine/cite.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum {
    TERMS_MAX = 192,
    TERM_BYTES = 48,
    SENTENCE_MAX = 700,
    PAGE_TOKENS = 64,
    ANSWER_BYTES = 320,
    HEADING_BYTES = 48
};

/* Score below which a sentence is not cited, and the share of the best one that a further one must reach. */
static const double SCORE_FLOOR = 0.30, SCORE_SHARE = 0.80, QUESTION_WEIGHT = 0.5;

struct term {
    char word[TERM_BYTES];
    size_t bytes;
    double importance; /* 1 in the answer, QUESTION_WEIGHT in the question alone */
    size_t sentences;  /* that hold it */
    double weight;
};

struct terms {
    struct term items[TERMS_MAX];
    size_t n;
    int16_t heads[256]; /* first item by hash, -1 none */
    int16_t next[TERMS_MAX];
};

static unsigned word_hash(const char *word, size_t n)
{
    unsigned h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)word[i]) * 16777619u;
    return (h ^ (h >> 15)) & 255u;
}

static int is_word(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || k == UTF8PROC_CATEGORY_ND ||
           k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC;
}

/* The next folded word in text[*at, n), cut at TERM_BYTES; 0 when there is none. Ideographs are words of
 * their own. */
static size_t next_word(const char *text, size_t n, size_t *at, char word[TERM_BYTES])
{
    size_t bytes = 0;
    while (*at < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t step =
            utf8proc_iterate((const utf8proc_uint8_t *)text + *at, (utf8proc_ssize_t)(n - *at), &c);
        if (step <= 0) {
            c = ' ';
            step = 1;
        }
        int in_word = is_word(c), alone = c >= 0x3040 && c <= 0x9fff;
        if (bytes && (!in_word || alone))
            return bytes;
        *at += (size_t)step;
        if (!in_word)
            continue;
        utf8proc_uint8_t folded[4];
        utf8proc_ssize_t m = utf8proc_encode_char(utf8proc_tolower(c), folded);
        if (m > 0 && bytes + (size_t)m <= TERM_BYTES) {
            memcpy(word + bytes, folded, (size_t)m);
            bytes += (size_t)m;
        }
        if (alone)
            return bytes;
    }
    return bytes;
}

static int find_term(const struct terms *t, const char *word, size_t bytes)
{
    for (int i = t->heads[word_hash(word, bytes)]; i >= 0; i = t->next[i])
        if (t->items[i].bytes == bytes && !memcmp(t->items[i].word, word, bytes))
            return i;
    return -1;
}

static void add_terms(struct terms *t, const char *text, size_t n, double importance)
{
    char word[TERM_BYTES];
    size_t at = 0, bytes;
    while ((bytes = next_word(text, n, &at, word))) {
        if (find_term(t, word, bytes) >= 0 || t->n == TERMS_MAX)
            continue;
        struct term *term = &t->items[t->n];
        *term = (struct term){.bytes = bytes, .importance = importance};
        memcpy(term->word, word, bytes);
        unsigned h = word_hash(word, bytes);
        t->next[t->n] = t->heads[h];
        t->heads[h] = (int16_t)t->n++;
    }
}

static int is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f';
}

/* Is text[first, line_end) a heading: a whole short line with a capital or a digit before and after the line
 * break? */
static int is_heading(const struct cite_text *x, size_t first, size_t line_end)
{
    if ((first && x->text[first - 1] != '\n') || line_end - first > HEADING_BYTES ||
        line_end + 1 >= x->bytes || memchr(x->text + first, '\n', line_end - first))
        return 0;
    char a = x->text[first], b = x->text[line_end + 1];
    return ((a >= 'A' && a <= 'Z') || (a >= '0' && a <= '9')) && b >= 'A' && b <= 'Z';
}

/* The sentence that begins at or after *at, trimmed, in [*first, *end); *at moves past it. 0 at the end. */
static int next_sentence(const struct cite_text *x, size_t *at, size_t *first, size_t *end)
{
    size_t i = *at;
    while (i < x->bytes && is_space(x->text[i]))
        i++;
    if (i == x->bytes)
        return 0;
    *first = i;
    for (; i < x->bytes; i++) {
        char c = x->text[i], d = i + 1 < x->bytes ? x->text[i + 1] : '\n';
        if ((c == '.' || c == '!' || c == '?') && (is_space(d) || d == '"' || d == ')')) {
            i += 1 + !is_space(d);
            break;
        }
        if (c == '\n' && (d == '\n' || is_heading(x, *first, i)))
            break;
        if (i - *first >= SENTENCE_MAX && is_space(c))
            break;
    }
    i = i < x->bytes ? i : x->bytes;
    *end = i;
    *at = i;
    while (*end > *first && is_space(x->text[*end - 1]))
        --*end;
    return 1;
}

/* Marks which terms a sentence holds; returns how many different ones. */
static size_t match_sentence(const struct terms *t, const char *text, size_t n, uint8_t held[TERMS_MAX])
{
    char word[TERM_BYTES];
    size_t at = 0, bytes, found = 0;
    memset(held, 0, t->n);
    while ((bytes = next_word(text, n, &at, word))) {
        int i = find_term(t, word, bytes);
        if (i >= 0 && !held[i]) {
            held[i] = 1;
            found++;
        }
    }
    return found;
}

static void weigh_terms(struct terms *t, const struct cite_text *texts, size_t n_texts)
{
    uint8_t held[TERMS_MAX];
    size_t sentences = 0;
    for (size_t x = 0; x < n_texts; x++) {
        size_t at = 0, first, end;
        while (next_sentence(&texts[x], &at, &first, &end)) {
            sentences++;
            if (match_sentence(t, texts[x].text + first, end - first, held))
                for (size_t i = 0; i < t->n; i++)
                    t->items[i].sentences += held[i];
        }
    }
    for (size_t i = 0; i < t->n; i++) {
        struct term *term = &t->items[i];
        double rarity = log(1.0 + (double)sentences / (double)(term->sentences ? term->sentences : 1));
        term->weight = term->sentences ? term->importance * rarity * rarity : 0;
    }
}

/* Largest share of attention among the pages that hold bytes [first, end), relative to `top`; 1 without mass.
 */
static double attention(const struct cite_text *x, const double *mass, size_t pages, double top, size_t first,
                        size_t end)
{
    if (!mass || top <= 0)
        return 1;
    size_t low = 0, high = x->tokens;
    while (low < high) { /* first token that ends past `first` */
        size_t middle = low + (high - low) / 2;
        if (x->ends[middle] <= first)
            low = middle + 1;
        else
            high = middle;
    }
    double most = 0;
    for (size_t i = low; i < x->tokens; i++) {
        size_t page = (x->position + i) / PAGE_TOKENS;
        if (page < pages && mass[page] > most)
            most = mass[page];
        if (x->ends[i] >= end)
            break;
    }
    return most >= top ? 1 : most / top;
}

static double top_mass(const struct cite_text *texts, size_t n_texts, const double *mass, size_t pages)
{
    double top = 0;
    for (size_t x = 0; mass && x < n_texts; x++) {
        if (!texts[x].tokens)
            continue;
        size_t last = (texts[x].position + texts[x].tokens - 1) / PAGE_TOKENS;
        for (size_t p = texts[x].position / PAGE_TOKENS; p <= last && p < pages; p++)
            if (p && mass[p] > top) /* page 0 holds the sinks that everything attends to */
                top = mass[p];
    }
    return top;
}

static void keep_best(struct cite_found *found, size_t max, size_t *n, struct cite_found one)
{
    size_t i = *n < max ? (*n)++ : max;
    if (i == max) {
        if (!max || found[max - 1].score >= one.score)
            return;
        i = max - 1;
    }
    for (; i > 0 && found[i - 1].score < one.score; i--)
        found[i] = found[i - 1];
    found[i] = one;
}

static void score_sentences(const struct terms *t, const struct cite_text *texts, size_t n_texts,
                            const double *mass, size_t pages, struct cite_found *found, size_t max, size_t *n)
{
    uint8_t held[TERMS_MAX];
    double all = 0, top = top_mass(texts, n_texts, mass, pages);
    for (size_t i = 0; i < t->n; i++)
        all += t->items[i].weight;
    for (size_t x = 0; all > 0 && x < n_texts; x++) {
        size_t at = 0, first, end;
        while (next_sentence(&texts[x], &at, &first, &end)) {
            if (!match_sentence(t, texts[x].text + first, end - first, held))
                continue;
            double sum = 0;
            for (size_t i = 0; i < t->n; i++)
                sum += held[i] ? t->items[i].weight : 0;
            double words = sum / all;
            if (words < SCORE_FLOOR)
                continue;
            double score = words * (0.5 + 0.5 * attention(&texts[x], mass, pages, top, first, end));
            keep_best(found, max, n,
                      (struct cite_found){.text = x, .first = first, .end = end, .score = score});
        }
    }
}

int cite_find(const struct cite_text *texts, size_t n_texts, const double *mass, size_t pages,
              const char *question, const char *answer, struct cite_found *found, size_t max, size_t *n,
              struct err *e)
{
    *n = 0;
    struct terms *t = calloc(1, sizeof *t);
    if (!t)
        return err_memory(e, "citations");
    memset(t->heads, -1, sizeof t->heads);
    /* An answer says it first and then talks on: its beginning names the source. */
    add_terms(t, answer, strnlen(answer, ANSWER_BYTES), 1.0);
    size_t answer_terms = t->n;
    add_terms(t, question, strlen(question), QUESTION_WEIGHT);
    if (answer_terms) {
        weigh_terms(t, texts, n_texts);
        score_sentences(t, texts, n_texts, mass, pages, found, max, n);
    }
    while (*n > 1 && found[*n - 1].score < SCORE_SHARE * found[0].score)
        --*n;
    free(t);
    return 0;
}
