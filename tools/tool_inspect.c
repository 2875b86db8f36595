/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_inspect.c - inspect: a page, log records, zones, as text.  Looks beneath the public interface.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "btree/btree.h"
#include "buffer/buffer.h"
#include "storage/pstore.h"
#include "tool.h"
#include "txn/txn.h"
#include "wal/wal.h"

static void
print_line(void *arg, const char *text)
{
    (void)arg;
    printf("%s\n", text);
}

static ash_rc
inspect_page(const struct db_layers *db, uint64_t page)
{
    struct map_entry entry;
    struct buf_page p;
    uint8_t page_class;

    if (pstore_locate(db->pstore, page, &entry, &page_class))
        printf("page %llu: at offset %llu, %u bytes stored, class %u (%u KiB)\n", (unsigned long long)page,
               (unsigned long long)map_entry_offset(entry), map_entry_length(entry), page_class,
               PAGE_CLASS_SIZE(page_class) / 1024);
    else
        printf("page %llu: not on disk\n", (unsigned long long)page);
    ash_rc rc = buf_latch_s(db->pool, page, &p);
    if (rc != ASH_OK)
        return rc;
    const struct page_head *head = (const void *)p.data;
    printf("type %u, tree %u, lsn %llu, write %llu, crc32c %08x\n", head->type, head->tree, (unsigned long long)head->lsn,
           (unsigned long long)head->write_seq, head->crc32c);
    if (head->type == PAGE_TYPE_BTREE_LEAF || head->type == PAGE_TYPE_BTREE_INNER)
        btree_page_print(p.data, p.size, print_line, NULL);
    buf_unlatch_s(db->pool, &p);
    return ASH_OK;
}

static const char *
record_name(unsigned type)
{
    static const char *const name[] = { "?", "MTR", "ROW", "CLR", "COMMIT", "ROLLED_BACK", "MAP", "CHECKPOINT", "NOTE" };

    return type <= WAL_REC_TYPE_MAX ? name[type] : name[0];
}

static void
print_record(const struct wal_record *rec)
{
    struct wal_change change;
    struct txn_undo undo;
    uint32_t pos = 0;

    printf("%llu  %-11s %u bytes", (unsigned long long)rec->start, record_name(rec->head->type), rec->head->size);
    if (rec->head->txn != 0)
        printf("  txn %llu, prev %llu", (unsigned long long)rec->head->txn, (unsigned long long)rec->head->prev);
    if (rec->head->type == WAL_REC_CLR)
        printf(", undo next %llu", (unsigned long long)rec->head->link);
    printf("\n");
    if (rec->undo != NULL && txn_undo_parse(rec->undo, rec->undo_size, &undo) == ASH_OK) {
        printf("    undo: tree %u, kind %u, key ", undo.head->tree, undo.head->kind);
        tool_print_bytes(stdout, ash_slice(undo.key, undo.head->key_size));
        printf(", row before %u bytes\n", undo.head->row_size);
    }
    while (wal_record_change(rec, &pos, &change))
        printf("    page %llu, tree %u, class %u: op %u, %u bytes\n", (unsigned long long)change.head->page, change.head->tree,
               change.head->page_class, change.head->op, change.head->size);
}

static ash_rc
inspect_log(const struct db_layers *db, uint64_t lsn, uint64_t count)
{
    struct pstore_checkpoint_info info;
    struct wal_reader *reader;
    struct wal_record rec;
    const char *file;
    uint64_t offset;

    pstore_info(db->pstore, &info);
    printf("checkpoint at LSN %llu (epoch %u%s); a restart reads from %llu\n", (unsigned long long)info.checkpoint_lsn, info.epoch,
           info.clean ? ", closed cleanly" : "", (unsigned long long)info.scan_lsn);
    struct wal_position from = { lsn == 0 ? info.scan_lsn : lsn, 0 };
    ash_rc rc = wal_reader_open(db->io, db->dir, pstore_uuid(db->pstore), &from, &reader);
    if (rc != ASH_OK)
        return rc;
    while (count-- > 0 && (rc = wal_reader_next(reader, &rec)) == ASH_OK)
        print_record(&rec);
    if (rc == ASH_NOT_FOUND) {
        wal_reader_where(reader, &file, &offset);
        printf("end of the log in %s at offset %llu\n", file, (unsigned long long)offset);
        rc = ASH_OK;
    }
    wal_reader_close(reader);
    return rc;
}

static void
print_zone(void *arg, uint64_t zone, uint64_t offset, uint32_t live_bytes, uint32_t size, bool open)
{
    (void)arg;
    printf("zone %llu at %llu: %u of %u bytes live (%u %%)%s\n", (unsigned long long)zone, (unsigned long long)offset, live_bytes,
           size, (unsigned)(100ull * live_bytes / size), open ? ", open" : "");
}

int
tool_inspect(struct tool_args *args)
{
    const char *what = args->positional[1];
    const char *number = args->positional_count > 2 ? args->positional[2] : NULL;
    struct db_layers layers;
    struct tool_db t;

    tool_flag(args, "options");
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    uint64_t first = number == NULL ? 0 : strtoull(number, NULL, 10);
    uint64_t count = args->positional_count > 3 ? strtoull(args->positional[3], NULL, 10) : 20;
    if (strcmp(what, "page") != 0 && strcmp(what, "log") != 0 && strcmp(what, "zones") != 0)
        return tool_usage_error(args, "What to inspect is page, log or zones, not \"%s\".", what);
    if (strcmp(what, "page") == 0 && first == 0)
        return tool_usage_error(args, "Which page? The first is 1.");
    ash_rc rc = tool_open(args, 0, NULL, &t);
    if (rc != ASH_OK)
        return tool_close(&t, tool_fail(rc));
    db_layers(t.db, &layers);
    if (strcmp(what, "page") == 0)
        rc = inspect_page(&layers, first);
    else if (strcmp(what, "log") == 0)
        rc = inspect_log(&layers, first, count);
    else
        pstore_zones(layers.pstore, print_zone, NULL);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}
