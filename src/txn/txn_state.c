/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_state.c - the state table (who committed when) and the horizon (what nobody needs any more).
 *
 * Entry points: txn_sees(), txn_writer(), txn_visible_to_all(), txn_horizon().   Read first: txn.h,
 * README.md.
 *
 * How the two lock-free races are decided:
 *   Commit against snapshot (txn.h I1).  The committer stores COMMITTING, then reserves the COMMIT
 *   record's LSN.  A reader took its snapshot S = wal_reserved() before it looks at the state.
 *   Sees ACTIVE: by the total order of the sequentially consistent operations the reservation comes
 *   after S was read, so the commit LSN is >= S: not seen, correctly.  Sees COMMITTING: waits.
 *   Table chunk against recycling.  A chunk is taken out of the ring and cleared for other ids only
 *   after visible_below has passed its own, so a reader who re-reads visible_below after the state
 *   word (or after finding no chunk) either learns that the id is visible to all, or has read a
 *   word that was not cleared.
 */
#include "txn/txn_int.h"

_Atomic uint64_t *
txn__state(struct txn_sys *sys, uint64_t id)
{
    _Atomic uint64_t *chunk =
        atomic_load_explicit(&sys->chunk[id / TXN_CHUNK_IDS % TXN_CHUNKS], memory_order_acquire);

    return chunk == NULL ? NULL : &chunk[id % TXN_CHUNK_IDS];
}

/* A chunk whose ids are all below visible_below, taken out of the ring; NULL: none yet.  The memory
 * cannot be freed, for a reader may have a pointer to it from long ago. */
static _Atomic uint64_t *
txn_chunk_recycle(struct txn_sys *sys, uint64_t number)
{
    uint64_t below = atomic_load(&sys->visible_below) / TXN_CHUNK_IDS;

    if (PLANTED(313)) /* a chunk is taken while its last ids are still looked up */
        below++;
    if (sys->chunk_oldest + TXN_CHUNKS < below) /* those before lie in the same places */
        sys->chunk_oldest = below - TXN_CHUNKS;
    while (sys->chunk_oldest < below && sys->chunk_oldest < number) {
        uint64_t oldest = sys->chunk_oldest++;
        _Atomic(_Atomic uint64_t *) *slot = &sys->chunk[oldest % TXN_CHUNKS];
        _Atomic uint64_t *chunk = atomic_load(slot);
        if (chunk == NULL || atomic_load(&chunk[TXN_CHUNK_IDS]) != oldest)
            continue;
        atomic_store(slot, NULL);
        return chunk;
    }
    return NULL;
}

/* Makes sure that the words of `id` exist and read ACTIVE before the id is handed out.  Chunks
 * serve again when their ids are of no more use; the word TXN_CHUNK_IDS says what a chunk was
 * cleared for. */
static ash_rc
txn_chunk_prepare(struct txn_sys *sys, uint64_t id)
{
    uint64_t number = id / TXN_CHUNK_IDS;
    _Atomic(_Atomic uint64_t *) *slot = &sys->chunk[number % TXN_CHUNKS];
    _Atomic uint64_t *chunk = atomic_load_explicit(slot, memory_order_acquire);

    if (chunk != NULL &&
        atomic_load_explicit(&chunk[TXN_CHUNK_IDS], memory_order_acquire) == number)
        return ASH_OK;
    ash_rc rc = ASH_OK;
    task_mutex_lock(&sys->chunk_mutex);
    chunk = atomic_load(slot);
    if (chunk != NULL && atomic_load(&chunk[TXN_CHUNK_IDS]) >= number)
        goto out;
    if (number < sys->chunk_oldest)
        goto out; /* the caller has slept: ids have gone far beyond it */
    if (chunk == NULL)
        chunk = txn_chunk_recycle(sys, number);
    if (chunk == NULL) {
        chunk = mem_zalloc(MEM_TXN, (TXN_CHUNK_IDS + 1) * sizeof(*chunk));
        if (chunk == NULL) {
            rc = ASH_NO_MEMORY;
            goto out;
        }
    } else {
        uint64_t before = atomic_load(&chunk[TXN_CHUNK_IDS]);
        ash_assert(before < number);
        ash_assert((before + 1) * TXN_CHUNK_IDS <= atomic_load(&sys->visible_below));
        for (unsigned i = 0; i < TXN_CHUNK_IDS; i++)
            atomic_store_explicit(&chunk[i], TXN_STATE_ACTIVE, memory_order_release);
    }
    atomic_store_explicit(&chunk[TXN_CHUNK_IDS], number, memory_order_release);
    atomic_store_explicit(slot, chunk, memory_order_release);
out:
    task_mutex_unlock(&sys->chunk_mutex);
    return rc;
}

