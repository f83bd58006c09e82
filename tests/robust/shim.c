/* Lets one system call that writes below a folder fail, or kill the process in it: the n-th, or the n-th of some kind.

A seccomp filter turns these calls into a signal, whoever makes them: libc, or Rust without it. The handler makes the
call in the process's place. No program can be started under it, since the handler is gone then, and the filter is not.
*/
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "only the registers of x86-64 are known here"
#endif

enum { NOTHING, FAIL, KILL_BEFORE, KILL_AFTER };
enum { NONE = -1 };

/* Of each call: its name for a place, and which argument is the file, the folder that a path begins in, the path. */
static const struct call {
    int number;
    const char *name;
    int file, folder, path;
} CALLS[] = {
    {SYS_open, "open", NONE, NONE, 0},           {SYS_openat, "open", NONE, 0, 1},
    {SYS_creat, "open", NONE, NONE, 0},          {SYS_write, "write", 0, NONE, NONE},
    {SYS_pwrite64, "write", 0, NONE, NONE},      {SYS_writev, "write", 0, NONE, NONE},
    {SYS_pwritev, "write", 0, NONE, NONE},       {SYS_sendfile, "write", 0, NONE, NONE},
    {SYS_copy_file_range, "write", 2, NONE, NONE}, {SYS_fsync, "fsync", 0, NONE, NONE},
    {SYS_fdatasync, "fsync", 0, NONE, NONE},     {SYS_ftruncate, "truncate", 0, NONE, NONE},
    {SYS_truncate, "truncate", NONE, NONE, 0},   {SYS_fallocate, "truncate", 0, NONE, NONE},
    {SYS_rename, "rename", NONE, NONE, 1},       {SYS_renameat, "rename", NONE, 2, 3},
    {SYS_renameat2, "rename", NONE, 2, 3},       {SYS_link, "link", NONE, NONE, 1},
    {SYS_linkat, "link", NONE, 2, 3},            {SYS_symlink, "link", NONE, NONE, 1},
    {SYS_symlinkat, "link", NONE, 1, 2},         {SYS_unlink, "unlink", NONE, NONE, 0},
    {SYS_unlinkat, "unlink", NONE, 0, 1},        {SYS_rmdir, "unlink", NONE, NONE, 0},
    {SYS_mkdir, "mkdir", NONE, NONE, 0},         {SYS_mkdirat, "mkdir", NONE, 0, 1},
    {SYS_chmod, "chmod", NONE, NONE, 0},         {SYS_fchmod, "chmod", 0, NONE, NONE},
    {SYS_fchmodat, "chmod", NONE, 0, 1},
};
#define MANY (sizeof CALLS / sizeof *CALLS)

/* Shared with all that are forked afterwards, so that one fault comes once, whichever process meets it. */
static struct {
    char folder[PATH_MAX], call[16], path[PATH_MAX]; /* call, path: empty for any; a path is below the folder */
    int action, error, group, log, seen, fired;
} *plan;

long through(long number, long a, long b, long c, long d, long e, long f);
extern char through_end[];
__asm__(".text\n.globl through\nthrough:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
        "mov 8(%rsp), %r9\nsyscall\n.globl through_end\nthrough_end:\nret\n");

