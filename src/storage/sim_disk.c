/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_disk.c - what survives: names, sizes and sectors of a simulated disk, flushes, and power
 * cuts.
 *
 * Entry points: sim_disk_create(), sim_disk_cut(), sim_disk_fault(); io_sim.c drives it.
 *
 * Invariants:
 *   I1  visible == durable with every pending change applied in order, except after a failed flush
 *       or directory sync, where it equals what a later reader of the medium would get.
 *   I2  A change is pending exactly from its completion to the flush that covers it; it is judged
 *       once.
 *   I3  Data made durable later is never overwritten by a change that completed earlier (overtaken
 *       pages are dropped).
 *   I4  Everything random comes from the disk's generator or the cut's seed, in an order that
 *       depends on nothing else.
 */
#include "base/bits.h"
#include "base/error.h"
#include "storage/sim_disk_int.h"

#include <string.h>

/* ---- Names ---- */

static struct sim_name *
names_find(const struct sim_names *n, const char *name)
{
    for (uint32_t i = 0; i < n->count; i++) {
        if (strcmp(n->v[i].name, name) == 0)
            return &n->v[i];
    }
    return NULL;
}

static char *
copy_string(const char *s)
{
    size_t size = strlen(s) + 1;
    char *copy = sim__alloc(size);
    memcpy(copy, s, size);
    return copy;
}

static void
names_set(struct sim_names *n, const char *name, struct sim_file *file)
{
    uint32_t at = 0;

    while (at < n->count && strcmp(n->v[at].name, name) < 0)
        at++;
    if (at < n->count && strcmp(n->v[at].name, name) == 0) {
        n->v[at].file = file;
        return;
    }
    if (n->count == n->room) {
        n->room = n->room == 0 ? 8 : n->room * 2;
        n->v = sim__grow(n->v, n->room * sizeof(*n->v));
    }
    memmove(&n->v[at + 1], &n->v[at], (n->count - at) * sizeof(*n->v));
    n->v[at] = (struct sim_name){ copy_string(name), file };
    n->count++;
}

/* Only when the name still means that file. */
static void
names_remove(struct sim_names *n, const char *name, const struct sim_file *file)
{
    struct sim_name *at = names_find(n, name);

    if (at == NULL || at->file != file)
        return;
    sim__free(at->name);
    n->count--;
    memmove(at, at + 1, (size_t)(n->v + n->count - at) * sizeof(*at));
}

static void
names_clear(struct sim_names *n)
{
    for (uint32_t i = 0; i < n->count; i++)
        sim__free(n->v[i].name);
    sim__free(n->v);
    *n = (struct sim_names){ NULL, 0, 0 };
}

static void
names_copy(struct sim_names *to, const struct sim_names *from)
{
    names_clear(to);
    for (uint32_t i = 0; i < from->count; i++)
        names_set(to, from->v[i].name, from->v[i].file);
}

static void
names_apply(struct sim_names *n, const struct sim_dirlog *l)
{
    switch (l->kind) {
    case SIM_DIR_CREATE: names_set(n, l->name, l->file); break;
    case SIM_DIR_RENAME: /* atomic: never both names, never neither */
        names_remove(n, l->name, l->file);
        if (!PLANTED(26))
            names_set(n, l->to, l->file);
        break;
    case SIM_DIR_UNLINK: names_remove(n, l->name, l->file); break;
    }
}

/* ---- Directories ---- */

struct sim_dir *
sim__dir(struct sim_disk *d, const char *name, bool create)
{
    uint32_t at = 0;

    while (at < d->dirs && strcmp(d->dir[at]->name, name) < 0)
        at++;
    if (at < d->dirs && strcmp(d->dir[at]->name, name) == 0)
        return d->dir[at];
    if (!create)
        return NULL;
    if (d->dirs == d->dirs_room) {
        d->dirs_room = d->dirs_room == 0 ? 4 : d->dirs_room * 2;
        d->dir = sim__grow(d->dir, d->dirs_room * sizeof(struct sim_dir *));
    }
    memmove(&d->dir[at + 1], &d->dir[at], (d->dirs - at) * sizeof(struct sim_dir *));
    struct sim_dir *dir = sim__alloc(sizeof(*dir));
    dir->disk = d;
    dir->name = copy_string(name);
    d->dir[at] = dir;
    d->dirs++;
    return dir;
}

