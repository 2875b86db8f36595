/* SPDX-License-Identifier: Apache-2.0
 *
 * mem_arena.c - memory of a simulated life, released as a whole.
 *
 * Entry points: mem_arena_begin(), mem_arena_release(); mem.c calls the rest.
 *
 * A power cut abandons tasks in the middle of what they do, so nobody is left to free what they
 * had.  While mem_arena_current is set, mem_alloc() and mem_map() take memory from that arena, and
 * one call releases it all.  That is also what makes a simulated life cheap: no system call, warm
 * pages, and a release that touches a few cache lines.
 *
 * Layout: one reserved range, cut into spans.
 *
 *     base                top                                          map_top               end
 *     | blocks, runs ---> | never used, or not since the last release  | <--- maps (zeroed)  |
 *
 * A span holds blocks of one size class, or begins a run of 2^k spans that is one block or map.
 * kind[] says which, so a block needs no head and its size is found from its address.  Free blocks
 * are linked through their first word, a list per class; nothing is merged or given back before the
 * release.
 *
 * Belongs to one thread: no locks.  Addresses repeat from life to life on a thread but differ
 * between threads and processes; nothing may depend on them.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/mem_int.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
    #define ARENA_ASAN 1
#elif defined(__has_feature)
    #if __has_feature(address_sanitizer)
        #define ARENA_ASAN 1
    #endif
#endif
#ifdef ARENA_ASAN
    #include <sanitizer/asan_interface.h>
    #define POISON(p, n)   __asan_poison_memory_region((p), (n))
    #define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
    #define RED_ZONE       ((size_t)16) /* bytes after each block that stay poisoned */
#else
    #define POISON(p, n)   ((void)0)
    #define UNPOISON(p, n) ((void)0)
    #define RED_ZONE       ((size_t)0)
#endif

#define ARENA_BYTES     ((size_t)4 << 30)   /* of addresses; who needs more has made a mistake */
#define ARENA_BYTES_MIN ((size_t)256 << 20) /* where addresses are rationed */
#define SPAN_SHIFT      16u
#define SPAN_BYTES      ((size_t)1 << SPAN_SHIFT)
#define SPANS_MAX       (ARENA_BYTES >> SPAN_SHIFT)
#define SMALL_MAX       ((size_t)32 << 10) /* larger blocks are runs of spans */
#define CLASSES         40u   /* 16, 32 .. 128, then four per doubling up to SMALL_MAX */
#define RUNS            17u   /* 2^0 .. 2^16 spans */
#define KIND_RUN        0x80u /* | log2 of the number of spans */

/* Writing zeros over that much beats new pages from the kernel. */
#define WIPE_MAX   ((size_t)256 << 10)
/* A released arena keeps so many touched bytes of blocks, and as many of maps. */
#define WARM_MAX   ((size_t)64 << 20)
/* Of each block so much is filled in debug builds: not to touch what nobody would. */
#define POISON_MAX ((size_t)4096)

struct block {
    struct block *next;
};

struct mem_arena {
    struct mem_arena *next; /* in mem__arenas or in the thread's cache */
    char *base;
    size_t bytes;
    size_t spans;
    size_t top, map_top; /* spans: the picture above */
    /* Offsets in bytes: between them nothing was written since the kernel gave the pages, so they
     * are zeros. */
    size_t touched, map_touched;
    struct block *free_small[CLASSES];
    struct block *free_run[RUNS], *free_map[RUNS];
    char *bump[CLASSES], *bump_end[CLASSES]; /* the unused rest of the newest span of a class */
    uint64_t used[MEM_TAG_COUNT];
    uint64_t mapped[MEM_TAG_COUNT]; /* part of used[] */
    uint8_t kind[SPANS_MAX];
};

_Thread_local struct mem_arena *mem_arena_current;
_Thread_local struct mem_arena *mem__arenas;
static _Thread_local struct mem_arena *cached;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

/* ---- Size classes ---- */

