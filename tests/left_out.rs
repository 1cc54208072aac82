//! What is not in a backup, or in it without content, is told: what patterns leave out, and which of them left out nothing; devices,
//! sockets, fifos, and links that lead nowhere. And which of several sources is where.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, Outcome, alone, verify};
use common::guest::{Guest, Linked, check_rings};
use common::process::{assert_right, path};

const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

fn take(guest: &Guest, more: &[&str]) -> Outcome {
    let source = guest.dir.clone();
    let more = [&["--source", path(&source)][..], more].concat();
    backup::take(guest.pid(), &guest.beside("backup"), &more)
}

fn make(path: &Path) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, "foreign").expect("written");
}

fn manifest(dest: &Path) -> Value {
    let text = fs::read(dest.join(".hotbackup/manifest.json")).expect("a manifest");
    serde_json::from_slice(&text).expect("JSON")
}

fn warnings(outcome: &Outcome) -> Vec<&str> {
    let all = outcome.events.iter().filter(|event| event["event"] == "warning");
    all.map(|event| event["message"].as_str().expect("words")).collect()
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().expect("it starts").success(), "{program} {arguments:?}");
}

#[test]
fn what_patterns_leave_out_is_in_the_manifest_and_one_in_vain_is_a_warning() {
    let _alone = alone();
    let mut guest = rings();
    for name in ["diagnostic.data/metrics", "log/a.log", "log/deep/b.log", "log/kept.log", "spare/x", "typo-not/x"] {
        make(&guest.dir.join(name));
    }
    // As other tools want it: with the source's own path.
    let full = format!("{}/typo-not", path(&guest.dir));
    let patterns = ["./diagnostic.data/", "*.log", "!kept.log", "/spare", "/typo", "x/", "/spare/x", &full];
    let more: Vec<&str> = patterns.iter().flat_map(|pattern| ["--exclude", pattern]).collect();
    let outcome = take(&guest, &more);
    assert_right(&outcome, RINGS);
    for gone in ["diagnostic.data", "log/a.log", "log/deep/b.log", "spare"] {
        assert!(!outcome.dest.join(gone).exists(), "{gone} is in the backup");
    }
    for kept in ["log/kept.log", "typo-not/x", "log/deep"] {
        assert!(outcome.dest.join(kept).exists(), "{kept} is not in the backup");
    }
    let said = warnings(&outcome);
    assert_eq!(said.len(), 4, "{said:?}");
    for (pattern, words) in ["/typo", "x/", "/spare/x", &full].iter().zip(&said) {
        assert!(words.contains(&format!("{pattern:?}")) && outcome.stderr.contains(words), "{pattern}: {words}");
    }
    let manifest = manifest(&outcome.dest);
    assert_eq!(manifest["excluded"], json!(["diagnostic.data", "log/a.log", "log/deep/b.log", "spare"]));
    let counts: Vec<(&str, u64)> = manifest["exclude"].as_array().expect("patterns").iter().map(count).collect();
    assert_eq!(counts, patterns.into_iter().zip([1, 2, 0, 1, 0, 0, 0, 0]).collect::<Vec<_>>());
    assert_eq!(outcome.report()["excluded"], 4);
    guest.assert_alive();
}

fn count(record: &Value) -> (&str, u64) {
    (record["pattern"].as_str().expect("text"), record["names"].as_u64().expect("a number"))
}

#[test]
fn without_patterns_the_manifest_has_none() {
    let _alone = alone();
    let guest = rings();
    let outcome = take(&guest, &[]);
    let manifest = manifest(&outcome.dest);
    assert!(manifest.get("exclude").is_none() && manifest.get("excluded").is_none());
    assert!(warnings(&outcome).is_empty());
}

#[test]
fn a_malformed_pattern_is_an_error_before_anything_is_touched() {
    let _alone = alone();
    let mut guest = rings();
    for pattern in ["[", "a/../b", "/", "x\\"] {
        let said = take(&guest, &["--exclude", "fine", "--exclude", pattern]).failure("usage");
        assert!(said.contains(&serde_json::to_string(pattern).expect("text").replace('"', "")), "{pattern}: {said}");
        assert!(!guest.is_filtered(), "it was touched");
    }
    guest.assert_alive();
}

/// A file system whose server answers nothing, as when a network is gone; gone when dropped.
struct Dead {
    place: PathBuf,
    server: Option<File>,
}

