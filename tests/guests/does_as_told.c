/* does_as_told DIR [again]: makes the system calls that it reads from standard input, one a line, and answers each with
 * what it returned. DIR is its working directory. It starts with two threads: one sleeps for ever, one obeys.
 *
 *   call NR ARGUMENT...   a raw system call; answer: "= RETURNED ERRNO"
 *   look K NR ARGUMENT... the same, and then the bytes of its block K, from 0, as they are after it, in hexadecimal
 *   libc NR ARGUMENT...   the same as "call", by the C library's function of that name
 *   thread                what follows is done by a new thread, up to "end"
 *   fork                  what follows is done by a child process, up to "end"
 *   end                   back to the thread that said "thread" or "fork"
 *   dump WHO DIR          another process works in DIR, dies there, and leaves a core file: a "child", a child by its second
 *                         "thread", an "orphan", or a "sibling", of which this process's parent is the parent; answer when it is dead
 *
 *   ARGUMENT: #N          a number
 *             [ITEM...]   the address of a block of memory, made for this call
 *   ITEM:     xHEX        bytes
 *             rN:HEX      N times this byte
 *             #N          a number of 8 bytes
 *             [ITEM...]   the address of another block
 *
 * What a call of the file system returns is for the test to judge; all else that fails ends the guest. */
#include "guest.h"
#include <ctype.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

enum { BLOCKS = 256, MOST = 128 };

static char line[4 << 20];

/* The blocks of one call. A block is aligned so that it serves O_DIRECT as well. */
static void *made[BLOCKS];
static size_t sizes[BLOCKS];
static int count;

static const char *skip(const char *at) {
    while (*at == ' ')
        at++;
    return at;
}

static uint8_t digit(char c) {
    MUST(isxdigit((unsigned char)c));
    return (uint8_t)(isdigit((unsigned char)c) ? c - '0' : tolower(c) - 'a' + 10);
}

static long long parse_number(const char **at) {
    MUST(**at == '#');
    char *end;
    long long value = strtoll(*at + 1, &end, 10);
    *at = end;
    return value;
}

/* Reads a block, from behind its bracket to behind the closing one, and returns where it was put. */
static long long parse_block(const char **at) {
    MUST(count < BLOCKS);
    int mine = count++;
    size_t room = 4096, used = 0;
    uint8_t *block = aligned_alloc(4096, room);
    MUST(block);
    for (*at = skip(*at); **at != ']'; *at = skip(*at)) {
        const char *end = *at;
        size_t length = 8;
        if (**at == 'x') {
            while (isxdigit((unsigned char)end[1]))
                end++;
            length = (size_t)(end - *at) / 2;
        } else if (**at == 'r') {
            length = strtoull(*at + 1, NULL, 10);
        }
        while (used + length > room) {
            uint8_t *larger = aligned_alloc(4096, room * 2);
            MUST(larger);
            memcpy(larger, block, used);
            free(block);
            block = larger;
            room *= 2;
        }
        if (**at == 'x') {
            for (size_t i = 0; i < length; i++)
                block[used + i] = (uint8_t)(digit((*at)[1 + 2 * i]) << 4 | digit((*at)[2 + 2 * i]));
            *at = end + 1;
        } else if (**at == 'r') {
            const char *colon = strchr(*at, ':');
            MUST(colon);
            memset(block + used, digit(colon[1]) << 4 | digit(colon[2]), length);
            *at = colon + 3;
        } else {
            long long value;
            if (**at == '[') {
                (*at)++;
                value = parse_block(at);
            } else {
                value = parse_number(at);
            }
            memcpy(block + used, &value, sizeof value);
        }
        used += length;
    }
    (*at)++;
    made[mine] = block;
    sizes[mine] = used;
    return (long long)(uintptr_t)block;
}

static void say(const char *text) {
    size_t length = strlen(text);
    MUST(write(STDOUT_FILENO, text, length) == (ssize_t)length);
}

/* The C library's own functions, each with a call site of its own. */
static long by_libc(long nr, const long long *arg) {
    int fd = (int)arg[0], other = (int)arg[1];
    void *at = (void *)(uintptr_t)arg[1];
    switch (nr) {
    case SYS_write: return write(fd, at, (size_t)arg[2]);
    case SYS_pwrite64: return pwrite(fd, at, (size_t)arg[2], arg[3]);
    case SYS_writev: return writev(fd, at, (int)arg[2]);
    case SYS_pwritev: return pwritev(fd, at, (int)arg[2], arg[3]);
    case SYS_pwritev2: return pwritev2(fd, at, (int)arg[2], arg[3], (int)arg[5]);
    case SYS_close: return close(fd);
    case SYS_dup2: return dup2(fd, other);
    case SYS_dup3: return dup3(fd, other, (int)arg[2]);
    case SYS_close_range: return close_range((unsigned)fd, (unsigned)other, (int)arg[2]);
    case SYS_fcntl: return fcntl(fd, other, (int)arg[2]);
    }
    MUST(!"a call that it knows by name");
    return 0;
}

