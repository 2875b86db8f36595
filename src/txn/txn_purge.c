/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_purge.c - what a commit leaves behind: pages of replaced large values, deleted rows.  Freed
 * once nobody can see them.
 *
 * Garbage pages are remembered until they are freed: here, in checkpoints (txn_recover.c) and by
 * the log.  Hints about deleted rows are only hints: a lost one costs space until the leaf is
 * written again.
 */
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "txn/txn_int.h"

#define TXN_PURGE_BATCH 64u
#define TXN_PURGE_WAIT_NS \
    20000000u /* 20 ms: latency of space reclaim while there is something to do */
#define TXN_PURGE_IDLE_NS   1000000000u
#define TXN_PURGE_INSIDE_NS 200000u /* txn_forget_tree(): until the purge task has left one leaf */

ash_rc
txn__garbage_push(struct txn_garbage **list, uint32_t *count, uint32_t *capacity,
                  const struct txn_garbage *g)
{
    if (*count == *capacity) {
        uint32_t larger = *capacity == 0 ? 8 : *capacity * 2;
        struct txn_garbage *p = mem_realloc(MEM_TXN, *list, larger * sizeof(*p));
        if (p == NULL)
            return ASH_NO_MEMORY;
        *list = p;
        *capacity = larger;
    }
    (*list)[(*count)++] = *g;
    return ASH_OK;
}

/* Undone changes leave no garbage: drops what records above `lsn` had left. */
void
txn__garbage_drop_above(struct txn_garbage *list, uint32_t *count, uint64_t lsn)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < *count; i++)
        if (list[i].lsn <= lsn)
            list[kept++] = list[i];
    *count = kept;
}

/* Called after txn_logged() of the change.  Without memory the pages are lost until the next
 * restart, which finds them in the log if it is still there; that is a leak of space, never of
 * data. */
void
txn_add_garbage(struct txn *t, uint32_t tree, const uint64_t *pages, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct txn_garbage g = { .page = pages[i], .lsn = t->priv->logged, .tree = tree };
        ash_ignore(txn__garbage_push(&t->priv->garbage, &t->priv->garbage_count,
                                     &t->priv->garbage_capacity, &g));
    }
}

void
txn_add_purge(struct txn *t, uint32_t tree, uint64_t root, uint8_t leaf_class, struct ash_slice key)
{
    if (t->priv->purge_count >= TXN_PURGE_PER_TXN)
        return;
    struct txn_purge_hint *h = mem_alloc(MEM_TXN, sizeof(*h) + key.size);
    if (h == NULL)
        return; /* only a hint */
    h->root = root;
    h->tree = tree;
    h->leaf_class = leaf_class;
    h->key_size = (uint16_t)key.size;
    if (key.size != 0)
        memcpy(h->key, key.data, key.size);
    h->next = t->priv->purge;
    t->priv->purge = h;
    t->priv->purge_count++;
}

void
txn__purge_clear(struct txn *t)
{
    while (t->priv->purge != NULL) {
        struct txn_purge_hint *next = t->priv->purge->next;
        mem_free(MEM_TXN, t->priv->purge);
        t->priv->purge = next;
    }
    t->priv->purge_count = 0;
}

static void
txn_pending_count(struct txn_sys *sys)
{
    atomic_store(&sys->pending, sys->garbage_count + sys->purge_count);
}

