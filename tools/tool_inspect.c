/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_inspect.c - inspect: a page, log records, a zone, as text.  The one command that looks
 * beneath the public interface.
 */
#include "api/api.h"
#include "base/assert.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/option.h"
#include "btree/btree.h"
#include "btree/btree_format.h"
#include "buffer/buffer.h"
#include "storage/pstore.h"
#include "table/table.h"
#include "txn/txn.h"
#include "wal/wal.h"

#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define LLU(x) ((unsigned long long)(x))

/* ---- Names for numbers ---- */

static const char *
page_type_name(unsigned type)
{
    static const char *const name[] = { "?", "leaf", "inner", "value", "map", "map root" };

    return type < ASH_ARRAY_SIZE(name) ? name[type] : name[0];
}

static const char *
record_name(unsigned type)
{
    static const char *const name[] = { "?",           "MTR", "ROW",        "CLR", "COMMIT",
                                        "ROLLED_BACK", "MAP", "CHECKPOINT", "NOTE" };

    return type < ASH_ARRAY_SIZE(name) ? name[type] : name[0];
}

static const char *
op_name(unsigned op)
{
    static const char *const general[] = { "?", "free", "init", "bytes" };
    static const char *const tree[] = { "leaf put",   "leaf remove", "leaf purge",
                                        "node edit",  "inner split", "inner merge",
                                        "inner move", "inner word",  "node flags" };

    if (op >= WAL_OP_BTREE_FIRST && op - WAL_OP_BTREE_FIRST < ASH_ARRAY_SIZE(tree))
        return tree[op - WAL_OP_BTREE_FIRST];
    return op < ASH_ARRAY_SIZE(general) ? general[op] : general[0];
}

static const char *
undo_name(unsigned kind)
{
    static const char *const name[] = { "?", "insert", "update", "delete" };

    return kind < ASH_ARRAY_SIZE(name) ? name[kind] : name[0];
}

struct tree_name {
    uint32_t tree;
    char name[ASH_TABLE_NAME_MAX + 1];
};

static ash_rc
match_tree(void *arg, const char *name, uint32_t tree, uint64_t root, uint8_t leaf_class)
{
    struct tree_name *t = arg;

    (void)root;
    (void)leaf_class;
    if (tree == t->tree)
        snprintf(t->name, sizeof(t->name), "%s", name);
    return ASH_OK;
}

static void
find_tree_name(const struct db_layers *db, uint32_t tree, struct tree_name *out)
{
    *out = (struct tree_name){ .tree = tree, .name = "of no table" };
    ash_ignore(catalog_trees(db->catalog, match_tree, out)); /* a name is all that is lost */
}

/* ---- A page ---- */

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
    struct tree_name tree;
    struct buf_page p;
    uint8_t page_class;

    if (page == 0 || page >= pstore_page_high(db->pstore) ||
        !pstore_page_allocated(db->pstore, page))
        return ash_raise(ASH_NOT_FOUND, "Page %llu is not in use; ids go from 1 to %llu.",
                         LLU(page), LLU(pstore_page_high(db->pstore) - 1));
    if (pstore_locate(db->pstore, page, &entry, &page_class))
        printf("page %llu   offset %llu, %u bytes stored, class %u (%u KiB)\n", LLU(page),
               LLU(map_entry_offset(entry)), map_entry_length(entry), page_class,
               PAGE_CLASS_SIZE(page_class) / 1024);
    else
        printf("page %llu   not written yet\n", LLU(page));
    ash_rc rc = buf_latch_s(db->pool, page, &p);
    if (rc != ASH_OK)
        return rc;
    const struct page_head *head = (const void *)p.data;
    bool node = head->type == PAGE_TYPE_BTREE_LEAF || head->type == PAGE_TYPE_BTREE_INNER;
    printf("type %s, tree %u, last change %llu, write %llu, crc32c %08x\n",
           page_type_name(head->type), head->tree, LLU(head->lsn), LLU(head->write_seq),
           head->crc32c);
    uint32_t id = head->tree;
    if (node)
        btree_page_print(p.data, p.size, print_line, NULL);
    buf_unlatch_s(db->pool, &p);
    find_tree_name(db, id, &tree); /* reads pages itself: not under the latch */
    printf("tree %u is table %s\n", id, tree.name);
    return ASH_OK;
}

