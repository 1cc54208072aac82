/* waits_in_a_write DIR BESIDE: threads that write rings; one that, once BESIDE/wait is there, writes to a full pipe, and says in
 * BESIDE/waits which it is; its stack is looked at by a handler of SIGUSR2 once BESIDE/dump is there, and BESIDE/dumped tells how many
 * frames were found; once BESIDE/drain is there the pipe is emptied, and BESIDE/drained says that the write returned what it must. With a
 * timer of processor time whose handler looks at stacks all the time, as a profiler's. */
#include "guest.h"
#include <execinfo.h>
#include <signal.h>
#include <sys/time.h>

enum { FRAMES = 64, LENGTH = 4096 };

static const char *beside;
static int pipes[2];
static pthread_t waiting;
static volatile int frames;
static char content[LENGTH];
static size_t filled;

static void path_of(char *out, const char *name) { join_path(out, 4096, beside, name); }

static void tell(const char *name, long number) {
    char path[4096], next[4096];
    path_of(path, name);
    path_of(next, "next");
    FILE *file = fopen(next, "w");
    MUST(file && fprintf(file, "%ld\n", number) > 0 && fclose(file) == 0);
    MUST(rename(next, path) == 0);
}

static void wait_for(const char *name) {
    char path[4096];
    path_of(path, name);
    wait_for_file(path);
}

static void on_dump(int signal) {
    void *found[FRAMES];
    int error = errno;
    (void)signal;
    frames = backtrace(found, FRAMES);
    errno = error;
}

static void on_profile(int signal) {
    void *found[FRAMES];
    int error = errno;
    (void)signal;
    MUST(backtrace(found, FRAMES) > 0);
    errno = error;
}

static void *wait_in_a_write(void *unused) {
    (void)unused;
    MUST(write(pipes[1], content, sizeof content) == sizeof content);
    return NULL;
}

static void *conduct(void *unused) {
    (void)unused;
    /* What is interrupted before it has written anything is begun again. */
    MUST(fcntl(pipes[1], F_SETFL, O_NONBLOCK) == 0);
    for (ssize_t count; (count = write(pipes[1], content, sizeof content)) > 0;)
        filled += (size_t)count;
    MUST(errno == EAGAIN && fcntl(pipes[1], F_SETFL, 0) == 0);
    wait_for("wait");
    MUST(pthread_create(&waiting, NULL, wait_in_a_write, NULL) == 0);
    tell("waits", 0);
    wait_for("dump");
    MUST(pthread_kill(waiting, SIGUSR2) == 0);
    while (!frames)
        nap(1000);
    tell("dumped", frames);
    wait_for("drain");
    static char block[65536];
    for (size_t left = filled + sizeof content; left;) {
        ssize_t count = read(pipes[0], block, sizeof block);
        MUST(count > 0);
        left -= (size_t)count;
    }
    MUST(pthread_join(waiting, NULL) == 0);
    tell("drained", 1);
    return NULL;
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

int main(int argc, char **argv) {
    MUST(argc == 3);
    beside = argv[2];
    MUST(pipe(pipes) == 0);
    /* The first look loads what it needs. */
    on_dump(0);
    frames = 0;
    struct sigaction dump = {.sa_handler = on_dump, .sa_flags = SA_RESTART};
    struct sigaction profile = {.sa_handler = on_profile, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGUSR2, &dump, NULL) == 0 && sigaction(SIGPROF, &profile, NULL) == 0);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    MUST(setitimer(ITIMER_PROF, &often, NULL) == 0);
    pthread_t id;
    MUST(pthread_create(&id, NULL, chatter, NULL) == 0);
    MUST(pthread_create(&id, NULL, conduct, NULL) == 0);
    run_rings(argv[1], 2, 64, 0);
}
