/* every_kind_of_call DIR PAGE WORKERS SLOTS PAUSE_US SPIN: threads that each write a ring, change names and append to a
 * log, all in a fixed order, and time every call; see tests/faults/names.rs for what each call leaves behind.
 *
 * DIR/mapped is mapped shared; by stores, each writer says there when it begins a record, and when it has made that record's
 * change of names.
 *
 * The times go to PAGE, a file outside DIR that is mapped shared; tests/faults/page.rs reads it. One more thread only
 * sleeps, and records when it woke late: by that a stall of the machine is told apart from a call that had to wait.
 * SPIN other threads never leave the processor. */
#include "guest.h"

#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

enum { BLOCK = 128, LOG = 32, MOST_WORKERS = 8, STALL = 10, LONG_NS = 20 * 1000 * 1000, STALL_NS = 5 * 1000 * 1000 };
enum { STEPS = 20, LOG_RECORDS = 512 };

/* Each worker's part of the page. The harness sets `epoch` at the head of the page before a fault: what was longest is
 * begun anew then. */
struct times {
    uint64_t calls, epoch, longest_ns, longest_end, longest_what, long_calls, begun, what;
    struct { uint64_t begin, end, what; } log[LOG];
};

static uint64_t *page;

static uint64_t now(void) {
    struct timespec time;
    MUST(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static struct times *part(uint64_t number) {
    return (struct times *)(page + BLOCK * (1 + number));
}

#define SET(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)

static void note(struct times *times, uint64_t begin, uint64_t end, uint64_t what) {
    uint64_t epoch = __atomic_load_n(&page[1], __ATOMIC_SEQ_CST);
    if (epoch != times->epoch) {
        SET(times->longest_ns, 0);
        SET(times->long_calls, 0);
        SET(times->epoch, epoch);
    }
    if (end - begin > times->longest_ns) {
        SET(times->longest_end, end);
        SET(times->longest_what, what);
        SET(times->longest_ns, end - begin);
    }
    if (end - begin > LONG_NS) {
        uint64_t at = times->long_calls % LOG;
        SET(times->log[at].begin, begin);
        SET(times->log[at].end, end);
        SET(times->log[at].what, what);
        SET(times->long_calls, times->long_calls + 1);
    }
    SET(times->begun, 0);
    SET(times->calls, times->calls + 1);
}

/* One timed call, which must succeed. `what` is its line here: the harness names it so. */
#define TIMED(times, call)                                                                               \
    do {                                                                                                 \
        uint64_t begin_ = now();                                                                         \
        SET((times)->what, (uint64_t)__LINE__);                                                          \
        SET((times)->begun, begin_);                                                                     \
        MUST(call);                                                                                      \
        note((times), begin_, now(), (uint64_t)__LINE__);                                                \
    } while (0)

struct worker {
    struct ring ring;
    struct times *times;
    long pause_us;
    int home; /* the directory with its names */
    int log;
    int file;
    volatile uint64_t *begun_named; /* in the mapping */
};

static void timed_ring_write(struct worker *self) {
    uint64_t record[RECORD / sizeof(uint64_t)];
    struct ring *ring = &self->ring;
    uint64_t n = ring->newest + 1;
    for (size_t i = 0; i < sizeof record / sizeof *record; i++)
        record[i] = n;
    off_t at = (off_t)(n / RING_FILES % ring->slots * RECORD);
    TIMED(self->times, pwrite(ring->fd[n % RING_FILES], record, sizeof record, at) == (ssize_t)sizeof record);
    ring->newest = n;
}

static int make(struct worker *self, const char *path, int flags) {
    int fd;
    TIMED(self->times, (fd = openat(self->home, path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0644)) >= 0);
    return fd;
}

static void fill(struct worker *self, uint64_t round, size_t length) {
    uint64_t words[640];
    MUST(length <= sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = round;
    TIMED(self->times, write(self->file, words, length) == (ssize_t)length);
}

/* Record n has been written: one change of names. Each step is one call that leaves another state behind. */
static void change_names(struct worker *self, uint64_t n) {
    struct times *t = self->times;
    int home = self->home;
    uint64_t round = (n - 1) / STEPS;
    char dir[64], last[64], a[80], b[80], c[80], e[80], moved[64];
    snprintf(dir, sizeof dir, "dir-%lu", round);
    snprintf(last, sizeof last, "last-%lu", round);
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    snprintf(c, sizeof c, "%s/c", dir);
    snprintf(e, sizeof e, "%s/e", dir);
    snprintf(moved, sizeof moved, "moved-%lu", round);
    switch ((n - 1) % STEPS) {
    case 0: TIMED(t, mkdirat(home, dir, 0755) == 0); break;
    case 1: self->file = make(self, a, O_EXCL); break;
    case 2: fill(self, round, 3000); break;
    case 3: fill(self, round, 5000); break;
    case 4: TIMED(t, fallocate(self->file, 0, 0, 32768) == 0); break;
    case 5: TIMED(t, ftruncate(self->file, 20000) == 0); break;
    case 6: TIMED(t, renameat(home, a, home, b) == 0); break;
    case 7: TIMED(t, linkat(home, b, home, c, 0) == 0); break;
    case 8: TIMED(t, unlinkat(home, b, 0) == 0); break;
    case 9: TIMED(t, fallocate(self->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 1000) == 0); break;
    case 10: TIMED(t, mkdirat(home, e, 0700) == 0); break;
    case 11: TIMED(t, renameat(home, c, home, moved) == 0); break;
    case 12: TIMED(t, unlinkat(home, e, AT_REMOVEDIR) == 0); break;
    case 13: TIMED(t, renameat(home, dir, home, last) == 0); break;
    case 14:
        TIMED(t, unlinkat(home, moved, 0) == 0);
        MUST(close(self->file) == 0);
        break;
    case 15: TIMED(t, unlinkat(home, last, AT_REMOVEDIR) == 0); break;
    case 16: self->file = make(self, "next", O_TRUNC); break;
    case 17:
        fill(self, round, 8);
        MUST(close(self->file) == 0);
        break;
    case 18: TIMED(t, renameat(home, "next", home, "current") == 0); break;
    case 19: TIMED(t, fchmodat(home, "current", round % 2 ? 0600 : 0640, 0) == 0); break;
    }
}

static void append(struct worker *self, uint64_t n) {
    if (n % LOG_RECORDS == 0)
        TIMED(self->times, ftruncate(self->log, 0) == 0);
    TIMED(self->times, write(self->log, &n, sizeof n) == (ssize_t)sizeof n);
}

static void *worker(void *argument) {
    struct worker *self = argument;
    for (;;) {
        self->begun_named[0] = self->ring.newest + 1;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        timed_ring_write(self);
        change_names(self, self->ring.newest);
        self->begun_named[1] = self->ring.newest;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        append(self, self->ring.newest);
        if (self->pause_us)
            nap(self->pause_us);
    }
    return NULL;
}

/* Sleeps a millisecond at a time. Its part of the page: how often, 0, the longest lateness, 0, 0, how often late. */
static void *sleeper(void *argument) {
    struct times *times = argument;
    uint64_t last = now();
    for (;;) {
        struct timespec millisecond = {0, 1000000};
        nanosleep(&millisecond, NULL);
        uint64_t woken = now();
        note(times, last, woken, 0);
        if (woken - last > STALL_NS && woken - last <= LONG_NS) {
            /* Shorter than what note() logs, but a stall all the same. */
            uint64_t at = times->long_calls % LOG;
            SET(times->log[at].begin, last);
            SET(times->log[at].end, woken);
            SET(times->long_calls, times->long_calls + 1);
        }
        last = now();
    }
    return NULL;
}

static void *spinner(void *argument) {
    volatile uint64_t *turns = argument;
    for (;;)
        ++*turns;
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 7);
    /* Whoever started it may be killed: nothing is left behind then. */
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    umask(022);
    const char *dir = argv[1];
    long workers = number(argv[3]);
    MUST(workers > 0 && workers <= MOST_WORKERS);
    int fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    MUST(fd >= 0 && ftruncate(fd, BLOCK * 8 * 16) == 0);
    page = mmap(NULL, BLOCK * 8 * 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(page != MAP_FAILED);
    MUST(sizeof(struct times) <= BLOCK * 8);
    page[2] = (uint64_t)workers;
    uint64_t *mapped = mmap(NULL, RECORD, PROT_READ | PROT_WRITE, MAP_SHARED, make_file(dir, "mapped", RECORD), 0);
    MUST(mapped != MAP_FAILED);
    struct worker *all = calloc((size_t)workers, sizeof *all);
    MUST(all);
    for (long i = 0; i < workers; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%ld", dir, i) < (int)sizeof path);
        ring_open(&all[i].ring, path, (uint64_t)number(argv[4]));
        all[i].log = make_file(path, "log", 0);
        MUST(fcntl(all[i].log, F_SETFL, O_APPEND) == 0);
        MUST(snprintf(path, sizeof path, "%s/%ld/names", dir, i) < (int)sizeof path);
        MUST(mkdir(path, 0755) == 0);
        MUST((all[i].home = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0);
        all[i].times = part((uint64_t)i);
        all[i].begun_named = mapped + 2 * i;
        all[i].pause_us = number(argv[5]);
    }
    pthread_t id;
    for (long i = 0; i < workers; i++)
        MUST(pthread_create(&id, NULL, worker, &all[i]) == 0);
    MUST(pthread_create(&id, NULL, sleeper, part(STALL)) == 0);
    static uint64_t turns;
    for (long i = 0; i < number(argv[6]); i++)
        MUST(pthread_create(&id, NULL, spinner, &turns) == 0);
    ready();
    for (;;)
        nap(1000000);
}