static void
log_clear(struct sim_dir *dir)
{
    for (uint32_t i = 0; i < dir->log_count; i++) {
        sim__free(dir->log[i].name);
        sim__free(dir->log[i].to);
    }
    dir->log_count = 0;
}

static void
log_add(struct sim_dir *dir, enum sim_dirlog_kind kind, const char *name, const char *to,
        struct sim_file *file)
{
    if (dir->log_count == dir->log_room) {
        dir->log_room = dir->log_room == 0 ? 8 : dir->log_room * 2;
        dir->log = sim__grow(dir->log, dir->log_room * sizeof(*dir->log));
    }
    struct sim_dirlog *l = &dir->log[dir->log_count++];
    *l = (struct sim_dirlog){ kind, ++dir->disk->seq, copy_string(name),
                              to == NULL ? NULL : copy_string(to), file };
    names_apply(&dir->visible, l);
}

static struct sim_file *
file_new(struct sim_disk *d)
{
    struct sim_file *f = sim__alloc(sizeof(*f));
    f->disk = d;
    f->id = ++d->file_ids;
    list_init(&f->pending);
    list_push_back(&d->files, &f->link);
    d->file_count++;
    return f;
}

static void
change_free(struct sim_change *c)
{
    for (uint32_t i = 0; i < c->pages; i++)
        sim__page_unref(c->page[i]);
    sim__free(c->page);
    sim__free(c);
}

static void
file_free(struct sim_file *f)
{
    LIST_FOREACH_SAFE(it, next, &f->pending)
        change_free(list_entry(it, struct sim_change, link));
    sim__image_free(&f->visible);
    sim__image_free(&f->durable);
    list_remove(&f->link);
    f->disk->file_count--;
    sim__free(f);
}

/* Frees the files that nothing names any more. */
static void
sweep(struct sim_disk *d)
{
    if (d->file_count < d->sweep_at)
        return;
    for (uint32_t i = 0; i < d->dirs; i++) {
        const struct sim_dir *dir = d->dir[i];
        for (uint32_t k = 0; k < dir->visible.count; k++)
            dir->visible.v[k].file->twin = dir->visible.v[k].file;
        for (uint32_t k = 0; k < dir->durable.count; k++)
            dir->durable.v[k].file->twin = dir->durable.v[k].file;
        for (uint32_t k = 0; k < dir->log_count; k++)
            dir->log[k].file->twin = dir->log[k].file;
    }
    LIST_FOREACH_SAFE(it, next, &d->files) {
        struct sim_file *f = list_entry(it, struct sim_file, link);
        bool named = f->twin != NULL;
        f->twin = NULL;
        if (!named && f->opens == 0)
            file_free(f);
    }
    d->sweep_at = d->file_count * 2 + 16;
}

struct sim_file *
sim__lookup(const struct sim_dir *dir, const char *name)
{
    struct sim_name *n = names_find(&dir->visible, name);
    return n == NULL ? NULL : n->file;
}

struct sim_file *
sim__create(struct sim_dir *dir, const char *name)
{
    struct sim_file *f = file_new(dir->disk);
    f->links = 1;
    log_add(dir, SIM_DIR_CREATE, name, NULL, f);
    return f;
}

void
sim__rename(struct sim_dir *dir, const char *from, const char *to)
{
    struct sim_file *f = sim__lookup(dir, from), *over = sim__lookup(dir, to);
    ash_assert(f != NULL);
    if (over == f)
        return;
    if (over != NULL)
        over->links--;
    log_add(dir, SIM_DIR_RENAME, from, to, f);
}

