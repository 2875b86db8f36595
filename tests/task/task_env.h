/* SPDX-License-Identifier: Apache-2.0
 *
 * task_env.h - what the tests of tasks share: a runtime of threads, ping-pong, a stack that
 * overflows.
 */
#ifndef ASH_TESTS_TASK_ENV_H
#define ASH_TESTS_TASK_ENV_H

#include "task/task.h"
#include "tests/test_main.h"

/* The runtime of a test case with the checked fixture host_setup and host_teardown. */
__attribute__((unused)) static struct task_runtime *host_rt;

__attribute__((unused)) static void
host_setup(void)
{
    ck_assert_int_eq(task_runtime_create(&host_rt), ASH_OK);
}

__attribute__((unused)) static void
host_teardown(void)
{
    task_runtime_destroy(host_rt);
}

/* ---- Ping-pong: each round needs both wakes ---- */

struct pingpong {
    struct task *_Atomic player[2];
    _Atomic uint64_t turn;
    uint64_t rounds;
};

__attribute__((unused)) static void
play(struct pingpong *p, unsigned me)
{
    atomic_store(&p->player[me], task_self());
    while (atomic_load(&p->player[1 - me]) == NULL)
        task_yield();
    for (uint64_t i = 0; i < p->rounds; i++) {
        while (atomic_load(&p->turn) != 2 * i + me)
            task_park();
        atomic_store(&p->turn, 2 * i + me + 1);
        task_unpark(atomic_load(&p->player[1 - me]));
    }
}

__attribute__((unused)) static void
play_0(void *arg)
{
    play(arg, 0);
}

__attribute__((unused)) static void
play_1(void *arg)
{
    play(arg, 1);
}

/* ---- Stack overflow: a task that runs this ends the program with SIGSEGV ---- */

static volatile char overflow_sink;

__attribute__((unused, noinline)) static void
overflow(unsigned depth)
{
    volatile char frame[1024];
    frame[0] = (char)depth;
    if (depth < 100000)
        overflow(depth + 1);
    overflow_sink = frame[0];
}

__attribute__((unused)) static void
overflow_main(void *arg)
{
    (void)arg;
    overflow(0);
}

#endif
