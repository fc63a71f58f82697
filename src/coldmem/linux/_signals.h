/* Signals below the C library: it does not let a program use the two that it keeps for itself. */
#ifndef COLDMEM_SIGNALS_H
#define COLDMEM_SIGNALS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* glibc's own, for setuid() in all threads: sigfillset leaves it out, and no mask that it sets has it. */
#define SIGNAL_NEVER_BLOCKED 33
#define KERNEL_RESTORER 0x04000000ul

/* As the kernel has it on x86-64 and arm64. */
struct kernel_action {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};
static inline int kernel_sigaction(int number, struct kernel_action *to, struct kernel_action *from) {
#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__GLIBC__) && defined(SYS_rt_tgsigqueueinfo)
    return (int)syscall(SYS_rt_sigaction, number, to, from, sizeof(to->mask));
#else
    (void)number; (void)to; (void)from;
    return -1;
#endif
}
/* Send one thread of this process a signal with a pointer. */
static inline int signal_thread(int thread, int number, void *word) {
#ifdef SYS_rt_tgsigqueueinfo
    siginfo_t info;
    memset(&info, 0, sizeof(info));
    info.si_signo = number;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = word;
    return (int)syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, number, &info);
#else
    (void)thread; (void)number; (void)word;
    return -1;
#endif
}
/* The handler of the signal that is never blocked. What we sent makes the thread unblock unblock_number:
 * the mask in the handler's context is the one that it has again on return. The rest is glibc's. It runs
 * in any thread, also in those of a sanitizer's runtime, which its instrumentation would end. */
#ifdef __SANITIZE_THREAD__
#define NOT_INSTRUMENTED __attribute__((no_sanitize_thread))
#else
#define NOT_INSTRUMENTED
#endif
static int unblock_number;
static struct kernel_action unblock_next; /* whose the signal was before; constant once set */
static NOT_INSTRUMENTED void unblock_handler(int number, siginfo_t *info, void *context) {
    if (info->si_code == SI_QUEUE && info->si_value.sival_ptr == &unblock_number)
        sigdelset(&((ucontext_t *)context)->uc_sigmask,
                  __atomic_load_n(&unblock_number, __ATOMIC_ACQUIRE));
    else if ((size_t)unblock_next.handler > 1) /* 0 and 1: nothing, and ignored */
        unblock_next.handler(number, info, context);
}
#endif
