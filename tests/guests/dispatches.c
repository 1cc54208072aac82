/* dispatches DIR: writes a ring, and has every call that is not made by its own code handed to itself, as Wine does with the
 * programs that it runs: such a call ends it. To be linked statically. */
#include <sys/prctl.h>

#include "guest.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif

extern char __executable_start, etext;
static char selector = 1; /* SYSCALL_DISPATCH_FILTER_BLOCK */

int main(int argc, char **argv) {
    MUST(argc == 2);
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", 256);
    unsigned long start = (unsigned long)&__executable_start, length = (unsigned long)(&etext - &__executable_start);
    MUST(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, start, length, &selector) == 0);
    ready();
    ring_write_and_compute(&ring);
}
