/* make_guide.c: sets the Markdown of "A Guide to Lectern" as a small book in PDF, with printed page numbers and page labels. */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: make_guide OUT.pdf TITLE.md PREFACE.md CHAPTER.md...
 *
 * The first file is the title page and, after a line `---`, the imprint. The contents are made here and follow it. The front
 * matter is numbered i, ii, iii; the first heading that begins with a number ("# 1. ...") starts the body at page 1.
 * Markdown understood: # and ## headings, paragraphs, "- " items, ``` blocks, *italics*, **bold**, `code`.
 *
 * Invariants: the output depends on the input, the fonts and the versions of cairo and pango alone (the date is fixed). No
 * ligatures, no hyphenation, text drawn in reading order: what a PDF reader extracts is what the Markdown says.
 * The book is set three times: once to count the contents, once to number the pages after it, once to write the file.
 * All lengths are points, 72 to the inch; y grows downwards.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairo-pdf.h>
#include <pango/pangocairo.h>

#define PAGE_W 419.53 /* A5 */
#define PAGE_H 595.28
#define MARGIN_X 46.0
#define TOP 50.0
#define BOTTOM (PAGE_H - 60.0) /* the text ends above this line */
#define FOOT (PAGE_H - 36.0)   /* baseline of the page number */
#define MEASURE (PAGE_W - 2.0 * MARGIN_X)
#define LEADING 13.0
#define CODE_LEADING 11.6
#define PARA_INDENT 13.0
#define SERIF "DejaVu Serif Condensed"
#define MONO "DejaVu Sans Mono"
#define TEXT_FONT SERIF " 9"
#define CREATED "2025-01-01T00:00:00Z"

enum { MAX_ENTRIES = 64, PASSES = 3, LABEL_LEN = 16 };

struct entry { /* a line of the contents */
    char title[96];
    char label[LABEL_LEN];
    int sheet; /* 1-based */
};

struct toc {
    struct entry at[MAX_ENTRIES];
    int count;
};

struct style { /* how a run of lines is set */
    const char *font;
    double leading;
    double left;   /* from the left margin */
    double indent; /* of the first line */
    PangoAlignment align;
    bool justify;
};

struct book {
    cairo_surface_t *pdf;
    cairo_t *cr;
    PangoContext *pango;
    const struct toc *known; /* from the pass before */
    struct toc *made;        /* by this pass */
    double y;                /* top of the next line */
    int sheet;               /* 1-based; 0 = no page is open */
    int body_sheet;          /* the sheet that is page 1; 0 in the front matter */
    int outline;             /* id of the chapter's outline entry */
    bool blind;              /* the page shows no number */
    bool flush;              /* the next paragraph has no indent */
    bool listed;             /* a list has just ended or goes on */
    bool imprint;            /* paragraphs apart, none indented */
};

enum block_kind { BLOCK_NONE, BLOCK_TEXT, BLOCK_ITEM };

static void die(const char *what, const char *why)
{
    fprintf(stderr, "make_guide: %s: %s\n", what, why);
    exit(1);
}

/* ---- pages ---- */

static void roman(int n, char *out, size_t size)
{
    static const struct { int value; const char *text; } part[] = {
        {50, "l"}, {40, "xl"}, {10, "x"}, {9, "ix"}, {5, "v"}, {4, "iv"}, {1, "i"},
    };
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        for (; n >= part[i].value; n -= part[i].value) {
            used += (size_t)snprintf(out + used, size - used, "%s", part[i].text);
        }
    }
}

static void page_label(const struct book *b, char out[LABEL_LEN])
{
    if (b->body_sheet > 0)
        snprintf(out, LABEL_LEN, "%d", b->sheet - b->body_sheet + 1);
    else
        roman(b->sheet, out, LABEL_LEN);
}

static void ink(struct book *b, bool accent)
{
    if (accent)
        cairo_set_source_rgb(b->cr, 0.10, 0.31, 0.37);
    else
        cairo_set_source_rgb(b->cr, 0.08, 0.08, 0.08);
}

