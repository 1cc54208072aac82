/* denies_execution DIR THREADS SLOTS PAUSE_US: rings, in a process whose memory may not be made executable (PR_SET_MDWE). */
#include "guest.h"
#include <sys/prctl.h>

int main(int argc, char **argv) {
    enum { SET_MDWE = 65, REFUSE_EXEC_GAIN = 1 };
    MUST(argc == 5);
    MUST(prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) == 0);
    run_rings(argv[1], number(argv[2]), number(argv[3]), number(argv[4]));
}