ash_rc
txn__id_new(struct txn_sys *sys, uint64_t *id_out)
{
    /* Half a chunk ahead: the ids that other sessions take between here and the fetch_add have
     * their words too. */
    uint64_t near = atomic_load(&sys->next_id);
    if (near - atomic_load(&sys->visible_below) > (uint64_t)(TXN_CHUNKS - 2) * TXN_CHUNK_IDS) {
        txn__horizon_update(sys);
        if (near - atomic_load(&sys->visible_below) > (uint64_t)(TXN_CHUNKS - 2) * TXN_CHUNK_IDS)
            return ash_raise(
                ASH_NO_MEMORY,
                "Too many transactions since the oldest one that is still open; end that one.");
    }
    ash_rc rc = txn_chunk_prepare(sys, near);
    if (rc == ASH_OK)
        rc = txn_chunk_prepare(sys, near + TXN_CHUNK_IDS / 2);
    if (rc != ASH_OK)
        return rc;
    uint64_t id = atomic_fetch_add(&sys->next_id, 1);
    ash_assert(txn__state(sys, id) != NULL && atomic_load(txn__state(sys, id)) == TXN_STATE_ACTIVE);
    *id_out = id;
    return ASH_OK;
}

ash_rc
txn__state_range(struct txn_sys *sys, uint64_t first, uint64_t end, uint64_t state)
{
    for (uint64_t id = first; id < end; id++) {
        ash_rc rc = txn_chunk_prepare(sys, id);
        if (rc != ASH_OK)
            return rc;
        atomic_store(txn__state(sys, id), state);
    }
    return ASH_OK;
}

/* The state of `id`, waiting out COMMITTING.  TXN_STATE_SEEN_BY_ALL when it is below visible_below.
 * */
static uint64_t
txn_state_settled(struct txn_sys *sys, uint64_t id)
{
    unsigned spins = 0;

    for (;;) {
        if (id < atomic_load_explicit(&sys->visible_below, memory_order_acquire))
            return TXN_STATE_SEEN_BY_ALL;
        _Atomic uint64_t *word = txn__state(sys, id);
        if (word == NULL && id < atomic_load_explicit(&sys->visible_below, memory_order_acquire))
            return TXN_STATE_SEEN_BY_ALL; /* its chunk was taken meanwhile */
        if (word == NULL)
            /* an id from the future: only garbage read optimistically; the caller will validate */
            return TXN_STATE_ACTIVE;
        uint64_t state = atomic_load(word);
        if (state == TXN_STATE_COMMITTING) {
            task_relax(&spins);
            continue;
        }
        if (id < atomic_load_explicit(&sys->visible_below, memory_order_acquire))
            return TXN_STATE_SEEN_BY_ALL;
        return state;
    }
}

bool
txn_sees(struct txn *t, uint64_t writer)
{
    uint64_t state = txn_state_settled(t->sys, writer);

    if (state == TXN_STATE_SEEN_BY_ALL)
        return true;
    if (state < WAL_LSN_FIRST || txn__undone(state))
        return false; /* active, or rolled back */
    if (PLANTED(100) ? state > atomic_load_explicit(&t->snapshot, memory_order_relaxed) + 4096
                     : state >= atomic_load_explicit(&t->snapshot, memory_order_relaxed))
        return false;
    if (state + WAL_RECORD_ALIGN > t->depends && state >= wal_durable(t->sys->wal))
        t->depends = state + WAL_RECORD_ALIGN;
    return true;
}

