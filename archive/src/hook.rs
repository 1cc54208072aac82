//! What is run before and after a backup: a command of the operator's, with a time limit, in a process group of its own.
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// A command, and how long it may take.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Program and arguments. No shell reads them.
    pub command: Vec<String>,
    /// The longest that it may take.
    pub timeout: Duration,
}

/// Why a hook did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It cannot be started.
    #[error("the hook {program:?} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It failed.
    #[error("the hook {program:?} failed: {status}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long.
    #[error("the hook {program:?} took longer than {} s, and was killed with all that it had started", timeout.as_secs_f64())]
    TooLong {
        /// The program.
        program: String,
        /// Its limit.
        timeout: Duration,
    },
}

impl Hook {
    /// Runs it, with these variables besides our own environment. What it writes goes where ours goes.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes too long.
    pub fn run(&self, variables: &[(&str, &std::ffi::OsStr)]) -> Result<(), HookError> {
        let program = self.command.first().cloned().unwrap_or_default();
        let start = |source| HookError::Start { program: program.clone(), source };
        let mut command = Command::new(&program);
        command.args(self.command.iter().skip(1)).envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).process_group(0).spawn().map_err(start)?;
        let group = Pid::from_raw(child.id().cast_signed());
        let began = Instant::now();
        // It is waited for without being reaped: until then its number, and its group's, is nobody else's.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        let mut pause = Duration::from_millis(1);
        let in_time = loop {
            if !matches!(waitid(Id::Pid(group), flags), Ok(WaitStatus::StillAlive)) {
                break true;
            }
            if began.elapsed() >= self.timeout {
                break false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        if !in_time {
            // Also what it has started.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let status = child.wait().map_err(start)?;
        match (in_time, status.success()) {
            (false, _) => Err(HookError::TooLong { program, timeout: self.timeout }),
            (true, true) => Ok(()),
            (true, false) => Err(HookError::Failed { program, status }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn run(command: &[&str], timeout: Duration) -> Result<(), HookError> {
        let command = command.iter().map(ToString::to_string).collect();
        Hook { command, timeout }.run(&[("HOTBACKUP_DEST", OsStr::new("/x"))])
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_hook_is_told_what_it_is_for() {
        run(&["sh", "-c", "test \"$HOTBACKUP_DEST\" = /x"], LONG).unwrap();
    }

    #[test]
    fn how_a_hook_fails_is_told() {
        assert!(matches!(run(&["false"], LONG), Err(HookError::Failed { .. })));
        assert!(matches!(run(&["/no/such"], LONG), Err(HookError::Start { .. })));
        assert!(matches!(run(&[], LONG), Err(HookError::Start { .. })));
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("alive");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // The inner one has the FIFO open for writing until it dies.
        let script = format!("sleep 1000 > {} & wait", fifo.display());
        let reader = std::thread::spawn(move || std::fs::read(fifo));
        let error = run(&["sh", "-c", &script], Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, HookError::TooLong { .. }), "{error}");
        assert_eq!(reader.join().unwrap().unwrap(), b"", "it ended");
    }
}
