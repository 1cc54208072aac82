/* keeper_of_before keeper PID START: calls itself what keepers of the layouts up to 4 are called, and does nothing. */
#include <sys/prctl.h>

#include "guest.h"

int main(int argc, char **argv) {
    MUST(argc == 4 && strcmp(argv[1], "keeper") == 0);
    MUST(prctl(PR_SET_NAME, "hotbackup-keep") == 0);
    ready();
    for (;;)
        nap(1000000000);
}
