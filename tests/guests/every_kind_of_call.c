/* every_kind_of_call DIR PAGE WORKERS SLOTS PAUSE_US SPIN [TIMES]: threads that each write a ring, change names and append to
 * a log, all in a fixed order, and time every call; see tests/common/names.rs for what each call leaves behind. Where there are
 * several calls to the same effect, they take turns.
 *
 * DIR/mapped is mapped shared; by stores, each writer says there when it begins a record, and when it has made that record's
 * change of names.
 *
 * The times go to PAGE, a file outside DIR that is mapped shared; tests/faults/page.rs reads it. One more thread only
 * sleeps, and records when it woke late: by that a stall of the machine is told apart from a call that had to wait.
 * SPIN other threads never leave the processor.
 *
 * TIMES is one more such file: when each record was begun and ended, for tests/point_in_time.rs. */
#include "guest.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
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

/* When record `number` of a worker was begun, when it was in the ring, and when the last call that belongs to it was over;
 * 0 is not yet. On the clock that backups name their point in time by. */
enum { TIMES = 1 << 17 };
struct record_times {
    uint64_t number, begun, written, over;
};

static struct record_times *record_times;

static uint64_t now_of(clockid_t clock) {
    struct timespec time;
    MUST(clock_gettime(clock, &time) == 0);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t now(void) {
    return now_of(CLOCK_MONOTONIC);
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
    uint64_t number;
    char *log_path;
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
    off_t at;
    int fd = ring_next(&self->ring, record, &at);
    struct iovec halves[2] = {{record, RECORD / 2}, {record + RECORD / 16, RECORD / 2}};
    if (record[0] % 2)
        TIMED(self->times, pwrite(fd, record, sizeof record, at) == (ssize_t)sizeof record);
    else
        TIMED(self->times, pwritev(fd, halves, 2, at) == (ssize_t)sizeof record);
    self->ring.newest++;
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
    struct iovec parts[2] = {{words, 8}, {words + 1, length - 8}};
    if (round % 2)
        TIMED(self->times, write(self->file, words, length) == (ssize_t)length);
    else
        TIMED(self->times, writev(self->file, parts, 2) == (ssize_t)length);
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
    int fd;
    switch (n % (3 * LOG_RECORDS)) {
    case 0: TIMED(self->times, ftruncate(self->log, 0) == 0); break;
    case LOG_RECORDS: TIMED(self->times, truncate(self->log_path, 0) == 0); break;
    case 2 * LOG_RECORDS:
        TIMED(self->times, (fd = open(self->log_path, O_WRONLY | O_TRUNC | O_CLOEXEC)) >= 0);
        MUST(close(fd) == 0);
        break;
    }
    TIMED(self->times, write(self->log, &n, sizeof n) == (ssize_t)sizeof n);
}

static void *worker(void *argument) {
    struct worker *self = argument;
    for (;;) {
        uint64_t n = self->ring.newest + 1;
        struct record_times none, *times = record_times ? &record_times[self->number * TIMES + n % TIMES] : &none;
        SET(times->written, 0);
        SET(times->over, 0);
        SET(times->begun, now_of(CLOCK_REALTIME));
        SET(times->number, n);
        self->begun_named[0] = n;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        timed_ring_write(self);
        SET(times->written, now_of(CLOCK_REALTIME));
        change_names(self, n);
        self->begun_named[1] = n;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        append(self, n);
        SET(times->over, now_of(CLOCK_REALTIME));
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

/* A file of `size` bytes outside DIR, mapped shared. */
static void *map_outside(const char *path, size_t size) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    MUST(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(mapped != MAP_FAILED);
    return mapped;
}

int main(int argc, char **argv) {
    MUST(argc == 7 || argc == 8);
    /* Whoever started it may be killed: nothing is left behind then. */
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    umask(022);
    const char *dir = argv[1];
    long workers = number(argv[3]);
    MUST(workers > 0 && workers <= MOST_WORKERS);
    page = map_outside(argv[2], BLOCK * 8 * 16);
    if (argc == 8)
        record_times = map_outside(argv[7], (size_t)workers * TIMES * sizeof *record_times);
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
        all[i].number = (uint64_t)i;
        all[i].log = make_file(path, "log", 0);
        MUST(asprintf(&all[i].log_path, "%s/log", path) > 0);
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