void
sim__unlink(struct sim_dir *dir, const char *name)
{
    struct sim_file *f = sim__lookup(dir, name);
    ash_assert(f != NULL);
    f->links--;
    log_add(dir, SIM_DIR_UNLINK, name, NULL, f);
}

void
sim__dir_sync(struct sim_dir *dir)
{
    names_copy(&dir->durable, &dir->visible);
    log_clear(dir);
    sweep(dir->disk);
}

void
sim__dir_sync_failed(struct sim_dir *dir)
{
    for (uint32_t i = 0; i < dir->log_count; i++) {
        if (random_chance(&dir->disk->random, 1, 2))
            names_apply(&dir->durable, &dir->log[i]);
    }
    log_clear(dir);
}

/* ---- Which sectors of a write survive ---- */

enum shape {
    SHAPE_NONE,
    SHAPE_ALL,
    SHAPE_RANDOM,
    SHAPE_PREFIX,
    SHAPE_SUFFIX,
    SHAPE_ALTERNATE,
    SHAPE_ONE_MISSING,
    SHAPE_COUNT
};

struct keep {
    enum shape shape;
    uint32_t mark;  /* PREFIX, SUFFIX, ONE_MISSING: a sector; ALTERNATE: parity */
    bool size_only; /* the file grows as if the write had landed, whatever of its data did */
};

static struct keep
keep_draw(struct random *r, uint32_t pages)
{
    uint32_t sectors = pages * SIM_PAGE_SECTORS;
    struct keep k = { .shape = SHAPE_NONE };
    uint64_t draw = random_below(r, 9);

    if (draw >= 2)
        k.shape = draw < 4 ? SHAPE_ALL : (enum shape)(SHAPE_RANDOM + (draw - 4));
    if (PLANTED(29) && k.shape > SHAPE_ALL)
        k.shape = SHAPE_ALL; /* writes never tear */
    k.mark = sectors == 0 ? 0 : (uint32_t)random_below(r, sectors);
    k.size_only = random_chance(r, 1, 4);
    return k;
}

static unsigned
keep_mask(const struct keep *k, struct random *r, uint32_t page)
{
    const unsigned all = (1u << SIM_PAGE_SECTORS) - 1;
    unsigned mask = 0;

    switch (k->shape) {
    case SHAPE_NONE: return 0;
    case SHAPE_ALL: return all;
    case SHAPE_RANDOM: return (unsigned)random_below(r, all + 1);
    default: break;
    }
    for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++) {
        uint32_t at = page * SIM_PAGE_SECTORS + s;
        bool kept = k->shape == SHAPE_PREFIX      ? at < k->mark
                    : k->shape == SHAPE_SUFFIX    ? at >= k->mark
                    : k->shape == SHAPE_ALTERNATE ? at % 2 == k->mark % 2
                                                  : at != k->mark;
        mask |= kept ? 1u << s : 0;
    }
    return mask;
}

static void
change_apply(struct sim_image *img, const struct sim_change *c, const struct keep *k,
             struct random *r)
{
    bool any = false, data = k->shape != SHAPE_NONE;

    if (c->kind == SIM_CHANGE_SIZE) {
        if (data)
            sim__image_resize(img, c->size);
        return;
    }
    /* Data without its size is out of reach, so the size goes first; with neither, nothing happens.
     * */
    for (uint32_t i = 0; i < c->pages && !any; i++)
        any = c->page[i] != NULL;
    if (!any || (!data && !k->size_only))
        return;
    uint64_t end = c->offset + (uint64_t)c->pages * SIM_PAGE;
    if (end > img->size)
        img->size = end;
    for (uint32_t i = 0; i < c->pages; i++) {
        if (c->page[i] != NULL)
            sim__image_mix(img, c->offset / SIM_PAGE + i, c->page[i], keep_mask(k, r, i));
    }
}

static const struct keep keep_all = { .shape = SHAPE_ALL };

/* ---- Files ---- */

