/* random_calls live SEED THREADS PAUSE_US EVENTFD DIR: each thread makes random calls, for ever, in a subtree of its own,
 * DIR/t<N>, and on names of its own in DIR/shared; in DIR/shared/log all threads append. It rests, between two steps of
 * each thread, from "rest" on standard input (answered by "rests") to "go".
 * random_calls replay SEED THREAD DIR: makes the same calls again as told on standard input: "to K" goes on until K steps
 * are done, "half" makes the next step's call without counting it. Each is answered by "STEP HASH".
 *
 * A step is one call that changes something, or that fails (with others around it that only look), and after it a pwrite
 * of the step's number and a hash of all results so far to t<N>/counter. What a step does follows from the seed, the
 * number of the thread and what is in its subtree, and from nothing else. So a tree is a state that existed if it is what
 * the replay makes in as many steps as its counter says, or that and the next step's call.
 *
 * All paths have up to three names out of a few, which are files, directories and links by turns; four descriptors are
 * kept open, whatever becomes of their files' names. */
#include "guest.h"
#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <linux/fs.h>

enum { NAMES = 6, HELD = 4, LARGEST = 200000, FURTHEST = 400000, MOST_THREADS = 64, MOST_NAMES = 60 };

struct thread {
    uint64_t random;  /* decides what is done */
    uint64_t pauses;  /* decides how long to wait, which changes nothing */
    uint64_t step;
    uint64_t hash;
    int number;
    int names;        /* at the last count */
    int held[HELD];
    int top;      /* DIR/t<N> */
    int shared;   /* DIR/shared */
    int counter;
    int log;
    int pipe[2];
    long pause_us;
    const char *dir;
    char buffer[LARGEST];
};

static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static unsigned pick(struct thread *t, unsigned count) {
    return (unsigned)(next_random(&t->random) % count);
}

static off_t offset(struct thread *t) {
    off_t at = pick(t, FURTHEST);
    return pick(t, 3) ? at : at & ~(off_t)4095;
}

/* Mostly short. */
static size_t length(struct thread *t) {
    static const unsigned most[] = {16, 300, 5000, 70000, LARGEST};
    return 1 + pick(t, most[pick(t, 5)]);
}

static size_t fill(struct thread *t) {
    size_t size = length(t);
    uint64_t state = next_random(&t->random);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = next_random(&state);
        memcpy(t->buffer + i, &word, size - i < 8 ? size - i : 8);
    }
    return size;
}

/* A path below the top, or a name of this thread's own in the shared directory. */
struct place {
    int dirfd;
    char path[4200];
};

static struct place any_place(struct thread *t) {
    struct place place;
    char relative[64];
    if (pick(t, 12) == 0) {
        snprintf(relative, sizeof relative, "t%d-n%u", t->number, pick(t, 3));
        place.dirfd = t->shared;
        snprintf(place.path, sizeof place.path, "%s", relative);
        return place;
    }
    static const unsigned depths[] = {1, 1, 2, 2, 2, 3};
    int used = 0;
    for (unsigned i = depths[pick(t, 6)]; i; i--)
        used += snprintf(relative + used, sizeof relative - (size_t)used, "n%u%s", pick(t, NAMES), i > 1 ? "/" : "");
    place.dirfd = AT_FDCWD;
    switch (pick(t, 5)) {
    case 0:
        snprintf(place.path, sizeof place.path, "%s/t%d/%s", t->dir, t->number, relative);
        break;
    case 1:
        snprintf(place.path, sizeof place.path, "/proc/thread-self/fd/%d/%s", t->top, relative);
        break;
    case 2:
        place.dirfd = t->top;
        snprintf(place.path, sizeof place.path, "%s", relative);
        break;
    default: /* the thread's own working directory */
        snprintf(place.path, sizeof place.path, "%s", relative);
    }
    return place;
}