enum txn_writer_state
txn_writer(struct txn *t, uint64_t writer)
{
    if (writer == atomic_load_explicit(&t->id, memory_order_relaxed))
        return TXN_WRITER_SELF;
    if (writer < atomic_load_explicit(&t->sys->visible_below, memory_order_acquire))
        return TXN_WRITER_SEEN;
    _Atomic uint64_t *word = txn__state(t->sys, writer);
    uint64_t state = word == NULL ? TXN_STATE_ACTIVE : atomic_load(word);
    if (writer < atomic_load_explicit(&t->sys->visible_below, memory_order_acquire))
        return TXN_WRITER_SEEN;
    if (state == TXN_STATE_ACTIVE || state == TXN_STATE_COMMITTING)
        return TXN_WRITER_ACTIVE; /* committing: txn_wait() returns after a few turns */
    if (state < WAL_LSN_FIRST || txn__undone(state) || t->autocommit ||
        t->isolation == ASH_READ_COMMITTED)
        return TXN_WRITER_SEEN;
    if (state < atomic_load_explicit(&t->snapshot, memory_order_relaxed) || PLANTED(101))
        return TXN_WRITER_SEEN;
    counter_add(&t->sys->conflicts, 1);
    return TXN_WRITER_NEWER;
}

/* A commit whose rows are shown from now on without a look at their writer: who reads them depends
 * on it all the same (txn_commit_clean()). */
static void
txn_shown(struct txn_sys *sys, uint64_t commit_lsn)
{
    uint64_t end = commit_lsn + WAL_RECORD_ALIGN;
    uint64_t was = atomic_load_explicit(&sys->shown_below, memory_order_relaxed);

    while (was < end && !atomic_compare_exchange_weak(&sys->shown_below, &was, end))
        ;
}

bool
txn_visible_to_all(struct txn_sys *sys, uint64_t writer)
{
    if (writer < atomic_load_explicit(&sys->visible_below, memory_order_acquire))
        return true;
    _Atomic uint64_t *word = txn__state(sys, writer);
    if (word == NULL)
        return writer < atomic_load_explicit(&sys->visible_below, memory_order_acquire);
    uint64_t state = atomic_load(word);
    if (writer < atomic_load_explicit(&sys->visible_below, memory_order_acquire))
        return true;
    if (state < WAL_LSN_FIRST || txn__undone(state) ||
        state >= atomic_load_explicit(&sys->horizon, memory_order_acquire))
        return false;
    txn_shown(sys, state);
    return true;
}

_Atomic uint64_t *
txn_visible_below_ptr(struct txn_sys *sys)
{
    return &sys->visible_below;
}

/* Counts the log kept for one snapshot; gives the snapshot up when it is too much, or when the ids
 * since then no longer fit the table. */
static void
txn_kill_if_too_old(struct txn_sys *sys, struct txn *t, uint64_t reserved)
{
    uint64_t snapshot = atomic_load(&t->snapshot);
    uint64_t retain = atomic_load(&t->retain); /* of this snapshot or a newer one: txn_refresh() */

    if (snapshot <= TXN_SNAPSHOT_PENDING || atomic_load(&t->first_lsn) != 0)
        return;
    bool ids_spent = atomic_load(&sys->next_id) - atomic_load(&sys->visible_below) >
                     (uint64_t)(TXN_CHUNKS - 2) * TXN_CHUNK_IDS;
    /* Log that an open writer needs is kept anyway: giving the snapshot up would not free it. */
    bool keeps = retain < atomic_load(&sys->active_low);
    bool spent = ids_spent && snapshot <= atomic_load(&sys->horizon);
    bool long_ago = keeps && retain < reserved &&
                    reserved - retain > atomic_load(&sys->version_limit);
    if (!long_ago && !spent)
        return;
    task_point();
    atomic_store(&t->killed, PLANTED(328) ? atomic_load(&t->snapshot) : snapshot);
}

struct txn_low {
    uint64_t horizon, active_low;
};

/* The lowest snapshot and first LSN in use.  Reads `reserved` first: whoever takes a snapshot or
 * begins to write after the scan has passed it gets a value at or above that (both sides are
 * sequentially consistent: mark, then read the log's clock). */
