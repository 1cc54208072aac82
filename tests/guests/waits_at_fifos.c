/* waits_at_fifos DIR: rings, while two threads wait at FIFOs in DIR that nobody opens for reading, in calls that would make
 * or cut a file: one from the start, one from a second later. They are never to come back. Another makes and removes a symbolic
 * link all the time: what its paths lead to depends on all calls by path that are on their way. */
#include "guest.h"

static const char *dir;

static void wait_at(const char *name) {
    char path[4096];
    join_path(path, sizeof path, dir, name);
    MUST(mkfifo(path, 0644) == 0);
    open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    MUST(!"nobody reads");
}

static void *wait_early(void *unused) {
    (void)unused;
    wait_at("early");
    return NULL;
}

static void *wait_late(void *unused) {
    (void)unused;
    nap(1000000);
    wait_at("late");
    return NULL;
}

static void *move_names(void *unused) {
    (void)unused;
    char path[4096];
    join_path(path, sizeof path, dir, "link");
    for (;;) {
        MUST(symlink("nowhere", path) == 0);
        MUST(unlink(path) == 0);
        nap(5000);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    dir = argv[1];
    pthread_t id;
    MUST(pthread_create(&id, NULL, wait_early, NULL) == 0);
    MUST(pthread_create(&id, NULL, wait_late, NULL) == 0);
    MUST(pthread_create(&id, NULL, move_names, NULL) == 0);
    run_rings(dir, 2, 4096, 500);
}