/* Preferably one where something of this type is (0: anything). */
static struct place old_place(struct thread *t, mode_t type) {
    struct place place = any_place(t);
    struct stat found;
    for (int tries = 0; tries < 12; tries++) {
        if (fstatat(place.dirfd, place.path, &found, AT_SYMLINK_NOFOLLOW) == 0
            && (type == 0 || (found.st_mode & S_IFMT) == type))
            break;
        place = any_place(t);
    }
    return place;
}

/* Preferably one where nothing is. */
static struct place new_place(struct thread *t) {
    struct place place = any_place(t);
    for (int tries = 0; tries < 3; tries++) {
        if (faccessat(place.dirfd, place.path, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
            break;
        place = any_place(t);
    }
    return place;
}

/* What a call returned. It may fail because of what is or is not there; not because it is traced. */
static void result(struct thread *t, long value) {
    int error = value < 0 ? errno : 0;
    switch (error) {
    case 0: case ENOENT: case EEXIST: case ENOTDIR: case EISDIR: case ENOTEMPTY: case EINVAL: case ELOOP: case EBUSY:
    case ENODATA: case EOPNOTSUPP: case EBADF: case ETXTBSY: case ENXIO: case EPERM: case EMLINK: case EXDEV:
    case ESPIPE: case ENOTTY:
        break;
    default:
        fprintf(stderr, "thread %d, step %lu: %s\n", t->number, t->step + 1, strerror(error));
        abort();
    }
    t->hash = (t->hash ^ (uint64_t)value ^ (uint64_t)error << 32) * 0x100000001b3;
}

/* A regular file open for reading and writing: one of those held, or one just opened. */
static int any_file(struct thread *t, int *own) {
    *own = 0;
    if (pick(t, 3) == 0 && t->held[0] >= 0) {
        int fd = t->held[pick(t, HELD)];
        if (fd >= 0)
            return fd;
    }
    struct place place = old_place(t, S_IFREG);
    int fd = openat(place.dirfd, place.path, O_RDWR | O_NONBLOCK | O_CLOEXEC | (pick(t, 4) ? 0 : O_APPEND));
    struct stat found;
    if (fd >= 0 && (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode))) {
        close(fd);
        fd = -1;
    }
    *own = 1;
    return fd;
}

static void write_somehow(struct thread *t, int fd) {
    size_t size = fill(t);
    off_t at = offset(t);
    struct iovec parts[2] = {{t->buffer, size / 2}, {t->buffer + size / 2, size - size / 2}};
    switch (pick(t, 9)) {
    case 0: case 1:
        result(t, pwrite(fd, t->buffer, size, at));
        break;
    case 2:
        lseek(fd, at, SEEK_SET);
        result(t, write(fd, t->buffer, size));
        break;
    case 3:
        lseek(fd, at, SEEK_SET);
        result(t, writev(fd, parts, 2));
        break;
    case 4:
        result(t, pwritev(fd, parts, 2, at));
        break;
    case 5:
        result(t, pwritev2(fd, parts, 2, at, pick(t, 2) ? RWF_APPEND : 0));
        break;
    case 6: /* now and then as long as a wake-up through an eventfd */
        lseek(fd, at, pick(t, 2) ? SEEK_SET : SEEK_END);
        result(t, write(fd, t->buffer, pick(t, 50) ? size : 8));
        break;
    case 7: /* where the position is */
        result(t, write(fd, t->buffer, pick(t, 50) ? size : 8));
        break;
    default: { /* by a child, now and then */
        if (pick(t, 20)) {
            result(t, pwrite(fd, t->buffer, size, at));
            break;
        }
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0)
            _exit(pwrite(fd, t->buffer, size, at) == (ssize_t)size ? 0 : 1);
        int status;
        MUST(waitpid(child, &status, 0) == child);
        result(t, status);
    }
    }
}

