/* SPDX-License-Identifier: Apache-2.0
 *
 * list.h - intrusive doubly linked lists.
 */
#ifndef ASH_BASE_LIST_H
#define ASH_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A head points to itself when it is empty. */
struct list {
    struct list *next, *prev;
};

static inline void
list_init(struct list *h)
{
    h->next = h->prev = h;
}

static inline bool
list_empty(const struct list *h)
{
    return h->next == h;
}

static inline void
list_push_back(struct list *h, struct list *n)
{
    n->prev = h->prev;
    n->next = h;
    h->prev->next = n;
    h->prev = n;
}

static inline void
list_push_front(struct list *h, struct list *n)
{
    n->next = h->next;
    n->prev = h;
    h->next->prev = n;
    h->next = n;
}

static inline void
list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = n;
}

#define list_entry(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define LIST_FOREACH(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
#define LIST_FOREACH_SAFE(it, tmp, head) \
    for (struct list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

#endif