/* Moves a committed transaction's leftovers to the system's lists. */
void
txn__pending_take(struct txn *t, uint64_t commit_lsn)
{
    struct txn_sys *sys = t->sys;
    struct txn_private *priv = t->priv;

    if (priv->garbage_count == 0 && priv->purge == NULL)
        return;
    task_mutex_lock(&sys->pending_mutex);
    for (uint32_t i = 0; i < priv->garbage_count; i++) {
        struct txn_garbage g = priv->garbage[i];
        g.lsn = commit_lsn;
        ash_ignore(txn__garbage_push(&sys->garbage, &sys->garbage_count, &sys->garbage_capacity,
                                     &g)); /* see txn_add_garbage */
    }
    while (priv->purge != NULL && sys->purge_count < TXN_PURGE_MAX) {
        struct txn_purge_hint *h = priv->purge;
        priv->purge = h->next;
        h->next = NULL;
        h->lsn = commit_lsn;
        *sys->purge_tail = h;
        sys->purge_tail = &h->next;
        sys->purge_count++;
    }
    txn_pending_count(sys);
    task_mutex_unlock(&sys->pending_mutex);
    priv->garbage_count = 0;
    txn__purge_clear(t);
}

bool
txn_is_garbage(struct txn_sys *sys, uint64_t page)
{
    bool found = false;

    task_mutex_lock(&sys->pending_mutex);
    for (uint32_t i = 0; i < sys->garbage_count && !found; i++)
        found = sys->garbage[i].page == page;
    task_mutex_unlock(&sys->pending_mutex);
    return found;
}

/* Takes the first `freed` of the busy entries off the list; the others are garbage as before. */
static void
txn_garbage_freed(struct txn_sys *sys, unsigned freed)
{
    uint32_t kept = 0, busy = 0;

    for (uint32_t i = 0; i < sys->garbage_count; i++) {
        struct txn_garbage g = sys->garbage[i];
        if (g.busy && busy++ < freed)
            continue;
        g.busy = false;
        sys->garbage[kept++] = g;
    }
    sys->garbage_count = kept;
    sys->freeing_since = 0;
    txn_pending_count(sys);
}

/* Frees pending pages below the horizon, in batches of one tree.  They stay on the list meanwhile:
 * a checkpoint that is taken between must know them, since the record that frees them may be lost
 * in a crash, and must not begin restart's reading behind that record, or they would be freed
 * twice. */
static ash_rc
txn_purge_garbage(struct txn_sys *sys, bool *more_out)
{
    uint64_t pages[TXN_PURGE_BATCH];
    unsigned count = 0, freed = 0;
    uint32_t tree = 0;
    uint64_t horizon = txn_horizon(sys);

    task_mutex_lock(&sys->pending_mutex);
    for (uint32_t i = 0; i < sys->garbage_count && count < TXN_PURGE_BATCH; i++) {
        struct txn_garbage *g = &sys->garbage[i];
        bool due = g->lsn < horizon || PLANTED(106);
        if (due && (count == 0 || g->tree == tree)) {
            tree = g->tree;
            g->busy = true;
            pages[count++] = g->page;
        }
    }
    sys->freeing_since = count == 0 ? 0 : wal_reserved(sys->wal);
    task_mutex_unlock(&sys->pending_mutex);
    *more_out = count != 0;
    if (count == 0)
        return ASH_OK;
    ash_rc rc = sys->ops.free_pages(sys->ops.ctx, tree, pages, count, &freed);
    if (rc == ASH_CORRUPT && freed < count && !PLANTED(327)) {
        /* One damaged page must not hold up all that waits behind it. */
        log_write(LOG_WARN, "Page %llu of tree %u stays allocated, its space is lost: %s",
                  (unsigned long long)pages[freed], tree, err_current()->message);
        freed++;
        rc = ASH_OK;
    }
    task_mutex_lock(&sys->pending_mutex);
    txn_garbage_freed(sys, freed);
    task_mutex_unlock(&sys->pending_mutex);
    return rc;
}

static struct txn_purge_hint *
txn_purge_pop(struct txn_sys *sys)
{
    struct txn_purge_hint *h = NULL;

    task_mutex_lock(&sys->pending_mutex);
    if (sys->purge_head != NULL && sys->purge_head->lsn < txn_horizon(sys)) {
        h = sys->purge_head;
        sys->purge_head = h->next;
        if (sys->purge_head == NULL)
            sys->purge_tail = &sys->purge_head;
        sys->purge_count--;
        sys->purging = h->tree;
        txn_pending_count(sys);
    }
    task_mutex_unlock(&sys->pending_mutex);
    return h;
}