static void change_space(struct thread *t, int fd) {
    off_t at = offset(t), count = (off_t)length(t);
    struct stat found;
    MUST(fd < 0 || fstat(fd, &found) == 0);
    switch (pick(t, 8)) {
    case 0: case 1:
        result(t, ftruncate(fd, at));
        break;
    case 2:
        result(t, fallocate(fd, pick(t, 2) ? FALLOC_FL_KEEP_SIZE : 0, at, count));
        break;
    case 3:
        result(t, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, count));
        break;
    case 4:
        result(t, fallocate(fd, FALLOC_FL_ZERO_RANGE | (pick(t, 2) ? FALLOC_FL_KEEP_SIZE : 0), at, count));
        break;
    case 5:
        result(t, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, at & ~(off_t)4095, 4096 * (1 + pick(t, 20))));
        break;
    case 6:
        if (fd >= 0 && found.st_size > FURTHEST)
            result(t, ftruncate(fd, 0));
        else
            result(t, fallocate(fd, FALLOC_FL_INSERT_RANGE, at & ~(off_t)4095, 4096 * (1 + pick(t, 20))));
        break;
    default: {
        struct place place = old_place(t, S_IFREG);
        char path[4300];
        if (place.dirfd == AT_FDCWD)
            snprintf(path, sizeof path, "%s", place.path);
        else
            snprintf(path, sizeof path, "/proc/thread-self/fd/%d/%s", place.dirfd, place.path);
        result(t, truncate(path, at));
    }
    }
}

static void copy_somehow(struct thread *t, int to) {
    int own;
    int from = any_file(t, &own);
    size_t size = length(t);
    off_t source = offset(t), target = offset(t);
    switch (pick(t, 5)) {
    case 0:
        result(t, copy_file_range(from, &source, to, &target, size, 0));
        break;
    case 1:
        lseek(to, target, SEEK_SET);
        result(t, copy_file_range(from, &source, to, NULL, size, 0));
        break;
    case 2:
        lseek(to, target, SEEK_SET);
        result(t, sendfile(to, from, &source, size));
        break;
    case 3: {
        size = size > 4096 ? 4096 : size;
        MUST(fill(t) > 0);
        MUST(write(t->pipe[1], t->buffer, size) == (ssize_t)size);
        long moved = splice(t->pipe[0], NULL, to, &target, size, 0);
        result(t, moved);
        size_t rest = size - (moved > 0 ? (size_t)moved : 0);
        MUST(rest == 0 || read(t->pipe[0], t->buffer, rest) == (ssize_t)rest);
        break;
    }
    default:
        result(t, ioctl(to, FICLONE, from));
    }
    if (own && from >= 0)
        close(from);
}

static void change_names(struct thread *t) {
    struct place a = old_place(t, 0), b = pick(t, 2) ? new_place(t) : old_place(t, 0);
    switch (pick(t, 15)) {
    case 0: case 1: case 2: {
        /* Never through a link that leads nowhere: it might lead into another thread's subtree by now. */
        struct place place = new_place(t);
        int flags = O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC | (pick(t, 2) ? O_EXCL : O_NOFOLLOW);
        int fd = openat(place.dirfd, place.path, flags | (pick(t, 4) ? 0 : O_TRUNC), 0600 + pick(t, 64));
        result(t, fd < 0 ? fd : 0);
        if (fd >= 0)
            close(fd);
        break;
    }
    case 3: {
        struct place place = new_place(t);
        result(t, mkdirat(place.dirfd, place.path, 0700 + pick(t, 64)));
        break;
    }
    case 4: {
        struct place place = new_place(t);
        static const char *const targets[] = {"n0", "n1", "n2", "n0/n1", "../n2", "./n4"};
        result(t, symlinkat(targets[pick(t, 6)], place.dirfd, place.path));
        break;
    }
    case 5: {
        struct place place = new_place(t);
        result(t, mknodat(place.dirfd, place.path, (pick(t, 2) ? S_IFIFO : S_IFREG) | 0640, 0));
        break;
    }
    case 6:
        result(t, linkat(a.dirfd, a.path, b.dirfd, b.path, 0));
        break;
    case 7: case 8:
        result(t, renameat(a.dirfd, a.path, b.dirfd, b.path));
        break;
    case 9:
        result(t, renameat2(a.dirfd, a.path, b.dirfd, b.path, pick(t, 2) ? RENAME_EXCHANGE : RENAME_NOREPLACE));
        break;
    case 10: {
        struct place place = old_place(t, S_IFDIR);
        result(t, renameat(place.dirfd, place.path, b.dirfd, b.path));
        break;
    }
    case 11: {
        struct place place = old_place(t, S_IFDIR);
        result(t, unlinkat(place.dirfd, place.path, AT_REMOVEDIR));
        break;
    }
    case 12:
        result(t, unlinkat(a.dirfd, a.path, 0));
        break;
    case 13: {
        struct place place = old_place(t, S_IFREG);
        int fd = openat(place.dirfd, place.path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_TRUNC);
        result(t, fd < 0 ? fd : 0);
        if (fd >= 0)
            close(fd);
        break;
    }
    default: { /* a file without a name gets one */
        int fd = openat(t->top, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0640);
        if (fd < 0) {
            result(t, fd);
            break;
        }
        size_t size = fill(t);
        MUST(pwrite(fd, t->buffer, size, 0) == (ssize_t)size);
        struct place place = new_place(t);
        result(t, linkat(fd, "", place.dirfd, place.path, AT_EMPTY_PATH));
        close(fd);
    }
    }
}

