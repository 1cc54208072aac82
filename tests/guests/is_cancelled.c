/* is_cancelled DIR GO: threads that write rings, and others that, once the file GO is there, are cancelled while they wait in a write
 * of the C library's stdio to a full pipe, in both ways of cancelling. The unwinder lets go of the stream's lock: it aborts unless that
 * is so. DIR/../cancelled says that it was. */
#include "guest.h"

struct writer {
    FILE *stream;
    int asynchronously;
    _Atomic pid_t tid;
};

static void *write_and_wait(void *argument) {
    struct writer *writer = argument;
    static char block[8192];
    int before, way = writer->asynchronously ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED;
    MUST(pthread_setcanceltype(way, &before) == 0);
    writer->tid = (pid_t)syscall(SYS_gettid);
    fwrite(block, 1, sizeof block, writer->stream);
    fflush(writer->stream);
    MUST(!"it is cancelled");
    return NULL;
}

/* Whether a thread sleeps in write(2): proc_pid_syscall(5). */
static int writes(pid_t tid) {
    char path[64], said[16] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && read(fd, said, sizeof said - 1) >= 0 && close(fd) == 0);
    return strncmp(said, "1 0x", 4) == 0;
}

static void cancel_one(int asynchronously) {
    static char block[4096];
    struct writer writer = {.asynchronously = asynchronously};
    int pipes[2];
    pthread_t id;
    void *result;
    MUST(pipe(pipes) == 0 && fcntl(pipes[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(pipes[1], block, sizeof block) > 0)
        ;
    MUST(errno == EAGAIN && fcntl(pipes[1], F_SETFL, 0) == 0);
    MUST((writer.stream = fdopen(pipes[1], "w")) != NULL);
    MUST(pthread_create(&id, NULL, write_and_wait, &writer) == 0);
    while (!writer.tid || !writes(writer.tid))
        nap(1000);
    MUST(pthread_cancel(id) == 0);
    MUST(pthread_join(id, &result) == 0);
    MUST(result == PTHREAD_CANCELED);
    MUST(ftrylockfile(writer.stream) == 0);
}

/* Calls at the same site, so that it is found. */
static void *chatter(void *unused) {
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    MUST(null >= 0);
    (void)unused;
    for (;;) {
        MUST(write(null, "x", 1) == 1);
        nap(500);
    }
    return NULL;
}

static void *wait_and_cancel(void *arguments) {
    char **argv = arguments, path[4096];
    wait_for_file(argv[2]);
    for (int round = 0; round < 4; round++)
        cancel_one(round % 2);
    join_path(path, sizeof path, argv[1], "../cancelled");
    MUST(open(path, O_WRONLY | O_CREAT, 0644) >= 0);
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 3);
    pthread_t id;
    MUST(pthread_create(&id, NULL, chatter, NULL) == 0);
    MUST(pthread_create(&id, NULL, wait_and_cancel, argv) == 0);
    run_rings(argv[1], 2, 64, 200);
}