static void
pending_add(struct sim_file *f, struct sim_change *c)
{
    c->seq = ++f->disk->seq;
    list_push_back(&f->pending, &c->link);
}

static void
pending_drop(struct sim_change *c)
{
    list_remove(&c->link);
    change_free(c);
}

/* Pages [first, first + count) have durable data newer than every pending write (I3). */
static void
pending_overtake(struct sim_file *f, uint64_t first, uint64_t count)
{
    LIST_FOREACH(it, &f->pending) {
        struct sim_change *c = list_entry(it, struct sim_change, link);
        if (c->kind != SIM_CHANGE_WRITE)
            continue;
        uint64_t base = c->offset / SIM_PAGE;
        for (uint32_t i = 0; i < c->pages; i++) {
            if (base + i < first || base + i - first >= count)
                continue;
            sim__page_unref(c->page[i]);
            c->page[i] = NULL;
        }
    }
}

/* A durable write takes the metadata it depends on with it: pending sizes become durable first. */
static void
pending_sizes_durable(struct sim_file *f)
{
    LIST_FOREACH_SAFE(it, next, &f->pending) {
        struct sim_change *c = list_entry(it, struct sim_change, link);
        if (c->kind != SIM_CHANGE_SIZE)
            continue;
        for (struct list *before = f->pending.next; before != it; before = before->next) {
            struct sim_change *w = list_entry(before, struct sim_change, link);
            uint64_t base = w->offset / SIM_PAGE;
            for (uint32_t i = 0; w->kind == SIM_CHANGE_WRITE && i < w->pages; i++) {
                if ((base + i) * SIM_PAGE < c->size)
                    continue;
                sim__page_unref(w->page[i]); /* cut off for good */
                w->page[i] = NULL;
            }
        }
        sim__image_resize(&f->durable, c->size);
        pending_drop(c);
    }
}

static struct sim_change *
change_new(enum sim_change_kind kind, uint64_t offset, uint32_t pages)
{
    struct sim_change *c = sim__alloc(sizeof(*c));
    list_init(&c->link);
    c->kind = kind;
    c->offset = offset;
    c->pages = pages;
    c->page = pages == 0 ? NULL : sim__alloc(pages * sizeof(struct sim_page *));
    return c;
}

struct sim_flight *
sim__flight_new(struct sim_disk *d, struct sim_file *f)
{
    struct sim_flight *fl = sim__alloc(sizeof(*fl));
    fl->file = f;
    fl->seq = d->seq;
    list_push_back(&d->flights, &fl->link);
    return fl;
}

void
sim__flight_free(struct sim_flight *fl)
{
    list_remove(&fl->link);
    if (fl->write != NULL)
        change_free(fl->write);
    sim__free(fl);
}

void
sim__land(struct sim_flight *fl, uint32_t bytes)
{
    struct sim_change *c = fl->write;
    struct sim_file *f = fl->file;
    uint64_t first = c->offset / SIM_PAGE;
    uint32_t whole = bytes / SIM_PAGE, rest = bytes % SIM_PAGE / SIM_SECTOR;

    ash_assert(bytes <= (uint64_t)c->pages * SIM_PAGE);
    if (whole + rest == 0)
        return;
    if (rest != 0) {
        sim__image_mix(&f->visible, first + whole, c->page[whole], (1u << rest) - 1);
        struct sim_page *mixed = sim__image_page(&f->visible, first + whole);
        sim__page_ref(mixed);
        sim__page_unref(c->page[whole]);
        c->page[whole] = mixed;
    }
    for (uint32_t i = whole + (rest != 0); i < c->pages; i++)
        sim__page_unref(c->page[i]);
    c->pages = whole + (rest != 0);
    struct keep all = keep_all;
    change_apply(&f->visible, c, &all, NULL);
    if (!fl->durable) {
        fl->write = NULL;
        pending_add(f, c);
        return;
    }
    pending_sizes_durable(f);
    pending_overtake(f, first, c->pages);
    change_apply(&f->durable, c, &all, NULL);
}

