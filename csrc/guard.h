/* Reading a memory map without dying of it.
 *
 * A page of a mapped file that lies beyond the file's end (someone truncated it) or that the disk cannot deliver raises SIGBUS. Work
 * that touches maps runs under guard_run(): a fault inside it comes back as -1 instead of ending the process. The work must be plain C:
 * no Python object, lock or allocation, because a fault leaves it in the middle. Faults of other code, and a SIGBUS that was
 * sent and not raised by memory, go to whatever handler was there before.
 */
#ifndef SADIK_GUARD_H
#define SADIK_GUARD_H

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

typedef void (*guard_work_t)(void *argument);

/* initial-exec: the handler must not allocate this thread's copy lazily. */
static __thread sigjmp_buf *guard_point __attribute__((tls_model("initial-exec"))) = NULL;
static struct sigaction guard_previous;
static int guard_installed = 0;

static void guard_handler(int number, siginfo_t *info, void *context) {
    if (guard_point != NULL && info->si_code > 0)
        siglongjmp(*guard_point, 1);
    if (guard_previous.sa_flags & SA_SIGINFO) {
        guard_previous.sa_sigaction(number, info, context);
    } else if (guard_previous.sa_handler != SIG_DFL && guard_previous.sa_handler != SIG_IGN) {
        guard_previous.sa_handler(number);
    } else {
        /* Not ours and nobody else's: put the default back; the faulting instruction runs again and ends the process. */
        sigaction(number, &guard_previous, NULL);
        if (info->si_code <= 0)
            raise(number);
    }
}

/* Once per process, not again when someone replaces it: two handlers that each chain to the other would never end. */
static int guard_install(void) {
    if (guard_installed)
        return 0;
    struct sigaction action;
    action.sa_sigaction = guard_handler;
    /* NODEFER: the handler leaves by a jump, which would otherwise keep the signal blocked. */
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &guard_previous) != 0)
        return -1;
    guard_installed = 1;
    return 0;
}

/* Nothing that touches memory is moved across: order progress, or the jump point, before what may fault. */
#define guard_barrier() __asm__ volatile("" ::: "memory")

static int guard_run(guard_work_t work, void *argument) {
    sigjmp_buf point;
    if (sigsetjmp(point, 0)) {
        guard_point = NULL;
        return -1;
    }
    guard_point = &point;
    /* The compiler may put the work in here, and sees no connection between the jump point and what the work reads. */
    guard_barrier();
    work(argument);
    guard_barrier();
    guard_point = NULL;
    return 0;
}

#endif
