/* long_copies DIR: two threads copy from file to file in DIR, each 16 MiB in one call, by sendfile and by copy_file_range. A call
 * that returns less ends the guest with abort(): nothing but a signal makes one fall short. */
#include "guest.h"
#include <sys/sendfile.h>

enum { SIZE = 16 << 20 };

static const char *dir;
static int source;

static void *copy(void *argument) {
    int by_range = argument != NULL;
    int target = make_file(dir, by_range ? "by-range" : "by-sendfile", SIZE);
    for (;;) {
        off_t from = 0, to = 0;
        MUST(lseek(target, 0, SEEK_SET) == 0);
        ssize_t copied = by_range ? copy_file_range(source, &from, target, &to, SIZE, 0) : sendfile(target, source, &from, SIZE);
        if (copied != SIZE)
            fprintf(stderr, "%zd of %d bytes\n", copied, SIZE);
        MUST(copied == SIZE);
        nap(1000);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    dir = argv[1];
    source = make_file(dir, "source", 0);
    static char block[1 << 20];
    memset(block, 's', sizeof block);
    for (int i = 0; i < SIZE >> 20; i++)
        MUST(write(source, block, sizeof block) == (ssize_t)sizeof block);
    pthread_t id;
    MUST(pthread_create(&id, NULL, copy, NULL) == 0);
    MUST(pthread_create(&id, NULL, copy, &source) == 0);
    ready();
    for (;;)
        nap(1000000);
}