void
sim__land_part(struct sim_flight *fl)
{
    struct sim_change *c = fl->write;
    struct sim_file *f = fl->file;
    struct random *r = &f->disk->random;
    struct keep k = keep_draw(r, c->pages);

    if (k.shape == SHAPE_NONE)
        return;
    change_apply(&f->visible, c, &k, r);
    /* What is on the medium now differs from what a later reader of the cache might see; both are
     * old or new, sector by sector.  The whole write stays pending, so that a cut may keep any part
     * of it. */
    fl->write = NULL;
    pending_add(f, c);
}

void
sim__flush(struct sim_file *f, uint64_t seq)
{
    LIST_FOREACH_SAFE(it, next, &f->pending) {
        struct sim_change *c = list_entry(it, struct sim_change, link);
        struct keep all = keep_all;
        if (c->seq > seq && !PLANTED(24))
            break;
        change_apply(&f->durable, c, &all, NULL);
        pending_drop(c);
    }
}

void
sim__flush_failed(struct sim_file *f, uint64_t seq)
{
    struct random *r = &f->disk->random;
    struct keep all = keep_all;

    if (PLANTED(25))
        return; /* the pages stay dirty: a second flush would save them, as no real kernel does */
    LIST_FOREACH_SAFE(it, next, &f->pending) {
        struct sim_change *c = list_entry(it, struct sim_change, link);
        if (c->seq > seq)
            break;
        struct keep k = keep_draw(r, c->pages);
        change_apply(&f->durable, c, &k, r);
        pending_drop(c);
    }
    sim__image_free(&f->visible);
    sim__image_copy(&f->visible, &f->durable);
    LIST_FOREACH(it, &f->pending)
        change_apply(&f->visible, list_entry(it, struct sim_change, link), &all, NULL);
}

void
sim__resize(struct sim_file *f, uint64_t size)
{
    if (size == f->visible.size)
        return;
    struct sim_change *c = change_new(SIM_CHANGE_SIZE, 0, 0);
    c->size = size;
    sim__image_resize(&f->visible, size);
    pending_add(f, c);
}

void
sim__punch(struct sim_file *f, uint64_t offset, uint64_t bytes)
{
    struct keep all = keep_all;

    if (offset >= f->visible.size)
        return;
    uint64_t pages =
        (min_u64(offset + bytes, round_up(f->visible.size, SIM_PAGE)) - offset) / SIM_PAGE;
    struct sim_change *c = change_new(SIM_CHANGE_WRITE, offset, (uint32_t)pages);
    struct sim_page *zero = sim__page_new(NULL);
    for (uint64_t i = 0; i < pages; i++) {
        sim__page_ref(zero);
        c->page[i] = zero;
    }
    sim__page_unref(zero);
    change_apply(&f->visible, c, &all, NULL);
    pending_add(f, c);
}

uint64_t
sim__used(const struct sim_disk *d)
{
    uint64_t bytes = 0;
    LIST_FOREACH(it, &d->files) {
        const struct sim_file *f = list_entry(it, struct sim_file, link);
        if (f->links > 0 || f->opens > 0)
            bytes += f->visible.size;
    }
    return bytes;
}

/* ---- Life ---- */

static struct sim_disk *
disk_new(uint64_t seed)
{
    struct sim_disk *d = sim__alloc(sizeof(*d));
    random_init(&d->random, seed);
    list_init(&d->files);
    list_init(&d->flights);
    d->latency_min_ns = 5000;
    d->latency_max_ns = 100000;
    d->sweep_at = 16;
    return d;
}

ash_rc
sim_disk_create(uint64_t seed, struct sim_disk **out)
{
    *out = disk_new(seed);
    return ASH_OK;
}

