/* gives_up DIR WHAT TRIGGER: writes the rings DIR/0 and DIR/1 by two threads. Once the file TRIGGER is there, it removes it and
 * gives up WHAT: its user (for nobody), its capabilities, or to be looked at by its own user ("dumpable"). */
#include "guest.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>

static void give_up(const char *what) {
    if (strcmp(what, "user") == 0) {
        MUST(setgroups(0, NULL) == 0);
        MUST(setgid(65534) == 0);
        MUST(setuid(65534) == 0);
    } else if (strcmp(what, "capabilities") == 0) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none[2] = {{0}};
        MUST(syscall(SYS_capset, &header, none) == 0);
    } else {
        MUST(strcmp(what, "dumpable") == 0);
        MUST(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
    }
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    static struct ring_thread all[2];
    for (int i = 0; i < 2; i++) {
        char path[4096];
        MUST(snprintf(path, sizeof path, "%s/%d", argv[1], i) < (int)sizeof path);
        ring_open(&all[i].ring, path, 64);
        all[i].pause_us = 200;
    }
    int is_early = access(argv[3], F_OK) == 0;
    if (is_early) {
        MUST(unlink(argv[3]) == 0);
        give_up(argv[2]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, ring_thread, &all[i]) == 0);
    }
    ready();
    if (!is_early) {
        wait_for_file(argv[3]);
        MUST(unlink(argv[3]) == 0);
        give_up(argv[2]);
    }
    for (;;)
        nap(1000000);
}
