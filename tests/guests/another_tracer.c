/* another_tracer PID: traces every thread of the process, as a debugger or strace does, until it is killed. */
#include "guest.h"
#include <dirent.h>
#include <sys/ptrace.h>

int main(int argc, char **argv) {
    MUST(argc == 2);
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/task", number(argv[1]));
    DIR *threads = opendir(path);
    MUST(threads);
    for (struct dirent *thread; (thread = readdir(threads));)
        if (thread->d_name[0] != '.')
            MUST(ptrace(PTRACE_SEIZE, (pid_t)number(thread->d_name), NULL, NULL) == 0);
    ready();
    for (;;)
        nap(1000000);
}
