/* random_calls live SEED WITHOUT THREADS PAUSE_US EVENTFD TIMES DIR: each thread makes random calls, for ever, in a subtree
 * of its own, DIR/t<N>, and on names of its own in DIR/shared; in DIR/shared/log all threads append. When each call was
 * made, and what it returned, goes to the file TIMES. It rests, between two steps of each thread, from "rest" on standard input (answered by
 * "rests") to "go".
 * random_calls replay SEED WITHOUT THREAD TIMES DIR: makes the same calls again as told on standard input: "to K" goes on until
 * K steps are done, "half" makes the next step's call without counting it. Each is answered by "STEP HASH".
 * random_calls kinds: names the kinds of calls. WITHOUT is a list of those to leave out, with commas.
 *
 * A step is one call that changes something, or that fails (with others around it that only look), and after it a pwrite
 * of the step's number and a hash of all results so far to t<N>/counter. What a step does follows from the seed, the
 * kinds of calls, the number of the thread and what is in its subtree, and from nothing else. So a tree is a state that
 * existed if it is what the replay makes in as many steps as its counter says, or that and the next step's call. The
 * subtree need not be empty to begin with.
 *
 * Some paths are followed in a scope of openat2, and some threads have a root of their own, or mounts, or a root in one.
 *
 * All paths have up to three names out of a few, which are files, directories and links by turns; four descriptors are
 * kept open, whatever becomes of their files' names. */
#include "random_calls_kinds.h"
#include "random_calls_times.h"
#include <sched.h>
#include <sys/eventfd.h>

static void count_step(struct thread *t) {
    uint64_t state[2] = {++t->step, t->hash};
    MUST(pwrite(t->counter, state, sizeof state, 0) == (ssize_t)sizeof state);
}