void
sim_disk_destroy(struct sim_disk *d)
{
    if (d == NULL)
        return;
    LIST_FOREACH_SAFE(it, next, &d->flights)
        sim__flight_free(list_entry(it, struct sim_flight, link));
    LIST_FOREACH_SAFE(it, next, &d->files)
        file_free(list_entry(it, struct sim_file, link));
    for (uint32_t i = 0; i < d->dirs; i++) {
        struct sim_dir *dir = d->dir[i];
        log_clear(dir);
        sim__free(dir->log);
        names_clear(&dir->visible);
        names_clear(&dir->durable);
        sim__free(dir->name);
        sim__free(dir);
    }
    sim__free(d->dir);
    sim__free(d);
}

static uint32_t
sectors_below(struct sim_disk *d, uint32_t bytes)
{
    return (uint32_t)random_below(&d->random, bytes / SIM_SECTOR) * SIM_SECTOR;
}

void
sim_disk_restart(struct sim_disk *d)
{
    LIST_FOREACH_SAFE(it, next, &d->flights) {
        struct sim_flight *fl = list_entry(it, struct sim_flight, link);
        /* The kernel finishes or drops a dead process's requests before its lock goes: what has not
         * landed now never will. */
        if (fl->write != NULL)
            sim__land(fl,
                      random_chance(&d->random, 1, 2) ? fl->bytes : sectors_below(d, fl->bytes));
        sim__flight_free(fl);
    }
    LIST_FOREACH(it, &d->files) {
        struct sim_file *f = list_entry(it, struct sim_file, link);
        f->opens = 0;
        f->shared_locks = 0;
        f->locked = false;
    }
    d->events = 0;
    memset(d->requests, 0, sizeof(d->requests));
}

void
sim_disk_limit(struct sim_disk *d, uint64_t bytes)
{
    d->limit = bytes;
}

void
sim_disk_latency(struct sim_disk *d, uint64_t min_ns, uint64_t max_ns)
{
    ash_assert(min_ns <= max_ns);
    d->latency_min_ns = min_ns;
    d->latency_max_ns = max_ns;
}

uint64_t
sim__latency(struct sim_disk *d)
{
    return d->latency_min_ns + random_below(&d->random, d->latency_max_ns - d->latency_min_ns + 1);
}

void
sim_disk_fault(struct sim_disk *d, const struct sim_fault *fault)
{
    if (fault == NULL) {
        d->faults = 0;
        return;
    }
    ash_assert(d->faults < SIM_FAULTS_MAX);
    ash_assert(fault->nth > 0);
    ash_assert(fault->op >= 0 && fault->op < SIM_OP_COUNT);
    d->fault[d->faults++] = *fault;
}

struct sim_fault
sim__fault(struct sim_disk *d, int op)
{
    d->requests[0]++;
    d->requests[op]++;
    for (unsigned i = 0; i < d->faults; i++) {
        const struct sim_fault *f = &d->fault[i];
        uint64_t n = d->requests[f->op];
        if (f->op != 0 && f->op != op)
            continue;
        if (n == f->nth || (f->sticky && n > f->nth))
            return *f;
    }
    return (struct sim_fault){ .kind = SIM_FAULT_NONE };
}

void
sim_disk_cut_at(struct sim_disk *d, uint64_t nth, void (*fn)(void *arg), void *arg)
{
    d->cut_at = nth;
    d->cut_fn = fn;
    d->cut_arg = arg;
}

void
sim__event(struct sim_disk *d)
{
    if (++d->events == d->cut_at)
        d->cut_fn(d->cut_arg);
}

uint64_t
sim_disk_events(const struct sim_disk *d)
{
    return d->events;
}

uint64_t
sim_disk_requests(const struct sim_disk *d, int op)
{
    ash_assert(op >= 0 && op < SIM_OP_COUNT);
    return d->requests[op];
}

/* ---- Power cuts ---- */

/* How one image treats all its changes: mixtures that a coin per change would almost never give. */
enum manner {
    MANNER_MIXED,
    MANNER_MOST,
    MANNER_FEW,
    MANNER_FIRST,
    MANNER_LAST,
    MANNER_ALL,
    MANNER_NONE
};

