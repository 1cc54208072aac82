/* closes_what_it_does_not_know DIR TRIGGER: writes the rings DIR/0 and DIR/1 by two threads. Each time the file TRIGGER is
 * there, it closes every descriptor above 2 that it has not opened itself, and removes TRIGGER. */
#include "guest.h"
#include <dirent.h>

static struct ring rings[2];

static void *writer(void *argument) {
    for (;;) {
        ring_write(argument);
        nap(300);
    }
    return NULL;
}

static int is_mine(int fd) {
    for (int ring = 0; ring < 2; ring++)
        for (int i = 0; i < RING_FILES; i++)
            if (rings[ring].fd[i] == fd)
                return 1;
    return 0;
}

int main(int argc, char **argv) {
    MUST(argc == 3);
    for (int i = 0; i < 2; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%d", argv[1], i) < (int)sizeof path);
        ring_open(&rings[i], path, 96);
        pthread_t id;
        MUST(pthread_create(&id, NULL, writer, &rings[i]) == 0);
    }
    ready();
    for (;;) {
        wait_for_file(argv[2]);
        for (int fd = 3; fd < 1024; fd++)
            if (!is_mine(fd))
                close(fd);
        MUST(unlink(argv[2]) == 0);
    }
}