static void change_metadata(struct thread *t) {
    struct place place = old_place(t, 0);
    char path[4300], name[32];
    if (place.dirfd == AT_FDCWD)
        snprintf(path, sizeof path, "%s", place.path);
    else
        snprintf(path, sizeof path, "/proc/thread-self/fd/%d/%s", place.dirfd, place.path);
    snprintf(name, sizeof name, "user.x%u", pick(t, 3));
    /* Long past, so that the check can tell these from what writing makes of them. */
    struct timespec times[2] = {{1000000000 + pick(t, 1000), pick(t, 1000000000)}, {1000000000 + pick(t, 1000), 7}};
    switch (pick(t, 6)) {
    case 0:
        result(t, fchmodat(place.dirfd, place.path, 0600 + pick(t, 64), 0));
        break;
    case 1:
        result(t, fchownat(place.dirfd, place.path, pick(t, 4), pick(t, 4), pick(t, 2) ? AT_SYMLINK_NOFOLLOW : 0));
        break;
    case 2: case 3:
        result(t, setxattr(path, name, t->buffer, 1 + pick(t, 100), 0));
        break;
    case 4:
        result(t, removexattr(path, name));
        break;
    default:
        result(t, utimensat(place.dirfd, place.path, times, pick(t, 2) ? AT_SYMLINK_NOFOLLOW : 0));
    }
}

/* Holds another file, or lets one go: changes nothing by itself. */
static void hold(struct thread *t) {
    int slot = (int)pick(t, HELD);
    if (t->held[slot] >= 0)
        close(t->held[slot]);
    t->held[slot] = -1;
    int own = 0;
    int fd = any_file(t, &own);
    if (fd >= 0 && !own)
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    t->held[slot] = fd;
    t->hash = (t->hash ^ (uint64_t)(fd >= 0)) * 0x100000001b3;
}

/* How many names there are in a directory and below. */
static int count_names(int at, const char *path) {
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    MUST(fd >= 0);
    DIR *dir = fdopendir(fd);
    MUST(dir);
    int names = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        names += 1 + (entry->d_type == DT_DIR ? count_names(fd, entry->d_name) : 0);
    }
    closedir(dir);
    return names;
}

/* Removes the first of all that is below some name, so that the tree does not grow for ever, also where it has become too
 * deep for the paths above. */
