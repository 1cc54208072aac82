/* times_writes DIR: for each line "THREADS SIZE MILLISECONDS" on standard input, that many threads write to files of their own at random
 * places for so long, and what a call took is told: its median and 99th percentile in nanoseconds, and how many there were. */
#include "guest.h"
#include <time.h>

enum { MOST = 64, STEPS = 1 << 16, FILE_BYTES = 64 << 20 };

static struct worker {
    pthread_t thread;
    int fd;
    size_t size;
    uint64_t until, random, counts[STEPS];
} workers[MOST];

static uint64_t now(void) {
    struct timespec time;
    MUST(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *work(void *argument) {
    struct worker *w = argument;
    char *buffer = malloc(w->size);
    memset(buffer, 7, w->size);
    memset(w->counts, 0, sizeof w->counts);
    for (uint64_t began = now(); began < w->until;) {
        w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
        off_t at = (w->random >> 33) % (FILE_BYTES / w->size) * w->size;
        MUST(pwrite(w->fd, buffer, w->size, at) == (ssize_t)w->size);
        uint64_t ended = now(), took = ended - began;
        /* Steps of 4 ns up to a quarter of a millisecond. */
        w->counts[took / 4 < STEPS ? took / 4 : STEPS - 1]++;
        began = ended;
    }
    free(buffer);
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    for (int n = 0; n < MOST; n++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%d", argv[1], n);
        MUST((workers[n].fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) >= 0);
        MUST(ftruncate(workers[n].fd, FILE_BYTES) == 0);
        workers[n].random = n;
    }
    puts("ready");
    fflush(stdout);
    int threads, milliseconds;
    size_t size;
    while (scanf("%d %zu %d", &threads, &size, &milliseconds) == 3) {
        MUST(threads <= MOST);
        uint64_t until = now() + milliseconds * 1000000ull, all = 0, sum = 0, median = 0;
        for (int n = 0; n < threads; n++) {
            workers[n].size = size, workers[n].until = until;
            MUST(pthread_create(&workers[n].thread, NULL, work, &workers[n]) == 0);
        }
        for (int n = 0; n < threads; n++)
            MUST(pthread_join(workers[n].thread, NULL) == 0);
        for (int n = 1; n < threads; n++)
            for (int step = 0; step < STEPS; step++)
                workers[0].counts[step] += workers[n].counts[step];
        for (int step = 0; step < STEPS; step++)
            all += workers[0].counts[step];
        for (int step = 0; step < STEPS; step++) {
            sum += workers[0].counts[step];
            if (!median && sum * 2 >= all)
                median = step * 4 + 2;
            if (sum * 100 >= all * 99) {
                printf("%llu %d %llu\n", (unsigned long long)median, step * 4 + 2, (unsigned long long)all);
                break;
            }
        }
        fflush(stdout);
    }
}