struct cut {
    struct random random;
    enum manner manner;
    uint64_t seq; /* FIRST: changes before it survive; LAST: those from it on */
};

static uint64_t
oldest_change(const struct sim_disk *d)
{
    uint64_t seq = d->seq;

    LIST_FOREACH(it, &d->files) {
        const struct sim_file *f = list_entry(it, struct sim_file, link);
        if (!list_empty(&f->pending))
            seq = min_u64(seq, list_entry(f->pending.next, struct sim_change, link)->seq);
    }
    for (uint32_t i = 0; i < d->dirs; i++) {
        if (d->dir[i]->log_count > 0)
            seq = min_u64(seq, d->dir[i]->log[0].seq);
    }
    return seq;
}

static void
cut_draw(struct cut *c, const struct sim_disk *d, enum sim_cut_policy policy, uint64_t seed)
{
    random_init(&c->random, seed);
    switch (policy) {
    case SIM_CUT_RANDOM: {
        static const enum manner drawn[] = {
            MANNER_MIXED, MANNER_MIXED, MANNER_MIXED, MANNER_MIXED,
            MANNER_MOST,  MANNER_FEW,   MANNER_FIRST, MANNER_LAST
        };
        c->manner = drawn[random_below(&c->random, ASH_ARRAY_SIZE(drawn))];
        break;
    }
    case SIM_CUT_NONE: c->manner = MANNER_NONE; break;
    case SIM_CUT_ALL: c->manner = MANNER_ALL; break;
    case SIM_CUT_REVERSE: c->manner = MANNER_LAST; break;
    }
    uint64_t oldest = oldest_change(d);
    c->seq = oldest + random_below(&c->random, d->seq + 2 - oldest);
}

static struct keep
cut_keep(struct cut *c, uint64_t seq, uint32_t pages)
{
    struct keep k = { .shape = SHAPE_ALL };

    switch (c->manner) {
    case MANNER_ALL: return k;
    case MANNER_NONE: break;
    case MANNER_FIRST:
        if (seq < c->seq)
            return k;
        break;
    case MANNER_LAST:
        if (seq >= c->seq)
            return k;
        break;
    case MANNER_MIXED: return keep_draw(&c->random, pages);
    case MANNER_MOST: return random_chance(&c->random, 7, 8) ? k : keep_draw(&c->random, pages);
    case MANNER_FEW:
        if (random_chance(&c->random, 1, 8))
            return keep_draw(&c->random, pages);
        break;
    }
    k.shape = SHAPE_NONE;
    return k;
}

static bool
cut_keep_name(struct cut *c, uint64_t seq)
{
    return cut_keep(c, seq, 0).shape != SHAPE_NONE;
}

/* The file's content after the cut.  Requests in flight come last: they were submitted after what
 * they follow completed. */
static struct sim_file *
cut_file(struct cut *c, const struct sim_disk *d, struct sim_disk *to, struct sim_file *f)
{
    struct sim_file *n = file_new(to);

    sim__image_copy(&n->durable, &f->durable);
    LIST_FOREACH(it, &f->pending) {
        const struct sim_change *ch = list_entry(it, struct sim_change, link);
        struct keep k = cut_keep(c, ch->seq, ch->pages);
        change_apply(&n->durable, ch, &k, &c->random);
    }
    LIST_FOREACH(it, &d->flights) {
        const struct sim_flight *fl = list_entry(it, struct sim_flight, link);
        if (fl->file != f || fl->write == NULL)
            continue;
        struct keep k = cut_keep(c, fl->seq + 1, fl->write->pages);
        if (c->manner == MANNER_ALL && random_chance(&c->random, 1, 2))
            k.shape = SHAPE_NONE; /* nobody knows how far it got */
        change_apply(&n->durable, fl->write, &k, &c->random);
    }
    sim__image_copy(&n->visible, &n->durable);
    f->twin = n;
    return n;
}

