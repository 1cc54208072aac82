/* No call takes longer than it may: DIR BOUND_MS TRIGGER HOW PATH DONE. Three threads write rings in DIR, one makes, renames
 * and removes files beside it, and writes down in DIR how often; each naps in between. A fifth waits for TRIGGER: `write`
 * writes to PATH, and makes DONE after it; `mkdir` makes the directory PATH, which may fail. A call of the first four that
 * is not over within BOUND_MS ends the guest with abort(); so does the write. */
#include "guest.h"
#include <stdatomic.h>
#include <time.h>

enum { RINGS = 3, WATCHED = RINGS + 2 };

static struct watched {
    _Atomic int64_t since; /* 0: in no call */
    const char *what;
} watched[WATCHED];

static const char *dir, *trigger, *how, *path, *done;
static struct ring rings[RINGS];

static int64_t now_ms(void) {
    struct timespec time;
    MUST(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

#define TIMED(watch, call)                                                                               \
    do {                                                                                                 \
        (watch)->what = #call;                                                                           \
        atomic_store(&(watch)->since, now_ms());                                                         \
        MUST(call);                                                                                      \
        atomic_store(&(watch)->since, 0);                                                                \
    } while (0)

static void *write_ring(void *argument) {
    long i = (long)argument;
    for (;;) {
        TIMED(&watched[i], (ring_write(&rings[i]), 1));
        nap(500);
    }
}

static void *change_names(void *argument) {
    struct watched *watch = argument;
    char one[4096], two[4096];
    MUST(snprintf(one, sizeof one, "%s-one", dir) < (int)sizeof one);
    MUST(snprintf(two, sizeof two, "%s-two", dir) < (int)sizeof two);
    int count = make_file(dir, "count", 4096);
    ready();
    for (uint64_t n = 1;; n++) {
        int fd;
        TIMED(watch, (fd = open(one, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) >= 0);
        MUST(close(fd) == 0);
        TIMED(watch, rename(one, two) == 0);
        TIMED(watch, unlink(two) == 0);
        TIMED(watch, pwrite(count, &n, sizeof n, 0) == sizeof n);
        nap(1000);
    }
}

static void *get_stuck(void *argument) {
    struct watched *watch = argument;
    wait_for_file(trigger);
    if (strcmp(how, "mkdir") == 0) {
        mkdir(path, 0755);
        return NULL;
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    MUST(fd >= 0);
    static char data[4096];
    TIMED(watch, pwrite(fd, data, sizeof data, 0) == (ssize_t)sizeof data);
    MUST(open(done, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) >= 0);
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 7);
    dir = argv[1], trigger = argv[3], how = argv[4], path = argv[5], done = argv[6];
    int64_t bound = number(argv[2]);
    pthread_t thread;
    for (long i = 0; i < RINGS; i++) {
        char ring[4096];
        MUST(snprintf(ring, sizeof ring, "%s/%ld", dir, i) < (int)sizeof ring);
        ring_open(&rings[i], ring, 64);
        MUST(pthread_create(&thread, NULL, write_ring, (void *)i) == 0);
    }
    MUST(pthread_create(&thread, NULL, get_stuck, &watched[RINGS + 1]) == 0);
    MUST(pthread_create(&thread, NULL, change_names, &watched[RINGS]) == 0);
    for (;;) {
        for (int i = 0; i < WATCHED; i++) {
            int64_t since = atomic_load(&watched[i].since), took = now_ms() - since;
            if (since && took > bound) {
                fprintf(stderr, "%s has taken %lld ms\n", watched[i].what, (long long)took);
                abort();
            }
        }
        nap(5000);
    }
}
