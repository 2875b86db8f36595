/* SPDX-License-Identifier: Apache-2.0
 *
 * mem.h - all memory of the engine: counted per subsystem, jemalloc behind it (plain malloc with
 * sanitizers).
 *
 * mem_alloc() never returns uninitialised surprises on failure: it returns NULL and raises
 * ASH_NO_MEMORY. Tests make the n-th allocation fail with mem_fail_at().
 */
#ifndef ASH_BASE_MEM_H
#define ASH_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mem_tag {
    MEM_BASE = 1,
    MEM_TASK,
    MEM_IO,
    MEM_PSTORE,
    MEM_BUFFER,
    MEM_WAL,
    MEM_TXN,
    MEM_BTREE,
    MEM_TABLE,
    MEM_API,
    MEM_TOOL,
    MEM_TEST,
    MEM_TAG_COUNT
};

/* NULL (and ASH_NO_MEMORY raised) on failure.  Free with mem_free() and the same tag. */
void *mem_alloc(enum mem_tag tag, size_t size) __attribute__((malloc, warn_unused_result));
void *mem_zalloc(enum mem_tag tag, size_t size) __attribute__((malloc, warn_unused_result));
void *mem_aligned(enum mem_tag tag, size_t align, size_t size)
    __attribute__((malloc, warn_unused_result));
void *mem_realloc(enum mem_tag tag, void *p, size_t size) __attribute__((warn_unused_result));
char *mem_strdup(enum mem_tag tag, const char *s) __attribute__((malloc, warn_unused_result));
void mem_free(enum mem_tag tag, void *p); /* NULL allowed */

/* Address space: reserved without memory; pages appear zeroed when touched.  huge: ask for huge
 * pages (logs once when neither MAP_HUGETLB nor madvise works); from 2 MiB on such a map starts at
 * a multiple of 2 MiB.  Not inherited by fork().  NULL on failure, raised. */
void *mem_map(enum mem_tag tag, size_t size, bool huge) __attribute__((warn_unused_result));
void mem_unmap(enum mem_tag tag, void *p, size_t size);
/* Gives the memory back and keeps the addresses; the contents become zero. */
void mem_map_decommit(void *p, size_t size);

/* Bytes in use by one subsystem: what the allocator set aside, at least what was asked for; for
 * maps: the mapped size. */
uint64_t mem_used(enum mem_tag tag);
/* The same without maps, of which only the touched pages are memory. */
uint64_t mem_heap(enum mem_tag tag);
/* The mapped size alone. */
uint64_t mem_mapped(enum mem_tag tag);
/* Accounts for memory that a subsystem causes without allocating it, such as a kernel's ring;
 * negative: it is gone.  Does nothing in an arena: a simulation has neither. */
void mem_charge(enum mem_tag tag, int64_t bytes);
/* To be charged for a host thread that works for the engine: so much of its stack our calls touch
 * (measured: 52 to 60 KiB with the C library's part), and what the allocator keeps for it. */
#define MEM_THREAD_STACK (64 << 10)
const char *mem_tag_name(enum mem_tag tag);

/* Test seam, per process: the n-th allocation from now fails (1 = the next); sticky: all after it
 * too; 0 switches off; UINT64_MAX only counts. */
void mem_fail_at(uint64_t n, bool sticky);
/* Allocations seen since the last mem_fail_at() with n > 0. */
uint64_t mem_fail_count(void);

/* ---- Arenas: the memory of a simulated life, released as a whole (mem_arena.c) ----
 *
 * While mem_arena_current is set, the calling thread's mem_alloc() and mem_map() (never huge) come
 * from that arena and mem_used() tells of it alone, so that simulations on several threads do not
 * see each other.  Freeing works in any state: each block goes back to where it came from, but only
 * on the thread that began the arena.  Only the simulation sets it (src/task); memory that must
 * outlive the run is allocated like this, without parking in between:
 *     struct mem_arena *arena = mem_arena_suspend(); ... mem_alloc() ... ; mem_arena_resume(arena);
 *     */
struct mem_arena;
extern _Thread_local struct mem_arena *mem_arena_current;
struct mem_arena *mem_arena_begin(void);     /* not yet current; NULL on failure, raised */
void mem_arena_release(struct mem_arena *a); /* all that came from it is gone, freed or not */
uint64_t mem_arena_used(const struct mem_arena *a); /* bytes, of all subsystems */

static inline struct mem_arena *
mem_arena_suspend(void)
{
    struct mem_arena *before = mem_arena_current;
    mem_arena_current = NULL;
    return before;
}
static inline void
mem_arena_resume(struct mem_arena *before)
{
    mem_arena_current = before;
}

#define MEM_FREE(tag, p) (mem_free((tag), (p)), (p) = NULL)

#endif
