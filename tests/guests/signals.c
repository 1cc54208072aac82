/* signals DIR HOW: three threads write rings, and cut and rename a file each, under a thousand signals a second a thread. HOW:
 *   restart  a timer of wall-clock time for each thread, and a handler with SA_RESTART: no call may fail
 *   profile  ITIMER_PROF as profilers use it, and a handler without SA_RESTART: no call may fail
 *   wall     wall-clock timers and a handler without SA_RESTART: a call may return EINTR, and is then made again */
#include "guest.h"
#include <signal.h>
#include <sys/time.h>
#include <time.h>

enum { THREADS = 3, SLOTS = 64 };

static int profile, may_be_interrupted;
static volatile unsigned long handled;
static struct ring rings[THREADS];
static char names[THREADS][2][4200];

static void handler(int signal) {
    (void)signal;
    __atomic_add_fetch(&handled, 1, __ATOMIC_RELAXED);
}

/* Makes a call; when it was interrupted, and may be, makes it again. */
#define CALL(call, wanted)                                                                               \
    do {                                                                                                 \
        long result;                                                                                     \
        do                                                                                               \
            result = (long)(call);                                                                       \
        while (result < 0 && errno == EINTR && may_be_interrupted);                                      \
        MUST(result == (long)(wanted) || !#call);                                                        \
    } while (0)

static void signal_this_thread(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec each_ms = {{0, 1000000}, {0, 1000000}};
    MUST(timer_settime(timer, 0, &each_ms, NULL) == 0);
}

static void *writer(void *argument) {
    long me = (long)argument;
    struct ring *ring = &rings[me];
    int fd = open(names[me][0], O_WRONLY | O_CLOEXEC);
    MUST(fd >= 0);
    if (!profile)
        signal_this_thread();
    for (int name = 0;; name = !name) {
        for (int i = 0; i < 4; i++) {
            uint64_t record[RECORD / sizeof(uint64_t)];
            off_t at;
            int to = ring_next(ring, record, &at);
            CALL(pwrite(to, record, sizeof record, at), sizeof record);
            ring->newest++;
        }
        CALL(ftruncate(fd, (off_t)(ring->newest % 65536)), 0);
        CALL(rename(names[me][name], names[me][!name]), 0);
        nap(50);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 3);
    profile = strcmp(argv[2], "profile") == 0;
    may_be_interrupted = strcmp(argv[2], "wall") == 0;
    struct sigaction action = {.sa_handler = handler, .sa_flags = strcmp(argv[2], "restart") == 0 ? SA_RESTART : 0};
    MUST(sigaction(SIGPROF, &action, NULL) == 0);
    for (long i = 0; i < THREADS; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%ld", argv[1], i) < (int)sizeof path);
        ring_open(&rings[i], path, SLOTS);
        for (int name = 0; name < 2; name++)
            MUST(snprintf(names[i][name], sizeof names[i][name], "%s/cut-%d", path, name) < (int)sizeof names[i][name]);
        MUST(close(make_file(path, "cut-0", 0)) == 0);
    }
    /* Signals to the process as a whole are for the writers. */
    for (long i = 0; i < THREADS; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, writer, (void *)i) == 0);
    }
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, SIGPROF);
    MUST(pthread_sigmask(SIG_BLOCK, &mine, NULL) == 0);
    if (profile) {
        struct itimerval each_ms = {{0, 1000}, {0, 1000}};
        MUST(setitimer(ITIMER_PROF, &each_ms, NULL) == 0);
    }
    while (handled < 100)
        nap(1000);
    ready();
    for (;;)
        nap(1000000);
}
