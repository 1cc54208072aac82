/* as_process PID PROGRAM ARGUMENTS...: runs a program as process PID, a number that must be free, and ends as it does. */
#include "guest.h"
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
    MUST(argc >= 3);
    pid_t wanted = (pid_t)number(argv[1]);
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1};
    long child = syscall(SYS_clone3, &args, sizeof args);
    MUST(child >= 0);
    if (child == 0) {
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        execv(argv[2], argv + 2);
        MUST(!"exec");
    }
    MUST(child == wanted);
    int status;
    MUST(waitpid((pid_t)child, &status, 0) == child);
    MUST(status == 0);
    return 0;
}
