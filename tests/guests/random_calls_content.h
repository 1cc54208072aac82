/* The calls of random_calls that change what a file holds. Each takes a regular file's descriptor, or -1. */
#pragma once
#include "random_calls_places.h"
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

static void write_to(struct thread *t, int fd) {
    size_t size = fill(t);
    off_t at = offset(t);
    struct iovec parts[2] = {{t->buffer, size / 2}, {t->buffer + size / 2, size - size / 2}};
    switch (pick(t, 8)) {
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
        result(t, write(fd, t->buffer, pick(t, 200) ? size : 8));
        break;
    default: /* where the position is */
        result(t, write(fd, t->buffer, pick(t, 200) ? size : 8));
    }
}

static void write_by_child(struct thread *t, int fd) {
    size_t size = fill(t);
    off_t at = offset(t);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        _exit(pwrite(fd, t->buffer, size, at) == (ssize_t)size ? 0 : 1);
    int status;
    MUST(waitpid(child, &status, 0) == child);
    result(t, status);
}

/* Past the page cache. */
static void write_direct(struct thread *t, int fd) {
    (void)fd;
    size_t size = 4096 * (1 + pick(t, 12));
    fill_with(t, size);
    off_t at = offset(t) & ~(off_t)4095;
    int direct = open_some(t, O_DIRECT);
    result(t, pwrite(direct, t->buffer, size, at));
    if (direct >= 0)
        close(direct);
}

static void write_received(struct thread *t, int fd) {
    size_t size = fill(t);
    off_t at = offset(t);
    int received = fd < 0 ? -1 : sent_and_received(t, fd);
    result(t, pick(t, 4) ? pwrite(received, t->buffer, size, at) : ftruncate(received, at));
    if (received >= 0)
        close(received);
}

static void write_reopened(struct thread *t, int fd) {
    size_t size = fill(t);
    off_t at = offset(t);
    int again = pick(t, 2) ? reopened(fd) : open_by_path_only(t);
    result(t, pwrite(again, t->buffer, size, at));
    if (again >= 0)
        close(again);
}

/* Through a descriptor that is new, of a file just opened or the same one once more, and that is kept for later: now and then
 * as long as a wake-up through an eventfd. */
static void write_new(struct thread *t, int fd) {
    size_t size = pick(t, 20) ? fill(t) : (fill_with(t, 8), 8);
    int fresh = pick(t, 3) ? open_some(t, 0) : fd < 0 ? -1 : pick(t, 2) ? dup(fd) : reopened(fd);
    result(t, write(fresh, t->buffer, size));
    int *held = &t->held[pick(t, HELD)];
    if (*held < 0 || *held != fd) {
        if (*held >= 0)
            close(*held);
        *held = fresh;
    } else if (fresh >= 0) {
        close(fresh);
    }
}

static void change_size(struct thread *t, int fd) {
    off_t at = offset(t);
    if (pick(t, 3)) {
        result(t, ftruncate(fd, at));
        return;
    }
    struct place place = old_place(t, S_IFREG);
    char path[4300];
    plain_path(&place, path, sizeof path);
    result(t, truncate(path, at));
}

/* In the part of a file that is drawn here; with `keep`, perhaps without changing its size. */
static void allocate_as(struct thread *t, int fd, int mode, int keep) {
    off_t at = offset(t), size = (off_t)length(t);
    if (keep && pick(t, 2))
        mode |= FALLOC_FL_KEEP_SIZE;
    result(t, fallocate(fd, mode, at, size));
}

static void allocate(struct thread *t, int fd) {
    allocate_as(t, fd, 0, 1);
}

static void punch(struct thread *t, int fd) {
    allocate_as(t, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0);
}

static void make_zero(struct thread *t, int fd) {
    allocate_as(t, fd, FALLOC_FL_ZERO_RANGE, 1);
}

static void unshare_range(struct thread *t, int fd) {
    allocate_as(t, fd, FALLOC_FL_UNSHARE_RANGE, 0);
}

static void collapse(struct thread *t, int fd) {
    off_t at = offset(t) & ~(off_t)4095, size = 4096 * (1 + pick(t, 20));
    result(t, fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, at, size));
}

static void insert(struct thread *t, int fd) {
    off_t at = offset(t) & ~(off_t)4095, size = 4096 * (1 + pick(t, 20));
    struct stat found;
    if (fd >= 0 && fstat(fd, &found) == 0 && found.st_size > FURTHEST)
        result(t, ftruncate(fd, 0));
    else
        result(t, fallocate(fd, FALLOC_FL_INSERT_RANGE, at, size));
}

/* No more than goes through a pipe at once: a longer copy is cut short by any signal, and by the instant for which a busy
 * thread is stopped, so that the replay's would not be the same. */
static void copy(struct thread *t, int to) {
    int own;
    int from = any_file(t, &own);
    size_t size = length(t);
    size = size > 61440 ? 61440 : size;
    off_t source = offset(t), target = offset(t);
    switch (pick(t, 3)) {
    case 0:
        result(t, copy_file_range(from, &source, to, &target, size, 0));
        break;
    case 1:
        lseek(to, target, SEEK_SET);
        result(t, copy_file_range(from, &source, to, NULL, size, 0));
        break;
    default:
        lseek(to, target, SEEK_SET);
        result(t, sendfile(to, from, &source, size));
    }
    if (own && from >= 0)
        close(from);
}

static void splice_from_pipe(struct thread *t, int to) {
    size_t size = 1 + pick(t, 4096);
    off_t target = offset(t);
    fill_with(t, size);
    MUST(write(t->pipe[1], t->buffer, size) == (ssize_t)size);
    long moved = splice(t->pipe[0], NULL, to, &target, size, 0);
    result(t, moved);
    size_t rest = size - (moved > 0 ? (size_t)moved : 0);
    MUST(rest == 0 || read(t->pipe[0], t->buffer, rest) == (ssize_t)rest);
}

static void clone_file(struct thread *t, int to) {
    int own;
    int from = any_file(t, &own);
    uint64_t source = (uint64_t)offset(t) & ~(uint64_t)4095, target = (uint64_t)offset(t) & ~(uint64_t)4095;
    /* A length of 0 is up to the end. */
    struct file_clone_range range = {from, source, 4096 * pick(t, 20), target};
    if (pick(t, 2))
        result(t, ioctl(to, FICLONE, from));
    else
        result(t, ioctl(to, FICLONERANGE, &range));
    if (own && from >= 0)
        close(from);
}