static struct thread *new_thread(uint64_t seed, uint64_t kinds, int number, const char *dir) {
    struct thread *t = aligned_alloc(_Alignof(struct thread), sizeof *t);
    MUST(t);
    memset(t, 0, sizeof *t);
    t->number = number;
    t->dir = dir;
    t->random = seed * 1000003 + (uint64_t)number;
    t->pauses = t->random ^ (uint64_t)time(NULL);
    t->kinds = kinds;
    t->far = makes(t, "far");
    t->scopes = makes(t, "scoped");
    t->own_mounts = number % 4 == 3 && makes(t, "own-mounts");
    t->mounts[0] = t->mounts[1] = -1;
    t->rooted = number % 3 == 2 && makes(t, "own-roots");
    char path[4200];
    snprintf(path, sizeof path, "%s/t%d", dir, number);
    MUST(mkdir(path, 0755) == 0 || errno == EEXIST);
    t->top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/shared", dir);
    MUST(mkdir(path, 0755) == 0 || errno == EEXIST);
    t->shared = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t->log = openat(t->shared, "log", O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    t->counter = openat(t->top, "counter", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    MUST(t->top >= 0 && t->shared >= 0 && t->log >= 0 && t->counter >= 0);
    MUST(pipe2(t->pipe, O_CLOEXEC) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, t->socket) == 0);
    for (int i = 0; i < HELD; i++)
        t->held[i] = -1;
    uint64_t state[2] = {0, 0};
    MUST(pwrite(t->counter, state, sizeof state, 0) == (ssize_t)sizeof state);
    return t;
}

/* Its subtree is bound beside DIR, in mounts of this thread's own, and it works there; perhaps with that for its root. */
static void enter_mounts(struct thread *t) {
    char place[4200];
    snprintf(place, sizeof place, "%s.t%d", t->dir, t->number);
    MUST(mkdir(place, 0755) == 0 || errno == EEXIST);
    MUST(unshare(CLONE_NEWNS) == 0);
    MUST(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    char top[4200];
    snprintf(top, sizeof top, "%s/t%d", t->dir, t->number);
    MUST(mount(top, place, NULL, MS_BIND, NULL) == 0);
    close(t->top);
    t->top = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(t->top >= 0 && fchdir(t->top) == 0);
    switch (pick(t, 3)) {
    case 0:
        t->bound = 1;
        break;
    case 1:
        t->rooted = 1;
        MUST(chroot(".") == 0);
        break;
    default: /* the old root is put over the new one, and taken away */
        t->rooted = 1;
        MUST(syscall(SYS_pivot_root, ".", ".") == 0);
        MUST(umount2(".", MNT_DETACH) == 0);
        MUST(chdir("/") == 0);
    }
}

/* A working directory of this thread's own, and perhaps descriptors. */
static void enter(struct thread *t) {
    MUST(unshare(CLONE_FS) == 0);
    if (t->number % 2 && makes(t, "own-descriptors"))
        MUST(unshare(CLONE_FILES) == 0);
    umask(0);
    MUST(fchdir(t->top) == 0);
    if (t->own_mounts)
        enter_mounts(t);
    else if (t->rooted)
        MUST(chroot(".") == 0);
}

static void make_call_timed(struct thread *t) {
    struct times *times = times_of_next_step(t);
    times->call_began = tick();
    make_call(t);
    times->call_ended = tick();
    times->kind = t->kind;
    times->value = t->value;
    times->hash = t->hash;
}

static void count_step_timed(struct thread *t) {
    struct times *times = &t->times[(t->step + 1) % KEPT_STEPS];
    times->count_began = tick();
    count_step(t);
    times->count_ended = tick();
}

static atomic_int resting, rests;

static void *run(void *argument) {
    struct thread *t = argument;
    enter(t);
    for (;;) {
        if (atomic_load(&resting)) {
            atomic_fetch_add(&rests, 1);
            while (atomic_load(&resting))
                nap(200);
            atomic_fetch_sub(&rests, 1);
        }
        make_call_timed(t);
        count_step_timed(t);
        uint64_t chance = next_random(&t->pauses);
        if (t->pause_us && chance % 4 == 0)
            nap((long)(chance >> 8) % (8 * t->pause_us));
    }
    return NULL;
}

static void replay(struct thread *t) {
    enter(t);
    ready();
    char line[64];
    int half = 0;
    while (fgets(line, sizeof line, stdin)) {
        unsigned long goal;
        if (sscanf(line, "to %lu", &goal) == 1) {
            MUST(goal >= t->step);
            while (t->step < goal) {
                if (!half)
                    make_call_timed(t);
                half = 0;
                count_step_timed(t);
            }
        } else {
            MUST(strcmp(line, "half\n") == 0 && !half);
            make_call_timed(t);
            half = 1;
        }
        printf("%lu %lu\n", t->step, t->hash);
        MUST(fflush(stdout) == 0);
    }
}

static void live(struct thread **all, long threads) {
    for (long i = 0; i < threads; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, run, all[i]) == 0);
    }
    ready();
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int rest = strcmp(line, "rest\n") == 0;
        atomic_store(&resting, rest);
        while (atomic_load(&rests) != (rest ? threads : 0))
            nap(200);
        puts(rest ? "rests" : "goes");
        MUST(fflush(stdout) == 0);
    }
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    if (strcmp(argv[1], "kinds") == 0) {
        for (unsigned i = 0; i < KIND_COUNT; i++)
            puts(KINDS[i].name);
        return 0;
    }
    MUST(argc >= 7);
    uint64_t seed = (uint64_t)number(argv[2]), kinds = kinds_without(argv[3]);
    if (strcmp(argv[1], "replay") == 0) {
        struct times *times = make_times(argv[5], 1);
        struct thread *t = new_thread(seed, kinds, (int)number(argv[4]), argv[6]);
        t->times = times;
        replay(t);
        return 0;
    }
    MUST(strcmp(argv[1], "live") == 0 && argc == 9);
    long threads = number(argv[4]);
    MUST(threads <= MOST_THREADS);
    if (number(argv[6]))
        MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    struct times *times = make_times(argv[7], threads);
    struct thread *all[MOST_THREADS];
    for (int i = 0; i < threads; i++) {
        all[i] = new_thread(seed, kinds, i, argv[8]);
        all[i]->pause_us = number(argv[5]);
        all[i]->times = times + (long)i * KEPT_STEPS;
    }
    live(all, threads);
    return 0;
}