/* Only hints: pages that wait as garbage are no part of the tree's structure and are freed as ever.
 * No new hint comes: a commit hands its hints over before it lets the horizon pass. */
void
txn_forget_tree(struct txn_sys *sys, uint32_t tree)
{
    bool inside;

    do {
        task_mutex_lock(&sys->pending_mutex);
        struct txn_purge_hint **at = &sys->purge_head;
        while (*at != NULL && !PLANTED(112)) {
            struct txn_purge_hint *h = *at;
            if (h->tree != tree) {
                at = &h->next;
                continue;
            }
            *at = h->next;
            sys->purge_count--;
            mem_free(MEM_TXN, h);
        }
        if (!PLANTED(112))
            sys->purge_tail = at;
        txn_pending_count(sys);
        inside = sys->purging == tree;
        task_mutex_unlock(&sys->pending_mutex);
        if (inside)
            task_sleep_ns(TXN_PURGE_INSIDE_NS);
    } while (inside);
}

/* On a full disk what is left of the log is for those who wait for an answer. */
static bool
txn_purge_may_go_on(struct txn_sys *sys, ash_rc *rc)
{
    if (*rc == ASH_OK && !PLANTED(403))
        *rc = wal_room_for(sys->wal, 0);
    return *rc == ASH_OK && !atomic_load(&sys->stopping);
}

/* One pass over everything that is due. */
ash_rc
txn__purge_round(struct txn_sys *sys)
{
    ash_rc rc = ASH_OK;
    bool more = true;

    txn__horizon_update(sys);
    while (more && txn_purge_may_go_on(sys, &rc))
        rc = txn_purge_garbage(sys, &more);
    struct txn_purge_hint *h;
    while (txn_purge_may_go_on(sys, &rc) && (h = txn_purge_pop(sys)) != NULL) {
        rc = sys->ops.purge(sys->ops.ctx, h->tree, h->root, h->leaf_class, h->key, h->key_size);
        task_mutex_lock(&sys->pending_mutex);
        sys->purging = 0;
        task_mutex_unlock(&sys->pending_mutex);
        mem_free(MEM_TXN, h);
        counter_add(&sys->purged, 1);
        task_point();
    }
    return rc;
}

static void
txn_purge_main(void *arg)
{
    struct txn_sys *sys = arg;
    bool sim = task_runtime_is_sim(sys->rt);

    while (!atomic_load(&sys->stopping)) {
        ash_rc rc = txn__purge_round(sys);
        if (rc == ASH_POISONED || rc == ASH_IO || rc == ASH_CORRUPT)
            atomic_fetch_add(&sys->purge_failures,
                             1); /* foreground calls meet and report the cause */
        atomic_store(&sys->purger_parked, true);
        if (sim) {
            if (!atomic_load(&sys->stopping))
                /* poked at every transaction's end while something is pending: no timers in
                 * simulation */
                task_park();
        } else {
            task_park_until(clock_ns() + (atomic_load(&sys->pending) != 0 ? TXN_PURGE_WAIT_NS
                                                                          : TXN_PURGE_IDLE_NS));
        }
        atomic_store(&sys->purger_parked, false);
    }
}

/* In simulation every end of a transaction wakes the purge task; otherwise its own timer does, and
 * only a long queue hurries it. */
void
txn__purge_poke(struct txn_sys *sys)
{
    if (sys->purger == NULL || !atomic_load(&sys->purger_parked))
        return;
    if (task_runtime_is_sim(sys->rt) || atomic_load(&sys->pending) > TXN_PURGE_MAX / 8)
        task_unpark(sys->purger);
}

ash_rc
txn__purge_start(struct txn_sys *sys)
{
    return task_spawn(sys->rt, "purge", txn_purge_main, sys, &sys->purger);
}
