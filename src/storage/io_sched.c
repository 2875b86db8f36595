/* SPDX-License-Identifier: Apache-2.0
 *
 * io_sched.c - queues by class: which request goes to the device next.
 */
#include "storage/io_int.h"

void
io__queue_push(struct io_queue *q, struct io_req *req)
{
    req->next = NULL;
    if (q->class[req->class].tail == NULL)
        q->class[req->class].head = req;
    else
        q->class[req->class].tail->next = req;
    q->class[req->class].tail = req;
    q->count++;
}

void
io__queue_push_front(struct io_queue *q, struct io_req *req)
{
    req->next = q->class[req->class].head;
    q->class[req->class].head = req;
    if (q->class[req->class].tail == NULL)
        q->class[req->class].tail = req;
    q->count++;
}

static struct io_req *
queue_take(struct io_queue *q, unsigned class)
{
    struct io_req *req = q->class[class].head;
    q->class[class].head = req->next;
    if (req->next == NULL)
        q->class[class].tail = NULL;
    req->next = NULL;
    q->count--;
    return req;
}

struct io_req *
io__queue_pop(struct io_queue *q, bool background, uint64_t now_ns)
{
    unsigned oldest = 0;
    uint64_t oldest_ns = now_ns < IO_AGE_NS ? 0 : now_ns - IO_AGE_NS;

    if (q->count == 0)
        return NULL;
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++) {
        if (q->class[c].head != NULL && q->class[c].head->submit_ns < oldest_ns) {
            oldest = c;
            oldest_ns = q->class[c].head->submit_ns;
        }
    }
    if (oldest != 0 && !PLANTED(20))
        return queue_take(q, oldest);
    unsigned end = background ? IO_CLASS_COUNT : IO_CLASS_PAGE_WRITER;
    for (unsigned c = 1; c < end; c++) {
        if (q->class[c].head != NULL)
            return queue_take(q, c);
    }
    return NULL;
}

bool
io__queue_remove(struct io_queue *q, struct io_req *req)
{
    struct io_req *before = NULL;

    for (struct io_req *at = q->class[req->class].head; at != NULL; before = at, at = at->next) {
        if (at != req)
            continue;
        if (before == NULL)
            q->class[req->class].head = at->next;
        else
            before->next = at->next;
        if (q->class[req->class].tail == at)
            q->class[req->class].tail = before;
        q->count--;
        return true;
    }
    return false;
}