impl Dead {
    fn new(place: PathBuf) -> Self {
        fs::create_dir(&place).expect("made");
        let server = File::options().read(true).write(true).open("/dev/fuse").expect("these tests need /dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("dead"), &place, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("mounted");
        Self { place, server: Some(server) }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_is_left_out_for_its_name_may_be_a_mount_that_answers_nobody() {
    let _alone = alone();
    let mut guest = rings();
    let mut dead = Dead::new(guest.dir.join("dead"));
    let outcome = take(&guest, &["--exclude", "/dead"]);
    // Whether it is a directory could be asked of it alone: an error, once its server is gone.
    drop(dead.server.take());
    assert_right(&outcome, RINGS);
    assert_eq!(manifest(&outcome.dest)["excluded"], json!(["dead"]));
    fs::remove_dir_all(&outcome.dest).expect("our own backup");
    let outcome = take(&guest, &["--exclude", "dead/"]);
    assert_eq!(manifest(&outcome.dest)["excluded"], json!(["dead"]));
    fs::remove_dir_all(&outcome.dest).expect("our own backup");
    assert!(take(&guest, &[]).failure("source_unreadable").contains("dead"));
    drop(dead);
    guest.assert_alive();
}

#[test]
fn what_has_no_content_is_counted() {
    let _alone = alone();
    let mut guest = rings();
    let at = |name: &str| guest.dir.join(name);
    let _listens = UnixListener::bind(at("socket")).expect("bound");
    run("mkfifo", &[path(&at("fifo1")), path(&at("fifo2"))]);
    run("mknod", &[path(&at("null")), "c", "1", "3"]);
    make(&guest.beside("outside"));
    symlink(guest.beside("outside"), at("followed")).expect("linked");
    symlink("fifo1", at("inside")).expect("linked");
    symlink("/dev/null", at("to-a-device")).expect("linked");
    symlink("/nonexistent/place", at("to-nothing")).expect("linked");
    symlink("../nothing", at("up")).expect("linked");
    for number in 0..4 {
        symlink("/nonexistent", at(&format!("z{number}"))).expect("linked");
    }
    let outcome = take(&guest, &[]);
    assert_right(&outcome, RINGS);
    let first = ["to-a-device", "to-nothing", "up", "z0", "z1"];
    let special = json!({"devices": 1, "sockets": 1, "fifos": 2, "outside_links": {"count": 7, "first": first}});
    assert_eq!(outcome.report()["special"], special);
    assert_eq!(fs::read(outcome.dest.join("followed")).expect("a file"), b"foreign");
    assert!(!outcome.dest.join("null").exists() && !outcome.dest.join("socket").exists());
    fs::remove_dir_all(&outcome.dest).expect("our own backup");
    // In words, on one line.
    let mut command = Command::new(HOTBACKUP);
    command.args(["backup", "--pid", &guest.pid().to_string(), "--source", path(&guest.dir)]).arg(&outcome.dest);
    let said = String::from_utf8(command.output().expect("it starts").stdout).expect("text");
    let line = said.lines().find(|line| line.starts_with("without content")).expect("a line");
    for words in ["1 device", "1 socket", "2 fifos", "7 links", "to-a-device, to-nothing, up, z0, z1"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    guest.assert_alive();
}

#[test]
fn two_sources_of_one_name_are_told_apart() {
    let _alone = alone();
    let mut guest = rings();
    let second = guest.beside("second/data");
    make(&second.join("here"));
    make(&second.join("some.log"));
    make(&guest.dir.join("some.log"));
    make(&guest.beside("third/data-2/x"));
    // From one into the other.
    symlink(second.join("here"), guest.dir.join("across")).expect("linked");
    let third = guest.beside("third/data-2");
    let more = ["--source", path(&second), "--source", path(&third), "--exclude", "/some.log"];
    let outcome = take(&guest, &more);
    let sources = json!([
        {"path": path(&guest.dir), "name": "data"},
        {"path": path(&second), "name": "data-3"},
        {"path": path(&third), "name": "data-2"},
    ]);
    assert_eq!(outcome.report()["sources"], sources);
    let manifest = manifest(&outcome.dest);
    assert_eq!(manifest["sources"], sources);
    assert_eq!(manifest["excluded"], json!(["data/some.log", "data-3/some.log"]));
    verify(&outcome.dest);
    check_rings(&outcome.dest.join("data"), RINGS).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(fs::read_link(outcome.dest.join("data/across")).expect("a link"), Path::new("../data-3/here"));
    assert!(outcome.dest.join("data-2/x").exists() && outcome.dest.join("data-3/here").exists());
    guest.assert_alive();
    // The same one twice is refused all the same.
    fs::remove_dir_all(&outcome.dest).expect("our own backup");
    take(&guest, &["--source", path(&guest.dir.join("."))]).failure("sources_overlap");
}
