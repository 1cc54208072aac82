/* host [GUEST'S ARGUMENTS]: a program that has itself backed up as it is told on standard input, one line each, and tells what came
 * of it on standard output. With arguments, a guest of tests/guests, whose main() is guest_main() here, runs in a thread of it.
 *
 *   backup ID SOURCE DEST...       in a thread of its own; "end ID RESULT", and what was called, when it is over
 *   set NAME VALUE                 how the functions behave from now on, see `settings`
 *   throttle N | keep N | start N  as in the headers
 *   state                          "state CAPTURING COPIED"
 *   idle                           "idle THREADS DESCRIPTORS"
 *   write PATH TEXT                appends
 *   rename FROM TO                 "rename"
 *   wait                           "wait ERRNO": of wait(2) for any child
 *   fork SOURCE DEST               a child calls all there is, and ends; "fork RESULT" of its backup
 *   open N DIR                     makes N files and keeps them open
 *   many N SOURCE DEST             N backups at once; "many COMPLETE BUSY OTHER"
 *   alternate PATH PATH            a thread that appends a number to the first, then to the second, and so on
 *   nulls                          calls with null and empty arguments; "nulls ERRNO..."
 *   quit
 */
#define _GNU_SOURCE
#include "backup.h"
#include "hotbackup_test.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(call)                                                                          \
    do {                                                                                    \
        if (!(call)) {                                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno)); \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

enum { PAIRS = 8, LINE = 16384 };

/* How the functions behave: numbers by their names, and paths. */
static struct {
    const char *name;
    atomic_long value;
} settings[] = {
    {"stop-at-poll", 0},  /* this one, from 1, returns stop-value */
    {"stop-value", 7},    /* */
    {"stop-at-the-end", 0}, /* so does one with 1.0 */
    {"poll-sleep-ms", 0}, /* each sleeps */
    {"tell-polls", 0},    /* each is told */
    {"rate-in-poll", -1}, /* each sets this throttle */
    {"before-waits", 0},  /* the first of the two says "before", and waits until this is 0 again */
    {"after-waits", 0},   /* the second says "after", likewise */
    {"tell-excludes", 0}, /* each path is told */
    {"raise-on-child", 0},
};
static char exclude[256], before_file[4096], after_file[4096];

static long get(const char *name) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (!strcmp(settings[i].name, name))
            return atomic_load(&settings[i].value);
    fprintf(stderr, "no setting %s\n", name);
    abort();
}

static void set(const char *name, const char *value) {
    if (!strcmp(name, "exclude"))
        snprintf(exclude, sizeof exclude, "%s", value);
    else if (!strcmp(name, "before-file"))
        snprintf(before_file, sizeof before_file, "%s", value);
    else if (!strcmp(name, "after-file"))
        snprintf(after_file, sizeof after_file, "%s", value);
    else {
        get(name);
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
            if (!strcmp(settings[i].name, name))
                atomic_store(&settings[i].value, atol(value));
    }
}

static void say(const char *line) {
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    MUST(pthread_mutex_lock(&one) == 0);
    puts(line);
    fflush(stdout);
    MUST(pthread_mutex_unlock(&one) == 0);
}

static void append(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void nap(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0)
        MUST(errno == EINTR);
}

/* One backup, and what was called in it. */
struct call {
    char id[32];
    char paths[2 * PAIRS][4096];
    int pairs;
    pthread_t thread;
    int polls, backwards, wrong_thread, befores, afters, order, errors, error, excludes;
    float last;
    char text[4096];
    int result;
};

static void check_thread(struct call *call) {
    if (!pthread_equal(pthread_self(), call->thread))
        call->wrong_thread++;
}

static int on_poll(float progress, const char *text, void *extra) {
    struct call *call = extra;
    check_thread(call);
    call->polls++;
    if (progress < call->last || progress < 0 || progress > 1 || !text)
        call->backwards++;
    call->last = progress;
    if (get("tell-polls"))
        say("poll");
    if (get("rate-in-poll") >= 0)
        tokubackup_throttle_backup((unsigned long)get("rate-in-poll"));
    if (get("poll-sleep-ms"))
        nap(get("poll-sleep-ms"));
    if (progress == 1 && get("stop-at-the-end"))
        return (int)get("stop-value");
    return call->polls == get("stop-at-poll") ? (int)get("stop-value") : 0;
}

static void on_error(int number, const char *text, void *extra) {
    struct call *call = extra;
    check_thread(call);
    call->errors++;
    call->error = number;
    snprintf(call->text, sizeof call->text, "%s", text);
}

