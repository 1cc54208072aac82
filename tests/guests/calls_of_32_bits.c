/* calls_of_32_bits DIR: a 64-bit program that writes its ring by 32-bit system calls, which have numbers of their own. */
#include "guest.h"

enum { I386_PWRITE64 = 181 };

static long pwrite_i386(int fd, const void *from, size_t size, off_t at) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(I386_PWRITE64), "b"(fd), "c"(from), "d"(size), "S"(at & 0xffffffff), "D"(at >> 32)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    struct ring ring;
    ring_open_in(&ring, argv[1], "0", 512);
    uint64_t *record = mmap(NULL, RECORD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    MUST(record != MAP_FAILED);
    ready();
    for (;; ring.newest++) {
        off_t at;
        int fd = ring_next(&ring, record, &at);
        MUST(pwrite_i386(fd, record, RECORD, at) == RECORD);
        nap(200);
    }
}
