/* io_uring DIR TRIGGER: sets up an io_uring once the file TRIGGER is there, which may be from the start. */
#include "guest.h"
#include <linux/io_uring.h>

int main(int argc, char **argv) {
    MUST(argc == 3);
    make_ballast(argv[1], 16);
    int there = access(argv[2], F_OK) == 0;
    if (!there) {
        ready();
        wait_for_file(argv[2]);
    }
    struct io_uring_params params = {0};
    MUST(syscall(SYS_io_uring_setup, 4, &params) >= 0);
    if (there)
        ready();
    for (;;)
        nap(1000000);
}
