/* A container's first process that does nothing but reap. */
#include "guest.h"
#include <sys/wait.h>

int main(void) {
    for (;;) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        nap(10000);
    }
}
