/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb_dir.c - see ycsb_dir.h.
 */
#include "ycsb_dir.h"

#include "base/error.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOTE_NAME "ashlar-bench.txt"
#define NOTE_FORMAT \
    "ashlar-bench ycsb rows=%" PRIu64 " key_size=%" PRIu64 " value_size=%" PRIu64 " hashed=%d\n"
#define NOTE_SCAN \
    "ashlar-bench ycsb rows=%" SCNu64 " key_size=%" SCNu64 " value_size=%" SCNu64 " hashed=%d\n"
#define WALK_FDS 16

static ash_rc
raise_errno(const char *what, const char *path)
{
    int e = errno;

    return ash_raise_sys(err_from_errno(e), e, path, "cannot %s %s: %s", what, path, strerror(e));
}

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static void
note_path(const struct ycsb_dir *dir, char out[YCSB_PATH_MAX + 32])
{
    snprintf(out, YCSB_PATH_MAX + 32, "%s/" NOTE_NAME, dir->root);
}

ash_rc
ycsb_dir_note(const struct ycsb_config *config, const struct ycsb_dir *dir, uint64_t rows)
{
    char path[YCSB_PATH_MAX + 32];
    FILE *f;
    int printed;

    note_path(dir, path);
    f = fopen(path, "we");
    if (f == NULL)
        return raise_errno("write", path);
    printed =
        fprintf(f, NOTE_FORMAT, rows, config->key_size, config->value_size, (int)config->hashed);
    if (fclose(f) != 0 || printed < 0)
        return raise_errno("write", path);
    return ASH_OK;
}

/* How many rows of the wanted kind are there; 0 when the database does not fit.  `*ours_out`: there is a note at all. */
static uint64_t
read_note(const struct ycsb_config *config, const struct ycsb_dir *dir, bool *ours_out)
{
    char path[YCSB_PATH_MAX + 32];
    uint64_t rows, key_size, value_size;
    int hashed, fields;
    FILE *f;

    note_path(dir, path);
    f = fopen(path, "re");
    *ours_out = f != NULL;
    if (f == NULL)
        return 0;
    fields = fscanf(f, NOTE_SCAN, &rows, &key_size, &value_size,
                    &hashed); /* NOLINT(cert-err34-c): our own file */
    fclose(f);
    if (fields != 4 || key_size != config->key_size || value_size != config->value_size ||
        hashed != (int)config->hashed)
        return 0;
    return rows >= config->records ? rows : 0;
}

ash_rc
ycsb_dir_remove(const struct ycsb_dir *dir)
{
    if (nftw(dir->root, remove_entry, WALK_FDS, FTW_DEPTH | FTW_PHYS) != 0)
        return raise_errno("delete", dir->root);
    return ASH_OK;
}

ash_rc
ycsb_dir_open(const struct ycsb_config *config, const char *engine, unsigned round, bool reuse,
              struct ycsb_dir *dir_out)
{
    struct ycsb_dir dir = { .rows = 0 };
    int n = snprintf(dir.root, sizeof(dir.root), "%s/%s-%u", config->dir, engine, round);
    bool ours;
    ash_rc rc;

    if (n < 0 || (size_t)n + 4 > sizeof(dir.root))
        return ash_raise_obj(ASH_INVALID, config->dir, "--dir: the path is too long");
    memcpy(dir.db, dir.root, (size_t)n);
    memcpy(dir.db + n, "/db", 4);
    if (access(dir.root, F_OK) == 0) {
        dir.rows = read_note(config, &dir, &ours);
        if (!ours)
            return ash_raise_obj(
                ASH_EXISTS, dir.root,
                "%s exists and is no database of ashlar-bench; remove it or choose "
                "another --dir",
                dir.root);
        if (!reuse)
            dir.rows = 0;
        if (dir.rows == 0) {
            rc = ycsb_dir_remove(&dir);
            if (rc != ASH_OK)
                return rc;
        }
    }
    if (dir.rows == 0) {
        if (mkdir(dir.root, 0700) != 0 || mkdir(dir.db, 0700) != 0)
            return raise_errno("make the directory", dir.root);
        rc = ycsb_dir_note(config, &dir, 0);
        if (rc != ASH_OK)
            return rc;
    }
    *dir_out = dir;
    return ASH_OK;
}
