/* SPDX-License-Identifier: Apache-2.0
 *
 * task.c - tasks of every kind: their structs, the permit word, host threads, spawn and join.
 *
 * Entry points: task_self(), task_park_until(), task_unpark(), task_spawn(), task_join().
 * Read first: README.md, task_int.h (T: why structs are pooled and never freed).
 *
 * The permit word (struct task.state):
 *
 *          task_park()              task_unpark()
 *   EMPTY -------------> PARKED ------------------> PERMIT     the unparker makes the task run
 *   EMPTY --------------------- task_unpark() ----> PERMIT     nothing else to do
 *   PERMIT -- task_park() ----> EMPTY                          the park returns at once
 *   PARKED -- deadline -------> EMPTY                          by the task (host) or by who runs timers
 *
 * Every change is one atomic exchange or compare-and-swap of that word, so there is no window
 * between testing and sleeping: either the park sees the permit, or the unpark sees PARKED.
 */
#include "task/task.h"

#include "base/bits.h"
#include "base/clock.h"
#include "task/task_int.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TASKS_CACHED_MAX 256u /* structs that a thread keeps for itself, about 1 KiB each */

_Thread_local struct task *task__current;
_Thread_local bool task_sim_active;

/* ---- The pool of structs ---- */

static _Thread_local struct task *pool_local;
static _Thread_local uint32_t pool_local_count;
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct task *pool_shared; /* under pool_lock */
static pthread_once_t host_key_once = PTHREAD_ONCE_INIT;
static pthread_key_t host_key;

static void
pool_share(struct task *t)
{
    pthread_mutex_lock(&pool_lock);
    t->pool_next = pool_shared;
    pool_shared = t;
    pthread_mutex_unlock(&pool_lock);
}

static struct task *
pool_take(void)
{
    struct task *t = pool_local;
    if (t != NULL) {
        pool_local = t->pool_next;
        pool_local_count--;
        return t;
    }
    pthread_mutex_lock(&pool_lock);
    t = pool_shared;
    if (t != NULL)
        pool_shared = t->pool_next;
    pthread_mutex_unlock(&pool_lock);
    return t;
}

static struct task *
task_alloc(void)
{
    struct mem_arena *arena = mem_arena_suspend();
    struct task *t = mem_aligned(MEM_TASK, ASH_CACHE_LINE, round_up(sizeof(*t), ASH_CACHE_LINE));
    mem_arena_resume(arena);
    if (t != NULL) {
        memset(t, 0, sizeof(*t));
        atomic_init(&t->state, TASK__EMPTY);
    }
    return t;
}

/* A thread ends: its host task and its share of the pool go to the others. */
static void
thread_ends(void *value)
{
    (void)value;
    if (task__current != NULL && task__current->kind == TASK__HOST && task__current->rt == NULL)
        pool_share(task__current); /* a spawned one belongs to who joins it */
    task__current = NULL;
    while (pool_local != NULL) {
        struct task *t = pool_local;
        pool_local = t->pool_next;
        pool_share(t);
    }
    pool_local_count = 0;
}

static void
host_key_make(void)
{
    ash_assert(pthread_key_create(&host_key, thread_ends) == 0);
}

/* Makes thread_ends() run.  Without memory for the key a few structs are lost when the thread ends;
 * nothing breaks. */
static void
thread_ends_hook(void)
{
    ash_assert(pthread_once(&host_key_once, host_key_make) == 0);
    (void)pthread_setspecific(host_key, &host_key);
}

struct task *
task__get(enum task__kind kind, const char *name)
{
    struct task *t = pool_take();
    if (t == NULL)
        t = task_alloc();
    if (t == NULL)
        return NULL;
    /* All but `state` and `pool_next`: a late waker may be at work on the word (T).  It stays as it
     * is: EMPTY or a permit. */
    t->kind = kind;
    atomic_store_explicit(&t->ended, 0, memory_order_relaxed);
    atomic_store_explicit(&t->joiner, NULL, memory_order_relaxed);
    t->fn = NULL;
    t->arg = NULL;
    t->rt = NULL;
    t->stack = NULL;
    list_init(&t->link);
    t->timer = (struct task__timer){ 0 };
    t->arena = NULL;
    t->idle = t->worn = false;
    t->slice_switch = t->slice_ns = 0;
    t->priority = 0;
    t->id = 0;
    t->executor = NULL;
    (void)snprintf(t->name, sizeof(t->name), "%s", name);
    t->err.code = ASH_OK;
    t->err.sys_errno = 0;
    t->err.file = NULL;
    t->err.line = 0;
    t->err.object[0] = '\0';
    t->err.message[0] = '\0';
    return t;
}

void
task__put(struct task *t)
{
    uint32_t parked = TASK__PARKED; /* an abandoned simulated task */
    (void)atomic_compare_exchange_strong(&t->state, &parked, TASK__EMPTY);
    if (pool_local_count >= TASKS_CACHED_MAX) {
        pool_share(t);
        return;
    }
    if (pool_local == NULL)
        thread_ends_hook();
    t->pool_next = pool_local;
    pool_local = t;
    pool_local_count++;
}