static void do_call(const char *at, int shown, int libc) {
    char *end;
    long nr = strtol(at, &end, 10);
    at = end;
    long long arg[6] = {0};
    count = 0;
    int arguments = 0;
    for (at = skip(at); *at; at = skip(at)) {
        MUST(arguments < 6);
        if (*at == '[') {
            at++;
            arg[arguments++] = parse_block(&at);
        } else {
            arg[arguments++] = parse_number(&at);
        }
    }
    errno = 0;
    long result = libc ? by_libc(nr, arg) : syscall(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    int error = result == -1 ? errno : 0;
    char answer[64 + 2 * MOST];
    int length = snprintf(answer, sizeof answer, "= %ld %d ", result, error);
    MUST(shown < count);
    if (shown >= 0)
        for (size_t i = 0; i < sizes[shown] && i < MOST; i++)
            length += snprintf(answer + length, sizeof answer - (size_t)length, "%02x", ((uint8_t *)made[shown])[i]);
    snprintf(answer + length, sizeof answer - (size_t)length, "\n");
    say(answer);
    for (int i = 0; i < count; i++)
        free(made[i]);
}

/* One line of standard input; the test sends the next one only after the answer, so nothing is read too far. */
static int read_line(void) {
    size_t used = 0;
    for (;;) {
        MUST(used + 1 < sizeof line);
        ssize_t n = read(STDIN_FILENO, line + used, sizeof line - used - 1);
        if (n == 0)
            return 0;
        MUST(n > 0);
        used += (size_t)n;
        if (line[used - 1] == '\n') {
            line[used - 1] = 0;
            return 1;
        }
    }
}

static void *obey(void *unused);

static void *trap(void *unused) {
    (void)unused;
    __builtin_trap();
}

/* Waits until it is told to. */
static void die(int when, const char *dir, int by_thread) {
    char byte;
    struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
    /* The registers will do, without memory. */
    int filter = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    if (filter < 0 || write(filter, "0", 1) != 1 || close(filter) != 0)
        _exit(1);
    if (read(when, &byte, 1) != 1 || setrlimit(RLIMIT_CORE, &most) != 0 || chdir(dir) != 0)
        _exit(1);
    pthread_t id;
    if (by_thread && pthread_create(&id, NULL, trap, NULL) == 0)
        pause();
    trap(NULL);
}

static void dump(char *line) {
    char *dir = strchr(line, ' ');
    MUST(dir);
    *dir++ = 0;
    int when[2], who[2];
    MUST(pipe(when) == 0 && pipe(who) == 0);
    int is_sibling = strcmp(line, "sibling") == 0, is_orphan = strcmp(line, "orphan") == 0;
    pid_t pid = is_sibling ? (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) : fork(), child = pid;
    MUST(pid >= 0);
    if (pid == 0) {
        pid_t grandchild = is_orphan ? fork() : 0;
        if (grandchild == 0)
            die(when[0], dir, strcmp(line, "thread") == 0);
        _exit(write(who[1], &grandchild, sizeof grandchild) == sizeof grandchild ? 0 : 1);
    }
    if (is_orphan) {
        MUST(read(who[0], &pid, sizeof pid) == sizeof pid);
        MUST(waitpid(child, NULL, 0) == child);
    }
    struct pollfd dead = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    MUST(dead.fd >= 0);
    MUST(write(when[1], "x", 1) == 1);
    while (poll(&dead, 1, -1) != 1)
        MUST(errno == EINTR);
    int status;
    if (!is_orphan && !is_sibling)
        MUST(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WCOREDUMP(status));
    close(dead.fd);
    for (int i = 0; i < 2; i++) {
        close(when[i]);
        close(who[i]);
    }
    say("= 0 0 \n");
}

static void *sleep_for_ever(void *unused) {
    (void)unused;
    for (;;)
        nap(1000000000);
    return NULL;
}

static void *obey(void *unused) {
    (void)unused;
    while (read_line()) {
        if (strncmp(line, "call ", 5) == 0) {
            do_call(line + 5, -1, 0);
        } else if (strncmp(line, "libc ", 5) == 0) {
            do_call(line + 5, -1, 1);
        } else if (strncmp(line, "look ", 5) == 0) {
            do_call(line + 7, line[5] - '0', 0);
        } else if (strcmp(line, "thread") == 0) {
            pthread_t id;
            say("= 0 0 \n");
            MUST(pthread_create(&id, NULL, obey, NULL) == 0);
            MUST(pthread_join(id, NULL) == 0);
            say("= 0 0 \n");
        } else if (strncmp(line, "dump ", 5) == 0) {
            dump(line + 5);
        } else if (strcmp(line, "fork") == 0) {
            pid_t child = fork();
            MUST(child >= 0);
            if (child == 0) {
                say("= 0 0 \n");
                obey(NULL);
                _exit(0);
            }
            int status;
            MUST(waitpid(child, &status, 0) == child);
            MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            say("= 0 0 \n");
        } else {
            MUST(strcmp(line, "end") == 0);
            return NULL;
        }
    }
    _exit(0);
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    MUST(argc > 2 || chdir(argv[1]) == 0);
    umask(022);
    if (argc > 2) {
        say("= 0 0 \n");
        obey(NULL);
        return 0;
    }
    pthread_t id;
    MUST(pthread_create(&id, NULL, sleep_for_ever, NULL) == 0);
    ready();
    obey(NULL);
    return 0;
}