static void prune(struct thread *t) {
    char path[4000];
    int used = snprintf(path, sizeof path, "n%u", pick(t, NAMES));
    struct stat found;
    for (;;) {
        if (fstatat(t->top, path, &found, AT_SYMLINK_NOFOLLOW) != 0)
            return;
        if (!S_ISDIR(found.st_mode)) {
            result(t, unlinkat(t->top, path, 0));
            return;
        }
        int fd = openat(t->top, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        MUST(fd >= 0);
        DIR *dir = fdopendir(fd);
        MUST(dir);
        char first[256] = "";
        for (struct dirent *entry; (entry = readdir(dir));)
            if (entry->d_name[0] != '.' && (!*first || strcmp(entry->d_name, first) < 0))
                snprintf(first, sizeof first, "%s", entry->d_name);
        closedir(dir);
        if (!*first) {
            result(t, unlinkat(t->top, path, AT_REMOVEDIR));
            return;
        }
        used += snprintf(path + used, sizeof path - (size_t)used, "/%s", first);
        MUST(used < (int)sizeof path - 300);
    }
}

/* One record a step at most: which thread, which step. */
static void append_to_log(struct thread *t) {
    uint64_t record[2] = {(uint64_t)t->number, t->step + 1};
    result(t, write(t->log, record, sizeof record));
}

static void make_call(struct thread *t) {
    int own = 0, fd;
    unsigned what = pick(t, 100);
    if (t->step % 64 == 0)
        t->names = count_names(t->top, ".");
    if (what < 30) {
        if (t->names < MOST_NAMES || pick(t, 2))
            change_names(t);
        else
            prune(t);
    } else if (what < 40) {
        change_metadata(t);
    } else if (what < 45) {
        hold(t);
    } else if (what < 48) {
        append_to_log(t);
    } else if (what < 50) {
        prune(t);
    } else {
        fd = any_file(t, &own);
        if (what < 75)
            write_somehow(t, fd);
        else if (what < 90)
            change_space(t, fd);
        else
            copy_somehow(t, fd);
        if (own && fd >= 0)
            close(fd);
    }
}

static void count_step(struct thread *t) {
    uint64_t state[2] = {++t->step, t->hash};
    MUST(pwrite(t->counter, state, sizeof state, 0) == (ssize_t)sizeof state);
}

static struct thread *new_thread(uint64_t seed, int number, const char *dir) {
    struct thread *t = calloc(1, sizeof *t);
    MUST(t);
    t->number = number;
    t->dir = dir;
    t->random = seed * 1000003 + (uint64_t)number;
    t->pauses = t->random ^ (uint64_t)time(NULL);
    char path[4200];
    snprintf(path, sizeof path, "%s/t%d", dir, number);
    MUST(mkdir(path, 0755) == 0);
    t->top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/shared", dir);
    MUST(mkdir(path, 0755) == 0 || errno == EEXIST);
    t->shared = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t->log = openat(t->shared, "log", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    t->counter = openat(t->top, "counter", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(t->top >= 0 && t->shared >= 0 && t->log >= 0 && t->counter >= 0);
    MUST(pipe2(t->pipe, O_CLOEXEC) == 0);
    for (int i = 0; i < HELD; i++)
        t->held[i] = -1;
    uint64_t state[2] = {0, 0};
    MUST(pwrite(t->counter, state, sizeof state, 0) == (ssize_t)sizeof state);
    return t;
}

/* A working directory of this thread's own. */
static void enter(struct thread *t) {
    MUST(unshare(CLONE_FS) == 0);
    umask(0);
    MUST(fchdir(t->top) == 0);
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
        make_call(t);
        count_step(t);
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
                    make_call(t);
                half = 0;
                count_step(t);
            }
        } else {
            MUST(strcmp(line, "half\n") == 0 && !half);
            make_call(t);
            half = 1;
        }
        printf("%lu %lu\n", t->step, t->hash);
        MUST(fflush(stdout) == 0);
    }
}

int main(int argc, char **argv) {
    MUST(argc >= 5);
    uint64_t seed = (uint64_t)number(argv[2]);
    if (strcmp(argv[1], "replay") == 0) {
        replay(new_thread(seed, (int)number(argv[3]), argv[4]));
        return 0;
    }
    MUST(strcmp(argv[1], "live") == 0 && argc == 7);
    long threads = number(argv[3]);
    MUST(threads <= MOST_THREADS);
    if (number(argv[5]))
        MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    struct thread *all[MOST_THREADS];
    for (int i = 0; i < threads; i++) {
        all[i] = new_thread(seed, i, argv[6]);
        all[i]->pause_us = number(argv[4]);
    }
    for (int i = 0; i < threads; i++) {
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
    return 0;
}
