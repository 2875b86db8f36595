/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_progress.c - the bar that long commands show on a terminal.
 */
#include "base/clock.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "tool.h"

#define SHOW_NS    100000000u /* ten times a second */
#define LOOK_CALLS 64u        /* look at the clock this seldom */
#define BAR_MAX    40u

void
tool_progress_begin(struct tool_progress *p, const char *what, uint64_t total)
{
    *p = (struct tool_progress){
        .what = what, .total = total, .start_ns = clock_ns(), .terminal = isatty(STDERR_FILENO) != 0
    };
}

/* Columns left for the bar once everything else has its place. */
static unsigned
bar_width(void)
{
    struct winsize size;
    unsigned columns = 80, others = 62;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0)
        columns = size.ws_col;
    if (columns < others + 4)
        return 0;
    return columns - others < BAR_MAX ? columns - others : BAR_MAX;
}

static void
show_bar(const struct tool_progress *p, uint64_t done, double seconds)
{
    unsigned width = bar_width();
    unsigned filled = (unsigned)((double)done / (double)p->total * width);
    uint64_t left =
        done == 0 ? 0 : (uint64_t)(seconds * (double)(p->total - done) / (double)done + 0.5);

    fputs(" [", stderr);
    for (unsigned i = 0; i < width; i++)
        fputc(i < filled ? '#' : '.', stderr);
    fprintf(stderr, "] %3u %%  %llu:%02u left", (unsigned)(100.0 * (double)done / (double)p->total),
            (unsigned long long)(left / 60), (unsigned)(left % 60));
}

void
tool_progress_at(struct tool_progress *p, uint64_t done, uint64_t rows)
{
    char rows_text[TOOL_NUMBER_MAX], rate_text[TOOL_NUMBER_MAX];

    if (!p->terminal || ++p->calls % LOOK_CALLS != 0)
        return;
    uint64_t now = clock_ns();
    if (now - p->shown_ns < SHOW_NS)
        return;
    p->shown_ns = now;
    double seconds = (double)(now - p->start_ns) / 1e9;
    fprintf(stderr, "\r%s", p->what);
    if (p->total != 0)
        show_bar(p, done < p->total ? done : p->total, seconds);
    fprintf(stderr, "  %s rows, %s/s \033[K", tool_number(rows, rows_text),
            tool_number((uint64_t)((double)rows / seconds), rate_text));
}

void
tool_progress_clear(struct tool_progress *p)
{
    if (p->shown_ns != 0)
        fputs("\r\033[K", stderr);
    p->shown_ns = 0;
}
