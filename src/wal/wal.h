/* SPDX-License-Identifier: Apache-2.0
 *
 * wal.h - the write-ahead log: one stream of records, appended in parallel, written in groups.
 *
 * Invariants:
 *   I1  durable <= cut <= ready <= reserved; each only grows.  reserved: end of what has been
 *       handed out; ready: end of the contiguous prefix that is copied in; cut: end of what is in
 *       written or in-flight blocks; durable: everything below survives a power cut.
 *   I2  A block is written once.  A file position that held a durable block is not written before
 *       its segment is recycled.
 *   I3  A segment is recycled only when wal_truncate() has passed its end.
 *   I4  The log buffer holds [reserved - buffer size, reserved) at least; a reservation waits until
 *       what it overwrites is durable.
 *   I5  After a failed log write nothing becomes durable any more: waiters get ASH_POISONED or
 * ASH_IO. No function here takes a page latch, so a task may append and wait for room while it
 * holds latches.
 */
#ifndef ASH_WAL_H
#define ASH_WAL_H

#include <ashlar.h>

#include "storage/io.h"
#include "task/task.h"
#include "wal/wal_format.h"

struct wal;

struct wal_options {
    struct io *io;
    struct io_dir *dir; /* of the segments */
    struct task_runtime *rt;
    uint64_t buffer_bytes;  /* power of two, >= 4 * WAL_RECORD_MAX (1 MiB) */
    uint64_t segment_bytes; /* multiple of 4096, >= 64 KiB */
    unsigned writers;       /* blocks in flight, 1..8 */
    uint8_t uuid[16];
    uint32_t epoch; /* of this life: larger than any before */
    /* Makes and writes no file: reserved = durable = at->lsn for ever, wal_append() fails with
     * ASH_READ_ONLY, wal_read() works. */
    bool read_only;
};

/* Where a log ends or begins. */
struct wal_position {
    uint64_t lsn;
    /* number of the segment that holds the block with `lsn` (or the next one to be made) */
    uint64_t segment;
};

/* Starts writing at `at->lsn` in a fresh segment number >= at->segment; `live` lists the segments
 * still needed below (from wal_reader) so that wal_read() finds older records and truncation
 * recycles them; NULL for a new database. Starts the background writer task. */
struct wal_segments; /* index of live segments: lsn ranges and block positions */
ASH_MUST_CHECK ash_rc wal_open(const struct wal_options *options, const struct wal_position *at,
                               struct wal_segments *live, struct wal **out);
/* Flushes everything, stops the tasks.  After a poisoning it only stops. */
ASH_MUST_CHECK ash_rc wal_close(struct wal *wal);

struct wal_part {
    const void *data;
    uint32_t size;
};

/* Appends one record made of `count` parts, the first of which begins with its struct
 * wal_record_head (size filled in).  Copies before it returns; readable at once by wal_read().  May
 * wait for room in the buffer.  Fails only when the log is poisoned. *end_out = *start_out + padded
 * size: the page LSN to stamp, and what to wait for. On a full disk it waits while the buffer is
 * full; after some ten seconds it gives up, and that poisons the log: call wal_room() before
 * beginning what must be logged. */
ASH_MUST_CHECK ash_rc wal_append(struct wal *wal, const struct wal_part *parts, unsigned count,
                                 uint64_t *start_out, uint64_t *end_out);

/* ASH_NO_SPACE (or ASH_NO_MEMORY) when the next segment could not be made: refuse new work now, while
 * the current segment still has room for commits, rollbacks and a checkpoint.  Each call makes
 * another attempt, unless one failed less than 100 ms ago: so work goes on by itself when there is
 * space again.  One load when all is well; may park otherwise. */
ASH_MUST_CHECK ash_rc wal_room(struct wal *wal);
/* The same, but only when what is logged already, a commit and `bytes` more would not fit the rest of
 * the current segment: before a commit, and before each step of background work, which would append
 * again and again. */
ASH_MUST_CHECK ash_rc wal_room_for(struct wal *wal, uint64_t bytes);
/* The last attempt to make a segment failed.  Does not block. */
bool wal_full(const struct wal *wal);

/* sequentially consistent load: the clock of snapshots */
uint64_t wal_reserved(const struct wal *wal);
uint64_t wal_durable(const struct wal *wal);

/* Waits until durable >= lsn.  When fewer than `writers` blocks are in flight the caller writes a
 * block itself (no thread switch between commit and disk); otherwise it joins the next group.
 * ASH_NO_SPACE: the disk is full; nothing is poisoned, the records stay in the log and become
 * durable when there is space again (not yet durable is all that this says).  Parks. */
ASH_MUST_CHECK ash_rc wal_flush_to(struct wal *wal, uint64_t lsn);
/* Asks the background writer to make everything up to `lsn` durable soon (within 10 ms); does not
 * park. */
void wal_flush_async(struct wal *wal, uint64_t lsn);
/* fn(cb, rc) once durable >= lsn, or failed (rc as wal_flush_to would say); written without delay.
 * Called from the background writer, at the latest by wal_close(); must not park. cb is the
 * caller's until then. */