/* ---- The running task ---- */

static struct task *
self_make(void)
{
    struct task *t = task__get(TASK__HOST, "host");
    /* 1 KiB for a thread that is about to wait: nobody could report this failure. */
    ash_assert(t != NULL);
    thread_ends_hook();
    task__current = t;
    return t;
}

struct task *
task_self(void)
{
    struct task *t = task__current;
    return ASH_LIKELY(t != NULL) ? t : self_make();
}

const char *
task_name(const struct task *t)
{
    return t->name;
}

bool
task_is_fiber(void)
{
    return task__current != NULL && task__current->kind != TASK__HOST;
}

/* ---- Host threads park on a futex ---- */

/* Until the word is no longer PARKED or the deadline has come.  May return early. */
static void
futex_wait(_Atomic uint32_t *word, uint64_t deadline_ns)
{
    struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000u),
                              .tv_nsec = (long)(deadline_ns % 1000000000u) };
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, TASK__PARKED,
                      deadline_ns == TASK_FOREVER ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
    ash_assert(rc == 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT);
}

static void
futex_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

static bool
host_park(struct task *self, uint64_t deadline_ns)
{
    uint32_t seen = TASK__EMPTY;
    ash_assert(!task__sim_here()); /* a task_sim_at() function must not park */
    if (!atomic_compare_exchange_strong(&self->state, &seen, TASK__PARKED)) {
        ash_assert(seen == TASK__PERMIT);
        atomic_exchange(&self->state, TASK__EMPTY); /* acquires what the unparker wrote before */
        return true;
    }
    for (;;) {
        futex_wait(&self->state, deadline_ns);
        seen = TASK__PERMIT;
        if (atomic_compare_exchange_strong(&self->state, &seen, TASK__EMPTY))
            return true;
        if (deadline_ns != TASK_FOREVER && clock_ns() >= deadline_ns)
            break;
    }
    /* Time is up; a permit that came in the meantime is taken along. */
    return atomic_exchange(&self->state, TASK__EMPTY) == TASK__PERMIT;
}

/* ---- Parking, for all kinds ---- */

bool
task_park_until(uint64_t deadline_ns)
{
    struct task *self = task_self();
    switch (self->kind) {
    case TASK__HOST: return host_park(self, deadline_ns);
    case TASK__FIBER: return task__fiber_park(self, deadline_ns);
    case TASK__SIM: return task__sim_park(self, deadline_ns);
    }
    __builtin_unreachable();
}

void
task_park(void)
{
    (void)task_park_until(TASK_FOREVER);
}

void
task_unpark(struct task *t)
{
    /* Sequentially consistent: what the caller wrote before is seen by who takes the permit. */
    if (atomic_exchange(&t->state, TASK__PERMIT) != TASK__PARKED)
        return;
    switch (t->kind) {
    case TASK__HOST: futex_wake(&t->state); break;
    case TASK__FIBER: task__fiber_unpark(t); break;
    case TASK__SIM: task__sim_unpark(t); break;
    }
}

void
task_yield(void)
{
    struct task *self = task_self();
    switch (self->kind) {
    case TASK__HOST: (void)sched_yield(); break;
    case TASK__FIBER: task__fiber_yield(self); break;
    case TASK__SIM: task__sim_yield(self); break;
    }
}

void
task_sleep_ns(uint64_t ns)
{
    uint64_t now = clock_ns();
    uint64_t deadline = ns >= TASK_FOREVER - now ? TASK_FOREVER : now + ns;
    bool permit = false;
    /* A permit that arrives during the sleep was meant for a later park: it is given back at the
     * end. */
    while (clock_ns() < deadline)
        permit |= task_park_until(deadline);
    if (permit && !PLANTED(15))
        task_unpark(task_self());
}

static void
cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* what `pause` is on x86; `yield` does nothing on most cores */
#endif
}

#define RELAX_PAUSES 128u  /* a few microseconds: longer than any section that readers spin on */
#define RELAX_YIELDS 2048u /* then the holder has no processor, and yielding does not give it one */
#define RELAX_NAP_NS 50000

void
task_relax(unsigned *spins)
{
    struct task *self = task_self();
    unsigned n = ++*spins;
    if (self->kind == TASK__SIM) {
        task__sim_yield(self); /* R3: nobody else would run */
        return;
    }
    if (n < RELAX_PAUSES) {
        cpu_pause();
        return;
    }
    /* The holder may be another fiber of this thread, or a thread that lost the processor. */
    if (self->kind == TASK__FIBER)
        task__fiber_yield(self);
    if (n < RELAX_YIELDS) {
        (void)sched_yield();
        return;
    }
    struct timespec nap = { .tv_nsec = RELAX_NAP_NS };
    (void)nanosleep(&nap, NULL);
}

_Thread_local uint32_t task_fair_points;

void
task_fair_point_slow(void)
{
    task_fair_points = 0;
    if (task__current != NULL && task__current->kind == TASK__FIBER)
        task__fiber_fair_point(task__current);
}