/* The caller unrefs the layout. `width` < 0: as wide as the text. */
static PangoLayout *layout_new(struct book *b, const char *markup, const struct style *s, double width)
{
    char *whole = g_strdup_printf("<span font_features=\"liga=0,clig=0,dlig=0\">%s</span>", markup);
    PangoLayout *lay = pango_layout_new(b->pango);
    PangoFontDescription *font = pango_font_description_from_string(s->font);
    pango_layout_set_font_description(lay, font);
    pango_font_description_free(font);
    pango_layout_set_width(lay, width < 0 ? -1 : (int)(width * PANGO_SCALE));
    pango_layout_set_indent(lay, (int)(s->indent * PANGO_SCALE));
    pango_layout_set_alignment(lay, s->align);
    pango_layout_set_justify(lay, s->justify);
    pango_layout_set_wrap(lay, PANGO_WRAP_WORD);
    pango_layout_set_markup(lay, whole, -1);
    g_free(whole);
    return lay;
}

/* One line with its baseline at y; `at` is 0 for left, 0.5 for centre, 1 for right of x. Returns its width. */
static double draw_word(struct book *b, const char *markup, const char *font, double x, double y, double at)
{
    struct style s = {.font = font};
    PangoLayout *lay = layout_new(b, markup, &s, -1.0);
    PangoRectangle box;
    pango_layout_get_extents(lay, NULL, &box);
    double width = (double)box.width / PANGO_SCALE;
    cairo_move_to(b->cr, x - at * width, y);
    pango_cairo_show_layout_line(b->cr, pango_layout_get_line_readonly(lay, 0));
    g_object_unref(lay);
    return width;
}

static void page_close(struct book *b)
{
    if (b->sheet == 0) return;
    char label[LABEL_LEN];
    page_label(b, label);
    if (!b->blind) {
        ink(b, false);
        draw_word(b, label, SERIF " 8.5", PAGE_W / 2.0, FOOT, 0.5);
    }
    cairo_pdf_surface_set_page_label(b->pdf, label);
    cairo_show_page(b->cr);
}

static void page_open(struct book *b)
{
    page_close(b);
    b->sheet++;
    b->y = TOP;
    b->blind = false;
}

static void need(struct book *b, double height)
{
    if (b->y + height > BOTTOM) page_open(b);
}

static void space(struct book *b, double height)
{
    if (b->y > TOP) b->y += height;
}

/* ---- lines ---- */

/* How many of `left` lines go on this page: never a single line of a paragraph alone at the foot or the head of a page. */
static int lines_here(const struct book *b, double leading, int left, bool first)
{
    int room = (int)((BOTTOM - b->y) / leading + 1e-6);
    if (left <= room) return left;
    if (left - room == 1) room--;
    if (first && room < 2) room = 0;
    return room > 0 ? room : 0;
}

static void set_lines(struct book *b, const char *markup, const struct style *s, const char *mark)
{
    PangoLayout *lay = layout_new(b, markup, s, MEASURE - s->left);
    PangoLayoutIter *it = pango_layout_get_iter(lay);
    int left = pango_layout_get_line_count(lay);
    int here = lines_here(b, s->leading, left, true);
    do {
        if (here == 0) {
            page_open(b);
            here = lines_here(b, s->leading, left, false);
        }
        PangoRectangle box;
        pango_layout_iter_get_line_extents(it, NULL, &box);
        double base = b->y + s->leading * 0.75;
        ink(b, false);
        if (mark != NULL) draw_word(b, mark, s->font, MARGIN_X + s->left - 9.0, base, 0.0);
        mark = NULL;
        cairo_move_to(b->cr, MARGIN_X + s->left + (double)box.x / PANGO_SCALE, base);
        pango_cairo_show_layout_line(b->cr, pango_layout_iter_get_line_readonly(it));
        b->y += s->leading;
        left--;
        here--;
    } while (pango_layout_iter_next_line(it));
    pango_layout_iter_free(it);
    g_object_unref(lay);
}

static void set_code(struct book *b, char **lines, int count)
{
    double pad = 5.0, height = count * CODE_LEADING + 2.0 * pad;
    space(b, 4.0);
    need(b, height);
    cairo_set_source_rgb(b->cr, 0.945, 0.95, 0.945);
    cairo_rectangle(b->cr, MARGIN_X, b->y, MEASURE, height);
    cairo_fill(b->cr);
    ink(b, false);
    for (int i = 0; i < count; i++) {
        char *safe = g_markup_escape_text(lines[i], -1);
        draw_word(b, safe, MONO " 8", MARGIN_X + 9.0, b->y + pad + i * CODE_LEADING + CODE_LEADING * 0.75, 0.0);
        g_free(safe);
    }
    b->y += height + 4.0;
    b->flush = true;
}