static unsigned
class_of(size_t size)
{
    if (size <= 128)
        return (unsigned)((size + 15) / 16) - 1;
    unsigned shift = log2_floor(size - 1) - 2; /* four classes in (2^(shift+2), 2^(shift+3)] */
    return 8 + (shift - 5) * 4 + (unsigned)((size - 1) >> shift) - 4;
}

static size_t
class_size(unsigned c)
{
    if (c < 8)
        return ((size_t)c + 1) * 16;
    unsigned shift = (c - 8) / 4 + 5;
    return ((size_t)(c - 8) % 4 + 5) << shift;
}

static unsigned
run_of(size_t size)
{
    size_t spans = (size + SPAN_BYTES - 1) >> SPAN_SHIFT;
    return spans <= 1 ? 0 : log2_floor(spans - 1) + 1;
}

/* ---- Begin and release ---- */

/* The first span boundary: the range itself need not start at one. */
static char *
spans_base(const struct mem_arena *a)
{
    return (char *)round_up((uintptr_t)a->base, SPAN_BYTES);
}

static void
arena_unmap(struct mem_arena *a)
{
    UNPOISON(spans_base(a), a->spans << SPAN_SHIFT);
    munmap(a->base, a->bytes);
    munmap(a, sizeof(*a));
}

static void
cache_drop(void *unused)
{
    (void)unused;
    while (cached != NULL) {
        struct mem_arena *a = cached;
        cached = a->next;
        arena_unmap(a);
    }
}

static void
key_make(void)
{
    int rc = pthread_key_create(&key, cache_drop);
    ash_assert(rc == 0);
}

static void *
reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, bytes, MADV_NOHUGEPAGE); /* advice: without it the first touches cost more */
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

static struct mem_arena *
arena_make(void)
{
    struct mem_arena *a = reserve(sizeof(*a)); /* kind[] is big and mostly never touched */
    if (a == NULL)
        return NULL;
    a->bytes = ARENA_BYTES + SPAN_BYTES;
    a->base = reserve(a->bytes);
    if (a->base == NULL) {
        a->bytes = ARENA_BYTES_MIN + SPAN_BYTES;
        a->base = reserve(a->bytes);
    }
    if (a->base == NULL) {
        munmap(a, sizeof(*a));
        return NULL;
    }
    a->spans = (a->bytes - SPAN_BYTES) >> SPAN_SHIFT;
    a->map_top = a->spans;
    a->map_touched = a->bytes;
    return a;
}

struct mem_arena *
mem_arena_begin(void)
{
    struct mem_arena *a = cached;
    if (a != NULL) {
        cached = a->next;
    } else {
        a = arena_make();
        if (a == NULL) {
            ash_ignore(
                ash_raise(ASH_NO_MEMORY, /* the caller sees NULL */
                          "Could not reserve addresses for the memory of a simulation; check "
                          "ulimit -v and vm.overcommit_memory."));
            return NULL;
        }
    }
    a->next = mem__arenas;
    mem__arenas = a;
    return a;
}

static void
arena_reset(struct mem_arena *a)
{
    if (a->touched > WARM_MAX) {
        (void)madvise(a->base, round_up(a->touched, 4096),
                      MADV_DONTNEED); /* private memory: cannot fail */
        a->touched = 0;
    }
    if (a->bytes - a->map_touched > WARM_MAX) {
        size_t from = round_down(a->map_touched, 4096);
        (void)madvise(a->base + from, a->bytes - from, MADV_DONTNEED);
        a->map_touched = a->bytes;
    }
    POISON(spans_base(a), a->top << SPAN_SHIFT);
    a->top = 0;
    a->map_top = a->spans;
    memset(a->free_small, 0, sizeof(a->free_small));
    memset(a->free_run, 0, sizeof(a->free_run));
    memset(a->free_map, 0, sizeof(a->free_map));
    memset(a->bump, 0, sizeof(a->bump));
    memset(a->bump_end, 0, sizeof(a->bump_end));
    memset(a->used, 0, sizeof(a->used));
    memset(a->mapped, 0, sizeof(a->mapped));
}

