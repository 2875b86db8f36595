/* SPDX-License-Identifier: Apache-2.0
 *
 * task_timer.c - a binary heap of timers that live inside what they wake.
 *
 * Room is reserved where a failure can be reported (task_spawn, task_sim_at), so adding and
 * removing never fail.
 */
#include "task/task_int.h"

static bool
before(const struct task__timer *a, const struct task__timer *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

static void
place(struct task__heap *h, uint32_t i, struct task__timer *t)
{
    h->v[i] = t;
    t->pos = i + 1;
}

static void
sift_up(struct task__heap *h, uint32_t i, struct task__timer *t)
{
    while (i > 0) {
        uint32_t parent = (i - 1) / 2;
        if (!before(t, h->v[parent]))
            break;
        place(h, i, h->v[parent]);
        i = parent;
    }
    place(h, i, t);
}

static void
sift_down(struct task__heap *h, uint32_t i, struct task__timer *t)
{
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= h->count)
            break;
        if (child + 1 < h->count && before(h->v[child + 1], h->v[child]) && !PLANTED(14))
            child++;
        if (!before(h->v[child], t))
            break;
        place(h, i, h->v[child]);
        i = child;
    }
    place(h, i, t);
}

void
task__heap_deinit(struct task__heap *h)
{
    mem_free(MEM_TASK, h->v);
    *h = (struct task__heap){ 0 };
}

ash_rc
task__heap_reserve(struct task__heap *h, uint32_t capacity)
{
    if (capacity <= h->capacity)
        return ASH_OK;
    uint32_t grown = h->capacity < 16 ? 16 : h->capacity * 2;
    if (grown < capacity)
        grown = capacity;
    struct mem_arena *arena = mem_arena_suspend();
    struct task__timer **v = mem_realloc(MEM_TASK, h->v, grown * sizeof(struct task__timer *));
    mem_arena_resume(arena);
    if (v == NULL)
        return ASH_NO_MEMORY;
    h->v = v;
    h->capacity = grown;
    return ASH_OK;
}

void
task__heap_add(struct task__heap *h, struct task__timer *t, uint64_t at_ns)
{
    ash_assert(t->pos == 0);
    ash_assert(h->count < h->capacity);
    t->at_ns = at_ns;
    t->seq = ++h->seq;
    sift_up(h, h->count++, t);
}

void
task__heap_remove(struct task__heap *h, struct task__timer *t)
{
    ash_assert(t->pos != 0 && t->pos <= h->count && h->v[t->pos - 1] == t);
    uint32_t i = t->pos - 1;
    t->pos = 0;
    struct task__timer *last = h->v[--h->count];
    if (last == t)
        return;
    if (i > 0 && before(last, h->v[(i - 1) / 2]))
        sift_up(h, i, last);
    else
        sift_down(h, i, last);
}
