/* libHotBackup, for tests of programs that use it: backups are made to wait at a place of the test's choice. */
#ifndef HOTBACKUP_TEST_H
#define HOTBACKUP_TEST_H

#ifdef __cplusplus
extern "C" {
#endif

/* Another value than 0: backups go on capturing, and copy what changes, until this is called with 0. */
void hotbackup_set_keep_capturing(int keep);

/* 0: backups capture, and do not start to copy, until this is called with another value. */
void hotbackup_set_start_copying(int start);

/* Whether a backup captures changes: what is written now will be in it. */
int hotbackup_is_capturing(void);

/* Whether the backup has copied all that was there once. 0 again when the next one starts. */
int hotbackup_done_copying(void);

#ifdef __cplusplus
}
#endif

#endif
