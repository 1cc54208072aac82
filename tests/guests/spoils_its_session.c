/* spoils_its_session DIR HOW SEED VICTIMS: two threads write rings in DIR, and another does its worst to the memory that hotbackup
 * shares with this process: `shrink` cuts it off to nothing, `scribble` fills all of it with random words, over and over, `poke`
 * changes a word now and then. Some of the words are the numbers in the file VICTIMS, of processes that must come to no harm: it
 * waits until that is there. DIR/foreign counts how often it did.
 *
 * What becomes of its own calls is its own fault: they are not watched. */
#include "guest.h"
#include <dirent.h>

enum { RINGS = 2, SLOTS = 64, HEAD_BEGIN = 2, HEAD_END = 64, MOST = 16 };

static unsigned victims;
static uint32_t victim[MOST];
static uint64_t state;

static uint64_t noise(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* The number of a descriptor of the session's, or -1. */
static int find(void) {
    DIR *all = opendir("/proc/self/fd");
    MUST(all);
    int found = -1;
    for (struct dirent *entry; found < 0 && (entry = readdir(all));) {
        char link[300] = "", path[300];
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, link, sizeof link - 1) > 0 && strncmp(link, "/memfd:hotbackup-session", 24) == 0)
            found = atoi(entry->d_name);
    }
    closedir(all);
    return found;
}

static uint32_t worst_word(void) {
    uint64_t random = noise();
    switch (random % 4) {
    case 0: return victim[random / 4 % victims];
    case 1: return (uint32_t)(random >> 32) % 1024;
    case 2: return (uint32_t)(random >> 2) % 3 - 1;
    default: return (uint32_t)(random >> 32);
    }
}

/* All of it, in no order, so that what was found right is wrong a moment later. */
static void scribble(uint32_t *words, size_t count, volatile uint64_t *spoiled) {
    for (;;) {
        for (size_t i = 0; i < count; i++)
            __atomic_store_n(&words[noise() % 8 ? i : noise() % count], worst_word(), __ATOMIC_RELAXED);
        ++*spoiled;
        nap((long)(noise() % 3000));
    }
}

/* A word at a time, most often of the beginning, behind what says whose memory it is: the rest stays good. */
static void poke(uint32_t *words, size_t count, volatile uint64_t *spoiled) {
    for (;;) {
        size_t at = HEAD_BEGIN + noise() % (noise() % 4 ? HEAD_END - HEAD_BEGIN : count - HEAD_BEGIN);
        __atomic_store_n(&words[at], worst_word(), __ATOMIC_RELAXED);
        ++*spoiled;
        nap((long)(noise() % 20000));
    }
}

static void *writer(void *argument) {
    struct ring *ring = argument;
    for (;;) {
        ring_write(ring);
        nap(300);
    }
    return NULL;
}

int main(int argc, char **argv) {
    MUST(argc == 5);
    state = (uint64_t)number(argv[3]) * 0x9e3779b97f4a7c15u | 1;
    static struct ring rings[RINGS];
    uint64_t *spoiled = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, make_file(argv[1], "foreign", 4096), 0);
    MUST(spoiled != MAP_FAILED);
    for (int i = 0; i < RINGS; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%d", argv[1], i) < (int)sizeof path);
        ring_open(&rings[i], path, SLOTS);
        pthread_t id;
        MUST(pthread_create(&id, NULL, writer, &rings[i]) == 0);
    }
    ready();
    wait_for_file(argv[4]);
    FILE *numbers = fopen(argv[4], "r");
    MUST(numbers);
    while (victims < MOST && fscanf(numbers, "%u", &victim[victims]) == 1)
        victims++;
    MUST(victims && fclose(numbers) == 0);
    for (;; nap(500)) {
        int fd = find();
        if (fd < 0)
            continue;
        if (strcmp(argv[2], "shrink") == 0) {
            /* May be refused: then all is well. */
            if (ftruncate(fd, 0) == 0 || errno == EPERM)
                ++*spoiled;
            continue;
        }
        /* It may be on its way to another number, or have no length yet. */
        struct stat data;
        if (fstat(fd, &data) != 0 || data.st_size == 0)
            continue;
        void *memory = mmap(NULL, (size_t)data.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
            continue;
        (strcmp(argv[2], "poke") == 0 ? poke : scribble)(memory, (size_t)data.st_size / 4, spoiled);
    }
}
