/* sandboxes_itself DIR GO DONE: two threads write rings. When the file GO is there, the first thread, which only sleeps, puts a filter on
 * itself and on no other, by which fchmod and mknodat are errors, and makes the file DONE. */
#include <stddef.h>
#include <sys/prctl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "guest.h"

static void put_filter(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fchmod, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mknodat, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    struct ring_thread rings[2];
    for (int i = 0; i < 2; i++) {
        char name[16];
        MUST(snprintf(name, sizeof name, "%d", i) < (int)sizeof name);
        ring_open_in(&rings[i].ring, argv[1], name, 64);
        rings[i].pause_us = 200;
    }
    for (int i = 0; i < 2; i++) {
        pthread_t id;
        MUST(pthread_create(&id, NULL, ring_thread, &rings[i]) == 0);
    }
    ready();
    wait_for_file(argv[2]);
    put_filter();
    int done = open(argv[3], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    MUST(done >= 0 && close(done) == 0);
    for (;;)
        nap(1000000000);
}
