/* The calls of random_calls that change names, what they name, and its metadata. */
#pragma once
#include "random_calls_places.h"
#include <sys/xattr.h>

/* Makes a file, or finds one. */
static void create(struct thread *t) {
    /* Never through a link that leads nowhere: it might lead into another thread's subtree by now. */
    struct place place = new_place(t);
    int flags = O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC | (pick(t, 2) ? O_EXCL : O_NOFOLLOW);
    flags |= pick(t, 4) ? 0 : O_TRUNC;
    int fd = openat(place.dirfd, place.path, flags, 0600 + pick(t, 64));
    result(t, fd < 0 ? fd : 0);
    if (fd >= 0)
        close(fd);
}

/* The same in a scope, through whatever links there are: they lead nowhere else; or without a scope, and through none. The
 * kernel says EAGAIN where something elsewhere was renamed meanwhile, and always if it is not to look at the disk. */
static void create_in_scope(struct thread *t) {
    char path[900];
    static const unsigned scopes[] = {RESOLVE_IN_ROOT, RESOLVE_IN_ROOT, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS};
    static const unsigned more[] = {RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_CACHED};
    unsigned resolve = scopes[pick(t, 4)];
    int in_root = resolve == RESOLVE_IN_ROOT;
    if (pick(t, 3) == 0)
        resolve |= more[pick(t, 4)] | (pick(t, 2) ? more[pick(t, 3)] : 0);
    static const char *const starts[] = {"", "/", "/../"};
    int used = snprintf(path, sizeof path, "%s", in_root ? starts[pick(t, 3)] : "");
    relative_path(t, path + used, sizeof path - (size_t)used);
    struct open_how how = {
        .flags = O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC | (pick(t, 4) ? 0 : O_TRUNC) | (pick(t, 8) ? 0 : O_EXCL),
        .mode = 0600 + pick(t, 64),
        .resolve = resolve,
    };
    long fd;
    do
        fd = syscall(SYS_openat2, t->top, path, &how, sizeof how);
    while (fd < 0 && errno == EAGAIN && !(resolve & RESOLVE_CACHED));
    result(t, fd < 0 ? fd : 0);
    if (fd >= 0)
        close((int)fd);
}

static void make_directory(struct thread *t) {
    struct place place = new_place(t);
    result(t, mkdirat(place.dirfd, place.path, 0700 + pick(t, 64)));
}

static void make_symlink(struct thread *t) {
    struct place place = new_place(t);
    /* Absolute ones lead nowhere but in a scope, or to a thread with a root of its own. */
    static const char *const targets[] = {"n0", "n1", "n2", "n0/n1", "../n2", "./n4", "/n0", "/n2/n1", "/../n3", "../../n4"};
    result(t, symlinkat(targets[pick(t, t->scopes ? 10 : 6)], place.dirfd, place.path));
}

static void make_node(struct thread *t) {
    struct place place = new_place(t);
    result(t, mknodat(place.dirfd, place.path, (pick(t, 2) ? S_IFIFO : S_IFREG) | 0640, 0));
}

/* A second name, of what has one or of what is held and may have none. */
static void make_link(struct thread *t) {
    struct place a = old_place(t, 0), b = pick(t, 2) ? new_place(t) : old_place(t, 0);
    int held = t->held[pick(t, HELD)];
    if (held >= 0 && pick(t, 4) == 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/thread-self/fd/%d", held);
        result(t, linkat(AT_FDCWD, path, b.dirfd, b.path, AT_SYMLINK_FOLLOW));
    } else {
        result(t, linkat(a.dirfd, a.path, b.dirfd, b.path, 0));
    }
}

static void rename_one(struct thread *t) {
    struct place a = old_place(t, pick(t, 3) ? 0 : S_IFDIR), b = pick(t, 2) ? new_place(t) : old_place(t, 0);
    result(t, renameat(a.dirfd, a.path, b.dirfd, b.path));
}

