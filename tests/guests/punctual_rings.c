/* punctual_rings DIR THREADS SLOTS PAUSE_US BOUND_MS: threads that each write a ring, and abort if a write takes longer
 * than the bound. */
#include "guest.h"
#include <time.h>

static int64_t bound_ms;

static int64_t now_ms(void) {
    struct timespec now;
    MUST(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void *punctual(void *argument) {
    struct ring_thread *thread = argument;
    for (;;) {
        int64_t since = now_ms();
        ring_write(&thread->ring);
        int64_t taken = now_ms() - since;
        if (taken > bound_ms) {
            fprintf(stderr, "a write took %lld ms\n", (long long)taken);
            abort();
        }
        if (thread->pause_us)
            nap(thread->pause_us);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 6);
    long threads = number(argv[2]), slots = number(argv[3]), pause_us = number(argv[4]);
    bound_ms = number(argv[5]);
    struct ring_thread *all = calloc((size_t)threads, sizeof *all);
    MUST(all);
    for (long i = 0; i < threads; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%ld", argv[1], i) < (int)sizeof path);
        ring_open(&all[i].ring, path, (uint64_t)slots);
        all[i].pause_us = pause_us;
    }
    for (long i = 0; i < threads; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, punctual, &all[i]) == 0);
    }
    ready();
    for (;;)
        nap(1000000);
}
