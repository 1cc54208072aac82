/* A file system that gets stuck: MOUNTPOINT SWITCHES. It holds the file `ballast`. While SWITCHES/stuck is there and
 * SWITCHES/free is not, no read of the file is answered, and no lookup of any other name; all else is. While SWITCHES/deaf is
 * there and SWITCHES/free is not, no flush is, by which each close waits. It ends when it is killed, and then everything that
 * waits for it fails. */
#include "guest.h"
#include <dirent.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>

enum { ROOT = FUSE_ROOT_ID, BALLAST = 2, SIZE = 1 << 20, KEPT = 64 };

static int device;
static const char *switches;

/* Requests that are not answered for now. */
static struct {
    uint64_t id;
    uint32_t bytes;
    int error;
} kept[KEPT];
static int kept_count;

static int is_on(const char *name) {
    char path[4096];
    join_path(path, sizeof path, switches, name);
    return access(path, F_OK) == 0;
}

static void answer(uint64_t id, int error, const void *data, size_t size) {
    static char out[sizeof(struct fuse_out_header) + SIZE];
    struct fuse_out_header head = {(uint32_t)(sizeof head + size), -error, id};
    memcpy(out, &head, sizeof head);
    if (size)
        memcpy(out + sizeof head, data, size);
    ssize_t n = write(device, out, sizeof head + size);
    MUST(n == (ssize_t)(sizeof head + size) || errno == ENOENT); /* ENOENT: nobody waits any more */
}

static struct fuse_attr attributes(uint64_t node) {
    struct fuse_attr attr = {0};
    attr.ino = node;
    attr.mode = node == ROOT ? S_IFDIR | 0755 : S_IFREG | 0644;
    attr.nlink = 1;
    attr.size = node == ROOT ? 0 : SIZE;
    attr.blocks = attr.size / 512;
    attr.blksize = 4096;
    return attr;
}

static void read_dir(uint64_t id, uint64_t offset) {
    const char name[] = "ballast";
    char out[64] = {0};
    struct fuse_dirent entry = {BALLAST, 1, sizeof name - 1, DT_REG};
    memcpy(out, &entry, sizeof entry);
    memcpy(out + FUSE_NAME_OFFSET, name, sizeof name - 1);
    answer(id, 0, out, offset ? 0 : FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + sizeof name - 1));
}

static void keep(uint64_t id, uint32_t bytes, int error) {
    MUST(kept_count < KEPT);
    kept[kept_count].id = id;
    kept[kept_count].error = error;
    kept[kept_count++].bytes = bytes;
}

static void answer_kept(uint64_t id, uint32_t bytes, int error) {
    static const char zeros[SIZE];
    answer(id, error, zeros, bytes);
}

static void serve(const struct fuse_in_header *in, const void *body) {
    int stuck = is_on("stuck") && !is_on("free");
    switch (in->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *asked = body;
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
        out.max_readahead = asked->max_readahead;
        out.max_write = 1 << 16;
        out.flags = FUSE_PARALLEL_DIROPS; /* a stuck lookup keeps nobody else out of the directory */
        answer(in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_LOOKUP: {
        if (strcmp(body, "ballast") == 0) {
            struct fuse_entry_out out = {.nodeid = BALLAST, .attr = attributes(BALLAST)};
            answer(in->unique, 0, &out, sizeof out);
        } else if (stuck) {
            keep(in->unique, 0, ENOENT);
        } else {
            answer(in->unique, ENOENT, NULL, 0);
        }
        return;
    }
    case FUSE_GETATTR:
    case FUSE_SETATTR: {
        struct fuse_attr_out out = {.attr = attributes(in->nodeid)};
        answer(in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {.open_flags = in->opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0};
        answer(in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_READDIR:
        read_dir(in->unique, ((const struct fuse_read_in *)body)->offset);
        return;
    case FUSE_READ: {
        const struct fuse_read_in *asked = body;
        MUST(asked->size <= SIZE);
        uint64_t left = asked->offset < SIZE ? SIZE - asked->offset : 0;
        uint32_t bytes = asked->size < left ? asked->size : (uint32_t)left;
        if (stuck)
            keep(in->unique, bytes, 0);
        else
            answer_kept(in->unique, bytes, 0);
        return;
    }
    case FUSE_WRITE: {
        struct fuse_write_out out = {.size = ((const struct fuse_write_in *)body)->size};
        answer(in->unique, 0, &out, sizeof out);
        return;
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        answer(in->unique, 0, NULL, 0);
        return;
    case FUSE_FLUSH:
        if (is_on("deaf") && !is_on("free"))
            keep(in->unique, 0, 0);
        else
            answer(in->unique, 0, NULL, 0);
        return;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: /* stuck is stuck */
        return;
    default:
        answer(in->unique, ENOSYS, NULL, 0);
    }
}

int main(int argc, char **argv) {
    MUST(argc == 3);
    switches = argv[2];
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    MUST(device >= 0);
    char options[256];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    MUST(mount("stuck_disk", argv[1], "fuse", MS_NOSUID | MS_NODEV, options) == 0);
    ready();
    for (;;) {
        struct pollfd asked = {device, POLLIN, 0};
        int n = poll(&asked, 1, 5);
        MUST(n >= 0 || errno == EINTR);
        if (kept_count && is_on("free"))
            while (kept_count) {
                kept_count--;
                answer_kept(kept[kept_count].id, kept[kept_count].bytes, kept[kept_count].error);
            }
        if (n <= 0)
            continue;
        static _Alignas(8) char request[(1 << 16) + 4096];
        ssize_t size = read(device, request, sizeof request);
        if (size < 0 && errno == ENODEV)
            return 0; /* unmounted */
        if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        MUST(size >= (ssize_t)sizeof(struct fuse_in_header));
        serve((struct fuse_in_header *)request, request + sizeof(struct fuse_in_header));
    }
}
