/* starts_tasks DIR SLOTS PAUSE_US TRIGGER DONE: writes a ring in DIR/0, and after each record starts a thread and waits for its
 * end; once TRIGGER is there, it starts some processes in the same way, one at a time, and makes DONE. So it
 * has two tasks at most. */
#include "guest.h"
#include <sys/wait.h>

enum { CHILDREN = 20 };

static void *tell_number(void *number) {
    *(pid_t *)number = (pid_t)syscall(SYS_gettid);
    return NULL;
}

/* A thread can be joined a moment before the kernel no longer counts it. */
static void start_thread(void) {
    pthread_t thread;
    pid_t number;
    MUST(pthread_create(&thread, NULL, tell_number, &number) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d", number);
    while (access(path, F_OK) == 0)
        nap(100);
}

static void start_children(const char *done) {
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0)
            _exit(0);
        int status;
        MUST(waitpid(child, &status, 0) == child && status == 0);
    }
    int fd = open(done, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(fd >= 0 && close(fd) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 6);
    struct ring ring;
    char path[4096];
    join_path(path, sizeof path, argv[1], "0");
    ring_open(&ring, path, (uint64_t)number(argv[2]));
    ready();
    for (;;) {
        ring_write(&ring);
        start_thread();
        nap(number(argv[3]));
        if (access(argv[4], F_OK) == 0 && access(argv[5], F_OK) != 0)
            start_children(argv[5]);
    }
}