void
mem_arena_release(struct mem_arena *a)
{
    struct mem_arena **at = &mem__arenas;
    while (*at != a) {
        ash_assert(*at != NULL); /* begun by this thread */
        at = &(*at)->next;
    }
    *at = a->next;
    ash_assert(mem_arena_current != a);
    arena_reset(a);
    int rc = pthread_once(&key_once, key_make);
    ash_assert(rc == 0);
    if (cached == NULL && pthread_setspecific(key, a) != 0) { /* any value makes cache_drop() run */
        arena_unmap(a);
        return;
    }
    a->next = cached;
    cached = a;
}

/* ---- Blocks ---- */

struct mem_arena *
mem__arena_search(const void *p)
{
    for (struct mem_arena *a = mem__arenas; a != NULL; a = a->next) {
        if ((uintptr_t)p - (uintptr_t)a->base < a->bytes)
            return a;
    }
    return NULL;
}

static size_t
span_index(const struct mem_arena *a, const void *p)
{
    size_t i = (size_t)((const char *)p - spans_base(a)) >> SPAN_SHIFT;
    ash_assert(i < a->top || (i >= a->map_top && i < a->spans));
    return i;
}

size_t
mem__arena_size(const struct mem_arena *a, const void *p)
{
    uint8_t kind = a->kind[span_index(a, p)];
    return ((kind & KIND_RUN) != 0 ? SPAN_BYTES << (kind & ~KIND_RUN) : class_size(kind)) -
           RED_ZONE;
}

/* New spans at the top. */
static char *
spans_take(struct mem_arena *a, size_t spans, uint8_t kind)
{
    if (a->top + spans > a->map_top)
        return NULL;
    char *p = spans_base(a) + (a->top << SPAN_SHIFT);
    a->kind[a->top] = kind;
    a->top += spans;
    POISON(p, spans << SPAN_SHIFT);
    return p;
}

static void *
small_take(struct mem_arena *a, unsigned c)
{
    struct block *b = a->free_small[c];
    if (b != NULL) {
        UNPOISON(b, sizeof(*b));
        a->free_small[c] = b->next;
        return b;
    }
    size_t size = class_size(c);
    if (a->bump_end[c] - a->bump[c] < (ptrdiff_t)size) {
        char *span = spans_take(a, 1, (uint8_t)c);
        if (span == NULL)
            return NULL;
        a->bump[c] = span;
        a->bump_end[c] = span + SPAN_BYTES;
    }
    char *p = a->bump[c];
    a->bump[c] += size;
    return p;
}

static void *
run_take(struct mem_arena *a, unsigned k)
{
    struct block *b = a->free_run[k];
    if (b == NULL)
        return spans_take(a, (size_t)1 << k, (uint8_t)(KIND_RUN | k));
    UNPOISON(b, sizeof(*b));
    a->free_run[k] = b->next;
    return b;
}

/* Makes [p, p + size) zeros. */
static void
wipe(char *p, size_t size)
{
    if (size <= WIPE_MAX) {
        memset(p, 0, size);
        return;
    }
    char *from = (char *)round_up((uintptr_t)p, 4096);
    char *to = (char *)round_down((uintptr_t)p + size, 4096);
    memset(p, 0, (size_t)(from - p));
    memset(to, 0, (size_t)(p + size - to));
    (void)madvise(from, (size_t)(to - from), MADV_DONTNEED); /* private memory: cannot fail */
}

