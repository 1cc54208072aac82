/* rings DIR THREADS SLOTS PAUSE_US: threads that each write a ring. */
#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 5);
    run_rings(argv[1], number(argv[2]), number(argv[3]), number(argv[4]));
}
