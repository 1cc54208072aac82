/* fills_memory FILE BALLAST_MIB: takes so much memory for itself, then fills FILE, on a tmpfs, until it is killed. What is
 * in the file is nobody's own: it makes no process a likelier victim. The file is gone with the process. */
#include "guest.h"

enum { MIB = 1 << 20 };

int main(int argc, char **argv) {
    MUST(argc == 3);
    size_t ballast = (size_t)number(argv[2]) * MIB;
    char *own = malloc(ballast);
    MUST(own);
    memset(own, 1, ballast);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(fd >= 0 && unlink(argv[1]) == 0);
    for (;;)
        MUST(write(fd, own, 65536) == 65536);
}
