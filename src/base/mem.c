/* SPDX-License-Identifier: Apache-2.0
 *
 * mem.c - allocation, accounting per subsystem, and address space.
 *
 * Allocators: jemalloc through its own functions (mallocx ...), never through malloc(), so it
 * does not matter which malloc() the program was linked with; the C library's with sanitizers,
 * which must see it, or --without-jemalloc.
 *
 * Accounting adds the size that the allocator set aside to a sharded counter; nothing is stored
 * beside the memory.  A thread may free what another allocated: single shards then wrap, their
 * sum is right.
 */
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef ASH_JEMALLOC
    #include <jemalloc/jemalloc.h>
#else
    #include <malloc.h>
#endif

#include "base/assert.h"
#include "base/bits.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem_int.h"

#define HUGE_PAGE     ((size_t)2 << 20)
#define DONT_DUMP_MIN ((size_t)64 << 20) /* core dumps leave out maps from this size on */

static struct counter used[MEM_TAG_COUNT];   /* heap and charges */
static struct counter mapped[MEM_TAG_COUNT]; /* address space */

/* ---- Failing on purpose -------------------------------------------------------------------- */

static _Atomic bool fail_armed; /* read by every allocation, written only by tests */
static _Atomic uint64_t fail_seen;
static _Atomic uint64_t fail_nth;
static _Atomic bool fail_sticky;

void
mem_fail_at(uint64_t n, bool sticky)
{
    atomic_store(&fail_armed, false);
    atomic_store(&fail_seen, 0);
    atomic_store(&fail_nth, n);
    atomic_store(&fail_sticky, sticky);
    atomic_store(&fail_armed, n != 0);
}

uint64_t
mem_fail_count(void)
{
    return atomic_load(&fail_seen);
}

static bool
fail_now(void)
{
    if (ASH_LIKELY(!atomic_load_explicit(&fail_armed, memory_order_relaxed)))
        return false;
    uint64_t seen = atomic_fetch_add(&fail_seen, 1) + 1;
    uint64_t nth = atomic_load(&fail_nth);
    return seen == nth || (seen > nth && atomic_load(&fail_sticky));
}

/* ---- Heap ---------------------------------------------------------------------------------- */

/* size > 0; align: 0 for the default. */
static void *
heap_alloc(size_t align, size_t size, bool zero)
{
#ifdef ASH_JEMALLOC
    return mallocx(size, (align != 0 ? MALLOCX_ALIGN(align) : 0) | (zero ? MALLOCX_ZERO : 0));
#else
    void *p = NULL;
    if (align == 0)
        return zero ? calloc(1, size) : malloc(size);
    if (posix_memalign(&p, align, size) != 0)
        return NULL;
    if (zero)
        memset(p, 0, size);
    return p;
#endif
}

static size_t
heap_size(void *p)
{
#ifdef ASH_JEMALLOC
    return sallocx(p, 0);
#else
    return malloc_usable_size(p);
#endif
}

static bool
tag_valid(enum mem_tag tag)
{
    return tag >= MEM_BASE && tag < MEM_TAG_COUNT;
}

static void
raise_no_memory(enum mem_tag tag, size_t size)
{
    ash_ignore(ash_raise(ASH_NO_MEMORY, /* the callers return NULL instead */
                         "Could not allocate %zu bytes for %s (%" PRIu64
                         " in use there); give the process more memory or lower the option cache.",
                         size, mem_tag_name(tag), mem_used(tag)));
}

static void *
tagged_alloc(enum mem_tag tag, size_t align, size_t size, bool zero)
{
    void *p = NULL;

    ash_assert(tag_valid(tag));
    struct mem_arena *arena = mem_arena_current;
    if (ASH_LIKELY(!fail_now()))
        p = ASH_UNLIKELY(arena != NULL) ? mem__arena_alloc(arena, tag, align, size, zero)
                                        : heap_alloc(align, size != 0 ? size : 1, zero);
    if (ASH_UNLIKELY(p == NULL)) {
        raise_no_memory(tag, size);
        return NULL;
    }
    if (ASH_LIKELY(arena == NULL))
        counter_add(&used[tag], heap_size(p));
    return p;
}

