/* SPDX-License-Identifier: Apache-2.0
 *
 * task_stack.c - stacks of fibers: mapped once, then reused by the thread that mapped them.
 *
 * Entry points: task__stack_get(), task__stack_put().
 *
 * A simulation makes and drops thousands of fibers per second, so nothing here may cost a system
 * call per use: each thread keeps the stacks it got back (up to STACKS_CACHED_MAX, newest first, so
 * that they are warm) until it ends. Below each stack lie GUARD_BYTES that fault when touched: an
 * overflow kills the process instead of another fiber's data.
 */
#include "base/bits.h"
#include "task/task_int.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_include)
    #if __has_include(<valgrind/valgrind.h>)
        #include <valgrind/valgrind.h>
    #endif
#endif
#ifndef VALGRIND_STACK_REGISTER
    #define VALGRIND_STACK_REGISTER(low, high) 0u
    #define VALGRIND_STACK_DEREGISTER(id)      ((void)(id))
#endif

#define GUARD_BYTES ((size_t)16 << 10) /* more than one page: big frames must not step over it */
#define RED_ZONE    128u               /* below the stack pointer, of x86-64 */
#define STACKS_CACHED_MAX \
    256u /* 64 MiB of addresses per thread; the touched pages of as many fibers as it ran */

static _Thread_local struct task__stack *cached;
static _Thread_local uint32_t cached_count;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void
stack_unmap(struct task__stack *s)
{
    void *map = s->map;
    size_t bytes = s->map_bytes;
    VALGRIND_STACK_DEREGISTER(s->valgrind_id);
    mem_unmap(MEM_TASK, map, bytes);
}

static void
cache_drop(void *unused)
{
    (void)unused;
    while (cached != NULL) {
        struct task__stack *s = cached;
        cached = s->next;
        stack_unmap(s);
    }
    cached_count = 0;
}

/* mem_map()ped memory is not there in a child of fork(). */
static void
cache_forget(void)
{
    cached = NULL;
    cached_count = 0;
}

static void
key_make(void)
{
    ash_assert(pthread_key_create(&key, cache_drop) == 0);
    ash_assert(pthread_atfork(NULL, NULL, cache_forget) == 0);
}

static struct task__stack *
stack_map(size_t bytes)
{
    size_t guard = round_up(GUARD_BYTES, (uint64_t)sysconf(_SC_PAGESIZE));
    size_t map_bytes = guard + bytes;
    struct mem_arena *arena = mem_arena_suspend();
    char *map = mem_map(MEM_TASK, map_bytes, false);
    mem_arena_resume(arena);
    if (map == NULL)
        return NULL;
    if (mprotect(map, guard, PROT_NONE) != 0) {
        mem_unmap(MEM_TASK, map, map_bytes);
        ash_ignore(ash_raise(
            ASH_NO_MEMORY, /* the caller sees NULL */
            "Cannot protect the guard page of a fiber's stack; raise vm.max_map_count or run "
            "fewer fibers."));
        return NULL;
    }
    struct task__stack *s =
        (struct task__stack *)(void *)(map + map_bytes - round_up(sizeof(*s), 64));
    s->map = map;
    s->map_bytes = map_bytes;
    s->base = map + guard;
    s->bytes = (size_t)((char *)s - (map + guard));
    s->valgrind_id = VALGRIND_STACK_REGISTER(s->base, (char *)s->base + s->bytes);
    return s;
}

struct task__stack *
task__stack_get(size_t bytes)
{
    if (bytes == 0)
        bytes = TASK__STACK_DEFAULT;
    bytes = round_up(max_u64(bytes, TASK__STACK_MIN), (uint64_t)sysconf(_SC_PAGESIZE));
    size_t guard = round_up(GUARD_BYTES, (uint64_t)sysconf(_SC_PAGESIZE));
    for (struct task__stack **at = &cached; *at != NULL; at = &(*at)->next) {
        struct task__stack *s = *at;
        if (s->map_bytes == guard + bytes) {
            *at = s->next;
            cached_count--;
            return s;
        }
    }
    return stack_map(bytes);
}

void
task__stack_put(struct task__stack *s)
{
    if (cached_count >= STACKS_CACHED_MAX) {
        stack_unmap(s);
        return;
    }
    ash_assert(pthread_once(&key_once, key_make) == 0);
    /* Any value makes the destructor run when the thread ends. */
    if (cached == NULL && pthread_setspecific(key, &cached_count) != 0) {
        stack_unmap(s); /* no memory for the key: then nothing is kept */
        return;
    }
    s->next = cached;
    cached = s;
    cached_count++;
}

/* ---- What a stack holds ---- */

/* Stacks grow downwards without holes but for frames that are bigger than a page and sparsely
 * written, so the lowest page that is there tells the depth. */
size_t
task__stack_touched(const struct task__stack *s)
{
    unsigned char there[64];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *low = s->base, *end = (char *)s->map + s->map_bytes;

    while (low < end) {
        size_t bytes = min_u64((size_t)(end - low), sizeof(there) * page);
        if (mincore(low, bytes, there) != 0)
            return 0; /* a kernel that does not tell */
        for (size_t i = 0; i < bytes / page; i++) {
            if ((there[i] & 1) != 0)
                return (size_t)(end - low) - i * page;
        }
        low += bytes;
    }
    return 0;
}

void
task__stack_give_back(struct task__stack *s, const void *sp)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t low = (uintptr_t)s->base;
    uintptr_t keep = ((uintptr_t)sp - RED_ZONE) & ~(uintptr_t)(page - 1);

    if (keep > low) /* a refusal only means that the memory stays */
        (void)madvise(s->base, keep - low, MADV_DONTNEED);
}

void
task_cache_release(void)
{
    cache_drop(NULL);
}
