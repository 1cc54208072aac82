/* threads_come_and_go DIR: every few records are written by a new thread, which then ends. */
#include "guest.h"

static void *write_some(void *argument) {
    struct ring *ring = argument;
    for (int i = 0; i < 8; i++)
        ring_write(ring);
    return NULL;
}

static void *parent(void *argument) {
    for (;;) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, write_some, argument) == 0);
        MUST(pthread_join(id, NULL) == 0);
        nap(100);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    static struct ring rings[4];
    for (int i = 0; i < 4; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%d", argv[1], i) < (int)sizeof path);
        ring_open(&rings[i], path, 128);
    }
    for (int i = 0; i < 4; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, parent, &rings[i]) == 0);
    }
    ready();
    for (;;)
        nap(1000000);
}
