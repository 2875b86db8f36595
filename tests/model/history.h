/* SPDX-License-Identifier: Apache-2.0
 *
 * history.h - what concurrent sessions did and saw, and the check that it is snapshot isolation.
 *
 * Each session writes its own list of operations while it runs, without any lock: nothing here
 * orders what the engine does. The engine's clock is its log, and the tests can read it: a
 * transaction's snapshot, and where its COMMIT record ends.  So when all have finished,
 * history_check() knows the order of commits and looks at every single result:
 *
 *   H1  A read gives the transaction's own last write, else the version that its snapshot sees.
 *   H2  A scan gives exactly the rows that H1 says, in key order, both ways.
 *   H3  No lost update: between a transaction's snapshot and its commit nobody else committed a row
 *       that it wrote.
 *   H4  A conflict is reported only for a row that somebody else committed after the snapshot.
 *   H5  EXISTS and NOT_FOUND agree with what the transaction may see.
 *   H6  The database at the end is the newest version of each row (a scan by a fresh snapshot).
 *
 * Where a commit's place in the log is not known exactly (autocommit, ash_commit), an interval
 * stands for it: every answer that some place in the interval allows is accepted.
 */
#ifndef ASH_TESTS_HISTORY_H
#define ASH_TESTS_HISTORY_H

#include <ashlar.h>

enum history_kind {
    HISTORY_BEGIN = 1, /* snapshot; flag: read committed */
    HISTORY_COMMIT,    /* lo, hi: where its record ends; rc */
    HISTORY_ROLLBACK,
    HISTORY_SAVEPOINT,   /* value: its number */
    HISTORY_ROLLBACK_TO, /* value: its number */
    HISTORY_GET,         /* key, value seen (0: absent), snapshot, hi */
    HISTORY_GET_NEWEST,  /* get_for_update */
    HISTORY_PUT,
    HISTORY_INSERT,
    HISTORY_UPDATE,
    HISTORY_DELETE,
    /* opened: key = first of range, value = end of range (indexes), flag: reverse */
    HISTORY_CURSOR,
    HISTORY_SEEK,     /* key index: the first at or after / at or before */
    HISTORY_STEP,     /* flag: forward in key order; key seen, value; rc NOT_FOUND: none */
    HISTORY_KEYS_STEP /* the same, the value was not read */
};

struct history_op {
    uint8_t kind;
    uint8_t rc;
    bool autocommit;
    bool flag;
    uint32_t key;
    uint64_t value;    /* hash of the bytes, never 0 for a row that exists */
    uint64_t snapshot; /* 0: that of the transaction, or of none */
    uint64_t lo, hi;   /* the log when the call began and when it had returned */
};

struct history_log {
    struct history_op *op;
    uint32_t count, room;
    uint32_t session;
};
struct history_op *history_add(struct history_log *log, enum history_kind kind);
void history_free(struct history_log *log);

/* Checks the lists of `count` sessions over `keys` rows that held base[] (hashes, 0: absent)
 * before, and changes base[] to what they hold after.  Returns false and prints what is wrong. */
bool history_check(const struct history_log *logs, uint32_t count, uint64_t *base, uint32_t keys);

#endif
