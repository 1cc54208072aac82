/* children DIR: writes DIR/0 itself, and has three more rings written by children, eight records each: DIR/1 through inherited
 * descriptors, DIR/2 through descriptors that the child opens, DIR/3 by another program (this one, started anew).
 * children DIR write N: that program: writes records N to N + 7 of the ring DIR. */
#include "guest.h"
#include <sys/wait.h>

enum { SLOTS = 48, BATCH = 8 };

static const char *base;

/* The files of a ring that is there, opened anew. */
static void ring_reopen(struct ring *ring, const char *dir, uint64_t newest) {
    ring->slots = SLOTS;
    ring->newest = newest;
    for (int i = 0; i < RING_FILES; i++) {
        char path[4200];
        MUST(snprintf(path, sizeof path, "%s/ring-%d", dir, i) < (int)sizeof path);
        ring->fd[i] = open(path, O_WRONLY | O_CLOEXEC);
        MUST(ring->fd[i] >= 0);
    }
}

static void write_batch(struct ring *ring) {
    for (int i = 0; i < BATCH; i++)
        ring_write(ring);
}

static void *parent(void *argument) {
    long how = (long)argument;
    char path[4096], first[32];
    MUST(snprintf(path, sizeof path, "%s/%ld", base, how) < (int)sizeof path);
    struct ring ring;
    ring_open(&ring, path, SLOTS);
    for (;;) {
        MUST(snprintf(first, sizeof first, "%lu", (unsigned long)ring.newest) > 0);
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            struct ring own;
            if (how == 1) {
                write_batch(&ring);
            } else if (how == 2) {
                ring_reopen(&own, path, ring.newest);
                write_batch(&own);
            } else {
                execl("/proc/self/exe", "children", path, "write", first, NULL);
                MUST(!"exec");
            }
            _exit(0);
        }
        int status;
        MUST(waitpid(child, &status, 0) == child);
        MUST(status == 0);
        ring.newest += BATCH;
        nap(2000);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[2], "write") == 0) {
        struct ring ring;
        ring_reopen(&ring, argv[1], (uint64_t)number(argv[3]));
        write_batch(&ring);
        return 0;
    }
    MUST(argc == 2);
    base = argv[1];
    char path[4096];
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", SLOTS);
    for (long how = 1; how < 4; how++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, parent, (void *)how) == 0);
        join_path(path, sizeof path, argv[1], (char[]){(char)('0' + how), '/', 'r', 'i', 'n', 'g', '-', '2', 0});
        struct stat there;
        while (stat(path, &there) != 0 || there.st_size != SLOTS * RECORD)
            nap(1000);
    }
    ready();
    for (;;) {
        ring_write(&ring);
        nap(500);
    }
}