static int on_exclude(const char *path, void *extra) {
    struct call *call = extra;
    check_thread(call);
    call->excludes++;
    if (get("tell-excludes")) {
        char line[LINE];
        snprintf(line, sizeof line, "exclude %s", path);
        say(line);
    }
    return exclude[0] && strstr(path, exclude) != NULL;
}

static void stands(const char *what, const char *setting) {
    if (!get(setting))
        return;
    say(what);
    while (get(setting))
        nap(1);
}

static void on_before(void *extra) {
    struct call *call = extra;
    check_thread(call);
    call->befores++;
    stands("before", "before-waits");
    if (before_file[0])
        append(before_file, "before\n");
}

static void on_after(void *extra) {
    struct call *call = extra;
    check_thread(call);
    call->afters++;
    call->order += call->befores == call->afters;
    if (after_file[0])
        append(after_file, "after\n");
    stands("after", "after-waits");
}

static void take(struct call *call) {
    const char *sources[PAIRS], *dests[PAIRS];
    for (int i = 0; i < call->pairs; i++) {
        sources[i] = call->paths[2 * i];
        dests[i] = call->paths[2 * i + 1];
    }
    call->thread = pthread_self();
    call->result = tokubackup_create_backup(sources, dests, call->pairs, on_poll, call, on_error, call, on_exclude, call,
                                            on_before, call, on_after, call);
}

static void *backup(void *argument) {
    struct call *call = argument;
    take(call);
    char line[LINE];
    snprintf(line, sizeof line,
             "end %s %d polls=%d last=%.3f backwards=%d wrong_thread=%d befores=%d afters=%d order=%d excludes=%d errors=%d error=%d text=%s",
             call->id, call->result, call->polls, (double)call->last, call->backwards, call->wrong_thread, call->befores,
             call->afters, call->order, call->excludes, call->errors, call->error, call->text);
    say(line);
    free(call);
    return NULL;
}

static void start_backup(char *words) {
    struct call *call = calloc(1, sizeof *call);
    MUST(call);
    snprintf(call->id, sizeof call->id, "%s", strtok(words, " "));
    for (char *word; (word = strtok(NULL, " "));) {
        MUST(call->pairs / 2 < PAIRS);
        snprintf(call->paths[call->pairs++], sizeof *call->paths, "%s", word);
    }
    call->pairs /= 2;
    pthread_t id;
    MUST(pthread_create(&id, NULL, backup, call) == 0 && pthread_detach(id) == 0);
}

static void *one_of_many(void *argument) {
    take(argument);
    return NULL;
}

static void many(int count, const char *source, const char *dest) {
    struct call *all = calloc((size_t)count, sizeof *all);
    pthread_t *ids = calloc((size_t)count, sizeof *ids);
    MUST(all && ids);
    int complete = 0, busy = 0;
    for (int i = 0; i < count; i++) {
        snprintf(all[i].paths[0], sizeof *all[i].paths, "%s", source);
        snprintf(all[i].paths[1], sizeof *all[i].paths, "%s", dest);
        all[i].pairs = 1;
        MUST(pthread_create(&ids[i], NULL, one_of_many, &all[i]) == 0);
    }
    for (int i = 0; i < count; i++) {
        MUST(pthread_join(ids[i], NULL) == 0);
        complete += all[i].result == 0;
        busy += all[i].result == EBUSY && all[i].error == EBUSY;
    }
    char line[64];
    snprintf(line, sizeof line, "many %d %d %d", complete, busy, count - complete - busy);
    say(line);
    free(all);
    free(ids);
}

