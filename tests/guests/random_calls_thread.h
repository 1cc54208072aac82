/* One thread of random_calls: what it knows, and how it chooses. */
#pragma once
#include "guest.h"
#include <stdatomic.h>
#include <time.h>

enum { NAMES = 7, HELD = 4, LARGEST = 200000, FURTHEST = 400000, MOST_THREADS = 64, MOST_NAMES = 60 };

struct thread {
    uint64_t random;  /* decides what is done */
    uint64_t pauses;  /* decides how long to wait, which changes nothing */
    uint64_t step;
    uint64_t hash;
    unsigned kind;    /* of the last call */
    long value;       /* what it returned */
    uint64_t kinds;   /* which kinds of calls it makes: a bit each */
    int number;
    int names;        /* at the last count */
    int held[HELD];
    int top;          /* DIR/t<N> */
    int shared;       /* DIR/shared */
    int counter;
    int log;
    int pipe[2];
    int socket[2];    /* both its own: a descriptor that is sent comes back under another number */
    int far;          /* may reach beyond 4 GiB */
    int scopes;       /* makes links that mean something in a scope or a root */
    int rooted;       /* its root is DIR/t<N>: /proc and DIR are nowhere to it */
    int own_mounts;   /* it has mounts of its own, and its subtree bound beside DIR */
    int bound;        /* it names its subtree by that place, DIR.t<N> */
    int mounts[2];    /* what it has mounted below its top, or -1 */
    long pause_us;
    const char *dir;
    struct times *times;
    _Alignas(4096) char buffer[LARGEST + 4096];
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
    if (pick(t, 3) == 0)
        at &= ~(off_t)4095;
    /* Now and then astride 4 GiB, or beyond. */
    if (t->far && pick(t, 60) == 0)
        at += pick(t, 2) ? ((off_t)4 << 30) - FURTHEST / 2 / 4096 * 4096 : (off_t)5 << 30;
    return at;
}

/* Mostly short. */
static size_t length(struct thread *t) {
    static const unsigned most[] = {16, 300, 5000, 70000, LARGEST};
    return 1 + pick(t, most[pick(t, 5)]);
}

static void fill_with(struct thread *t, size_t size) {
    uint64_t state = next_random(&t->random);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = next_random(&state);
        memcpy(t->buffer + i, &word, size - i < 8 ? size - i : 8);
    }
}

static size_t fill(struct thread *t) {
    size_t size = length(t);
    fill_with(t, size);
    return size;
}

/* What a call returned. It may fail because of what is or is not there; not because it is traced. */
static void result(struct thread *t, long value) {
    int error = value < 0 ? errno : 0;
    switch (error) {
    case 0: case ENOENT: case EEXIST: case ENOTDIR: case EISDIR: case ENOTEMPTY: case EINVAL: case ELOOP: case EBUSY:
    case ENODATA: case EOPNOTSUPP: case EBADF: case ETXTBSY: case ENXIO: case EPERM: case EMLINK: case EXDEV:
    case ESPIPE: case ENOTTY: case EFBIG: case EAGAIN:
        break;
    default:
        fprintf(stderr, "thread %d, step %lu: %s\n", t->number, t->step + 1, strerror(error));
        abort();
    }
    t->value = error ? -error : value;
    t->hash = (t->hash ^ (uint64_t)value ^ (uint64_t)error << 32) * 0x100000001b3;
}
