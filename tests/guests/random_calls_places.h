/* Where a thread of random_calls makes its calls: paths in all their forms, and files by descriptors in all theirs. */
#pragma once
#include "random_calls_thread.h"
#include <dirent.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/socket.h>

/* A path below the top, or a name of this thread's own in the shared directory. */
struct place {
    int dirfd;
    char path[4200];
};

/* One is not UTF-8, and one as long as a name can be. */
static const char *name_of(unsigned number) {
    static const char *const names[NAMES] = {
        "n0", "n1", "n2", "n3", "n4", "n\xff\xfe\x80 5",
#define TEN "0123456789"
#define FIFTY TEN TEN TEN TEN TEN
        "n6-" FIFTY FIFTY FIFTY FIFTY FIFTY "xx",
    };
    return names[number];
}

static void relative_path(struct thread *t, char *path, size_t size) {
    static const unsigned depths[] = {1, 1, 2, 2, 2, 3};
    size_t used = 0;
    for (unsigned i = depths[pick(t, 6)]; i; i--)
        used += (size_t)snprintf(path + used, size - used, "%s%s", name_of(pick(t, NAMES)), i > 1 ? "/" : "");
}

static struct place any_place(struct thread *t) {
    struct place place;
    if (pick(t, 12) == 0) {
        place.dirfd = t->shared;
        snprintf(place.path, sizeof place.path, "t%d-n%u", t->number, pick(t, 3));
        return place;
    }
    char relative[800];
    relative_path(t, relative, sizeof relative);
    place.dirfd = AT_FDCWD;
    switch (pick(t, 5)) {
    case 0:
        if (t->rooted)
            snprintf(place.path, sizeof place.path, "/%s", relative);
        else
            snprintf(place.path, sizeof place.path, t->bound ? "%s.t%d/%s" : "%s/t%d/%s", t->dir, t->number, relative);
        break;
    case 1:
        if (t->rooted) /* also by a way that would lead out of it */
            snprintf(place.path, sizeof place.path, "/../../%s", relative);
        else
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

/* The same place for a call that takes no directory. */
static void plain_path(const struct place *place, char *path, size_t size) {
    if (place->dirfd == AT_FDCWD)
        snprintf(path, size, "%s", place->path);
    else
        snprintf(path, size, "/proc/thread-self/fd/%d/%s", place->dirfd, place->path);
}

/* The descriptor if it is a regular file's, else it is closed. */
static int only_regular(int fd) {
    struct stat found;
    if (fd >= 0 && (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Some regular file, just opened; now and then only if that needs no look at the disk. */
static int open_some(struct thread *t, int more) {
    struct place place = old_place(t, S_IFREG);
    struct open_how how = {.flags = O_RDWR | O_NONBLOCK | O_CLOEXEC | (unsigned)more, .resolve = RESOLVE_CACHED};
    int fd = -1;
    if (pick(t, 8) == 0)
        fd = (int)syscall(SYS_openat2, place.dirfd, place.path, &how, sizeof how);
    return only_regular(fd >= 0 ? fd : openat(place.dirfd, place.path, (int)how.flags));
}

/* A regular file open for reading and writing: one of those held, or one just opened. */
static int any_file(struct thread *t, int *own) {
    *own = 0;
    if (pick(t, 3) == 0) {
        int fd = t->held[pick(t, HELD)];
        if (fd >= 0)
            return fd;
    }
    *own = 1;
    return open_some(t, pick(t, 4) ? 0 : O_APPEND);
}

/* The same file once more, through its link in /proc, whether or not it still has a name. */
static int reopened(int fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
    return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

/* Some file by a descriptor that only names it. */
static int open_by_path_only(struct thread *t) {
    struct place place = old_place(t, S_IFREG);
    int named = openat(place.dirfd, place.path, O_PATH | O_CLOEXEC), fd = -1;
    struct stat found;
    if (named >= 0 && fstat(named, &found) == 0 && S_ISREG(found.st_mode))
        fd = reopened(named);
    if (named >= 0)
        close(named);
    return fd;
}

/* The same open file by a descriptor that came over a socket. */
static int sent_and_received(struct thread *t, int fd) {
    char byte = 0;
    struct iovec part = {&byte, 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    MUST(sendmsg(t->socket[0], &message, 0) == 1);
    MUST(recvmsg(t->socket[1], &message, MSG_CMSG_CLOEXEC) == 1);
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
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
        fd = pick(t, 2) ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : reopened(fd);
    t->held[slot] = fd;
    t->hash = (t->hash ^ (uint64_t)(fd >= 0)) * 0x100000001b3;
}

/* Goes to another working directory, perhaps one that will be moved or removed, or back to the top. */
static void wander(struct thread *t) {
    int gone = 0;
    if (pick(t, 2)) {
        MUST(fchdir(t->top) == 0);
    } else {
        struct place place = old_place(t, S_IFDIR);
        char path[4300];
        plain_path(&place, path, sizeof path);
        if (pick(t, 2)) {
            gone = chdir(path) == 0;
        } else {
            int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
            gone = fd >= 0 && fchdir(fd) == 0;
            if (fd >= 0)
                close(fd);
        }
    }
    t->hash = (t->hash ^ (uint64_t)gone) * 0x100000001b3;
}

/* Binds a directory of its own to the place of another, or takes such a mount away again, for itself alone: what is below one
 * name is below two then. Changes nothing by itself. */
static void mount_or_unmount(struct thread *t) {
    if (!t->own_mounts) {
        wander(t);
        return;
    }
    int *mounted = &t->mounts[pick(t, 2)];
    struct place from = old_place(t, S_IFDIR), at = old_place(t, S_IFDIR);
    int done = 0;
    struct stat found;
    if (*mounted >= 0) {
        /* It may have gone with another that it stood on. */
        MUST(fchdir(*mounted) == 0);
        done = umount2(".", MNT_DETACH) == 0;
        close(*mounted);
        *mounted = -1;
    } else {
        /* By descriptors: not each thread has a /proc. */
        int tree = (int)syscall(SYS_open_tree, from.dirfd, from.path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        done = tree >= 0 && fstat(tree, &found) == 0 && S_ISDIR(found.st_mode)
            && syscall(SYS_move_mount, tree, "", at.dirfd, at.path, MOVE_MOUNT_F_EMPTY_PATH) == 0;
        if (done)
            *mounted = tree;
        else if (tree >= 0)
            close(tree);
    }
    MUST(fchdir(t->top) == 0);
    t->hash = (t->hash ^ (uint64_t)done) * 0x100000001b3;
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
