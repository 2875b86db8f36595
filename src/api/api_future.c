/* SPDX-License-Identifier: Apache-2.0
 *
 * api_future.c - results of functions on executors: futures, and the queue of those that are done.
 *
 * Life of a future:
 *
 *     QUEUED --- an executor ---> CLAIMED --- the function returned ---> DONE
 *        \------- ash_future_cancel() ----^       or nothing to do
 *
 *   F1  Who changes QUEUED to CLAIMED writes the result and calls api__future_finish(), once.
 *   F2  Two references: the executor's, dropped when it has taken the request off its queue and is
 *       done with it, and the application's (its handle, or the queue of completions).
 *   F3  With `notify`, DONE and the entry in the queue appear together under the queue's mutex.  A
 *       future leaves the queue once: taken, closed, or at the end of the database.  From then on it
 *       is `detached` and never touches the database, so that it may outlive it.
 *   F4  The executor does not let go of a cancelled future before its canceller has settled it:
 *       while an executor has work the database stays, and with it the queue.
 */
#include "api/api_int.h"
#include "base/clock.h"

enum {
    FUTURE_QUEUED = 0,
    FUTURE_CLAIMED,
    FUTURE_DONE
};

/* ---- The queue of completions ---- */

void
api__completions_init(struct api_completions *c)
{
    task_mutex_init(&c->mutex);
    list_init(&c->list);
    c->fd = -1;
}

static void
completions_push_locked(struct api_completions *c, struct ash_future *f)
{
    bool first = list_empty(&c->list);

    list_push_back(&c->list, &f->link);
    f->queued = true;
    atomic_fetch_add_explicit(&c->count, 1, memory_order_relaxed);
    if (first && c->fd >= 0)
        task_event_set(c->fd);
}

static void
completions_remove_locked(struct api_completions *c, struct ash_future *f)
{
    list_remove(&f->link);
    f->queued = false;
    atomic_fetch_sub_explicit(&c->count, 1, memory_order_relaxed);
    if (list_empty(&c->list) && c->fd >= 0 && !PLANTED(390))
        task_event_clear(c->fd);
}

void
api__completions_end(struct api_completions *c)
{
    LIST_FOREACH_SAFE(it, tmp, &c->list) {
        struct ash_future *f = list_entry(it, struct ash_future, link);
        completions_remove_locked(c, f);
        atomic_store(&f->detached, true);
        if (!f->handle)
            api__future_unref(f);
    }
    task_event_close(c->fd);
    c->fd = -1;
}

ash_rc
ash_completion_fd(ash_db *db, int *fd_out)
{
    struct api_completions *c = &db->completions;
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    task_mutex_lock(&c->mutex);
    if (c->fd < 0) {
        rc = task_event_open("the completions of ash_submit()", &c->fd);
        if (rc == ASH_OK && !list_empty(&c->list))
            task_event_set(c->fd);
    }
    if (rc == ASH_OK)
        *fd_out = c->fd;
    task_mutex_unlock(&c->mutex);
    return rc;
}

ash_future *
ash_completion_next(ash_db *db)
{
    struct api_completions *c = &db->completions;
    struct ash_future *f = NULL;

    if (api_check_db(db) != ASH_OK || atomic_load(&c->count) == 0)
        return NULL;
    task_mutex_lock(&c->mutex);
    if (!list_empty(&c->list)) {
        f = list_entry(c->list.next, struct ash_future, link);
        completions_remove_locked(c, f);
        atomic_store(&f->detached, true);
    }
    task_mutex_unlock(&c->mutex);
    return f;
}

/* ---- Futures ---- */

bool
api__future_claim(struct ash_future *f)
{
    uint32_t queued = FUTURE_QUEUED;
    unsigned spins = 0;

    if (atomic_compare_exchange_strong(&f->state, &queued, FUTURE_CLAIMED))
        return true;
    while (!atomic_load(&f->settled)) /* F4: a few instructions */
        task_relax(&spins);
    return false;
}

void
api__future_finish(struct ash_future *f, ash_rc rc)
{
    struct api_completions *c = &f->run.db->completions;

    f->rc = rc;
    if (rc != ASH_OK) {
        err_save(&f->detail);
        if (f->detail.code != rc) { /* not one of ours */
            rc = ash_raise(rc, "The function that was submitted returned %s.", ash_rc_name(rc));
            err_save(&f->detail);
        }
    }
    if (f->notify) {
        task_mutex_lock(&c->mutex);
        atomic_store(&f->state, FUTURE_DONE);
        if (!f->closed)
            completions_push_locked(c, f);
        task_mutex_unlock(&c->mutex);
    } else {
        atomic_store(&f->state, FUTURE_DONE);
    }
    task_wait_wake(&f->waiters); /* the caller holds a reference: the queue is still there */
}

void
api__future_unref(struct ash_future *f)
{
    if (atomic_fetch_sub(&f->refs, 1) == 1)
        mem_free(MEM_API, f);
}

static bool
future_foreign(const struct ash_future *f)
{
    return f->fork_generation != atomic_load_explicit(&task_fork_generation, memory_order_relaxed);
}

static bool
future_wait(struct ash_future *f, uint64_t deadline_ns)
{
    struct task_waiter w;
    bool done;

    task_wait_begin(&f->waiters, &w, 0);
    while (!(done = atomic_load(&f->state) == FUTURE_DONE) && clock_ns() < deadline_ns)
        (void)task_park_until(deadline_ns);
    task_wait_end(&f->waiters, &w);
    return done;
}

ash_rc
ash_future_wait(ash_future *f)
{
    if (future_foreign(f))
        return ash_raise(ASH_MISUSE,
                         "This future was made before a fork(); only the parent process has it.");
    if (atomic_load(&f->state) != FUTURE_DONE)
        (void)future_wait(f, TASK_FOREVER);
    if (f->rc != ASH_OK && !PLANTED(391))
        err_restore(&f->detail);
    return f->rc;
}

bool
ash_future_poll(ash_future *f, uint32_t timeout_ms)
{
    if (future_foreign(f))
        return false;
    if (atomic_load(&f->state) == FUTURE_DONE)
        return true;
    return timeout_ms > 0 && future_wait(f, clock_ns() + timeout_ms * UINT64_C(1000000));
}

bool
ash_future_cancel(ash_future *f)
{
    uint32_t queued = FUTURE_QUEUED;
    struct err_detail before;

    if (future_foreign(f) || !atomic_compare_exchange_strong(&f->state, &queued, FUTURE_CLAIMED))
        return false;
    err_save(&before);
    api__future_finish(f, ash_raise(ASH_CANCELLED, "The function was cancelled before it began."));
    err_restore(&before);
    atomic_store(&f->settled, true); /* the caller's handle keeps it */
    return true;
}

void *
ash_future_arg(const ash_future *f)
{
    return f->run.arg;
}

void
ash_future_close(ash_future *f)
{
    if (f == NULL || future_foreign(f))
        return;
    if (f->notify && !atomic_load(&f->detached)) {
        struct api_completions *c = &f->run.db->completions;
        task_mutex_lock(&c->mutex);
        f->closed = true;
        if (f->queued && !PLANTED(392))
            completions_remove_locked(c, f);
        task_mutex_unlock(&c->mutex);
    }
    api__future_unref(f);
}
