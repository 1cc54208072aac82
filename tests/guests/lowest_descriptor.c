/* lowest_descriptor DIR TRIGGER: writes the ring DIR/0, and opens, duplicates and closes descriptors all the time: each that
 * it gets is the lowest number that it has free, as POSIX has it. Once the file TRIGGER is there it lowers its limit of
 * descriptors below the highest that is open, and closes everything above 2 that is not its own, and goes on; then it removes
 * TRIGGER. */
#include "guest.h"
#include <sys/resource.h>

enum { NUMBERS = 256 };

static char mine[NUMBERS];
static struct ring ring;

static int lowest_free(void) {
    for (int fd = 0; fd < NUMBERS; fd++)
        if (!mine[fd])
            return fd;
    return -1;
}

static void got(int fd) {
    MUST(fd == lowest_free());
    mine[fd] = 1;
}

static void give(int fd) {
    MUST(mine[fd]);
    MUST(close(fd) == 0);
    mine[fd] = 0;
}

static void lose_the_rest(void) {
    struct rlimit limit = {NUMBERS, NUMBERS};
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    unsigned last = 0;
    for (unsigned fd = 3; fd < NUMBERS; fd++)
        if (mine[fd])
            last = fd;
    for (unsigned fd = 3; fd < last; fd++)
        if (!mine[fd])
            close((int)fd);
    MUST(syscall(SYS_close_range, last + 1, ~0u, 0) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 3);
    char path[4096];
    MUST(snprintf(path, sizeof path, "%s/0", argv[1]) < (int)sizeof path);
    ring_open(&ring, path, 64);
    for (int fd = 0; fd < NUMBERS; fd++)
        mine[fd] = fcntl(fd, F_GETFD) >= 0;
    ready();
    for (unsigned round = 0;; round++) {
        ring_write(&ring);
        /* Standard input is a file like others to a daemon. */
        if (round % 8 == 0) {
            give(0);
            got(open("/dev/null", O_RDONLY | O_CLOEXEC));
        }
        int fd = round % 3 == 0 ? open("/proc/self/exe", O_RDONLY | O_CLOEXEC) : dup(ring.fd[0]);
        MUST(fd >= 0);
        got(fd);
        if (fd > 100)
            for (int old = 100; old > ring.fd[RING_FILES - 1]; old -= 2)
                if (mine[old])
                    give(old);
        if (fd > 180)
            for (int old = 0; old < NUMBERS; old++)
                if (old > ring.fd[RING_FILES - 1] && mine[old])
                    give(old);
        if (access(argv[2], F_OK) == 0) {
            lose_the_rest();
            MUST(unlink(argv[2]) == 0);
        }
        nap(100);
    }
}
