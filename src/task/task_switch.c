/* SPDX-License-Identifier: Apache-2.0
 *
 * task_switch.c - changes from one stack to another, and tells the sanitizers.
 *
 * Entry points: task__context_make(), task__context_switch().   Read first: the calling convention
 * of the processor.
 *
 * A switch saves what the convention lets a callee keep, stores the stack pointer, loads the other
 * one and returns there.  A new fiber's stack is laid out as if it had just switched away at the
 * start of its trampoline. Nothing is saved of the signal mask: switches cost a few nanoseconds
 * because no system call is made.
 *
 * The sanitizers keep a picture of the current stack, so every switch is announced: address
 * (start/finish, bounds of the stack that we go to), thread (one "fiber" object per context; a
 * switch orders everything before it before what follows).
 */
#include "task/task_int.h"

#include <stdint.h>
#include <string.h>

#ifdef TASK__ASAN
    #include <sanitizer/asan_interface.h>
    #include <sanitizer/common_interface_defs.h>
#endif
#ifdef TASK__TSAN
    #include <sanitizer/tsan_interface.h>
#endif

void task__switch_stacks(void **save_sp, void *load_sp);
void task__trampoline(void);

#if defined(__x86_64__)

/* System V: rbx, rbp, r12-r15, the control bits of mxcsr and the x87 control word belong to the
 * caller. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl task__switch_stacks\n"
        ".hidden task__switch_stacks\n"
        ".type task__switch_stacks, @function\n"
        "task__switch_stacks:\n"
        "    .cfi_startproc\n"
    #ifdef __CET__
        "    endbr64\n"
    #endif
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    subq $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size task__switch_stacks, . - task__switch_stacks\n"
        ".p2align 4\n"
        ".globl task__trampoline\n"
        ".hidden task__trampoline\n"
        ".type task__trampoline, @function\n"
        "task__trampoline:\n" /* r12: entry, r13: its argument; backtraces end here */
        "    .cfi_startproc\n"
        "    .cfi_undefined rip\n"
    #ifdef __CET__
        "    endbr64\n"
    #endif
        "    movq %r13, %rdi\n"
        "    callq *%r12\n"
        "    ud2\n"
        "    .cfi_endproc\n"
        ".size task__trampoline, . - task__trampoline\n");

    #define FRAME_WORDS 8 /* control words, r15 r14 r13 r12 rbx rbp, return address */

static void *
frame_build(uintptr_t top, void (*entry)(void *arg), void *arg)
{
    /* At the trampoline's first instruction rsp must be a multiple of 16: its call then aligns the
     * entry function. */
    uint64_t *sp = (uint64_t *)((top & ~(uintptr_t)15) - FRAME_WORDS * sizeof(uint64_t));
    uint32_t mxcsr;
    uint16_t x87;
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87));
    sp[0] = (uint64_t)x87 << 32 | mxcsr;
    sp[1] = 0;
    sp[2] = 0;
    sp[3] = (uint64_t)(uintptr_t)arg;   /* r13 */
    sp[4] = (uint64_t)(uintptr_t)entry; /* r12 */
    sp[5] = 0;
    sp[6] = 0; /* rbp: ends the chain of frames */
    sp[7] = (uint64_t)(uintptr_t)task__trampoline;
    return sp;
}

#elif defined(__aarch64__)

/* AAPCS64: x19-x30, the low halves of v8-v15 and the control bits of fpcr belong to the caller. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl task__switch_stacks\n"
        ".hidden task__switch_stacks\n"
        ".type task__switch_stacks, %function\n"
        "task__switch_stacks:\n"
        "    .cfi_startproc\n"
        "    hint #34\n" /* bti c */
        "    sub sp, sp, #176\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mrs x9, fpcr\n"
        "    str x9, [sp, #160]\n"
        "    mov x10, sp\n"
        "    str x10, [x0]\n"
        "    mov sp, x1\n"
        "    ldr x11, [sp, #160]\n"
        "    cmp x9, x11\n" /* writing fpcr is slow and it hardly ever differs */
        "    b.eq 1f\n"
        "    msr fpcr, x11\n"
        "1:\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #176\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size task__switch_stacks, . - task__switch_stacks\n"
        ".p2align 4\n"
        ".globl task__trampoline\n"
        ".hidden task__trampoline\n"
        ".type task__trampoline, %function\n"
        "task__trampoline:\n" /* x19: entry, x20: its argument; backtraces end here */
        "    .cfi_startproc\n"
        "    .cfi_undefined x30\n"
        "    hint #36\n" /* bti j */
        "    mov x0, x20\n"
        "    blr x19\n"
        "    brk #1\n"
        "    .cfi_endproc\n"
        ".size task__trampoline, . - task__trampoline\n");

    #define FRAME_WORDS 22

static void *
frame_build(uintptr_t top, void (*entry)(void *arg), void *arg)
{
    uint64_t *sp = (uint64_t *)((top & ~(uintptr_t)15) - FRAME_WORDS * sizeof(uint64_t));
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    memset(sp, 0, FRAME_WORDS * sizeof(uint64_t));
    sp[0] = (uint64_t)(uintptr_t)entry;             /* x19 */
    sp[1] = (uint64_t)(uintptr_t)arg;               /* x20 */
    sp[11] = (uint64_t)(uintptr_t)task__trampoline; /* x30; x29 = 0 ends the chain of frames */
    sp[20] = fpcr;
    return sp;
}

#else
    #error "task_switch.c: no context switch for this processor yet (x86-64 and AArch64 have one)"
#endif

void
task__context_make(struct task__context *c, struct task__stack *stack, void (*entry)(void *arg),
                   void *arg)
{
    *c = (struct task__context){ .stack_base = stack->base, .stack_bytes = stack->bytes };
    c->sp = frame_build((uintptr_t)stack->base + stack->bytes, entry, arg);
#ifdef TASK__TSAN
    c->tsan_fiber = __tsan_create_fiber(0);
#endif
}

void
task__context_drop(struct task__context *c)
{
#ifdef TASK__TSAN
    if (c->tsan_fiber != NULL)
        __tsan_destroy_fiber(c->tsan_fiber);
#endif
#ifdef TASK__ASAN
    /* Frames that were abandoned half-way leave their red zones in the shadow memory. */
    if (c->stack_base != NULL)
        __asan_unpoison_memory_region(c->stack_base, c->stack_bytes);
#endif
    *c = (struct task__context){ 0 };
}

void
task__context_adopt(struct task__context *c)
{
    *c = (struct task__context){ 0 };
#ifdef TASK__TSAN
    c->tsan_fiber = __tsan_get_current_fiber();
#endif
}

void
task__context_switch(struct task__context *from, struct task__context *to)
{
#ifdef TASK__ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_base, to->stack_bytes);
#endif
#ifdef TASK__TSAN
    __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
    task__switch_stacks(&from->sp, to->sp);
#ifdef TASK__ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

void
task__context_entered(struct task__context *from)
{
#ifdef TASK__ASAN
    __sanitizer_finish_switch_fiber(NULL, &from->stack_base, &from->stack_bytes);
#else
    (void)from;
#endif
}

_Noreturn void
task__context_leave(struct task__context *to)
{
    void *unused_sp;
#ifdef TASK__ASAN
    __sanitizer_start_switch_fiber(NULL, to->stack_base, to->stack_bytes);
#endif
#ifdef TASK__TSAN
    __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
    task__switch_stacks(&unused_sp, to->sp);
    __builtin_unreachable();
}
