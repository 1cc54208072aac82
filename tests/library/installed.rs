//! The headers, what the library shows and needs, and the ways in which it is found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bench::{Host, names};
use crate::common::backup::{HOTBACKUP, scratch};
use crate::library::{Linked, build, home, host, prefix, run};

const INTERFACE: [&str; 7] = [
    "hotbackup_done_copying",
    "hotbackup_is_capturing",
    "hotbackup_set_keep_capturing",
    "hotbackup_set_start_copying",
    "tokubackup_create_backup",
    "tokubackup_throttle_backup",
    "tokubackup_version_string",
];

#[test]
fn the_headers_are_c89_c17_and_cpp() {
    let dir = scratch();
    let source = "#include \"backup.h\"\n#include \"hotbackup_test.h\"\n#include \"backup.h\"\n#include \"hotbackup_test.h\"\n\
                  int main(void) { return tokubackup_version_string == 0; }\n";
    for (compiler, extension, standards) in
        [("gcc", "c", &["c89", "c99", "c11", "c17"][..]), ("g++", "cc", &["c++11", "c++17", "c++20"])]
    {
        let file = dir.path().join("it").with_extension(extension);
        fs::write(&file, source).unwrap();
        for standard in standards {
            let mut command = Command::new(compiler);
            command.arg(format!("-std={standard}")).args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-I"]);
            run(command.arg(prefix().join("include")).args(["-c", "-o", "/dev/null"]).arg(&file));
        }
    }
}

fn symbols(arguments: &[&str], file: &Path) -> BTreeSet<String> {
    let listed =
        run(Command::new("nm").args(arguments).args(["--defined-only", "--extern-only", "--format=posix"]).arg(file));
    let name = |line: &str| line.split_once(' ').map(|(name, _)| name.split('@').next().unwrap_or_default().to_owned());
    listed.lines().filter(|line| !line.ends_with(':')).filter_map(name).collect()
}

#[test]
fn the_shared_library_shows_its_interface_and_nothing_else() {
    let shown = symbols(&["--dynamic"], &prefix().join("lib/libHotBackup.so"));
    assert_eq!(shown.iter().map(String::as_str).collect::<Vec<_>>(), INTERFACE);
}

#[test]
fn no_symbol_of_the_c_library_is_replaced() {
    let archive = symbols(&[], &prefix().join("lib/libHotBackup.a"));
    assert!(INTERFACE.iter().all(|name| archive.contains(*name)));
    let mut looked = 0;
    for name in
        ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"]
    {
        let path = run(Command::new("gcc").arg(format!("-print-file-name={name}")));
        let path = Path::new(path.trim());
        if path.is_absolute() {
            looked += 1;
            let both: Vec<String> = symbols(&["--dynamic"], path).intersection(&archive).cloned().collect();
            assert!(both.is_empty() || name == "libgcc_s.so.1", "{name} has these as well: {both:?}");
        }
    }
    assert!(looked >= 2, "the C library was not found");
}

#[test]
fn with_the_helper_in_it_the_library_needs_no_file() {
    let built = build(&home().join("target-embedded"), &[("HOTBACKUP_EMBED", HOTBACKUP)]);
    // Where nothing lies beside it.
    let scratch = scratch();
    let program = scratch.path().join("host");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/library/hosts/host.c");
    let mut compiler = Command::new("gcc");
    compiler.args(["-std=gnu11", "-pthread", "-I"]).arg(prefix().join("include")).arg("-o").arg(&program).arg(source);
    run(compiler.arg(built.join("libHotBackup.a")).args(crate::library::ALSO));
    let mut host = Host::spawn(scratch, Command::new(program));
    fs::write(host.data().join("file"), "content").unwrap();
    for name in ["one", "two"] {
        let dest = host.dest(name);
        host.must_back_up(&dest);
        assert_eq!(names(&dest), ["file"]);
    }
}

#[test]
fn where_the_helper_is_missing_it_is_said_where_it_was_looked_for() {
    let scratch = scratch();
    let program = scratch.path().join("host");
    fs::copy(host("host.c", Linked::Archive, &[]), &program).unwrap();
    let mut host = Host::spawn(scratch, Command::new(program));
    let dest = host.dest("dest");
    let place = host.path("hotbackup").display().to_string();
    host.back_up(&dest).assert_failed(nix::errno::Errno::ENOENT, &place);
    // It may be put there later.
    fs::copy(HOTBACKUP, host.path("hotbackup")).unwrap();
    host.must_back_up(&dest);
}
