/* looks_like_a_helper NAME ...: a bystander whose name and arguments are a helper's of hotbackup, the arguments being its own. */
#include "guest.h"
#include <sys/prctl.h>

int main(int argc, char **argv) {
    MUST(argc >= 2);
    MUST(prctl(PR_SET_NAME, strcmp(argv[1], "ptracer") == 0 ? "hotbackup-trace" : "hotbackup-keep") == 0);
    ready();
    for (;;)
        nap(1000000);
}