/* ---- The log ---- */

static void
print_record(const struct wal_record *rec)
{
    struct wal_change change;
    struct txn_undo undo;
    uint32_t pos = 0;

    printf("%-12llu %-11s %6u bytes", LLU(rec->start), record_name(rec->head->type),
           rec->head->size);
    if (rec->head->txn != 0)
        printf("  txn %llu, previous %llu", LLU(rec->head->txn), LLU(rec->head->prev));
    if (rec->head->type == WAL_REC_CLR)
        printf(", undo next %llu", LLU(rec->head->link));
    fputc('\n', stdout);
    if (rec->undo != NULL && txn_undo_parse(rec->undo, rec->undo_size, &undo) == ASH_OK) {
        printf("    %s, tree %u, key ", undo_name(undo.head->kind), undo.head->tree);
        tool_print_bytes(stdout, ash_slice(undo.key, undo.head->key_size));
        printf(", row before %u bytes\n", undo.head->row_size);
    }
    while (wal_record_change(rec, &pos, &change))
        printf("    page %llu, tree %u: %s, %u bytes\n", LLU(change.head->page), change.head->tree,
               op_name(change.head->op), change.head->size);
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
    printf("checkpoint at %llu, epoch %u%s; a restart reads from %llu\n", LLU(info.checkpoint_lsn),
           info.epoch, info.clean ? ", closed cleanly" : "", LLU(info.scan_lsn));
    struct wal_position from = { lsn == 0 ? info.scan_lsn : lsn, 0 };
    ash_rc rc = wal_reader_open(db->io, db->dir, pstore_uuid(db->pstore), &from, &reader);
    if (rc != ASH_OK)
        return rc;
    while (count-- > 0 && tool_signal == 0 && (rc = wal_reader_next(reader, &rec)) == ASH_OK)
        print_record(&rec);
    if (rc == ASH_NOT_FOUND) {
        wal_reader_where(reader, &file, &offset);
        printf("end of the log: %s, offset %llu\n", file, LLU(offset));
        rc = ASH_OK;
    }
    wal_reader_close(reader);
    return rc;
}

/* ---- Zones ---- */

struct zone {
    uint64_t number, offset;
    uint32_t live, size;
    bool found, open;
};

static void
print_zone(void *arg, uint64_t zone, uint64_t offset, uint32_t live_bytes, uint32_t size, bool open)
{
    (void)arg;
    printf("zone %-6llu offset %-12llu %9u of %u bytes in use (%3u %%)%s\n", LLU(zone), LLU(offset),
           live_bytes, size, (unsigned)(100ull * live_bytes / size), open ? ", being written" : "");
}

static void
match_zone(void *arg, uint64_t zone, uint64_t offset, uint32_t live_bytes, uint32_t size, bool open)
{
    struct zone *z = arg;

    if (zone != z->number)
        return;
    *z = (struct zone){ zone, offset, live_bytes, size, true, open };
}

struct zone_page {
    uint64_t offset, page;
    uint32_t length;
};

