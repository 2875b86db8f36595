/* SPDX-License-Identifier: Apache-2.0
 *
 * option_table.h - every option of the engine.  Included with O() defined;
 * no include guard on purpose.
 */
#define KIB (1024ull)
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define TIB (1024ull * GIB)
/* clang-format off */
O(cache,              OPTION_SIZE, "bytes", 1 * MIB, 16 * TIB, 256 * MIB, false, "", "memory of the whole engine: pages get what log buffer, map, transactions, rings and stacks leave")
O(page_size,          OPTION_SIZE, "bytes", 4 * KIB, 2 * MIB, 4 * KIB, false, "", "page size of new tables (a power of two)")
O(durability,         OPTION_ENUM, "", 0, 2, 0, true, "sync|async|none", "default durability of commits")
O(lock_timeout_ms,    OPTION_INT, "ms", 1, 86400000, 10000, true, "", "longest wait for a row lock")
O(io_backend,         OPTION_ENUM, "", 0, 3, 0, false, "auto|uring|threads|nvme", "how I/O is done; auto takes io_uring where it is allowed, else threads; uring takes it or fails; nvme sends commands past the file system, to a namespace like /dev/ng0n1 in place of the directory")
O(io_scheduler,       OPTION_BOOL, "", 0, 1, 1, false, "", "hold background I/O back where it slows the foreground, and merge adjacent I/O")
O(direct_io,          OPTION_BOOL, "", 0, 1, 1, false, "", "bypass the page cache (O_DIRECT) where the file system can")
O(wal_buffer,         OPTION_SIZE, "bytes", 1 * MIB, 4 * GIB, 32 * MIB, false, "", "log buffer, at most a sixteenth of cache; recent row versions are read from it")
O(wal_segment,        OPTION_SIZE, "bytes", 64 * KIB, 1 * GIB, 64 * MIB, false, "", "size of a log file")
O(wal_writers,        OPTION_INT, "", 1, 8, 2, false, "", "log writes in flight")
O(wal_limit,          OPTION_SIZE, "bytes", 1 * MIB, 16 * TIB, 1 * GIB, true, "", "log length at which checkpoints keep redo short")
O(wal_version_limit,  OPTION_SIZE, "bytes", 1 * MIB, 16 * TIB, 8 * GIB, true, "", "log kept for old snapshots before they become too old")
O(zone_size,          OPTION_SIZE, "bytes", 64 * KIB, 64 * MIB, 8 * MIB, false, "", "allocation unit of data files; fixed when the database is created")
O(executors,          OPTION_INT, "", 0, 1024, 0, false, "", "executor threads for ash_run; 0: one per core")
O(executor_fibers,    OPTION_INT, "", 1, 65536, 128, false, "", "fibers of one executor")
O(executor_queue,     OPTION_INT, "", 1, 1048576, 4096, false, "", "requests that may wait for an executor")
O(page_writers,       OPTION_INT, "", 1, 64, 1, false, "", "tasks that write changed pages back")
O(checkpoint_ms,      OPTION_INT, "ms", 10, 86400000, 10000, true, "", "longest time between checkpoints while there are changes")
/* clang-format on */
#undef KIB
#undef MIB
#undef GIB
#undef TIB
