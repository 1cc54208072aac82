/* becomes_another DIR TRIGGER [again]: writes the ring DIR/0. Once the file TRIGGER is there it executes itself anew, which
 * goes on with the ring DIR/1, and removes TRIGGER. */
#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 3 || argc == 4);
    int again = argc == 4;
    char path[4096];
    join_path(path, sizeof path, argv[1], "0");
    struct ring ring;
    if (again) {
        /* The ring of the program before stands still: only what is written to is left in the directory. */
        char gone[4096];
        join_path(gone, sizeof gone, argv[1], "../before");
        MUST(rename(path, gone) == 0);
    }
    ring_open(&ring, path, 32);
    if (again)
        MUST(unlink(argv[2]) == 0);
    else
        ready();
    for (;;) {
        ring_write(&ring);
        nap(500);
        if (!again && access(argv[2], F_OK) == 0) {
            char *arguments[] = {argv[0], argv[1], argv[2], "again", NULL};
            execv("/proc/self/exe", arguments);
            MUST(!"exec");
        }
    }
}
