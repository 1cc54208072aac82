/* The kinds of calls that random_calls makes, and how often. Each can be left out, to find the smallest set that still
 * shows a fault. */
#pragma once
#include "random_calls_content.h"
#include "random_calls_names.h"

/* What a seed leads to follows from this table, too: tests/model/regressions.txt is worth nothing after a change. */
static const struct kind {
    const char *name;
    unsigned weight;                              /* 0: not a call, but a way of making them */
    void (*make)(struct thread *t);
    void (*make_on)(struct thread *t, int fd);    /* the same with a regular file, or -1 */
} KINDS[] = {
    {"create", 6, create, NULL},
    {"directory", 3, make_directory, NULL},
    {"symlink", 2, make_symlink, NULL},
    {"node", 2, make_node, NULL},
    {"link", 3, make_link, NULL},
    {"nameless", 2, name_a_nameless, NULL},
    {"scoped", 4, create_in_scope, NULL},
    {"rename", 6, rename_one, NULL},
    {"exchange", 2, exchange, NULL},
    {"remove-directory", 2, remove_directory, NULL},
    {"unlink", 2, remove_name, NULL},
    {"open-truncating", 2, open_truncating, NULL},
    {"mode", 2, change_mode, NULL},
    {"owner", 2, change_owner, NULL},
    {"attributes", 4, change_attributes, NULL},
    {"times", 2, change_times, NULL},
    {"hold", 5, hold, NULL},
    {"wander", 2, wander, NULL},
    {"mount", 2, mount_or_unmount, NULL},
    {"log", 3, append_to_log, NULL},
    {"prune", 3, prune, NULL},
    {"write", 20, NULL, write_to},
    {"child", 1, NULL, write_by_child},
    {"direct", 3, NULL, write_direct},
    {"received", 2, NULL, write_received},
    {"reopened", 2, NULL, write_reopened},
    {"new-descriptor", 2, NULL, write_new},
    {"size", 4, NULL, change_size},
    {"allocate", 2, NULL, allocate},
    {"punch", 2, NULL, punch},
    {"zero", 2, NULL, make_zero},
    {"collapse", 2, NULL, collapse},
    {"insert", 2, NULL, insert},
    {"unshare", 1, NULL, unshare_range},
    {"copy", 6, NULL, copy},
    {"splice", 2, NULL, splice_from_pipe},
    {"clone", 4, NULL, clone_file},
    {"far", 0, NULL, NULL},                       /* beyond 4 GiB */
    {"own-roots", 0, NULL, NULL},                 /* every third thread has its subtree for a root */
    {"own-mounts", 0, NULL, NULL},                /* every fourth thread has mounts of its own, and may have its root in one */
    {"own-descriptors", 0, NULL, NULL},           /* every second thread has a table of its own */
};
enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS, MAKES_NAMES = 7 };

/* All but those in a list of names, with a comma after each. */
static uint64_t kinds_without(const char *list) {
    uint64_t kinds = 0;
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        char word[64], with_commas[1024];
        snprintf(word, sizeof word, ",%s,", KINDS[i].name);
        snprintf(with_commas, sizeof with_commas, ",%s,", list);
        if (!strstr(with_commas, word))
            kinds |= (uint64_t)1 << i;
    }
    return kinds;
}

static int makes(const struct thread *t, const char *kind) {
    for (unsigned i = 0; i < KIND_COUNT; i++)
        if (strcmp(KINDS[i].name, kind) == 0)
            return t->kinds >> i & 1;
    abort();
}

static void make_call(struct thread *t) {
    if (t->step % 64 == 0)
        t->names = count_names(t->top, ".");
    unsigned all = 0, chosen = 0;
    for (unsigned i = 0; i < KIND_COUNT; i++)
        all += t->kinds >> i & 1 ? KINDS[i].weight : 0;
    MUST(all > 0);
    for (unsigned left = pick(t, all);; chosen++) {
        unsigned weight = t->kinds >> chosen & 1 ? KINDS[chosen].weight : 0;
        if (left < weight)
            break;
        left -= weight;
    }
    t->kind = chosen;
    t->value = 0;
    if (chosen < MAKES_NAMES && t->names >= MOST_NAMES && pick(t, 2)) {
        prune(t);
    } else if (KINDS[chosen].make) {
        KINDS[chosen].make(t);
    } else {
        int own = 0, fd = any_file(t, &own);
        KINDS[chosen].make_on(t, fd);
        if (own && fd >= 0)
            close(fd);
    }
}
