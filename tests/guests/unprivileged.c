/* unprivileged DIR: a service that has given up root, and has no_new_privs not set. */
#include "guest.h"
#include <grp.h>
#include <sys/prctl.h>

int main(int argc, char **argv) {
    MUST(argc == 2);
    MUST(chown(argv[1], 65534, 65534) == 0);
    MUST(setgroups(0, NULL) == 0);
    MUST(setgid(65534) == 0);
    MUST(setuid(65534) == 0);
    MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    run_rings(argv[1], 2, 64, 200);
}
