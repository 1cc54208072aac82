//! The Debian package, built from this very build.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::backup::HOTBACKUP;

const CARGO_DEB: &str = "3.8.0";

/// Runs a command that must succeed; what it says.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stdout).into_owned() + &said
}

/// Where the sources are.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// cargo-deb, built once into the target directory by whoever asks first.
fn cargo_deb() -> PathBuf {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools");
    fs::create_dir_all(&tools).expect("made");
    let lock = fs::File::create(tools.join("lock")).expect("made");
    lock.lock().expect("locked");
    let program = tools.join("bin/cargo-deb");
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["install", "cargo-deb", "--locked", "--debug", "--version", CARGO_DEB, "--root"]).arg(&tools);
        run(cargo.env_remove("CARGO_TARGET_DIR").env("CARGO_TARGET_DIR", tools.join("build")));
        fs::remove_dir_all(tools.join("build")).expect("not needed any more");
    }
    program
}

/// Builds the package of this very build, under a version.
pub fn package(version: &str, into: &Path) -> PathBuf {
    let made = home().join("target/packaging");
    run(Command::new(HOTBACKUP).arg("generate").arg(&made));
    let deb = into.join(format!("{version}.deb"));
    let mut cargo = Command::new(cargo_deb());
    cargo.current_dir(home()).args([
        "--no-build",
        "--no-strip",
        "--fast",
        "--profile",
        "dev",
        "--deb-version",
        version,
        "--output",
    ]);
    run(cargo.arg(&deb));
    deb
}

/// The same package as a later version: what is in it is not compressed a second time with such care.
pub fn as_version(deb: &Path, version: &str, into: &Path) -> PathBuf {
    let unpacked = into.join(format!("{version}.unpacked"));
    run(Command::new("dpkg-deb").arg("--raw-extract").args([deb, &unpacked]));
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let line = |line: &str| if line.starts_with("Version:") { format!("Version: {version}") } else { line.to_owned() };
    let changed: Vec<String> = text.lines().map(line).collect();
    fs::write(&control, changed.join("\n") + "\n").expect("written");
    let made = into.join(format!("{version}.deb"));
    run(Command::new("dpkg-deb").args(["-Zgzip", "-z1", "--build"]).args([&unpacked, &made]));
    fs::remove_dir_all(&unpacked).expect("not needed any more");
    made
}
