/* eventfd_wakeups DIR: two threads wake each other through eventfds, eight bytes a write, and write rings, as mongod's
 * network threads do. */
#include "guest.h"
#include <sys/eventfd.h>

static int bell[2];
static struct ring rings[2];

static void *player(void *argument) {
    int me = *(int *)argument;
    for (;;) {
        uint64_t value;
        MUST(read(bell[me], &value, sizeof value) == sizeof value);
        MUST(value == 1);
        ring_write(&rings[me]);
        MUST(write(bell[!me], &value, sizeof value) == sizeof value);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    static int names[2] = {0, 1};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%d", argv[1], i) < (int)sizeof path);
        ring_open(&rings[i], path, 128);
        bell[i] = eventfd(0, EFD_CLOEXEC);
        MUST(bell[i] >= 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, player, &names[i]) == 0);
    }
    uint64_t one = 1;
    MUST(write(bell[0], &one, sizeof one) == sizeof one);
    ready();
    for (;;)
        nap(1000000);
}
