/* first_thread_ends DIR TRIGGER EVENTFDS: another thread writes the ring DIR/0. Once the file TRIGGER is there, the first thread
 * ends, and what is left of the process in /proc can no longer be looked at. */
#include "guest.h"
#include <sys/eventfd.h>

int main(int argc, char **argv) {
    MUST(argc == 4);
    for (long i = 0; i < number(argv[3]); i++)
        MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    static struct ring_thread only;
    char path[4096];
    join_path(path, sizeof path, argv[1], "0");
    ring_open(&only.ring, path, 256);
    only.pause_us = 200;
    pthread_t id;
    MUST(pthread_create(&id, NULL, ring_thread, &only) == 0);
    ready();
    wait_for_file(argv[2]);
    pthread_exit(NULL);
}