void
task__spin_lock(_Atomic uint32_t *lock)
{
    unsigned n = 0;
    while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0) {
        /* Sections have no task_point(), so they cannot meet in simulation. */
        ash_assert(!task_sim_active);
        while (atomic_load_explicit(lock, memory_order_relaxed) != 0) {
            if (++n < RELAX_PAUSES)
                cpu_pause();
            else
                (void)sched_yield(); /* the holder lost the processor */
        }
    }
}

/* ---- Spawn and join ---- */

void
task__end(struct task *t)
{
    /* Dekker: the joiner stores itself, then tests `ended`; we store `ended`, then look for it.
     * Both sequentially consistent, so one of us sees the other.  After that the joiner may free t:
     * it is not touched again by the simulation's and the thread's last steps except where the
     * joiner waits for those too. */
    atomic_store(&t->ended, 1);
    struct task *joiner = atomic_load(&t->joiner);
    if (joiner != NULL)
        task_unpark(joiner);
}

static void *
thread_main(void *arg)
{
    struct task *t = arg;
    task__current = t;
    t->fn(t->arg);
    task__end(t);
    return NULL;
}

static ash_rc
thread_spawn(struct task_runtime *rt, const char *name, void (*fn)(void *arg), void *arg,
             struct task **out)
{
    struct task *t = task__get(TASK__HOST, name);
    if (t == NULL)
        return ASH_NO_MEMORY;
    t->fn = fn;
    t->arg = arg;
    t->rt = rt;
    /* The application's signal handlers must not run on the library's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        task__put(t);
        return ash_raise_sys(
            ASH_NO_MEMORY, err, NULL,
            "Cannot start the thread \"%s\" (%s); raise the limit of processes or start fewer threads.",
            name, strerror(err));
    }
    char short_name[16]; /* the kernel's limit */
    (void)snprintf(short_name, sizeof(short_name), "%.15s", name);
    (void)pthread_setname_np(t->thread, short_name);
    atomic_fetch_add(&rt->threads, 1);
    mem_charge(MEM_TASK, MEM_THREAD_STACK);
    *out = t;
    return ASH_OK;
}

ash_rc
task_spawn(struct task_runtime *rt, const char *name, void (*fn)(void *arg), void *arg,
           struct task **out)
{
    if (rt->is_sim)
        return task__sim_spawn(rt, name, fn, arg, out);
    return thread_spawn(rt, name, fn, arg, out);
}

void
task_join(struct task *t)
{
    struct task *self = task_self();
    ash_assert(t != self && t->rt != NULL);
    atomic_store(&t->joiner, self); /* see task__end() */
    while (atomic_load(&t->ended) == 0)
        task_park();
    struct task_runtime *rt = t->rt;
    if (rt->is_sim) {
        task__sim_free(t);
        return;
    }
    int err = pthread_join(t->thread, NULL); /* short: it only has to leave thread_main() */
    ash_assert(err == 0);
    task__put(t);
    atomic_fetch_sub(&rt->threads, 1);
    mem_charge(MEM_TASK, -MEM_THREAD_STACK);
}

/* ---- Runtime ---- */

ash_rc
task_runtime_create(struct task_runtime **out)
{
    struct task_runtime *rt = mem_zalloc(MEM_TASK, sizeof(*rt));
    if (rt == NULL)
        return ASH_NO_MEMORY;
    *out = rt;
    return ASH_OK;
}

bool
task_runtime_is_sim(const struct task_runtime *rt)
{
    return rt->is_sim;
}

void
task_runtime_destroy(struct task_runtime *rt)
{
    if (rt == NULL)
        return;
    if (rt->is_sim) {
        task__sim_destroy(rt);
        return;
    }
    ash_assert(atomic_load(&rt->threads) == 0);
    mem_free(MEM_TASK, rt);
}

/* ---- Events ---- */

ash_rc
task_event_open(const char *who, int *fd_out)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return ash_raise_sys(err_from_errno(errno), errno, NULL,
                             "Cannot make an eventfd for %s; raise the limit of open files.", who);
    *fd_out = fd;
    return ASH_OK;
}

void
task_event_set(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof(one)) < 0)
        ash_assert(errno == EINTR);
}

void
task_event_clear(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    ash_assert(n == (ssize_t)sizeof(count) || (n < 0 && (errno == EAGAIN || errno == EINTR)));
}

void
task_event_close(int fd)
{
    if (fd >= 0)
        (void)close(fd);
}

/* ---- The process ---- */

_Atomic uint32_t task_fork_generation = 1;

static void
after_fork_in_child(void)
{
    atomic_fetch_add(&task_fork_generation, 1);
}

static void (*process_init)(void);

static void
process_once(void)
{
    pthread_atfork(NULL, NULL, after_fork_in_child);
    process_init();
}

void
task_process_init(void (*init)(void))
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    pthread_mutex_lock(&lock);
    process_init = init;
    pthread_mutex_unlock(&lock);
    pthread_once(&once, process_once);
}
