/* moves_about DIR HOW TRIGGER: when the file TRIGGER is there, one thread goes from DIR/a to DIR/b and back, over and over,
 * by "chdir" or "fchdir", or takes them for its root ("chroot"); another makes empty files 1, 2, 3, ... wherever it then is.
 * Both share what is moved. So the numbers in both directories together are 1 to n at any time. */
#include "guest.h"

enum { MOST = 50000 };

static void *make_files(void *prefix) {
    for (unsigned n = 1; n <= MOST; n++) {
        char name[16];
        snprintf(name, sizeof name, "%s%u", (const char *)prefix, n);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        MUST(fd >= 0 && close(fd) == 0);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    char place[2][4096];
    int fd[2];
    for (int i = 0; i < 2; i++) {
        join_path(place[i], sizeof place[i], argv[1], i ? "b" : "a");
        MUST(mkdir(place[i], 0755) == 0);
        fd[i] = open(place[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        MUST(fd[i] >= 0);
    }
    MUST(chdir(argv[1]) == 0);
    ready();
    while (access(argv[3], F_OK) != 0)
        nap(1000000);
    int by_root = strcmp(argv[2], "chroot") == 0, by_fd = strcmp(argv[2], "fchdir") == 0;
    MUST((by_root ? chroot("a") : chdir("a")) == 0);
    pthread_t id;
    MUST(pthread_create(&id, NULL, make_files, by_root ? "/" : "") == 0);
    for (unsigned i = 1;; i++) {
        if (by_root)
            MUST(chroot(i % 2 ? "b" : "a") == 0); /* where it works is outside of either */
        else if (by_fd)
            MUST(fchdir(fd[i % 2]) == 0);
        else
            MUST(chdir(place[i % 2]) == 0);
    }
}
