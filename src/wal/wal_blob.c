/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_blob.c - a growing byte string, for what a checkpoint holds.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"
#include "wal/wal_checkpoint_format.h"
#include "wal/wal_recover.h"

ash_rc
wal_blob_add(struct wal_blob *b, const void *data, size_t size)
{
    if (size > CHECKPOINT_BYTES_MAX - b->size)
        return ash_raise(ASH_TOO_LARGE, "A checkpoint of more than %llu bytes is not possible.",
                         (unsigned long long)CHECKPOINT_BYTES_MAX);
    if (size > b->capacity - b->size) {
        size_t capacity = max_u64(b->size + size, max_u64(256, b->capacity * 2));
        uint8_t *data_new = mem_realloc(MEM_WAL, b->data, capacity);
        if (data_new == NULL)
            return ASH_NO_MEMORY;
        b->data = data_new;
        b->capacity = capacity;
    }
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
    return ASH_OK;
}

void
wal_blob_free(struct wal_blob *b)
{
    mem_free(MEM_WAL, b->data);
    *b = (struct wal_blob){ 0 };
}