struct wal_callback {
    struct wal_callback *next;
    uint64_t lsn;
    void (*fn)(struct wal_callback *cb, ash_rc rc);
};
void wal_on_durable(struct wal *wal, struct wal_callback *cb);

/* Copies the record at `lsn` into buf (head first), from the log buffer or from its segment.
 * *size_out = its size; ASH_TOO_LARGE with the needed size in *size_out when `capacity` is too
 * small; ASH_SNAPSHOT_TOO_OLD when it was truncated away.  Parks. Safe against concurrent appends.
 * Cheap when the record is in the buffer. */
ASH_MUST_CHECK ash_rc wal_read(struct wal *wal, uint64_t lsn, void *buf, uint32_t capacity,
                               uint32_t *size_out);
/* The same when it needs no I/O, else ASH_WOULD_BLOCK: may be called under a latch. */
ASH_MUST_CHECK ash_rc wal_read_nowait(struct wal *wal, uint64_t lsn, void *buf, uint32_t capacity,
                                      uint32_t *size_out);

/* Records below `lsn` are not needed any more: whole segments below are recycled. */
ASH_MUST_CHECK ash_rc wal_truncate(struct wal *wal, uint64_t lsn);
uint64_t wal_oldest(const struct wal *wal);               /* first LSN still readable */
void wal_tell(struct wal *wal, struct wal_position *out); /* position of the next block */
/* number of the segment that holds (or will hold) lsn: a hint for wal_reader_open */
uint64_t wal_segment_of(struct wal *wal, uint64_t lsn);

struct wal_stats {
    uint64_t records, bytes, blocks, block_bytes, flush_waits, reads_buffer, reads_disk, segments,
        recycled;
};
void wal_stats(const struct wal *wal, struct wal_stats *out);

/* Is there any segment or spare? */
ASH_MUST_CHECK ash_rc wal_look(struct io_dir *dir, bool *exists_out);

/* Removes every segment and spare: for a database whose creation was interrupted. */
ASH_MUST_CHECK ash_rc wal_remove_all(struct io *io, struct io_dir *dir);

/* ---- Reading a log from disk: recovery, verify, inspect ---- */

struct wal_reader;

/* Reads from the record that begins at `from->lsn`, which was durable; from->segment is a hint (0:
 * search).  Only reads.  What lies below the segment of from->lsn is not needed any more: a
 * wal_open() with this reader's segments recycles it. */
ASH_MUST_CHECK ash_rc wal_reader_open(struct io *io, struct io_dir *dir, const uint8_t uuid[16],
                                      const struct wal_position *from, struct wal_reader **out);

struct wal_record {
    uint64_t start, end;                /* LSNs; end of the padded record */
    const struct wal_record_head *head; /* whole record in memory, valid until the next call */
    const uint8_t *undo;                /* ROW: undo part of undo_size bytes, else NULL */
    uint32_t undo_size;
};

/* ASH_OK; ASH_NOT_FOUND at the end of the log (a torn tail is the end); ASH_CORRUPT for damage
 * below what was durable, naming segment and offset.  Every length is checked before use. */
ASH_MUST_CHECK ash_rc wal_reader_next(struct wal_reader *r, struct wal_record *out);
/* Says that everything below `lsn` is known to be durable (from the superblock): a log that ends
 * before is ASH_CORRUPT. */
void wal_reader_require(struct wal_reader *r, uint64_t lsn);
/* After the end: where the next life starts, the highest epoch seen, and the live segments for
 * wal_open() (given away). */
void wal_reader_end(struct wal_reader *r, struct wal_position *next_out, uint32_t *epoch_out,
                    struct wal_segments **live_out);
/* Where the block holding the current record lies, for messages: file name and offset. */
void wal_reader_where(const struct wal_reader *r, const char **file_out, uint64_t *offset_out);
void wal_reader_close(struct wal_reader *r);
void wal_segments_free(struct wal_segments *s);

/* Validates one record image (fuzz target): sizes, types, changes all inside `size`. */
ASH_MUST_CHECK ash_rc wal_record_check(const void *record, uint32_t size);

/* Checks the image of a record that starts at LSN `start`, e.g. from wal_read(), and describes it.
 * */
ASH_MUST_CHECK ash_rc wal_record_open(const void *image, uint32_t size, uint64_t start,
                                      struct wal_record *out);
/* Walks the head and the blocks of a segment image (fuzz target); *end_out: the LSN after its last
 * good block. */
ASH_MUST_CHECK ash_rc wal_segment_check(const void *bytes, size_t size, const uint8_t uuid[16],
                                        uint64_t *end_out);

/* Walks the page changes of a checked record: `*pos` starts at 0; false after the last. */
struct wal_change {
    const struct wal_change_head *head;
    const uint8_t *payload;
};
bool wal_record_change(const struct wal_record *rec, uint32_t *pos, struct wal_change *out);

#endif
