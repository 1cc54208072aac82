//! The commands of docs/library.md, each as it stands there. Only cargo is another: it builds for debugging, and not hotbackup itself, which the
//! tests have built; what it is told must be what cargo understands all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::backup::{HOTBACKUP, scratch};
use crate::library::{ROOT, home, prefix, run};

/// The blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/library.md")).expect("it is there");
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

const CARGO: &str = r#"#!/bin/sh
set -eu
[ "$1" = build ]; shift
profile=debug program= library= target= features=
while [ $# -gt 0 ]; do
    case $1 in
    --release) profile=release ;;
    --package) shift
        case $1 in hotbackup) program=1 ;; hotbackup-library) library=1 ;; *) exit 64 ;; esac ;;
    --features) shift; features="--features $1" ;;
    --target-dir) shift; target=$1 ;;
    *) echo "no such argument: $1" >&2; exit 64 ;;
    esac
    shift
done
mkdir -p "$target/$profile"
if [ -n "$program" ]; then cp "$TEST_HOTBACKUP" "$target/$profile/hotbackup"; fi
if [ -n "$library" ]; then
    "$TEST_CARGO" build --frozen --package hotbackup-library $features --target-dir "$TEST_TARGET"
    cp "$TEST_TARGET/debug/libHotBackup.a" "$TEST_TARGET/debug/libHotBackup.so" "$target/$profile/"
fi
"#;

#[test]
fn every_command_of_the_documentation_works() {
    // Built first: here it is built again with other settings.
    prefix();
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    for name in ["bin", "work", "data"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("bin/cargo"), CARGO).unwrap();
    fs::set_permissions(path("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(Path::new(ROOT).join("tests/library/hosts/server.cc"), path("work/server.cc")).unwrap();
    let programs = format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap_or_default());
    let blocks_of_sh = blocks("sh");
    assert_eq!(blocks_of_sh.len(), 5, "a block of commands has come, or gone");
    for block in blocks_of_sh {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &block]).current_dir(path("work")).env("PATH", &programs);
        shell.env("HOTBACKUP", ROOT).env("PREFIX", path("prefix")).env("BUILD", path("build"));
        shell.env("TEST_HOTBACKUP", HOTBACKUP).env("TEST_CARGO", env!("CARGO"));
        run(shell.env("TEST_TARGET", home().join("target-documented")));
    }
    let servers =
        ["server-archive", "server-shared", "server-pkg-config", "found/server-found", "found/server-found-static"];
    for (number, server) in servers.iter().enumerate() {
        let data = path(&format!("data/{number}"));
        fs::create_dir(&data).unwrap();
        let mut command = Command::new("timeout");
        command.arg("100").arg(path("work").join(server)).arg(&data).arg(path(&format!("dest-{number}"))).arg("1");
        assert_eq!(run(&mut command), "right\n", "{server}");
    }
    // The least program. It finds the helper by where it was installed, in the library without it, and within the other.
    let [source] = &blocks("c")[..] else { panic!("one program") };
    fs::write(path("work/least.c"), source).unwrap();
    fs::write(path("data/file"), "content").unwrap();
    for (name, prefix) in [("least", path("prefix")), ("least-embedded", path("prefix/embedded"))] {
        let (program, dest) = (path("work").join(name), path(&format!("dest-{name}")));
        let mut compiler = Command::new("gcc");
        compiler.args(["-std=c89", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I"]).arg(prefix.join("include"));
        compiler.arg("-o").arg(&program).arg(path("work/least.c")).arg(prefix.join("lib/libHotBackup.a"));
        run(compiler.args(crate::library::ALSO));
        if name == "least-embedded" {
            fs::remove_dir_all(prefix.join("bin")).unwrap();
        }
        fs::create_dir(&dest).unwrap();
        run(Command::new("timeout").arg("100").arg(&program).arg(path("data")).arg(&dest));
        assert_eq!(fs::read(dest.join("file")).unwrap(), b"content");
    }
}

#[test]
fn every_errno_of_the_documentation_is_one_that_is_returned() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/library.md")).expect("it is there");
    let rows = text.lines().filter(|line| line.starts_with("| `E"));
    let named: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).expect("it is there");
    let code =
        ["src/library/errno.rs", "src/library/worker.rs", "libhotbackup/src/backup.rs", "libhotbackup/src/launcher.rs"];
    let code: String = code.map(read).concat();
    // What the system says at the source or the destination is passed on.
    let passed_on = ["EACCES"];
    for errno in &named {
        assert!(code.contains(errno) || passed_on.contains(errno), "{errno} is never returned");
    }
    for word in code.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 3 && word.starts_with('E'))
    {
        let is_errno = word.chars().all(|c| c.is_ascii_uppercase());
        let own = ["EAGAIN", "EINTR"]; // dealt with, and never returned
        assert!(!is_errno || named.contains(&word) || own.contains(&word), "{word} is not in the documentation");
    }
}
