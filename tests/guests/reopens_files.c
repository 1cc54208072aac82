/* reopens_files DIR: a program with an eventfd that opens its files anew for each record, writes by pwrite, and closes
 * them, as WiredTiger does with its turtle file and with tables it drops. */
#include "guest.h"
#include <sys/eventfd.h>

int main(int argc, char **argv) {
    MUST(argc == 2);
    MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", 512);
    char name[RING_FILES][4200];
    for (int i = 0; i < RING_FILES; i++) {
        MUST(close(ring.fd[i]) == 0);
        snprintf(name[i], sizeof name[i], "%s/0/ring-%d", argv[1], i);
    }
    ready();
    for (;;) {
        int next = (int)((ring.newest + 1) % RING_FILES);
        ring.fd[next] = open(name[next], O_WRONLY | O_CLOEXEC);
        MUST(ring.fd[next] >= 0);
        ring_write(&ring);
        MUST(close(ring.fd[next]) == 0);
        nap(500);
    }
}
