/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_check.c - what options contradict each other (iob.h, R2).
 *
 * The contradictions of one job are a table of questions and sentences, so that a reader sees all
 * of them at once; those that need a number or a second job in their sentence follow.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"

#include <inttypes.h>
#include <string.h>

#include "iob.h"

typedef bool (*question_fn)(const struct iob_job *job);

static bool
two_of_blocks(const struct iob_job *j)
{
    return (int)iob_given(j, "bs") + (int)iob_given(j, "bsrange") + (int)iob_given(j, "bssplit") >
           1;
}
static bool
direct_and_buffered(const struct iob_job *j)
{
    return iob_given(j, "direct") && iob_given(j, "buffered") && j->direct == j->buffered;
}
static bool
mix_not_100(const struct iob_job *j)
{
    return iob_given(j, "rwmixread") && iob_given(j, "rwmixwrite") &&
           j->rwmixread + j->rwmixwrite != 100;
}
static bool
time_based_without_runtime(const struct iob_job *j)
{
    return j->time_based != 0 && j->runtime == 0;
}
static bool
loops_and_time_based(const struct iob_job *j)
{
    return j->loops > 1 && j->time_based != 0;
}
static bool
two_rates(const struct iob_job *j)
{
    return iob_given(j, "rate") && iob_given(j, "rate_iops");
}
static bool
two_flushes(const struct iob_job *j)
{
    return j->fsync != 0 && j->fdatasync != 0;
}
static bool
ring_flag_without_ring(const struct iob_job *j)
{
    return !iob_on_ring(j) && (j->fixedbufs | j->registerfiles | j->sqthread_poll | j->hipri) != 0;
}
static bool
polls_page_cache(const struct iob_job *j)
{
    return j->hipri != 0 && j->direct == 0;
}
static bool
batch_above_depth(const struct iob_job *j)
{
    return j->iodepth_batch > j->iodepth;
}
static bool
depth_on_own_thread(const struct iob_job *j)
{
    return iob_inline(j) && iob_given(j, "iodepth") && j->iodepth > 1;
}
static bool
thinktime_blocks_alone(const struct iob_job *j)
{
    return iob_given(j, "thinktime_blocks") && j->thinktime == 0;
}
static bool
odd_alignment(const struct iob_job *j)
{
    return !is_pow2(j->iomem_align) || j->iomem_align < IOB_UNIT;
}
static bool
odd_place(const struct iob_job *j)
{
    return j->offset % IOB_UNIT != 0 || j->offset_increment % IOB_UNIT != 0;
}
static bool
files_twice(const struct iob_job *j)
{
    return iob_given(j, "filename") && iob_given(j, "nrfiles");
}
static bool
no_size(const struct iob_job *j)
{
    return !iob_given(j, "filename") && j->size == 0;
}
static bool
verify_of_zeros(const struct iob_job *j)
{
    return iob_verifies(j) && j->zero_buffers != 0;
}
static bool
verify_option_alone(const struct iob_job *j)
{
    return !iob_verifies(j) && (iob_given(j, "do_verify") || iob_given(j, "verify_fatal"));
}
static bool
clones_share_verified(const struct iob_job *j)
{
    return iob_verifies(j) && iob_writes(j) && j->numjobs > 1 && iob_given(j, "filename") &&
           (j->size == 0 || j->offset_increment < j->size);
}

/* clang-format off */
static const struct {
    question_fn wrong;
    const char *sentence;
} contradictions[] = {
    { two_of_blocks, "bs, bsrange and bssplit all set the block size; give one of them" },
    { direct_and_buffered, "direct and buffered contradict each other; give one of them" },
    { mix_not_100, "rwmixread and rwmixwrite do not add up to 100; give one of them" },
    { time_based_without_runtime, "time_based needs runtime" },
    { loops_and_time_based, "loops and time_based contradict each other: runtime alone ends the job" },
    { two_rates, "rate and rate_iops contradict each other; give one of them" },
    { two_flushes, "fsync and fdatasync are the same flush here; give one of them" },
    { ring_flag_without_ring, "fixedbufs, registerfiles, sqthread_poll and hipri are flags of a ring; they need ioengine=io_uring" },
    { polls_page_cache, "hipri needs direct=1: the page cache has no completions to poll for" },
    { batch_above_depth, "iodepth_batch is larger than iodepth" },
    { depth_on_own_thread, "this ioengine has one request in flight; give iodepth=1, ioengine=io_uring or ioengine=threads" },
    { thinktime_blocks_alone, "thinktime_blocks needs thinktime" },
    { odd_alignment, "iomem_align has to be a power of two from 4096 on: the disk manager takes no other buffers" },
    { odd_place, "offset and offset_increment have to be multiples of 4096, as all requests of the disk manager" },
    { files_twice, "filename lists the files, so nrfiles has nothing to say; give one of them" },
    { no_size, "size is needed, because no filename tells which existing file to use" },
    { verify_of_zeros, "verify and zero_buffers contradict each other: zeros carry no checksum" },
    { verify_option_alone, "do_verify and verify_fatal need verify=crc32c" },
    { clones_share_verified, "clones that write to one file cannot verify it: give size and an offset_increment of at least size, or leave filename out" },
};
/* clang-format on */

