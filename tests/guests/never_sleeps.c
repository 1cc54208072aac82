/* never_sleeps DIR: a single thread that computes and writes, and sleeps in no call ever. */
#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 2);
    char path[4096];
    join_path(path, sizeof path, argv[1], "0");
    struct ring ring;
    ring_open(&ring, path, 256);
    ready();
    for (;;) {
        ring_write(&ring);
        for (volatile int i = 0; i < 20000; i++)
            ;
    }
}
