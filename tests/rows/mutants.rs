//! Faults in the code that calls are sent through at their sites, and in what empties the table that it looks into: with each of them
//! a test of [`super::at_sites`] finds the backup wrong, or the guest a result. (The code alone, with more faults:
//! `tracer/src/hot/stub_tests.rs`.)
use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;

/// Tests at the same time.
const JOBS: usize = 2;
/// One that hangs has found a fault as well.
const LIMIT: Duration = Duration::from_secs(150);

/// A fault, and the test that finds it.
const FOUND: [(&str, &str); 16] = [
    ("site.first-mark-left-out:mutate", "pwrite64_over_a_blocks_border"),
    ("site.second-mark-left-out:mutate", "pwrite64_over_a_blocks_border"),
    ("site.second-block-left-out:mutate", "pwrite64_over_a_blocks_border"),
    ("site.wrong-shift:mutate", "pwrite64"),
    ("site.wrong-register-for-the-descriptor:mutate", "pwrite64_of_one_byte"),
    ("site.two-blocks-bound-left-out:mutate", "pwrite64_over_several_blocks"),
    ("site.bits-base-left-out:mutate", "pwrite64"),
    ("site.no-file-not-checked:mutate", "write"),
    ("site.unknown-not-checked:mutate", "close_at_a_site_of_its_own"),
    ("site.number-left-out:mutate", "between"),
    ("site.comes-back-to-the-syscall:mutate", "between"),
    ("row.close:skip", "close"),
    ("row.dup2:skip", "dup2"),
    ("row.dup3:skip", "dup3"),
    ("row.close_range:skip", "close_range"),
    ("row.fcntl:skip", "fcntl"),
];

fn start(test: &str, fault: &str) -> Child {
    let name = match test {
        "between" => "at_sites::between_backups_calls_at_their_sites_are_what_they_are_without".into(),
        test => format!("at_sites::at_its_site_{test}"),
    };
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args([&name, "--exact"]).env(failpoint::VARIABLE, fault).env_remove("RUST_BACKTRACE");
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Whether a test passes with a fault, and what it says.
fn passes(test: &str, fault: &str) -> (bool, String) {
    let mut child = start(test, fault);
    let began = Instant::now();
    while child.try_wait().expect("ours").is_none() {
        if began.elapsed() > LIMIT {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("ours");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_fault_at_call_sites_is_found() {
    let left: Mutex<VecDeque<_>> = Mutex::new(FOUND.into());
    let unnoticed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some((fault, test)) = { left.lock().expect("not poisoned").pop_front() } {
                    let (passed, said) = passes(test, fault);
                    assert!(said.contains("running 1 test"), "{test}: {said}");
                    let why = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
                    println!("{fault}: {}", why.unwrap_or_default());
                    // A site that is not captured any more proves nothing.
                    if passed || said.contains("not captured at their sites") || said.contains("no such") {
                        unnoticed.lock().expect("not poisoned").push((fault, test, said));
                    }
                }
            });
        }
    });
    let unnoticed = unnoticed.into_inner().expect("not poisoned");
    assert!(unnoticed.is_empty(), "nobody notices these: {unnoticed:#?}");
}