/* ---- inline Markdown to Pango markup ---- */

static const char *put_code(GString *out, const char *p)
{
    const char *end = strchr(p, '`');
    if (end == NULL) die("unclosed `", p);
    char *safe = g_markup_escape_text(p, (gssize)(end - p));
    bool word = strchr(safe, ' ') == NULL; /* a single word is never broken at its hyphens */
    g_string_append_printf(out, "<span font=\"" MONO " 8\"%s>%s</span>", word ? " allow_breaks=\"false\"" : "", safe);
    g_free(safe);
    return end + 1;
}

static char *inline_markup(const char *p)
{
    GString *out = g_string_new(NULL);
    bool bold = false, italic = false;
    char before = ' ';
    while (*p != '\0') {
        char c = *p++;
        if (c == '`') {
            p = put_code(out, p);
        } else if (c == '*' && *p == '*') {
            p++;
            g_string_append(out, bold ? "</b>" : "<b>");
            bold = !bold;
            continue;
        } else if (c == '*') {
            g_string_append(out, italic ? "</i>" : "<i>");
            italic = !italic;
            continue;
        } else if (c == '"') {
            g_string_append(out, before == ' ' || before == '(' ? "\u201c" : "\u201d");
        } else if (c == '\'') {
            g_string_append(out, "\u2019");
        } else if (c == '&' || c == '<' || c == '>') {
            g_string_append(out, c == '&' ? "&amp;" : c == '<' ? "&lt;" : "&gt;");
        } else {
            g_string_append_c(out, c);
        }
        before = c;
    }
    if (bold || italic) die("unclosed * in", out->str);
    return g_string_free(out, FALSE);
}

/* ---- blocks ---- */

static int outline_add(struct book *b, int parent, const char *title)
{
    char *where = g_strdup_printf("page=%d pos=[0 %.0f]", b->sheet, b->y > TOP ? b->y - 8.0 : 0.0);
    int id = cairo_pdf_surface_add_outline(b->pdf, parent, title, where, 0);
    g_free(where);
    return id;
}

static void set_chapter(struct book *b, const char *title)
{
    int number = atoi(title);
    page_open(b);
    if (number > 0 && b->body_sheet == 0) b->body_sheet = b->sheet;
    b->outline = outline_add(b, CAIRO_PDF_OUTLINE_ROOT, title);
    if (b->made->count == MAX_ENTRIES) die("contents", "too many chapters");
    struct entry *e = &b->made->at[b->made->count++];
    snprintf(e->title, sizeof e->title, "%s", title);
    page_label(b, e->label);
    e->sheet = b->sheet;

    ink(b, true);
    b->y = TOP + 44.0;
    if (number > 0) {
        char over[32];
        snprintf(over, sizeof over, "Chapter %d", number);
        draw_word(b, over, SERIF " Italic 11", MARGIN_X, b->y - 30.0, 0.0);
        title = strchr(title, ' ') + 1;
    }
    draw_word(b, title, SERIF " Bold 17", MARGIN_X, b->y, 0.0);
    cairo_rectangle(b->cr, MARGIN_X, b->y + 13.0, 40.0, 1.2);
    cairo_fill(b->cr);
    b->y += 13.0 + 1.5 * LEADING;
    b->flush = true;
}

static void set_section(struct book *b, const char *title)
{
    char *markup = inline_markup(title);
    space(b, LEADING * 0.8);
    need(b, 17.0 + 3.0 * LEADING);
    outline_add(b, b->outline, title);
    ink(b, true);
    draw_word(b, markup, SERIF " Bold 10.5", MARGIN_X, b->y + 11.0, 0.0);
    b->y += 17.0;
    b->flush = true;
    b->listed = false;
    g_free(markup);
}

static void set_block(struct book *b, enum block_kind kind, const char *text)
{
    char *markup = inline_markup(text);
    struct style s = {.font = TEXT_FONT, .leading = LEADING, .justify = true};
    if (kind == BLOCK_ITEM) {
        s.left = PARA_INDENT;
        s.justify = false; /* items begin with commands, whose spaces must not stretch */
        space(b, b->listed || b->flush ? 1.5 : 4.0);
        set_lines(b, markup, &s, "\u2022");
        b->y += 1.5;
        b->flush = b->listed = true;
    } else {
        if (b->listed) space(b, 4.0);
        b->listed = false;
        bool run_in = strncmp(text, "**", 2) == 0;
        if (run_in || b->imprint) space(b, 4.0);
        if (!run_in && !b->flush && !b->imprint) s.indent = PARA_INDENT;
        set_lines(b, markup, &s, NULL);
        b->flush = false;
    }
    g_free(markup);
}