static void exchange(struct thread *t) {
    struct place a = old_place(t, 0), b = pick(t, 2) ? new_place(t) : old_place(t, 0);
    result(t, renameat2(a.dirfd, a.path, b.dirfd, b.path, pick(t, 2) ? RENAME_EXCHANGE : RENAME_NOREPLACE));
}

static void remove_directory(struct thread *t) {
    struct place place = old_place(t, S_IFDIR);
    result(t, unlinkat(place.dirfd, place.path, AT_REMOVEDIR));
}

static void remove_name(struct thread *t) {
    struct place place = old_place(t, 0);
    result(t, unlinkat(place.dirfd, place.path, 0));
}

static void open_truncating(struct thread *t) {
    struct place place = old_place(t, S_IFREG);
    int fd = openat(place.dirfd, place.path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_TRUNC);
    result(t, fd < 0 ? fd : 0);
    if (fd >= 0)
        close(fd);
}

/* A file without a name gets one. */
static void name_a_nameless(struct thread *t) {
    int fd = openat(t->top, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0640);
    if (fd < 0) {
        result(t, fd);
        return;
    }
    size_t size = fill(t);
    MUST(pwrite(fd, t->buffer, size, 0) == (ssize_t)size);
    struct place place = new_place(t);
    result(t, linkat(fd, "", place.dirfd, place.path, AT_EMPTY_PATH));
    close(fd);
}

static void change_mode(struct thread *t) {
    struct place place = old_place(t, 0);
    result(t, fchmodat(place.dirfd, place.path, 0600 + pick(t, 64), 0));
}

static void change_owner(struct thread *t) {
    struct place place = old_place(t, 0);
    unsigned user = pick(t, 4), group = pick(t, 4);
    result(t, fchownat(place.dirfd, place.path, user, group, pick(t, 2) ? AT_SYMLINK_NOFOLLOW : 0));
}

static void change_attributes(struct thread *t) {
    struct place place = old_place(t, 0);
    char path[4300], name[32];
    plain_path(&place, path, sizeof path);
    snprintf(name, sizeof name, "user.x%u", pick(t, 3));
    if (pick(t, 3))
        result(t, setxattr(path, name, t->buffer, 1 + pick(t, 100), 0));
    else
        result(t, removexattr(path, name));
}

static void change_times(struct thread *t) {
    struct place place = old_place(t, 0);
    /* Long past, so that the check can tell these from what writing makes of them. */
    struct timespec times[2] = {{1000000000, pick(t, 1000000000)}, {1000000000, 7}};
    times[1].tv_sec += pick(t, 1000);
    result(t, utimensat(place.dirfd, place.path, times, pick(t, 2) ? AT_SYMLINK_NOFOLLOW : 0));
}

/* Removes the first of all that is below some name, so that the tree does not grow for ever, also where it has become too
 * deep for the paths of other calls. */
static void prune(struct thread *t) {
    int at = dup(t->top);
    char name[256];
    snprintf(name, sizeof name, "%s", name_of(pick(t, NAMES)));
    for (;;) {
        struct stat found;
        if (fstatat(at, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
            break;
        if (!S_ISDIR(found.st_mode)) {
            result(t, unlinkat(at, name, 0));
            break;
        }
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), again = dup(fd);
        MUST(fd >= 0 && again >= 0);
        DIR *dir = fdopendir(again);
        MUST(dir);
        char first[256] = "";
        for (struct dirent *entry; (entry = readdir(dir));)
            if (entry->d_name[0] != '.' && (!*first || strcmp(entry->d_name, first) < 0))
                strcpy(first, entry->d_name);
        closedir(dir);
        if (!*first) {
            result(t, unlinkat(at, name, AT_REMOVEDIR));
            close(fd);
            break;
        }
        close(at);
        at = fd;
        strcpy(name, first);
    }
    close(at);
}

/* One record a step at most: which thread, which step. */
static void append_to_log(struct thread *t) {
    uint64_t record[2] = {(uint64_t)t->number, t->step + 1};
    result(t, write(t->log, record, sizeof record));
}
