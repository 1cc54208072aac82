/* apart PID WORD CGROUP.PROCS... -- PROGRAM ARGUMENTS...: runs a program in the PID and mount namespace of process PID, and in
 * cgroups of its own, as a sidecar's is; its number here goes to the file WORD. Ends as that one ends. */
#include "guest.h"
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { MOST = 64 };

static int open_namespace(const char *pid, const char *kind) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kind);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    return fd;
}

int main(int argc, char **argv) {
    int groups[MOST], count = 0, at = 3;
    MUST(argc > 4);
    for (; at < argc && strcmp(argv[at], "--") != 0; at++, count++) {
        MUST(count < MOST);
        groups[count] = open(argv[at], O_WRONLY | O_CLOEXEC);
        MUST(groups[count] >= 0);
    }
    MUST(at + 1 < argc);
    int word = open(argv[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(word >= 0);
    int pids = open_namespace(argv[1], "pid"), mounts = open_namespace(argv[1], "mnt");
    MUST(setns(pids, CLONE_NEWPID) == 0);
    MUST(setns(mounts, CLONE_NEWNS) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < count; i++)
            MUST(write(groups[i], "0", 1) == 1);
        execv(argv[at + 1], argv + at + 1);
        MUST(!"the program can be executed");
    }
    MUST(dprintf(word, "%d\n", child) > 0);
    int status;
    while (waitpid(child, &status, 0) < 0)
        MUST(errno == EINTR);
    if (WIFSIGNALED(status)) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    return WEXITSTATUS(status);
}
