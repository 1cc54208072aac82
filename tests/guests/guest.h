/* What every guest shares. A guest is strict: a call that fails or does less than asked ends it with abort(), so that a
 * backup that harms its target shows as a dead guest.
 *
 * Its work is a ring: record n goes to file n % 3 of a directory, slot (n / 3) % slots, and fills the slot's 4096 bytes
 * with n. A directory is a state that existed if, for some n, every slot holds the newest record up to n that belongs
 * there. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define MUST(call)                                                                                       \
    do {                                                                                                 \
        if (!(call)) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno));              \
            abort();                                                                                     \
        }                                                                                                \
    } while (0)

enum { RING_FILES = 3, RECORD = 4096 };

struct ring {
    int fd[RING_FILES];
    uint64_t slots;
    uint64_t newest;
};

static void join_path(char *out, size_t size, const char *dir, const char *name) {
    MUST(snprintf(out, size, "%s/%s", dir, name) < (int)size);
}

static int make_file(const char *dir, const char *name, off_t size) {
    char path[4096];
    join_path(path, sizeof path, dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(fd >= 0);
    MUST(ftruncate(fd, size) == 0);
    return fd;
}

/* The files are filled, not sparse: what is to be copied does not depend on how far the guest has come. */
static void ring_open(struct ring *ring, const char *dir, uint64_t slots) {
    MUST(mkdir(dir, 0755) == 0);
    ring->slots = slots;
    ring->newest = 0;
    for (int i = 0; i < RING_FILES; i++) {
        char name[16];
        snprintf(name, sizeof name, "ring-%d", i);
        ring->fd[i] = make_file(dir, name, 0);
        static const char zeros[RECORD];
        for (uint64_t slot = 0; slot < slots; slot++)
            MUST(write(ring->fd[i], zeros, sizeof zeros) == (ssize_t)sizeof zeros);
    }
}

/* The ring in DIR/NAME. */
static void ring_open_in(struct ring *ring, const char *dir, const char *name, uint64_t slots) {
    char path[4096];
    join_path(path, sizeof path, dir, name);
    ring_open(ring, path, slots);
}

/* The next record, and where it goes: returns the file. To be counted in `newest` once it is there. */
static int ring_next(const struct ring *ring, uint64_t *record, off_t *at) {
    uint64_t n = ring->newest + 1;
    for (size_t i = 0; i < RECORD / sizeof *record; i++)
        record[i] = n;
    *at = (off_t)(n / RING_FILES % ring->slots * RECORD);
    return ring->fd[n % RING_FILES];
}

static void ring_write(struct ring *ring) {
    uint64_t record[RECORD / sizeof(uint64_t)];
    off_t at;
    int fd = ring_next(ring, record, &at);
    MUST(pwrite(fd, record, sizeof record, at) == (ssize_t)sizeof record);
    ring->newest++;
}

/* Writes a ring for ever, and sleeps in no call. */
static void ring_write_and_compute(struct ring *ring) {
    for (;;) {
        ring_write(ring);
        for (volatile int i = 0; i < 20000; i++)
            ;
    }
}

/* DIR/ballast, which is never written to again, so that a backup takes a while. */
static void make_ballast(const char *dir, int mib) {
    int fd = make_file(dir, "ballast", 0);
    static char block[1 << 20];
    memset(block, 'b', sizeof block);
    for (int i = 0; i < mib; i++)
        MUST(write(fd, block, sizeof block) == (ssize_t)sizeof block);
}

/* Sleeps as mutexes and condition variables do: in a futex wait. */
static void nap(long us) {
    static int never;
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    long result = syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    MUST(result == 0 || errno == ETIMEDOUT || errno == EINTR || errno == EAGAIN);
}

/* Tells the test that all is set up and the writing begins. */
static void ready(void) {
    puts("ready");
    MUST(fflush(stdout) == 0);
}

static void wait_for_file(const char *path) {
    while (access(path, F_OK) != 0)
        nap(1000);
}

static long number(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    MUST(*text && !*end);
    return value;
}

/* Each of `threads` threads writes its own ring, in DIR/0, DIR/1, ..., and naps `pause_us` after each record, or never
 * if that is 0. Does not return. */
struct ring_thread {
    struct ring ring;
    long pause_us;
};

static void *ring_thread(void *argument) {
    struct ring_thread *thread = argument;
    for (;;) {
        ring_write(&thread->ring);
        if (thread->pause_us)
            nap(thread->pause_us);
    }
    return NULL;
}

static void run_rings(const char *dir, long threads, long slots, long pause_us) {
    struct ring_thread *all = calloc((size_t)threads, sizeof *all);
    MUST(all);
    for (long i = 0; i < threads; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%ld", dir, i) < (int)sizeof path);
        ring_open(&all[i].ring, path, (uint64_t)slots);
        all[i].pause_us = pause_us;
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    MUST(pthread_attr_setstacksize(&small, 128 << 10) == 0);
    for (long i = 0; i < threads; i++) {
        pthread_t id;
        MUST(pthread_create(&id, &small, ring_thread, &all[i]) == 0);
    }
    ready();
    for (;;)
        nap(1000000);
}
