/* writable_mapping DIR TRIGGER HOW: stores to DIR/mapped through a shared mapping, which no system call shows.
 * HOW: "mmap" maps it writable once the file TRIGGER is there, "mprotect" maps it read-only at once and makes it writable
 * then. TRIGGER may be there from the start. */
#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 4);
    int late = strcmp(argv[3], "mprotect") == 0;
    int fd = make_file(argv[1], "mapped", RECORD);
    make_ballast(argv[1], 16);
    volatile uint64_t *words = NULL;
    if (late) {
        words = mmap(NULL, RECORD, PROT_READ, MAP_SHARED, fd, 0);
        MUST(words != MAP_FAILED);
    }
    int there = access(argv[2], F_OK) == 0;
    if (!there) {
        ready();
        wait_for_file(argv[2]);
    }
    if (late) {
        MUST(mprotect((void *)words, RECORD, PROT_READ | PROT_WRITE) == 0);
    } else {
        words = mmap(NULL, RECORD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        MUST(words != MAP_FAILED);
    }
    if (there)
        ready();
    for (uint64_t n = 1;; n++) {
        words[n % (RECORD / sizeof *words)] = n;
        nap(500);
    }
}
