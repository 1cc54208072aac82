/* changes_descriptors DIR THREADS PRIVATE EVENTFDS: threads that each write a ring through descriptors which change all the
 * time: made by dup2 over what was there, by F_DUPFD, sent over a socket, opened anew, and closed one by one or by range.
 * The last PRIVATE threads have descriptor tables of their own, in which the same numbers are other files. EVENTFDS: how
 * many it has, unused. */
#include "guest.h"
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { NUMBERS = 32, FIRST = 400 };

struct worker {
    struct ring ring;
    char dir[4096];
    int base; /* its own numbers begin here */
    int sockets[2];
    int is_private;
    uint64_t chance;
};

static uint64_t random_below(struct worker *self, uint64_t most) {
    self->chance ^= self->chance << 13;
    self->chance ^= self->chance >> 7;
    self->chance ^= self->chance << 17;
    return self->chance % most;
}

static void send_descriptor(int socket, int fd) {
    char byte = 0, space[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    MUST(sendmsg(socket, &message, 0) == 1);
}

static int receive_descriptor(int socket) {
    char byte, space[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    MUST(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    MUST(header && header->cmsg_type == SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

/* The file of the ring that the next record goes to gets another descriptor. */
static void change(struct worker *self) {
    int which = (int)((self->ring.newest + 1) % RING_FILES);
    int old = self->ring.fd[which], new = -1;
    int number = self->base + (int)random_below(self, NUMBERS);
    char path[5000];
    switch (random_below(self, 6)) {
    case 0: /* Over whatever is there: not over the other files' descriptors. */
        for (int i = 0; i < RING_FILES; i++)
            if (self->ring.fd[i] == number)
                return;
        MUST((new = dup2(old, number)) == number);
        break;
    case 1: MUST((new = fcntl(old, F_DUPFD_CLOEXEC, self->base)) >= self->base); break;
    case 2: /* On its way it is open nowhere else. */
        send_descriptor(self->sockets[0], old);
        MUST(close(old) == 0);
        self->ring.fd[which] = receive_descriptor(self->sockets[1]);
        return;
    case 3:
        MUST(snprintf(path, sizeof path, "%s/ring-%d", self->dir, which) < (int)sizeof path);
        MUST((new = open(path, O_RDWR | O_CLOEXEC)) >= 0);
        break;
    case 4:
        MUST(snprintf(path, sizeof path, "/proc/thread-self/fd/%d", old) < (int)sizeof path);
        MUST((new = open(path, O_RDWR | O_CLOEXEC)) >= 0);
        break;
    case 5: /* All of its numbers but those in use, which are moved out of the way and back. */
        for (int i = 0; i < RING_FILES; i++) {
            int moved = fcntl(self->ring.fd[i], F_DUPFD_CLOEXEC, self->base + NUMBERS);
            MUST(moved >= 0 && close(self->ring.fd[i]) == 0);
            self->ring.fd[i] = moved;
        }
        MUST(syscall(SYS_close_range, self->base, self->base + NUMBERS - 1, 0) == 0);
        return;
    }
    if (new != old)
        MUST(close(old) == 0);
    self->ring.fd[which] = new;
}

static void *worker(void *argument) {
    struct worker *self = argument;
    if (self->is_private) {
        MUST(unshare(CLONE_FILES) == 0);
        /* Here every number below is a file of this thread, and of another one elsewhere. */
        for (int i = 0; i < RING_FILES; i++) {
            int moved = dup2(self->ring.fd[i], FIRST + i);
            MUST(moved == FIRST + i && close(self->ring.fd[i]) == 0);
            self->ring.fd[i] = moved;
        }
    }
    for (;;) {
        change(self);
        ring_write(&self->ring);
        nap(200);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 5);
    long threads = number(argv[2]), private = number(argv[3]);
    for (long i = 0; i < number(argv[4]); i++)
        MUST(eventfd(0, EFD_CLOEXEC) >= 0);
    struct worker *all = calloc((size_t)threads, sizeof *all);
    MUST(all);
    for (long i = 0; i < threads; i++) {
        struct worker *self = &all[i];
        MUST(snprintf(self->dir, sizeof self->dir, "%s/%ld", argv[1], i) < (int)sizeof self->dir);
        ring_open(&self->ring, self->dir, 16);
        self->is_private = i >= threads - private;
        /* Twice as far as they are long: what does not fit is moved there. */
        self->base = FIRST + (self->is_private ? 0 : (int)i * 2 * NUMBERS);
        self->chance = 88172645463325252 + (uint64_t)i;
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, self->sockets) == 0);
    }
    for (long i = 0; i < threads; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, worker, &all[i]) == 0);
    }
    ready();
    for (;;)
        nap(1000000);
}
