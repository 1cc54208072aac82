//! An earlier release, built from its sources: the first with the layout of the session's memory that there is today.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The commit that is the earlier release.
const COMMIT: &str = "d4de339a84f65f46415b129203dd3a2741a6974d";
/// What of it is built. `tests/faults.rs` is named by its Cargo.toml.
const PATHS: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "build.rs", "src", "tracer", "copier", "benches", "tests/faults.rs"];
/// What of that no build needs.
const LEFT_OUT: [&str; 3] = ["tracer/fuzz", "copier/tests", "copier/proptest-regressions"];
/// The same files, for a clone that has not got the commit (a shallow one).
const ARCHIVE: &str = "tests/versions/earlier.tar.xz";
/// What is said to cargo and the compiler of this build, and not meant for that one.
const NOT_PASSED_ON: [&str; 5] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"];

/// Its command: built once, which takes a minute, in the target directory.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        built(COMMIT, |sources| {
            if !from_git(COMMIT, &PATHS, sources) {
                from_archive(sources);
            }
            true
        })
        .expect("the archive is there")
    })
}

/// The last release before the session's memory lay in the target, from git; nothing where git has not got it.
pub fn of_before() -> Option<&'static Path> {
    const BEFORE: &str = "3b9045c85ce7819df91ed7df5be38925003b12d4";
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let unpacked = |sources: &Path| from_git(BEFORE, &[], sources);
    PROGRAM.get_or_init(|| built(BEFORE, unpacked)).as_deref()
}

/// The command of a commit, whose sources are unpacked by `unpack` unless it says that it cannot.
fn built(commit: &str, unpack: impl FnOnce(&Path) -> bool) -> Option<PathBuf> {
    let home = home().join(&commit[..12]);
    fs::create_dir_all(&home).expect("the target directory takes a directory");
    let lock = File::create(home.join("lock")).expect("the target directory takes a file");
    lock.lock().expect("the lock file can be locked");
    let (sources, program, done) = (home.join("sources"), home.join("build/debug/hotbackup"), home.join("done"));
    if !done.exists() {
        if !unpack(&sources) {
            return None;
        }
        build(&sources, &home.join("build"));
        fs::write(done, commit).expect("the target directory takes a file");
    }
    assert!(program.is_file(), "{program:?} is gone: remove {home:?}");
    Some(program)
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("versions")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty directory.
fn empty(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).expect("the target directory takes a directory");
}

/// Unpacks sources from git, all or these; `false` when it has not got them.
fn from_git(commit: &str, paths: &[&str], dir: &Path) -> bool {
    empty(dir);
    let mut archive = Command::new("git");
    archive.arg("-C").arg(root()).args(["archive", commit]).args(paths);
    let Ok(archive) = archive.stderr(Stdio::null()).output() else { return false };
    if !archive.status.success() {
        return false;
    }
    let file = dir.with_extension("tar");
    fs::write(&file, archive.stdout).expect("the target directory takes a file");
    unpack(&file, dir);
    fs::remove_file(file).expect("our own file");
    for name in LEFT_OUT {
        let _ = fs::remove_dir_all(dir.join(name));
    }
    true
}

fn from_archive(dir: &Path) {
    empty(dir);
    unpack(&root().join(ARCHIVE), dir);
}

fn unpack(archive: &Path, dir: &Path) {
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir).status();
    assert!(status.expect("tar is there, and xz").success(), "{archive:?} cannot be unpacked");
}

/// Builds the command with what is downloaded already; what is missing of it is downloaded.
fn build(sources: &Path, target: &Path) {
    let run = |offline: &[&str]| {
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["build", "--locked", "--bin", "hotbackup"]).args(offline);
        cargo.current_dir(sources).env("CARGO_TARGET_DIR", target).env("CARGO_PROFILE_DEV_DEBUG", "0");
        for name in NOT_PASSED_ON {
            cargo.env_remove(name);
        }
        cargo.output().expect("cargo is there")
    };
    let offline = run(&["--offline"]);
    if offline.status.success() {
        return;
    }
    let output = run(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_archive_holds_what_git_has() {
    let (git, archive) = (home().join("of-git"), home().join("of-archive"));
    if !from_git(COMMIT, &PATHS, &git) {
        println!("git has not got {COMMIT}: the archive is all there is");
        return;
    }
    from_archive(&archive);
    let output = Command::new("diff").arg("-r").args([&git, &archive]).output().expect("diff is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for dir in [git, archive] {
        fs::remove_dir_all(dir).expect("our own directory");
    }
}
