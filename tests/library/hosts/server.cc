// server DIR DEST ROUNDS: a small server that is written against backup.h alone. Its threads keep journals and a table; between them
// it has itself backed up, and checks by what its own functions noted that each backup is of one point in time:
// what was acknowledged when the first of the two functions ran is in it, and what was begun after the second ran is not.
#include "backup.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

const int threads = 3;

struct Journal {
    std::atomic<unsigned long> begun{0}, acknowledged{0};
};

Journal journals[threads];
std::atomic<bool> ends{false};

void must(bool right, const char *what) {
    if (!right) {
        std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
        std::abort();
    }
}

// Record n is the number n, and n again at its place in the table.
void serve(const std::string &dir, int number) {
    Journal &journal = journals[number];
    std::string base = dir + "/" + std::to_string(number);
    int log = open((base + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int table = open((base + ".table").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    must(log >= 0 && table >= 0, "open");
    for (unsigned long n = 1; !ends; n++) {
        journal.begun = n;
        must(write(log, &n, sizeof n) == sizeof n, "write");
        must(pwrite(table, &n, sizeof n, static_cast<off_t>(n % 512 * sizeof n)) == sizeof n, "pwrite");
        journal.acknowledged = n;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    close(log);
    close(table);
}

struct Watch {
    unsigned long before[threads], after[threads];
    int polls = 0, befores = 0, afters = 0;
    float last = 0;
};

int on_poll(float progress, const char *, void *extra) {
    Watch *watch = static_cast<Watch *>(extra);
    must(progress >= watch->last && progress <= 1, "progress ran backwards");
    watch->last = progress;
    watch->polls++;
    return 0;
}

void on_error(int number, const char *text, void *) { std::fprintf(stderr, "error %d: %s\n", number, text); }

int on_exclude(const char *path, void *) { return std::strstr(path, "left-out") != nullptr; }

void on_before(void *extra) {
    Watch *watch = static_cast<Watch *>(extra);
    watch->befores++;
    for (int i = 0; i < threads; i++)
        watch->before[i] = journals[i].acknowledged;
}

void on_after(void *extra) {
    Watch *watch = static_cast<Watch *>(extra);
    watch->afters++;
    for (int i = 0; i < threads; i++)
        watch->after[i] = journals[i].begun;
}

std::vector<unsigned long> read_all(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    must(file.good(), path.c_str());
    std::vector<unsigned long> all;
    for (unsigned long n; file.read(reinterpret_cast<char *>(&n), sizeof n);)
        all.push_back(n);
    return all;
}

void check(const std::string &backup, const Watch &watch) {
    must(watch.befores == 1 && watch.afters == 1 && watch.polls > 0, "the functions were not called");
    must(access((backup + "/left-out").c_str(), F_OK) != 0, "what is excluded is there");
    for (int i = 0; i < threads; i++) {
        std::string base = backup + "/" + std::to_string(i);
        std::vector<unsigned long> log = read_all(base + ".log"), table = read_all(base + ".table");
        unsigned long newest = log.size();
        for (unsigned long n = 1; n <= newest; n++)
            must(log[n - 1] == n, "the journal has a gap");
        must(watch.before[i] <= newest, "an acknowledged record is missing");
        must(newest <= watch.after[i], "a record from after the point in time is there");
        // The table is of the same moment: it has the record, or that one write is still to come.
        for (unsigned long slot = 0; slot < table.size(); slot++) {
            unsigned long held = table[slot], right = newest - (newest + 512 - slot) % 512;
            if (newest < slot || (newest - slot) / 512 * 512 + slot == 0)
                right = 0;
            bool last = right == newest && (held == right || held + 512 == right || held == 0);
            must(held == right || last, "the table is of another moment than the journal");
        }
    }
}

}  // namespace

int main(int argc, char **argv) {
    must(argc == 4, "server DIR DEST ROUNDS");
    std::string dir = argv[1], dest = argv[2];
    must(mkdir((dir + "/left-out").c_str(), 0755) == 0, "mkdir");
    std::vector<std::thread> all;
    for (int i = 0; i < threads; i++)
        all.emplace_back(serve, dir, i);
    tokubackup_throttle_backup(~0ul);
    for (int round = 0; round < std::atoi(argv[3]); round++) {
        std::string into = dest + "-" + std::to_string(round);
        must(mkdir(into.c_str(), 0755) == 0, "mkdir");
        const char *sources[] = {dir.c_str()}, *dests[] = {into.c_str()};
        Watch watch;
        int result = tokubackup_create_backup(sources, dests, 1, on_poll, &watch, on_error, nullptr, on_exclude, nullptr, on_before,
                                              &watch, on_after, &watch);
        must(result == 0, "the backup failed");
        check(into, watch);
    }
    ends = true;
    for (std::thread &thread : all)
        thread.join();
    std::printf("right\n");
    return 0;
}
