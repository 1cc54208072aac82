/* mapped_records DIR WRITERS SLEEPERS PAUSE_US TRIGGER: writers store records through writable shared mappings of files in DIR.
 *
 * Step k of writer i: record k is stored to slot k % SLOTS of the mapping of DIR/map-i; k is written, by pwrite, to DIR/count-i;
 * k is stored to word i of the mapping of DIR/clock. A record begins with k, and with what the clock said of the next writer
 * when it was made. So at any moment: map-i holds all records up to count-i, perhaps the next one or the beginning of it; clock
 * is count-i or one behind; and no record has seen more of another writer than that one has counted.
 *
 * One thread makes no call that changes a file: n goes to a word of DIR/left, and then to the same word of DIR/right, over
 * and over. So right holds what left holds, or all but its newest.
 *
 * One more thread maps DIR/again, stores n, unmaps it, and writes n to DIR/again-count, over and over.
 *
 * Sleepers wait, each in a call of another kind, for what never comes; a call that returns ends the guest with abort(). Once
 * there is a file TRIGGER, there is a child process that inherits the mappings and sleeps; its number stands in DIR/child.
 * SIGUSR2 ends the first thread; the others go on. */
#include "guest.h"
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { SLOTS = 512, WORDS = 64, MOST = 64, AGAIN = 3 * 65536, LONG = 65536 };

static const char *dir;
static long writers, pause_us;
static volatile uint64_t *clock_words;

static volatile uint64_t *map_file(int fd, size_t size) {
    void *mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(mapping != MAP_FAILED);
    return mapping;
}

static int numbered(const char *name, long i, off_t size) {
    char file[64];
    snprintf(file, sizeof file, "%s-%ld", name, i);
    return make_file(dir, file, size);
}

struct writer {
    long i;
    int count;
    volatile uint64_t *records;
};

static void *write_records(void *argument) {
    struct writer *w = argument;
    for (uint64_t k = 1;; k++) {
        volatile uint64_t *record = w->records + k % SLOTS * WORDS;
        uint64_t seen = clock_words[(w->i + 1) % writers];
        atomic_thread_fence(memory_order_seq_cst);
        record[0] = k;
        record[1] = seen;
        for (int word = 2; word < WORDS; word++)
            record[word] = k;
        MUST(pwrite(w->count, &k, sizeof k, 0) == sizeof k);
        clock_words[w->i] = k;
        atomic_thread_fence(memory_order_seq_cst);
        if (pause_us)
            nap(pause_us);
    }
    return NULL;
}

static volatile uint64_t *left, *right;

static void *store_only(void *argument) {
    (void)argument;
    for (uint64_t n = 1;; n++) {
        /* All over the files, so that whoever reads one after the other reads them at different times. */
        uint64_t at = n * 40503 % LONG;
        left[at] = n;
        atomic_thread_fence(memory_order_seq_cst);
        right[at] = n;
        atomic_thread_fence(memory_order_seq_cst);
        if (n % 1000 == 0)
            nap(100);
    }
    return NULL;
}

static int again, again_count;

static void *map_again(void *argument) {
    (void)argument;
    for (uint64_t n = 1;; n++) {
        volatile uint64_t *words = map_file(again, AGAIN);
        words[n % 3 * 8192] = n;
        MUST(munmap((void *)words, AGAIN) == 0);
        MUST(pwrite(again_count, &n, sizeof n, 0) == sizeof n);
        nap(3000);
    }
    return NULL;
}

static void *sleep_for_ever(void *argument) {
    long kind = (long)argument;
    int pair[2];
    char byte;
    struct timespec day = {86400, 0};
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    switch (kind % 7) {
    case 0: {
        struct epoll_event event;
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        MUST(epoll >= 0);
        MUST(epoll_wait(epoll, &event, 1, -1) == 12345);
        break;
    }
    case 1:
        MUST(read(pair[0], &byte, 1) == 12345);
        break;
    case 2: {
        struct timeval limit = {86400, 0};
        MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
        MUST(recv(pair[0], &byte, 1, 0) == 12345);
        break;
    }
    case 3: {
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGUSR1);
        MUST(sigtimedwait(&signals, NULL, &day) == 12345);
        break;
    }
    case 4: {
        int queue = inotify_init1(IN_CLOEXEC);
        MUST(queue >= 0);
        MUST(read(queue, &byte, 1) == 12345);
        break;
    }
    case 5:
        MUST(clock_nanosleep(CLOCK_MONOTONIC, 0, &day, NULL) == 12345);
        break;
    default: {
        struct pollfd one = {pair[0], POLLIN, 0};
        MUST(ppoll(&one, 1, &day, NULL) == 12345);
    }
    }
    return NULL;
}

static void make_child(int note) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    signal(SIGCHLD, SIG_IGN);
    uint64_t pid = (uint64_t)child;
    MUST(pwrite(note, &pid, sizeof pid, 0) == sizeof pid);
}

int main(int argc, char **argv) {
    MUST(argc == 6);
    dir = argv[1];
    writers = number(argv[2]);
    long sleepers = number(argv[3]);
    pause_us = number(argv[4]);
    MUST(writers <= MOST);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    MUST(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
    static struct writer all[MOST];
    clock_words = map_file(make_file(dir, "clock", 4096), 4096);
    left = map_file(make_file(dir, "left", LONG * 8), LONG * 8);
    right = map_file(make_file(dir, "right", LONG * 8), LONG * 8);
    again = make_file(dir, "again", AGAIN);
    again_count = make_file(dir, "again-count", 8);
    for (long i = 0; i < writers; i++) {
        int fd = numbered("map", i, SLOTS * WORDS * sizeof(uint64_t));
        all[i] = (struct writer){i, numbered("count", i, 8), map_file(fd, SLOTS * WORDS * sizeof(uint64_t))};
    }
    int note = make_file(dir, "child", 8);
    pthread_attr_t small;
    pthread_attr_init(&small);
    MUST(pthread_attr_setstacksize(&small, 128 << 10) == 0);
    pthread_t id;
    for (long i = 0; i < sleepers; i++)
        MUST(pthread_create(&id, &small, sleep_for_ever, (void *)i) == 0);
    for (long i = 0; i < writers; i++)
        MUST(pthread_create(&id, &small, write_records, &all[i]) == 0);
    MUST(pthread_create(&id, &small, map_again, NULL) == 0);
    MUST(pthread_create(&id, &small, store_only, NULL) == 0);
    ready();
    for (int has_child = 0;; nap(1000)) {
        sigset_t pending;
        MUST(sigpending(&pending) == 0);
        if (sigismember(&pending, SIGUSR2))
            pthread_exit(NULL);
        if (!has_child && access(argv[5], F_OK) == 0) {
            make_child(note);
            has_child = 1;
        }
    }
}
