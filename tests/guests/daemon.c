/* daemon DIR TRIGGER END: writes the ring DIR/0. Once the file TRIGGER is there it starts a daemon in the usual way: two
 * forks, a session, and every descriptor above 2 closed, whoever it may belong to. The daemon puts its number into DIR/../pid
 * and writes the ring DIR/1, for ever. The guest ends once the file END is there. If TRIGGER is not empty, the daemon closes
 * nothing; if it begins with 'u', the daemon has an io_uring. */
#include "guest.h"
#include <sys/wait.h>

static void make_io_uring(void) {
    static char parameters[120]; /* struct io_uring_params */
    MUST(syscall(425, 4, parameters) >= 0);
}

static void run(const char *dir, int io_uring) {
    if (io_uring)
        make_io_uring();
    struct ring ring;
    ring_open(&ring, dir, 32);
    char path[4200], text[32];
    MUST(snprintf(path, sizeof path, "%s/../../pid.new", dir) < (int)sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    MUST(fd >= 0);
    int length = snprintf(text, sizeof text, "%d", getpid());
    MUST(write(fd, text, (size_t)length) == length);
    MUST(close(fd) == 0);
    char name[4200];
    MUST(snprintf(name, sizeof name, "%s/../../pid", dir) < (int)sizeof name);
    MUST(rename(path, name) == 0);
    for (;;) {
        ring_write(&ring);
        nap(500);
    }
}

static void start_daemon(const char *dir, int closes, int io_uring) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        MUST(setsid() > 0);
        pid_t daemon = fork();
        MUST(daemon >= 0);
        if (daemon > 0)
            _exit(0);
        MUST(chdir("/") == 0);
        if (closes)
            MUST(syscall(SYS_close_range, 3, ~0U, 0) == 0);
        run(dir, io_uring);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    MUST(status == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    char path[4096];
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", 160);
    ready();
    for (int started = 0;;) {
        ring_write(&ring);
        nap(500);
        struct stat trigger;
        if (!started && stat(argv[2], &trigger) == 0) {
            join_path(path, sizeof path, argv[1], "1");
            char first = 0;
            int fd = open(argv[2], O_RDONLY);
            MUST(fd >= 0 && read(fd, &first, 1) >= 0 && close(fd) == 0);
            start_daemon(path, trigger.st_size == 0, first == 'u');
            started = 1;
        }
        if (access(argv[3], F_OK) == 0)
            return 0;
    }
}