void *
mem_alloc(enum mem_tag tag, size_t size)
{
    return tagged_alloc(tag, 0, size, /* zero= */ false);
}

void *
mem_zalloc(enum mem_tag tag, size_t size)
{
    return tagged_alloc(tag, 0, size, /* zero= */ true);
}

void *
mem_aligned(enum mem_tag tag, size_t align, size_t size)
{
    ash_assert(is_pow2(align));
    return tagged_alloc(tag, align < sizeof(void *) ? sizeof(void *) : align, size,
                        /* zero= */ false);
}

void *
mem_realloc(enum mem_tag tag, void *p, size_t size)
{
    void *moved = NULL;

    if (p == NULL)
        return mem_alloc(tag, size);
    ash_assert(tag_valid(tag));
    struct mem_arena *arena = mem__arena_of(p);
    size_t before = arena != NULL ? 0 : heap_size(p);
    if (ASH_UNLIKELY(arena != NULL)) {
        if (!fail_now())
            moved = mem__arena_realloc(arena, tag, p, size);
    } else if (ASH_LIKELY(!fail_now())) {
#ifdef ASH_JEMALLOC
        moved = rallocx(p, size != 0 ? size : 1, 0);
#else
        moved = realloc(p, size != 0 ? size : 1);
#endif
    }
    if (ASH_UNLIKELY(moved == NULL)) {
        if (PLANTED(904))
            mem_free(tag, p);
        raise_no_memory(tag, size);
        return NULL; /* p is as it was */
    }
    if (arena == NULL && !PLANTED(903))
        counter_add(&used[tag],
                    heap_size(moved) - before); /* may be "negative": wraps, see above */
    return moved;
}

char *
mem_strdup(enum mem_tag tag, const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = mem_alloc(tag, n);
    if (copy != NULL)
        memcpy(copy, s, n);
    return copy;
}

void
mem_free(enum mem_tag tag, void *p)
{
    if (p == NULL)
        return;
    ash_assert(tag_valid(tag));
    struct mem_arena *arena = mem__arena_of(p);
    if (ASH_UNLIKELY(arena != NULL)) {
        mem__arena_free(arena, tag, p);
        return;
    }
    size_t size = heap_size(p);
    counter_add(&used[tag], -(uint64_t)size);
#ifdef ASH_DEBUG
    memset(p, 0xdf, size); /* a use after free reads 0xdfdf... */
#endif
#ifdef ASH_JEMALLOC
    sdallocx(p, size, 0); /* the size saves jemalloc a look-up */
#else
    free(p);
#endif
}

/* ---- Address space ------------------------------------------------------------------------- */

static void *
map_plain(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p != MAP_FAILED ? p : NULL;
}

/* A plain map that starts at a huge page boundary, so that the kernel can back all of it with
 * huge pages. */
static void *
map_aligned(size_t size)
{
    char *p = map_plain(size + HUGE_PAGE);
    if (p == NULL)
        return NULL;
    size_t head = (size_t)(-(uintptr_t)p & (HUGE_PAGE - 1));
    size_t tail = HUGE_PAGE - head;
    if (head != 0)
        munmap(p, head);
    munmap(p + head + size, tail);
    return p + head;
}

static void *
map_huge(size_t size)
{
    static _Atomic bool told;
    void *p;

    /* No MAP_NORESERVE here: with it a pool that is too small would kill us at the first touch
     * instead of failing now. */
    if (size % HUGE_PAGE == 0) {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1,
                 0);
        if (p != MAP_FAILED)
            return p;
    }
    p = map_aligned(size);
    if (p != NULL && madvise(p, size, MADV_HUGEPAGE) != 0 && !atomic_exchange(&told, true))
        log_write(
            LOG_WARN,
            "No huge pages (%s): page accesses will be slower; see transparent_hugepage or vm.nr_hugepages",
            strerrordesc_np(errno));
    return p;
}

