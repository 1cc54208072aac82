/* never_sleeps DIR: a single thread that computes and writes, and sleeps in no call ever. */
#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 2);
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", 256);
    ready();
    ring_write_and_compute(&ring);
}
