/* libHotBackup: a consistent backup of the calling process's data directories, while it runs.
 *
 * The interface of the HotBackup library that servers link today. Link -lHotBackup in its place; nothing else changes.
 * How, and what each errno means: docs/library.md. C89, C17, C++11.
 */
#ifndef HOTBACKUP_BACKUP_H
#define HOTBACKUP_BACKUP_H

#ifdef __cplusplus
extern "C" {
#endif

/* How far the backup is, from 0 to 1 and never less than before, and in words. Called at least ten times a second while data is
 * copied, unless another function of the caller's is running. Another value than 0 stops the backup, and is returned by
 * tokubackup_create_backup(). */
typedef int (*backup_poll_fun_t)(float progress, const char *progress_string, void *poll_extra);

/* Why the backup failed: an errno, which tokubackup_create_backup() returns as well, and a sentence. Called once. */
typedef void (*backup_error_fun_t)(int error_number, const char *error_string, void *error_extra);

/* Whether a file or directory of a source, by its absolute path, is left out: 0 says no. A directory is left out with all that is
 * in it. Asked once for each path, before it is copied; a file made in the last moment may be copied before it is asked for. */
typedef int (*backup_exclude_copy_fun_t)(const char *source_file, void *exclude_copy_extra);

/* The first is called just before capturing ends: what the process wrote before it returned is in the backup. The second is
 * called just after that: what the process writes from then on is not. Once the first was called, the second is, whatever happens. */
typedef void (*backup_before_stop_capt_fun_t)(void *before_stop_capt_extra);
typedef void (*backup_after_stop_capt_fun_t)(void *after_stop_capt_extra);

/* Copies each source_dirs[i] to dest_dirs[i], dir_count of them, all as they were at one point in time. The destinations must exist
 * and be empty, and become the backup; after a failure they are empty again. Every function is called in the calling
 * thread, and may be null; none may throw or longjmp out of here. Returns 0, what the poll function returned, or an errno. One
 * backup at a time: a second one gets EBUSY. */
int tokubackup_create_backup(const char *source_dirs[], const char *dest_dirs[], int dir_count,
                             backup_poll_fun_t poll_fun, void *poll_extra,
                             backup_error_fun_t error_fun, void *error_extra,
                             backup_exclude_copy_fun_t exclude_copy_fun, void *exclude_copy_extra,
                             backup_before_stop_capt_fun_t before_stop_capt_fun, void *before_stop_capt_extra,
                             backup_after_stop_capt_fun_t after_stop_capt_fun, void *after_stop_capt_extra);

/* Copy so many bytes a second at most; 0 pauses copying, while changes are still captured, and ULONG_MAX is no limit. At once, from
 * any thread, for the backup that runs and for all that follow. */
void tokubackup_throttle_backup(unsigned long bytes_per_second);

/* Which library this is. */
extern const char *tokubackup_version_string;

#ifdef __cplusplus
}
#endif

#endif