static void die(void) {
    kill(plan->group ? 0 : getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Long runs of hexadecimal digits as one star: they are of a uuid, a hash or a clock. Likewise Rust's random names. */
static void without_random(const char *path, char *out) {
    while (*path) {
        size_t run = strspn(path, "0123456789abcdef");
        if (!strncmp(path, "/.tmp", 5) && strcspn(path + 5, "/.") == 6) {
            out = stpcpy(out, "/.tmp*");
            path += 11;
        } else if (run >= 16) {
            *out++ = '*';
            path += run;
        } else {
            for (run += !run; run; run--)
                *out++ = *path++;
        }
    }
    *out = 0;
}

/* What is to be done about a call on the file at this path. */
static int meet(const char *call, const char *path) {
    static __thread char place[2 * PATH_MAX], line[3 * PATH_MAX];
    size_t length = strlen(plan->folder);
    if (strncmp(path, plan->folder, length) || (path[length] && path[length] != '/'))
        return NOTHING;
    without_random(path + length, place);
    if (plan->log >= 0) {
        int size = snprintf(line, sizeof line, "%s\t%s\n", call, *place ? place + 1 : ".");
        through(SYS_write, plan->log, (long)line, size, 0, 0, 0);
    }
    if (!plan->action || (*plan->call && strcmp(call, plan->call)) ||
        (*plan->path && strcmp(*place ? place + 1 : ".", plan->path)) ||
        __atomic_add_fetch(&plan->seen, 1, __ATOMIC_SEQ_CST))
        return NOTHING;
    plan->fired = 1;
    return plan->action;
}

static int decide(const struct call *call, const long *argument) {
    static __thread char path[2 * PATH_MAX];
    char link[64] = "/proc/self/cwd";
    const char *name = call->path == NONE ? "" : (const char *)argument[call->path];
    int folder = call->file != NONE ? (int)argument[call->file] : call->folder != NONE ? (int)argument[call->folder] : AT_FDCWD;
    *path = 0;
    if (*name != '/') {
        if (folder != AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        long size = through(SYS_readlinkat, AT_FDCWD, (long)link, (long)path, PATH_MAX - 1, 0, 0);
        path[size > 0 ? size : 0] = 0;
        char *deleted = strstr(path, " (deleted)");
        if (deleted)
            *deleted = 0;
        if (*name)
            strcat(path, "/");
    }
    strncat(path, name, PATH_MAX - 1);
    return meet(call->name, path);
}

static void handle(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long argument[] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]}, *a = argument;
    const struct call *call = CALLS;
    int before = errno;
    while (call->number != info->si_syscall)
        call++;
    int action = decide(call, a);
    int half = call->number == SYS_write && (action == FAIL || action == KILL_AFTER);
    if (half) /* of what was to be written stands in the file */
        through(SYS_write, a[0], a[1], a[2] / 2, 0, 0, 0);
    if (action == KILL_BEFORE)
        die();
    if (action == FAIL)
        r[REG_RAX] = -plan->error;
    else if (!half)
        r[REG_RAX] = through(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (action == KILL_AFTER)
        die();
    errno = before;
}

/* To be called before the process is forked. log: a descriptor to which each call's place is written, or -1. */
void shim_plan(const char *folder, int log, int action, int group, const char *call, const char *path, int nth, int error) {
    if (!plan)
        plan = mmap(0, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(plan->folder, sizeof plan->folder, "%s", folder);
    snprintf(plan->call, sizeof plan->call, "%s", call);
    snprintf(plan->path, sizeof plan->path, "%s", path);
    plan->action = action, plan->group = group, plan->error = error, plan->log = log;
    plan->seen = -nth, plan->fired = 0;
}

int shim_fired(void) { return plan && plan->fired; }

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_FLAGS(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define TRAP BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define ANY_BIT(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, value, yes, no)

/* To be called in the forked process. 0: from now on the plan holds for it and what it forks. */
int shim_begin(void) {
    uintptr_t end = (uintptr_t)through_end;
    struct sock_filter filter[13 + 2 * MANY] = {
        LOAD(instruction_pointer),
        EQUAL((uint32_t)end, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        EQUAL((uint32_t)(end >> 32), 0, 1),
        ALLOW,
        LOAD(nr),
        EQUAL(SYS_open, 0, 2),
        LOAD_FLAGS(1),
        ANY_BIT(O_WRONLY | O_RDWR | O_CREAT, 3, 4),
        EQUAL(SYS_openat, 0, 4),
        LOAD_FLAGS(2),
        ANY_BIT(O_WRONLY | O_RDWR | O_CREAT, 0, 1),
        TRAP,
        ALLOW,
    };
    size_t length = 14;
    for (size_t i = 2; i < MANY; i++) {
        filter[length++] = (struct sock_filter)EQUAL(CALLS[i].number, 0, 1);
        filter[length++] = (struct sock_filter)TRAP;
    }
    filter[length++] = (struct sock_filter)ALLOW;
    struct sock_fprog program = {length, filter};
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGSYS, &action, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) ? errno : 0;
}