static void set_title_line(struct book *b, const char *text, const char *font, double leading)
{
    struct style s = {.font = font, .leading = leading, .align = PANGO_ALIGN_CENTER};
    char *markup = inline_markup(text);
    set_lines(b, markup, &s, NULL);
    g_free(markup);
    b->y += 14.0;
}

/* ---- files ---- */

static char **read_lines(const char *path)
{
    char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL)) die(path, strerror(errno));
    char **lines = g_strsplit(text, "\n", -1);
    g_free(text);
    return lines;
}

static void flush_block(struct book *b, GString *text, enum block_kind *kind)
{
    if (*kind != BLOCK_NONE) set_block(b, *kind, text->str);
    g_string_truncate(text, 0);
    *kind = BLOCK_NONE;
}

/* Lines that are no paragraph: returns how many were used, 0 if it is text. */
static int set_special(struct book *b, char **line)
{
    if (strncmp(*line, "## ", 3) == 0) {
        set_section(b, *line + 3);
    } else if (strncmp(*line, "# ", 2) == 0) {
        set_chapter(b, *line + 2);
    } else if (strncmp(*line, "```", 3) == 0) {
        int n = 0;
        while (line[1 + n] != NULL && strcmp(line[1 + n], "```") != 0) n++;
        if (line[1 + n] == NULL) die("unclosed code block", line[1]);
        set_code(b, line + 1, n);
        return n + 2;
    } else {
        return **line == '\0';
    }
    return 1;
}

static void set_stream(struct book *b, char **line)
{
    GString *text = g_string_new(NULL);
    enum block_kind kind = BLOCK_NONE;
    while (*line != NULL) {
        bool special = **line == '\0' || **line == '#' || strncmp(*line, "```", 3) == 0;
        bool item = strncmp(*line, "- ", 2) == 0;
        if (special || item) flush_block(b, text, &kind);
        if (special) {
            line += set_special(b, line);
            continue;
        }
        if (kind == BLOCK_NONE) kind = item ? BLOCK_ITEM : BLOCK_TEXT;
        const char *words = item ? *line + 2 : g_strchug(*line);
        if (text->len > 0) g_string_append_c(text, ' ');
        g_string_append(text, words);
        line++;
    }
    flush_block(b, text, &kind);
    g_string_free(text, TRUE);
}

static void set_title(struct book *b, const char *path)
{
    char **lines = read_lines(path), **line = lines;
    page_open(b);
    b->blind = true;
    b->y = TOP + 118.0;
    for (; *line != NULL && strcmp(*line, "---") != 0; line++) {
        if (strncmp(*line, "# ", 2) == 0) {
            ink(b, true);
            draw_word(b, *line + 2, SERIF " Bold 24", PAGE_W / 2.0, b->y, 0.5);
            cairo_rectangle(b->cr, PAGE_W / 2.0 - 28.0, b->y + 22.0, 56.0, 1.2);
            cairo_fill(b->cr);
            b->y += 44.0;
        } else if (**line != '\0') {
            set_title_line(b, *line, b->y < PAGE_H / 2.0 - 40.0 ? SERIF " Italic 11" : SERIF " 9.5", LEADING);
            b->y = PAGE_H - 130.0; /* what follows the subtitle stands at the foot of the page */
        }
    }
    if (*line != NULL) {
        page_open(b);
        b->y = PAGE_H / 2.0;
        b->imprint = true;
        set_stream(b, line + 1);
        b->imprint = false;
    }
    g_strfreev(lines);
}

