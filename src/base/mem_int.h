/* SPDX-License-Identifier: Apache-2.0
 *
 * mem_int.h - what mem.c asks mem_arena.c.
 */
#ifndef ASH_BASE_MEM_INT_H
#define ASH_BASE_MEM_INT_H

#include "base/mem.h"

/* The arenas that the calling thread has begun and not released; NULL nearly always. */
extern _Thread_local struct mem_arena *mem__arenas;

struct mem_arena *mem__arena_search(const void *p);
/* The arena that p came from, or NULL: the heap. */
static inline struct mem_arena *
mem__arena_of(const void *p)
{
    return __builtin_expect(mem__arenas == NULL, 1) ? NULL : mem__arena_search(p);
}

/* NULL, not raised, when the arena is full. */
void *mem__arena_alloc(struct mem_arena *a, enum mem_tag tag, size_t align, size_t size, bool zero);
void *mem__arena_realloc(struct mem_arena *a, enum mem_tag tag, void *p, size_t size);
void mem__arena_free(struct mem_arena *a, enum mem_tag tag, void *p);
size_t mem__arena_size(const struct mem_arena *a, const void *p); /* usable bytes of a block */
void *
mem__arena_map(struct mem_arena *a, enum mem_tag tag, size_t size); /* zeros; NULL, not raised */
void mem__arena_unmap(struct mem_arena *a, enum mem_tag tag, void *p, size_t size);
uint64_t mem__arena_used(const struct mem_arena *a, enum mem_tag tag);
uint64_t mem__arena_heap(const struct mem_arena *a, enum mem_tag tag); /* without maps */

#endif
