/* real_time_hog CPU MILLISECONDS: takes a processor from everybody who is not more real-time than priority 50, for so
 * long, or until whoever started it is killed. */
#include "guest.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

int main(int argc, char **argv) {
    MUST(argc == 3);
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((int)number(argv[1]), &one);
    MUST(sched_setaffinity(0, sizeof one, &one) == 0);
    struct timespec now, end;
    MUST(clock_gettime(CLOCK_MONOTONIC, &end) == 0);
    end.tv_sec += number(argv[2]) / 1000;
    end.tv_nsec += number(argv[2]) % 1000 * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    struct sched_param fifo = {.sched_priority = 50};
    MUST(sched_setscheduler(0, SCHED_FIFO, &fifo) == 0);
    ready();
    do
        MUST(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
}