static void set_entry(struct book *b, const struct entry *e)
{
    int number = atoi(e->title);
    const char *title = number > 0 ? strchr(e->title, ' ') + 1 : e->title;
    double step = LEADING * 1.5, base, left = MARGIN_X + 22.0, right = MARGIN_X + MEASURE;
    char *link = g_strdup_printf("page=%d pos=[0 0]", e->sheet), *safe = g_markup_escape_text(title, -1);
    need(b, step);
    base = b->y + step * 0.7;
    ink(b, false);
    cairo_tag_begin(b->cr, CAIRO_TAG_LINK, link);
    if (number > 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", number);
        draw_word(b, text, SERIF " 9.5", MARGIN_X + 13.0, base, 1.0);
    }
    left += draw_word(b, safe, SERIF " 9.5", left, base, 0.0);
    right -= draw_word(b, e->label, SERIF " 9.5", right, base, 1.0);
    cairo_tag_end(b->cr, CAIRO_TAG_LINK);
    cairo_save(b->cr); /* leaders are drawn, not typed, so that no row of dots is extracted as text */
    const double dots[] = {0.0, 5.0};
    cairo_set_dash(b->cr, dots, 2, 0.0);
    cairo_set_line_cap(b->cr, CAIRO_LINE_CAP_ROUND);
    cairo_set_line_width(b->cr, 0.8);
    cairo_move_to(b->cr, right - 6.0, base - 0.8);
    cairo_line_to(b->cr, left + 5.0, base - 0.8);
    cairo_stroke(b->cr);
    cairo_restore(b->cr);
    b->y += step;
    g_free(link);
    g_free(safe);
}

static void set_contents(struct book *b)
{
    set_chapter(b, "Contents");
    b->made->count--; /* the contents do not list themselves */
    for (int i = 0; i < b->known->count; i++) set_entry(b, &b->known->at[i]);
}

/* ---- the book ---- */

static PangoContext *context_new(cairo_t *cr)
{
    PangoContext *pango = pango_cairo_create_context(cr);
    cairo_font_options_t *opt = cairo_font_options_create();
    cairo_font_options_set_hint_style(opt, CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(opt, CAIRO_HINT_METRICS_OFF);
    pango_cairo_context_set_font_options(pango, opt);
    pango_cairo_context_set_resolution(pango, 72.0);
    pango_context_set_round_glyph_positions(pango, FALSE);
    pango_context_set_language(pango, pango_language_from_string("en-gb"));
    cairo_font_options_destroy(opt);
    return pango;
}

static void set_metadata(cairo_surface_t *pdf)
{
    cairo_pdf_surface_set_metadata(pdf, CAIRO_PDF_METADATA_TITLE, "A Guide to Lectern");
    cairo_pdf_surface_set_metadata(pdf, CAIRO_PDF_METADATA_AUTHOR, "The makers of Lectern");
    cairo_pdf_surface_set_metadata(pdf, CAIRO_PDF_METADATA_SUBJECT, "Reading long documents once, and asking for ever");
    cairo_pdf_surface_set_metadata(pdf, CAIRO_PDF_METADATA_CREATE_DATE, CREATED);
    cairo_pdf_surface_set_metadata(pdf, CAIRO_PDF_METADATA_MOD_DATE, CREATED);
}

/* `path` NULL: set the book and write nothing. */
static int make_book(const char *path, char **files, int count, const struct toc *known, struct toc *made)
{
    struct book b = {.known = known, .made = made};
    made->count = 0;
    b.pdf = cairo_pdf_surface_create(path, PAGE_W, PAGE_H);
    b.cr = cairo_create(b.pdf);
    b.pango = context_new(b.cr);
    set_metadata(b.pdf);
    set_title(&b, files[0]);
    set_contents(&b);
    for (int i = 1; i < count; i++) {
        char **lines = read_lines(files[i]);
        set_stream(&b, lines);
        g_strfreev(lines);
    }
    page_close(&b);
    g_object_unref(b.pango);
    cairo_destroy(b.cr);
    cairo_surface_finish(b.pdf);
    cairo_status_t status = cairo_surface_status(b.pdf);
    cairo_surface_destroy(b.pdf);
    if (status != CAIRO_STATUS_SUCCESS) die(path != NULL ? path : "dry run", cairo_status_to_string(status));
    return b.sheet;
}

int main(int argc, char **argv)
{
    static struct toc toc[2];
    if (argc < 4) {
        fprintf(stderr, "usage: make_guide OUT.pdf TITLE.md PREFACE.md CHAPTER.md...\n");
        return 2;
    }
    int sheets = 0;
    for (int pass = 0; pass < PASSES; pass++)
        sheets = make_book(pass == PASSES - 1 ? argv[1] : NULL, argv + 2, argc - 2, &toc[pass % 2], &toc[(pass + 1) % 2]);
    printf("%s: %d pages\n", argv[1], sheets);
    return 0;
}