static int
by_offset(const void *a, const void *b)
{
    const struct zone_page *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The pages whose current version lies in the zone; what is left of it is map, waiting for reuse,
 * or free. */
static size_t
find_zone_pages(const struct db_layers *db, const struct zone *z, struct zone_page *pages,
                size_t capacity)
{
    uint64_t high = pstore_page_high(db->pstore);
    struct map_entry entry;
    uint8_t page_class;
    size_t n = 0;

    for (uint64_t page = PAGE_ID_FIRST; page < high && n < capacity; page++) {
        if (!pstore_locate(db->pstore, page, &entry, &page_class))
            continue;
        uint64_t offset = map_entry_offset(entry);
        if (offset >= z->offset && offset < z->offset + z->size)
            pages[n++] = (struct zone_page){ offset, page, map_entry_length(entry) };
    }
    qsort(pages, n, sizeof(*pages), by_offset);
    return n;
}

static void
print_zone_page(const struct db_layers *db, const struct zone_page *at)
{
    struct buf_page p;

    printf("offset %-12llu %7u bytes  page %-10llu ", LLU(at->offset), at->length, LLU(at->page));
    if (buf_latch_s(db->pool, at->page, &p) != ASH_OK) {
        printf("%s\n",
               ash_error_last()->message); /* damaged: said here, and the next one follows */
        return;
    }
    const struct page_head *head = (const void *)p.data;
    printf("%-8s tree %-6u write %llu", page_type_name(head->type), head->tree,
           LLU(head->write_seq));
    if (head->type == PAGE_TYPE_BTREE_LEAF || head->type == PAGE_TYPE_BTREE_INNER) {
        const struct btree_node *node = (const void *)p.data;
        printf(", level %u, %u slots", node->level, node->count);
    }
    fputc('\n', stdout);
    buf_unlatch_s(db->pool, &p);
}

static ash_rc
inspect_zone(const struct db_layers *db, uint64_t number)
{
    struct zone z = { .number = number };

    pstore_zones(db->pstore, match_zone, &z);
    if (!z.found)
        return ash_raise(ASH_NOT_FOUND, "There is no zone %llu; `inspect DIR zones` lists them.",
                         LLU(number));
    print_zone(NULL, z.number, z.offset, z.live, z.size, z.open);
    if (number == 0)
        printf("zone 0 holds the superblocks\n");
    size_t capacity = z.size / MAP_UNIT;
    struct zone_page *pages = mem_alloc(MEM_TOOL, capacity * sizeof(*pages));
    if (pages == NULL)
        return ASH_NO_MEMORY;
    size_t n = find_zone_pages(db, &z, pages, capacity);
    uint64_t bytes = 0;
    for (size_t i = 0; i < n && tool_signal == 0; i++) {
        print_zone_page(db, &pages[i]);
        bytes += pages[i].length;
    }
    printf(
        "%zu pages, %llu bytes; the rest is map pages, older versions waiting for reuse, and free space\n",
        n, LLU(bytes));
    mem_free(MEM_TOOL, pages);
    return ASH_OK;
}

/* ---- The command ---- */

enum what {
    WHAT_PAGE,
    WHAT_LOG,
    WHAT_ZONE,
    WHAT_ZONES,
    WHAT_COUNT
};

static bool
number_argument(struct tool_args *args, int at, uint64_t *value_out)
{
    if (at >= args->positional_count || option_parse_size(args->positional[at], value_out))
        return true;
    tool_usage_error(args, "\"%s\" is not a number.", args->positional[at]);
    return false;
}

int
tool_inspect(struct tool_args *args)
{
    static const char *const name[WHAT_COUNT] = { "page", "log", "zone", "zones" };
    static const int numbers_min[WHAT_COUNT] = { 1, 0, 1, 0 },
                     numbers_max[WHAT_COUNT] = { 1, 2, 1, 0 };
    uint64_t first = 0, count = 20;
    struct db_layers layers;
    struct tool_db t;
    int what = 0, numbers = args->positional_count - 2;

    while (what < WHAT_COUNT && strcmp(args->positional[1], name[what]) != 0)
        what++;
    if (what == WHAT_COUNT)
        return tool_usage_error(args, "What to inspect is page, log, zone or zones, not \"%s\".",
                                args->positional[1]);
    if (numbers < numbers_min[what] || numbers > numbers_max[what])
        return tool_usage_error(args, "`%s` takes %s.", name[what],
                                what == WHAT_LOG     ? "an LSN and a count, or neither"
                                : what == WHAT_ZONES ? "nothing more"
                                                     : "one number");
    if (!tool_flags_done(args) || !number_argument(args, 2, &first) ||
        !number_argument(args, 3, &count))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, NULL, &t);
    if (rc != ASH_OK)
        return tool_close(&t, tool_fail(rc));
    db_layers(t.db, &layers);
    switch ((enum what)what) {
    case WHAT_PAGE: rc = inspect_page(&layers, first); break;
    case WHAT_LOG: rc = inspect_log(&layers, first, count); break;
    case WHAT_ZONE: rc = inspect_zone(&layers, first); break;
    case WHAT_ZONES:
    case WHAT_COUNT: pstore_zones(layers.pstore, print_zone, NULL); break;
    }
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}