static int entries(const char *path) {
    int count = 0;
    DIR *dir = opendir(path);
    MUST(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* Null and empty arguments of every kind. */
static void nulls(void) {
    static const char *empty[] = {""}, *null[] = {NULL}, *some[] = {"/"};
    static const struct {
        const char **sources, **dests;
        int count;
    } cases[] = {{NULL, some, 1}, {some, NULL, 1}, {null, some, 1}, {some, null, 1}, {empty, some, 1},
                 {some, empty, 1}, {some, some, 0}, {some, some, -1}};
    char line[256] = "nulls";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int without = tokubackup_create_backup(cases[i].sources, cases[i].dests, cases[i].count, NULL, NULL, NULL, NULL,
                                               NULL, NULL, NULL, NULL, NULL, NULL);
        struct call call = {.thread = pthread_self()};
        int with = tokubackup_create_backup(cases[i].sources, cases[i].dests, cases[i].count, on_poll, &call, on_error, &call,
                                            NULL, NULL, NULL, NULL, NULL, NULL);
        MUST(with == without && with == call.error && call.errors == 1);
        snprintf(line + strlen(line), sizeof line - strlen(line), " %d", with);
    }
    say(line);
}

/* A child has nothing of its parent's backup: what it changes is its own. */
static void fork_one(const char *source, const char *dest) {
    char line[64];
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        tokubackup_throttle_backup(1);
        hotbackup_set_keep_capturing(1);
        _exit(tokubackup_create_backup(&source, &dest, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    snprintf(line, sizeof line, "fork %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    say(line);
}

static void open_many(int count, const char *dir) {
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/open-%d", dir, i);
        MUST(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) >= 0);
    }
    say("open");
}

static char alternating[2][4096];

static void *alternate(void *argument) {
    int fds[2];
    (void)argument;
    for (int i = 0; i < 2; i++)
        MUST((fds[i] = open(alternating[i], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) >= 0);
    for (unsigned long n = 1;; n++) {
        for (int i = 0; i < 2; i++)
            MUST(write(fds[i], &n, sizeof n) == sizeof n);
        usleep(100);
    }
    return NULL;
}

static void start_alternating(const char *first, const char *second) {
    pthread_t id;
    snprintf(alternating[0], sizeof *alternating, "%s", first);
    snprintf(alternating[1], sizeof *alternating, "%s", second);
    MUST(pthread_create(&id, NULL, alternate, NULL) == 0 && pthread_detach(id) == 0);
    say("alternate");
}

static void on_child(int number) {
    (void)number;
    write(STDOUT_FILENO, "SIGCHLD\n", 8);
}

static void obey(char *line) {
    char said[64], *word = strtok(line, " "), *rest = strtok(NULL, "");
    if (!strcmp(word, "backup"))
        start_backup(rest);
    else if (!strcmp(word, "set")) {
        char *name = strtok(rest, " "), *value = strtok(NULL, "");
        set(name, value ? value : "");
        if (!strcmp(name, "raise-on-child"))
            MUST(signal(SIGCHLD, on_child) != SIG_ERR);
    } else if (!strcmp(word, "throttle"))
        tokubackup_throttle_backup(strtoul(rest, NULL, 10));
    else if (!strcmp(word, "keep"))
        hotbackup_set_keep_capturing(atoi(rest));
    else if (!strcmp(word, "start"))
        hotbackup_set_start_copying(atoi(rest));
    else if (!strcmp(word, "state")) {
        snprintf(said, sizeof said, "state %d %d", hotbackup_is_capturing(), hotbackup_done_copying());
        say(said);
    } else if (!strcmp(word, "idle")) {
        snprintf(said, sizeof said, "idle %d %d", entries("/proc/self/task"), entries("/proc/self/fd"));
        say(said);
    } else if (!strcmp(word, "write")) {
        char *path = strtok(rest, " ");
        append(path, strtok(NULL, ""));
        say("write");
    } else if (!strcmp(word, "rename")) {
        char *from = strtok(rest, " ");
        MUST(rename(from, strtok(NULL, " ")) == 0);
        say("rename");
    } else if (!strcmp(word, "wait")) {
        pid_t child = waitpid(-1, NULL, WNOHANG | __WALL);
        snprintf(said, sizeof said, "wait %d", child < 0 ? errno : 0);
        say(said);
    } else if (!strcmp(word, "fork"))
    {
        char *source = strtok(rest, " ");
        fork_one(source, strtok(NULL, " "));
    }
    else if (!strcmp(word, "alternate")) {
        char *first = strtok(rest, " ");
        start_alternating(first, strtok(NULL, " "));
    } else if (!strcmp(word, "nulls"))
        nulls();
    else if (!strcmp(word, "open")) {
        int count = atoi(strtok(rest, " "));
        open_many(count, strtok(NULL, ""));
    } else if (!strcmp(word, "many")) {
        int count = atoi(strtok(rest, " "));
        char *source = strtok(NULL, " ");
        many(count, source, strtok(NULL, " "));
    } else
        MUST(!"no such command");
}

#ifdef WITH_GUEST
int guest_main(int argc, char **argv);
static int guest_argc;
static char **guest_argv;

static void *guest(void *argument) {
    (void)argument;
    guest_main(guest_argc, guest_argv);
    return NULL;
}
#endif

int main(int argc, char **argv) {
    MUST(strncmp(tokubackup_version_string, "libHotBackup ", 13) == 0);
#ifdef WITH_GUEST
    pthread_t id;
    guest_argc = argc;
    guest_argv = argv;
    MUST(pthread_create(&id, NULL, guest, NULL) == 0);
#else
    (void)argc;
    (void)argv;
    say("ready");
#endif
    static char line[LINE];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "quit"))
            break;
        obey(line);
    }
    /* Without exit handlers: the guest's threads go on. */
    _exit(0);
}