static ash_rc
check_sizes(const struct iob_job *job)
{
    uint64_t files = job->nrfiles, largest = job->bs[IOB_READ].max;

    if (iob_given(job, "filename")) {
        files = 1;
        for (const char *at = job->filename; (at = strchr(at, ':')) != NULL; at++)
            files += at == job->filename || at[-1] != '\\';
    }
    if (iob_writes(job) && (!iob_reads(job) || job->bs[IOB_WRITE].max > largest))
        largest = job->bs[IOB_WRITE].max;
    if (job->size != 0 && job->size / files < largest)
        return ash_raise(ASH_INVALID,
                         "Job %s: size=%" PRIu64 " in %" PRIu64
                         " files is less than a block of %" PRIu64 " bytes.",
                         job->name, job->size, files, largest);
    if (job->filesize != 0 && job->size != 0 &&
        job->filesize < round_down(job->size / files, IOB_UNIT))
        return ash_raise(ASH_INVALID,
                         "Job %s: filesize is less than what size asks of each of %" PRIu64
                         " files.",
                         job->name, files);
    return ASH_OK;
}

/* Jobs that run at the same time and would call each other's writes corruption. */
static ash_rc
check_pairs(const struct iob_setup *s)
{
    for (unsigned i = 0; i < s->jobs; i++) {
        for (unsigned k = i + 1; k < s->jobs && s->job[k]->stonewall == 0; k++) {
            const struct iob_job *a = s->job[i], *b = s->job[k];
            if (!iob_given(a, "filename") || !iob_given(b, "filename") ||
                strcmp(a->filename, b->filename) != 0)
                continue;
            if ((iob_verifies(a) && iob_writes(b)) || (iob_verifies(b) && iob_writes(a)))
                return ash_raise(ASH_INVALID,
                                 "Jobs %s and %s use %s at the same time, and one verifies what "
                                 "the other overwrites; put stonewall into the second.",
                                 a->name, b->name, a->filename);
        }
    }
    return ASH_OK;
}

static void
settle(struct iob_job *job)
{
    if (job->rw == IOB_RW_READWRITE)
        job->rw = IOB_RW_RW;
    if (iob_given(job, "rwmixwrite"))
        job->rwmixread = 100 - job->rwmixwrite;
    if (iob_given(job, "buffered"))
        job->direct = job->buffered == 0;
    if (iob_inline(job))
        job->iodepth = 1;
    if (job->randrepeat == 0)
        random_entropy(&job->randseed, sizeof(job->randseed));
}

ash_rc
iob_check(struct iob_setup *s)
{
    if (s->jobs == 0)
        return ash_raise(ASH_INVALID, "No job is given; --name=x --size=1g begins one, --help "
                                      "lists the options.");
    for (unsigned i = 0; i < s->jobs; i++) {
        struct iob_job *job = s->job[i];
        for (size_t k = 0; k < ASH_ARRAY_SIZE(contradictions); k++)
            if (contradictions[k].wrong(job) && !PLANTED(350))
                return ash_raise_obj(ASH_INVALID, job->name, "Job %s: %s.", job->name,
                                     contradictions[k].sentence);
        if (s->command.readonly != 0 && iob_writes(job))
            return ash_raise_obj(ASH_INVALID, job->name,
                                 "Job %s: rw=%s writes, which readonly forbids.", job->name,
                                 job->rw == IOB_RW_WRITE ? "write" : "randwrite or mixed");
        settle(job);
        ash_rc rc = check_sizes(job);
        if (rc != ASH_OK)
            return rc;
    }
    return check_pairs(s);
}
