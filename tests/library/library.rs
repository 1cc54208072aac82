//! The library as it is installed, built once, and the hosts that are linked against it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::common::backup::HOTBACKUP;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A prefix with `lib`, `include` and `bin`.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let home = home();
        let built = build(&home.join("target"), &[]);
        let prefix = home.join("prefix");
        for dir in ["lib", "bin", "include"] {
            fs::create_dir_all(prefix.join(dir)).expect("the target directory takes a directory");
        }
        for name in ["libHotBackup.a", "libHotBackup.so"] {
            replace(&built.join(name), &prefix.join("lib").join(name));
        }
        replace(Path::new(HOTBACKUP), &prefix.join("bin/hotbackup"));
        for name in ["backup.h", "hotbackup_test.h"] {
            replace(&Path::new(ROOT).join("libhotbackup/include").join(name), &prefix.join("include").join(name));
        }
        prefix
    })
}

/// Where all of it is made.
pub fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("library");
    fs::create_dir_all(&home).expect("the target directory takes a directory");
    home
}

/// Builds the library as its documentation says, but quickly; returns where it is.
pub fn build(target: &Path, more: &[(&str, &str)]) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(ROOT).args(["build", "--frozen", "--package", "hotbackup-library", "--target-dir"]).arg(target);
    if more.iter().any(|(name, _)| *name == "HOTBACKUP_EMBED") {
        cargo.args(["--features", "embedded"]);
    }
    run(cargo.envs(more.iter().copied()));
    target.join("debug")
}

/// Puts a file into a place where the one before may be in use.
fn replace(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    let _ = fs::remove_file(&new);
    // Not by a link: programs of other users run it.
    fs::copy(from, &new).unwrap_or_else(|error| panic!("{from:?}: {error}"));
    fs::rename(new, to).expect("a rename in one directory");
}

/// Runs a command that must succeed; returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How a host is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// Against the shared library.
    Shared,
    /// Against the archive.
    Archive,
    /// The same, and nothing else is left to load.
    Statically,
}

/// What the archive needs besides.
pub const ALSO: [&str; 5] = ["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lc"];

/// Compiles `hosts/NAME` and links it. `more` is said to the compiler.
pub fn host(name: &str, linked: Linked, more: &[&str]) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let prefix = prefix();
    let source = Path::new(ROOT).join("tests/library/hosts").join(name);
    let kind: String = format!("{linked:?}{}", more.concat()).chars().filter(|c| c.is_alphanumeric()).collect();
    // Beside the library, as far as it finds its helper by that.
    let program = prefix.join("lib").join(format!("{name}-{kind}"));
    let is_cpp = source.extension().is_some_and(|extension| extension == "cc");
    let mut compiler = Command::new(if is_cpp { "g++" } else { "gcc" });
    compiler.arg(if is_cpp { "-std=c++11" } else { "-std=gnu11" });
    compiler.args(["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]).args(more);
    compiler.arg("-I").arg(prefix.join("include")).arg("-o").arg(program.with_extension("new")).arg(&source);
    match linked {
        Linked::Shared => {
            compiler.arg("-L").arg(prefix.join("lib")).args(["-lHotBackup", "-Wl,-rpath,$ORIGIN"]);
        }
        Linked::Archive => drop(compiler.arg(prefix.join("lib/libHotBackup.a")).args(ALSO)),
        Linked::Statically => {
            compiler.arg(prefix.join("lib/libHotBackup.a")).args(["-static", "-lpthread", "-lm", "-ldl"]);
        }
    }
    run(&mut compiler);
    fs::rename(program.with_extension("new"), &program).expect("a rename in one directory");
    program
}

/// A host with a guest of `tests/guests` in it.
pub fn host_with(guest: &str) -> PathBuf {
    let guests = Path::new(ROOT).join("tests/guests");
    let object = home().join(format!("{guest}.o"));
    let mut compiler = Command::new("gcc");
    compiler.args([
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
        "-pthread",
        "-Dmain=guest_main",
        "-c",
    ]);
    compiler.arg("-o").arg(&object).arg(guests.join(guest).with_extension("c"));
    run(&mut compiler);
    host("host.c", Linked::Archive, &["-DWITH_GUEST", object.to_str().expect("a plain name")])
}
