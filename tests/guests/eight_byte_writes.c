/* eight_byte_writes DIR [EVENTFDS]: appends the numbers 1, 2, 3, ... to DIR/odd and DIR/even in turn, each by a write(2) of
 * exactly eight bytes, so that a filter cannot tell it from a wake-up through an eventfd. It may have some of those. */
#include "guest.h"
#include <sys/eventfd.h>

int main(int argc, char **argv) {
    MUST(argc == 2 || argc == 3);
    for (long i = argc == 3 ? number(argv[2]) : 0; i > 0; i--)
        MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    int fd[2] = {make_file(argv[1], "even", 0), make_file(argv[1], "odd", 0)};
    /* Something to copy, so that numbers are written while the backup runs. */
    make_ballast(argv[1], 8);
    ready();
    for (uint64_t n = 1;; n++) {
        MUST(write(fd[n % 2], &n, sizeof n) == sizeof n);
        nap(50);
    }
}
