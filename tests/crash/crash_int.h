/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_int.h - the calls that crash_script.c is made of.  Each returns false when the script must
 * stop (an injected fault).
 */
#ifndef ASH_TESTS_CRASH_INT_H
#define ASH_TESTS_CRASH_INT_H

#include "tests/crash/crash_world.h"

struct crash_savepoint {
    uint64_t number;
    uint32_t own_count;
};

bool crash__failed(struct crash_actor *a, ash_rc rc);
bool crash_begin(struct crash_actor *a, enum ash_durability durability);
/* Outside a transaction these are commits of their own.  A conflict (several sessions) rolls back:
 * see a->in_txn. */
bool crash_put(struct crash_actor *a, uint32_t table, uint32_t key, uint32_t size);
bool crash_delete(struct crash_actor *a, uint32_t table, uint32_t key);
bool crash_commit(struct crash_actor *a);
bool crash_commit_ticket(struct crash_actor *a, bool wait);
bool crash_rollback(struct crash_actor *a);
bool crash_savepoint(struct crash_actor *a, struct crash_savepoint *out);
bool crash_rollback_to(struct crash_actor *a, const struct crash_savepoint *sp);
bool crash_checkpoint(struct crash_actor *a);
bool crash_create(struct crash_actor *a, uint32_t table, uint32_t page_size);
bool crash_drop(struct crash_actor *a, uint32_t table);
bool crash_reopen_table(struct crash_actor *a, uint32_t table, bool exists);
bool crash_bulk(struct crash_actor *a, uint32_t table, uint32_t count, uint32_t size);

#endif
