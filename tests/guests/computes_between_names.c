/* computes_between_names DIR: one thread makes and removes a directory, and then computes for seconds without a call; the
 * other writes, and opens a file by its path all the time. */
#include "guest.h"
#include <time.h>

static char path[4096];

static void *computes(void *unused) {
    for (;;) {
        MUST(mkdir(path, 0755) == 0);
        MUST(rmdir(path) == 0);
        struct timespec now;
        MUST(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
        /* The clock is read without a system call. */
        for (time_t end = now.tv_sec + 2; now.tv_sec < end;)
            MUST(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    }
    return unused;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    char rings[4096], file[4096];
    join_path(rings, sizeof rings, argv[1], "0");
    join_path(file, sizeof file, argv[1], "0/ring-0");
    join_path(path, sizeof path, argv[1], "made");
    struct ring ring;
    ring_open(&ring, rings, 8192); /* so that a backup takes some seconds */
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, computes, NULL) == 0);
    ready();
    for (;;) {
        ring_write(&ring);
        int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        MUST(fd >= 0);
        MUST(close(fd) == 0);
        nap(1000);
    }
}
