/* The order in which the calls of all threads of random_calls were made, as far as it could be observed: each draws a
 * number from one clock before it and after it. They stand in a page outside the source, with what each call was and
 * returned; tests/model/order.rs reads it. */
#pragma once
#include "random_calls_thread.h"

enum { KEPT_STEPS = 1 << 20, TIMES_HEAD = 4096 };

struct times {
    uint64_t step, call_began, call_ended, count_began, count_ended;
    uint64_t kind;   /* its number in KINDS */
    int64_t value;   /* -errno where it failed */
    uint64_t hash;   /* of all values so far */
};

static _Atomic uint64_t *the_clock; /* at the head of the page */

static uint64_t tick(void) {
    return atomic_fetch_add(the_clock, 1) + 1;
}

static struct times *make_times(const char *path, long threads) {
    size_t size = TIMES_HEAD + (size_t)threads * KEPT_STEPS * sizeof(struct times);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(page != MAP_FAILED);
    MUST(close(fd) == 0);
    the_clock = (_Atomic uint64_t *)page;
    return (struct times *)(page + TIMES_HEAD);
}

/* Where the next step's times go. What has not happened yet is 0. */
static struct times *times_of_next_step(struct thread *t) {
    struct times *times = &t->times[(t->step + 1) % KEPT_STEPS];
    *times = (struct times){.step = t->step + 1};
    return times;
}