void *
mem__arena_alloc(struct mem_arena *a, enum mem_tag tag, size_t align, size_t size, bool zero)
{
    size_t bytes = (size != 0 ? size : 1) + RED_ZONE;
    char *p;

    if (align > 16) /* blocks of a class that is a power of two lie at multiples of it */
        bytes = bytes <= align ? align : (size_t)2 << log2_floor(bytes - 1);
    if (bytes <= SMALL_MAX) {
        if (!PLANTED(16))
            bytes =
                class_size(class_of(bytes)); /* what mem__arena_free() may fill counts as touched */
        p = small_take(a, class_of(bytes));
    } else if (bytes <= ARENA_BYTES / 2) {
        p = run_take(a, run_of(bytes));
    } else {
        p = NULL;
    }
    if (p == NULL)
        return NULL;
    ash_assert(align == 0 || ((uintptr_t)p & (align - 1)) == 0);
    UNPOISON(p, size);
    size_t at = (size_t)(p - a->base);
    if (zero)
        wipe(p, at >= a->touched ? 0 : min_u64(size, a->touched - at));
#ifdef ASH_DEBUG
    else
        memset(p, 0xa5, min_u64(size, POISON_MAX)); /* the last life's data must not look valid */
#endif
    a->touched = max_u64(a->touched, at + bytes);
    a->used[tag] += mem__arena_size(a, p);
    return p;
}

void
mem__arena_free(struct mem_arena *a, enum mem_tag tag, void *p)
{
    struct block *b = p;
    uint8_t kind = a->kind[span_index(a, p)];
    size_t size = mem__arena_size(a, p);

    a->used[tag] -= size;
    UNPOISON(p, size);
#ifdef ASH_DEBUG
    memset(p, 0xdf, min_u64(size, POISON_MAX));
#endif
    struct block **list = (kind & KIND_RUN) != 0 ? &a->free_run[kind & ~KIND_RUN]
                                                 : &a->free_small[kind];
    b->next = *list;
    *list = b;
    POISON(p, size);
}

void *
mem__arena_realloc(struct mem_arena *a, enum mem_tag tag, void *p, size_t size)
{
    size_t before = mem__arena_size(a, p);
    void *moved = mem__arena_alloc(a, tag, 0, size, /* zero= */ false);
    if (moved == NULL)
        return NULL;
    UNPOISON(p, before); /* what was asked for is not known any more */
    memcpy(moved, p, min_u64(before, size));
    mem__arena_free(a, tag, p);
    return moved;
}

/* ---- Maps ---- */

void *
mem__arena_map(struct mem_arena *a, enum mem_tag tag, size_t size)
{
    if (size > ARENA_BYTES / 2)
        return NULL;
    unsigned k = run_of(size);
    size_t spans = (size_t)1 << k;
    char *p = (char *)a->free_map[k];
    if (p != NULL) {
        a->free_map[k] = a->free_map[k]->next;
        wipe(p, size);
    } else {
        if (a->map_top < a->top + spans)
            return NULL;
        a->map_top -= spans;
        p = spans_base(a) + (a->map_top << SPAN_SHIFT);
        a->kind[a->map_top] = (uint8_t)(KIND_RUN | k);
        size_t at = (size_t)(p - a->base);
        size_t clean = at >= a->map_touched ? 0 : min_u64(size, a->map_touched - at);
        wipe(p + clean, size - clean);
        a->map_touched = min_u64(a->map_touched, at);
    }
    a->used[tag] += size;
    a->mapped[tag] += size;
    return p;
}

void
mem__arena_unmap(struct mem_arena *a, enum mem_tag tag, void *p, size_t size)
{
    struct block *b = p;
    uint8_t kind = a->kind[span_index(a, p)];
    ash_assert((kind & KIND_RUN) != 0 && run_of(size) == (kind & ~KIND_RUN));
    a->used[tag] -= size;
    a->mapped[tag] -= size;
    b->next = a->free_map[kind & ~KIND_RUN];
    a->free_map[kind & ~KIND_RUN] = b;
}

uint64_t
mem__arena_used(const struct mem_arena *a, enum mem_tag tag)
{
    return a->used[tag];
}

uint64_t
mem__arena_heap(const struct mem_arena *a, enum mem_tag tag)
{
    return a->used[tag] - a->mapped[tag];
}

uint64_t
mem_arena_used(const struct mem_arena *a)
{
    uint64_t sum = 0;
    for (unsigned tag = 0; tag < MEM_TAG_COUNT; tag++)
        sum += a->used[tag];
    return sum;
}