void *
mem_map(enum mem_tag tag, size_t size, bool huge)
{
    void *p = NULL;
    int err = ENOMEM;

    ash_assert(tag_valid(tag));
    size = round_up(size, 4096);
    ash_assert(size > 0);
    struct mem_arena *arena = mem_arena_current;
    if (!fail_now()) {
        if (arena != NULL)
            p = mem__arena_map(arena, tag, size);
        else
            p = huge && size >= HUGE_PAGE ? map_huge(size) : map_plain(size);
        err = arena != NULL ? ENOMEM : errno;
    }
    if (p == NULL) {
        ash_ignore(ash_raise_sys(
            ASH_NO_MEMORY, err, NULL,
            "Could not map %zu bytes of address space for %s; check ulimit -v and vm.overcommit_memory.",
            size, mem_tag_name(tag)));
        return NULL;
    }
    if (arena != NULL)
        return p;
    /* Advice may fail without harm: a child then copies the pages, a core dump holds them. */
    madvise(p, size, MADV_DONTFORK);
    if (size >= DONT_DUMP_MIN)
        madvise(p, size, MADV_DONTDUMP);
    counter_add(&mapped[tag], size);
    return p;
}

void
mem_unmap(enum mem_tag tag, void *p, size_t size)
{
    if (p == NULL)
        return;
    ash_assert(tag_valid(tag));
    size = round_up(size, 4096);
    struct mem_arena *arena = mem__arena_of(p);
    if (arena != NULL) {
        mem__arena_unmap(arena, tag, p, size);
        return;
    }
    int rc = munmap(p, size);
    ash_assert(rc == 0);
    counter_add(&mapped[tag], -(uint64_t)size);
}

void
mem_map_decommit(void *p, size_t size)
{
    /* MAP_HUGETLB memory can refuse pieces smaller than its pages; the promise is zeroes, so
     * write them. */
    if (size > 0 && madvise(p, size, MADV_DONTNEED) != 0)
        memset(p, 0, size);
}

/* ---- Accounts ------------------------------------------------------------------------------ */

/* Shards are read one after the other: what was allocated after its shard was read, and freed
 * through another one that was not read yet, makes the sum less than the truth, even less than
 * nothing. */
static uint64_t
account_sum(const struct counter *c)
{
    int64_t sum = (int64_t)counter_sum(c);
    return sum < 0 && !PLANTED(400) ? 0 : (uint64_t)sum;
}

uint64_t
mem_used(enum mem_tag tag)
{
    ash_assert(tag_valid(tag));
    if (mem_arena_current != NULL)
        return mem__arena_used(mem_arena_current, tag);
    return account_sum(&used[tag]) + account_sum(&mapped[tag]);
}

uint64_t
mem_heap(enum mem_tag tag)
{
    ash_assert(tag_valid(tag));
    if (mem_arena_current != NULL)
        return mem__arena_heap(mem_arena_current, tag);
    return account_sum(&used[tag]);
}

uint64_t
mem_mapped(enum mem_tag tag)
{
    ash_assert(tag_valid(tag));
    if (mem_arena_current != NULL)
        return mem__arena_used(mem_arena_current, tag) - mem__arena_heap(mem_arena_current, tag);
    return account_sum(&mapped[tag]);
}

void
mem_charge(enum mem_tag tag, int64_t bytes)
{
    ash_assert(tag_valid(tag));
    if (mem_arena_current == NULL)
        counter_add(&used[tag], (uint64_t)bytes);
}

const char *
mem_tag_name(enum mem_tag tag)
{
    static const char *const names[MEM_TAG_COUNT] = {
        [MEM_BASE] = "base",     [MEM_TASK] = "task", [MEM_IO] = "io",     [MEM_PSTORE] = "pstore",
        [MEM_BUFFER] = "buffer", [MEM_WAL] = "wal",   [MEM_TXN] = "txn",   [MEM_BTREE] = "btree",
        [MEM_TABLE] = "table",   [MEM_API] = "api",   [MEM_TOOL] = "tool", [MEM_TEST] = "test",
    };
    return tag_valid(tag) ? names[tag] : "?";
}
