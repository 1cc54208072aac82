//! The Debian package: what it holds, and what its installation, upgrade, removal and purge do, in a root of its own; the unit file;
//! manual pages and completions; and what a service manager is told.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

mod common {
    pub mod backup;
    pub mod package;
}
use common::backup::{HOTBACKUP, scratch};
use common::package::{as_version, home, package, run};

/// A root with a shell, in which packages are installed.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = scratch();
        for dir in
            ["bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log", "dev", "tmp"]
        {
            fs::create_dir_all(root.path().join(dir)).expect("made");
        }
        for file in ["status", "available"] {
            fs::write(root.path().join("var/lib/dpkg").join(file), "").expect("written");
        }
        fs::copy("/bin/busybox", root.path().join("bin/busybox")).expect("busybox is there (Debian's busybox-static)");
        for name in ["sh", "rm", "mkdir", "cat", "["] {
            symlink("busybox", root.path().join("bin").join(name)).expect("linked");
        }
        fs::write(root.path().join("dev/null"), "").expect("written");
        Self(root)
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.0.path().display())).args([
            "--force-depends",
            "--force-confold",
            "--log=/dev/null",
        ]);
        run(dpkg.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    let scratch = scratch();
    let first = package("0.1.0-1", scratch.path());
    let second = as_version(&first, "0.1.0-2", scratch.path());
    let root = Root::new();
    let text = |path: &Path| path.to_str().expect("a plain name").to_owned();
    root.dpkg(&["--install", &text(&first)]);
    for file in [
        "usr/bin/hotbackup",
        "usr/lib/systemd/system/hotbackup.service",
        "etc/hotbackup/hotbackup.toml",
        "usr/share/bash-completion/completions/hotbackup",
        "usr/share/zsh/vendor-completions/_hotbackup",
        "usr/share/fish/vendor_completions.d/hotbackup.fish",
        "usr/share/doc/hotbackup/operations.md",
        "usr/share/doc/hotbackup/copyright",
    ] {
        assert!(root.at(file).exists(), "{file} is missing");
    }
    assert!(
        root.at("usr/share/man/man1/hotbackup.1.gz").exists()
            && root.at("usr/share/man/man1/hotbackup-backup.1.gz").exists()
    );
    let mode = |path: &str| fs::metadata(root.at(path)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("usr/bin/hotbackup"), mode("etc/hotbackup/hotbackup.toml")), (0o755, 0o640));
    // What its owner has written stays through an upgrade, and so do its notes and a backup.
    fs::write(root.at("etc/hotbackup/hotbackup.toml"), "# mine\n").expect("written");
    fs::create_dir_all(root.at("var/lib/hotbackup/main")).expect("made");
    fs::create_dir_all(root.at("var/backups/mongodb/2026-11-29T021500Z")).expect("made");
    root.dpkg(&["--install", &text(&second)]);
    let mine = || fs::read_to_string(root.at("etc/hotbackup/hotbackup.toml")).expect("there");
    assert_eq!(mine(), "# mine\n");
    assert!(root.dpkg(&["--status", "hotbackup"]).contains("Version: 0.1.0-2"));
    root.dpkg(&["--remove", "hotbackup"]);
    assert!(!root.at("usr/bin/hotbackup").exists());
    assert_eq!(mine(), "# mine\n");
    assert!(root.at("var/lib/hotbackup/main").exists());
    root.dpkg(&["--purge", "hotbackup"]);
    assert!(!root.at("etc/hotbackup").exists() && !root.at("var/lib/hotbackup").exists());
    assert!(root.at("var/backups/mongodb/2026-11-29T021500Z").exists(), "a backup was removed");
}

#[test]
fn every_verb_has_a_manual_page_and_is_completed() {
    let scratch = scratch();
    run(Command::new(HOTBACKUP).arg("generate").arg(scratch.path()));
    let help = run(Command::new(HOTBACKUP).arg("--help"));
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() > 8, "{verbs:?}");
    let bash = fs::read_to_string(scratch.path().join("completions/hotbackup")).expect("written");
    for verb in verbs {
        let page = fs::read_to_string(scratch.path().join(format!("man1/hotbackup-{verb}.1")));
        assert!(page.is_ok_and(|page| page.contains(".SH SYNOPSIS")), "{verb} has no page");
        assert!(bash.contains(verb), "{verb} is not completed");
    }
}

/// Any of these makes a seccomp filter or mounts of its own (systemd.exec(5)), with which backups are refused, or wrong.
const HARMFUL: [&str; 22] = [
    "SystemCallFilter",
    "SystemCallArchitectures",
    "NoNewPrivileges",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "RestrictNamespaces",
    "RestrictAddressFamilies",
    "ProtectClock",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectHostname",
    "ProtectSystem",
    "ProtectHome",
    "ProtectProc",
    "ProtectControlGroups",
    "PrivateTmp",
    "PrivateMounts",
    "PrivateDevices",
    "PrivateUsers",
];

#[test]
fn the_unit_leaves_what_a_backup_needs_and_kills_no_keeper() {
    let unit = fs::read_to_string(home().join("packaging/hotbackup.service")).expect("there");
    let said: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    for line in ["Type=notify", "KillMode=process", "WatchdogSec=60", "Restart=on-failure"] {
        assert!(said.contains(&line), "{line} is missing");
    }
    for directive in HARMFUL {
        assert!(!said.iter().any(|line| line.starts_with(&format!("{directive}="))), "{directive} is there");
    }
}

#[test]
fn a_service_manager_is_told_when_it_serves_that_it_lives_and_when_it_ends() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    let manager = UnixDatagram::bind(at("notify")).expect("bound");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    for name in ["run", "state", "shelf"] {
        fs::create_dir(at(name)).expect("made");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).expect("set");
    }
    let config = format!(
        "state = {:?}\n[[target]]\nname = \"a\"\nmatch = \"dbpath=/nowhere\"\ndestination = {:?}\n",
        at("state"),
        at("shelf")
    );
    fs::write(at("config.toml"), config).expect("written");
    let mut command = Command::new(HOTBACKUP);
    command.args(["serve", "--quiet", "--config"]).arg(at("config.toml")).env("HOTBACKUP_RUNTIME_DIR", at("run"));
    command.env("NOTIFY_SOCKET", at("notify")).env("WATCHDOG_USEC", "1500000");
    let mut serving = command.stdin(Stdio::null()).spawn().expect("hotbackup starts");
    let heard = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).expect("it says something");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert_eq!(heard().trim(), "READY=1");
    assert_eq!(heard().trim(), "WATCHDOG=1");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(serving.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .expect("ours");
    while heard().trim() != "STOPPING=1" {}
    assert!(serving.wait().expect("ours").success());
}