static struct txn_low
txn_scan(struct txn_sys *sys)
{
    uint64_t reserved = wal_reserved(sys->wal);
    struct txn_low low = { reserved, reserved };
    uint64_t horizon_was = atomic_load(&sys->horizon);
    uint64_t active_was = atomic_load(&sys->active_low);

    LIST_FOREACH(it, &sys->attached) {
        struct txn_private *priv = list_entry(it, struct txn_private, link);
        struct txn *t = ((struct txn *)(void *)priv) - 1; /* allocated together: txn_attach() */
        txn_kill_if_too_old(sys, t, reserved);
        uint64_t first = atomic_load(&t->first_lsn);
        if (first == TXN_FIRST_LSN_PENDING)
            first = active_was;
        if (first != 0) {
            low.active_low = first < low.active_low ? first : low.active_low;
            low.horizon = first < low.horizon ? first : low.horizon;
        }
        uint64_t snapshot = atomic_load(&t->snapshot);
        /* Whoever has begun to write finishes his statement, inside a tree that the snapshot keeps:
         * marks, then looks whether he was given up, as we give up, then look for the mark. */
        bool writes = first != 0 && !PLANTED(398);
        if (snapshot == 0 || (snapshot == atomic_load(&t->killed) && !writes))
            continue;
        if (snapshot == TXN_SNAPSHOT_PENDING)
            snapshot = horizon_was;
        low.horizon = snapshot < low.horizon ? snapshot : low.horizon;
    }
    return low;
}

static void
txn_advance_visible(struct txn_sys *sys, uint64_t horizon)
{
    uint64_t id = atomic_load(&sys->visible_below);
    uint64_t end = atomic_load(&sys->next_id), last = 0;

    for (; id < end; id++) {
        _Atomic uint64_t *word = txn__state(sys, id);
        if (word == NULL)
            break; /* handed out, its chunk not made yet */
        uint64_t state = atomic_load(word);
        if (state == TXN_STATE_ACTIVE || state == TXN_STATE_COMMITTING)
            break;
        if (state >= WAL_LSN_FIRST && state >= horizon)
            break;
        if (state >= WAL_LSN_FIRST && !txn__undone(state) && state > last)
            last = state;
    }
    if (last != 0)
        txn_shown(sys, last);
    atomic_store(&sys->visible_below, id);
}

void
txn__horizon_update(struct txn_sys *sys)
{
    if (!task_mutex_trylock(&sys->attach_mutex))
        return; /* someone is at it */
    struct txn_low low = txn_scan(sys);
    if (low.active_low > atomic_load(&sys->active_low))
        atomic_store(&sys->active_low, low.active_low);
    if (low.horizon > atomic_load(&sys->horizon))
        atomic_store(&sys->horizon, low.horizon);
    txn_advance_visible(sys, atomic_load(&sys->horizon));
    task_mutex_unlock(&sys->attach_mutex);
}

void
txn_move_horizon(struct txn_sys *sys)
{
    txn__horizon_update(sys);
}

uint64_t
txn_horizon(struct txn_sys *sys)
{
    return atomic_load_explicit(&sys->horizon, memory_order_acquire);
}

/* Lowest first LSN of an open writer, UINT64_MAX when there is none; exact enough for a checkpoint:
 * a writer that begins meanwhile has its first record above the checkpoint's scan position. */
uint64_t
txn__oldest_first_lsn(struct txn_sys *sys)
{
    uint64_t low = UINT64_MAX;

    task_mutex_lock(&sys->attach_mutex);
    LIST_FOREACH(it, &sys->attached) {
        struct txn_private *priv = list_entry(it, struct txn_private, link);
        struct txn *t = ((struct txn *)(void *)priv) - 1;
        uint64_t first = atomic_load(&t->first_lsn);
        if (first == TXN_FIRST_LSN_PENDING)
            first = atomic_load(&sys->active_low);
        if (first != 0 && first < low)
            low = first;
    }
    task_mutex_unlock(&sys->attach_mutex);
    return low;
}
