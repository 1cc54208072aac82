/* endings DIR TRIGGER HOW: four threads write rings. Once the file TRIGGER is there the process ends: HOW is "exit", "exit_group"
 * (by a thread of its own), "segv" or "abort". It leaves a core file of any size. */
#include "guest.h"
#include <signal.h>
#include <sys/resource.h>

static const char *trigger, *how;

static void *end(void *unused) {
    (void)unused;
    wait_for_file(trigger);
    if (strcmp(how, "exit_group") == 0)
        syscall(SYS_exit_group, 0);
    if (strcmp(how, "segv") == 0)
        *(volatile int *)8 = 1;
    if (strcmp(how, "abort") == 0)
        abort();
    MUST(strcmp(how, "exit") == 0);
    exit(0);
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    trigger = argv[2];
    how = argv[3];
    struct rlimit any = {RLIM_INFINITY, RLIM_INFINITY};
    MUST(setrlimit(RLIMIT_CORE, &any) == 0);
    pthread_t id;
    MUST(pthread_create(&id, NULL, end, NULL) == 0);
    run_rings(argv[1], 4, 64, 50);
}