static void
cut_dir(struct cut *c, const struct sim_disk *d, struct sim_disk *to, const struct sim_dir *from)
{
    struct sim_dir *dir = sim__dir(to, from->name, /* create: */ true);

    names_copy(&dir->durable, &from->durable);
    for (uint32_t i = 0; i < from->log_count; i++) {
        if (cut_keep_name(c, from->log[i].seq))
            names_apply(&dir->durable, &from->log[i]);
    }
    for (uint32_t i = 0; i < dir->durable.count; i++) {
        struct sim_file *f = dir->durable.v[i].file;
        struct sim_file *n = f->twin != NULL ? f->twin : cut_file(c, d, to, f);
        n->links++;
        dir->durable.v[i].file = n;
    }
    names_copy(&dir->visible, &dir->durable);
}

ash_rc
sim_disk_cut(const struct sim_disk *d, enum sim_cut_policy policy, uint64_t seed,
             struct sim_disk **out)
{
    struct cut c;
    struct sim_disk *to = disk_new(seed ^ UINT64_C(0x9e3779b97f4a7c15));

    to->limit = d->limit;
    to->latency_min_ns = d->latency_min_ns;
    to->latency_max_ns = d->latency_max_ns;
    cut_draw(&c, d, policy, seed);
    for (uint32_t i = 0; i < d->dirs; i++)
        cut_dir(&c, d, to, d->dir[i]);
    LIST_FOREACH(it, &d->files)
        list_entry(it, struct sim_file, link)->twin = NULL;
    *out = to;
    return ASH_OK;
}

/* ---- For tests ---- */

static ash_rc
find(struct sim_disk *d, const char *dir, const char *name, struct sim_file **out)
{
    struct sim_dir *sd = sim__dir(d, dir, /* create: */ false);
    *out = sd == NULL ? NULL : sim__lookup(sd, name);
    return *out == NULL ? ash_raise_obj(ASH_NOT_FOUND, name, "There is no file %s/%s.", dir, name)
                        : ASH_OK;
}

ash_rc
sim_disk_peek(struct sim_disk *d, const char *dir, const char *name, uint64_t offset, void *buf,
              size_t bytes)
{
    struct sim_file *f;
    ash_rc rc = find(d, dir, name, &f);
    if (rc != ASH_OK)
        return rc;
    if (offset + bytes > f->visible.size)
        return ash_raise_obj(ASH_INVALID, name, "The file %s/%s ends before that.", dir, name);
    sim__image_read(&f->visible, offset, buf, bytes);
    return ASH_OK;
}

ash_rc
sim_disk_poke(struct sim_disk *d, const char *dir, const char *name, uint64_t offset,
              const void *buf, size_t bytes)
{
    struct sim_file *f;
    ash_rc rc = find(d, dir, name, &f);
    if (rc != ASH_OK)
        return rc;
    sim__image_write(&f->visible, offset, buf, bytes);
    sim__image_write(&f->durable, offset, buf, bytes);
    return ASH_OK;
}

uint64_t
sim_disk_hash(const struct sim_disk *d)
{
    uint64_t h = 0;

    for (uint32_t i = 0; i < d->dirs; i++) {
        const struct sim_dir *dir = d->dir[i];
        h = hash_bytes(dir->name, strlen(dir->name), h);
        for (uint32_t k = 0; k < dir->visible.count; k++) {
            h = hash_bytes(dir->visible.v[k].name, strlen(dir->visible.v[k].name), h);
            h = sim__image_hash(&dir->visible.v[k].file->visible, h);
        }
    }
    return h;
}

void
sim_disk_list(struct sim_disk *d,
              void (*fn)(void *arg, const char *dir, const char *name, uint64_t size), void *arg)
{
    for (uint32_t i = 0; i < d->dirs; i++) {
        const struct sim_dir *dir = d->dir[i];
        for (uint32_t k = 0; k < dir->visible.count; k++)
            fn(arg, dir->name, dir->visible.v[k].name, dir->visible.v[k].file->visible.size);
    }
}
