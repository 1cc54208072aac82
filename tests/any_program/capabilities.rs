//! What hotbackup needs to be permitted, as `docs/operations.md` states it: with exactly these capabilities a backup is right, and
//! without any one of them it is refused by its name, before anything is touched; `check` says so beforehand.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::bench::{assert_names, assert_right, refused_by, run};
use crate::common::backup::{self, HOTBACKUP, alone, scratch};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::path;
use crate::go;

/// Nobody's number but of these tests.
const USER: u32 = 54_322;

/// hotbackup as a root that has these capabilities and no others, as in a container.
fn with(capabilities: &[&str]) -> Command {
    let all: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all{all}")).arg("--inh-caps=-all").arg(HOTBACKUP);
    command
}

fn without<'a>(capabilities: &[&'a str], one: &str) -> Vec<&'a str> {
    capabilities.iter().copied().filter(|name| *name != one).collect()
}

/// `check` says that a backup would be refused, with these words, and touches nothing.
fn check_finds(mut command: Command, target: i32, source: &Path, words: &[&str]) {
    let output = command.args(["check", "--pid", &target.to_string(), "--source"]).arg(source).output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(53), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_names(&failed.join("\n"), words);
}

/// `check` says that a backup is possible.
fn check_agrees(mut command: Command, target: i32, source: &Path) {
    let output = command.args(["check", "--pid", &target.to_string(), "--source"]).arg(source).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn roots_program_takes_cap_sys_ptrace_and_no_other() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    let (target, source) = (guest.pid(), guest.dir.clone());
    check_finds(with(&[]), target, &source, &["CAP_SYS_PTRACE"]);
    let said = refused_by(with(&[]), &mut guest, "not_permitted");
    assert_names(&said, &["CAP_SYS_PTRACE", "is not permitted"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
    check_agrees(with(&["sys_ptrace"]), target, &source);
    let dest = guest.beside("backup");
    assert_right(
        &backup::start_command(with(&["sys_ptrace"]), target, &dest, &["--source", path(&source)]).finish(),
        4,
    );
    guest.assert_goes_on();
}

#[test]
fn a_program_with_a_filter_of_its_own_takes_cap_sys_admin_too() {
    let _alone = alone();
    let mut guest = Guest::start("harmless_filter", Linked::Dynamically, &[]);
    let (target, source) = (guest.pid(), guest.dir.clone());
    check_finds(with(&["sys_ptrace"]), target, &source, &["CAP_SYS_ADMIN"]);
    let said = refused_by(with(&["sys_ptrace"]), &mut guest, "cannot_follow");
    assert_names(&said, &["seccomp filter of its own", "CAP_SYS_ADMIN"]);
    let enough = || with(&["sys_ptrace", "sys_admin"]);
    check_agrees(enough(), target, &source);
    let dest = guest.beside("backup");
    assert_right(&backup::start_command(enough(), target, &dest, &["--source", path(&source)]).finish(), 2);
    guest.assert_goes_on();
}

#[test]
fn a_program_with_a_root_of_its_own_takes_cap_sys_chroot_too() {
    let _alone = alone();
    let scratch = scratch();
    let root = scratch.path().join("root");
    let dir = root.join("data");
    fs::create_dir_all(&dir).expect("a root");
    fs::copy(go::build(), root.join("guest")).expect("room for the guest");
    let inside = go::command(Path::new("/guest"), Path::new("/data"));
    let mut command = Command::new("chroot");
    command.arg(&root).arg(inside.get_program()).args(inside.get_args());
    let mut guest = Guest::spawn(scratch, dir, command);
    let (target, source) = (guest.pid(), Path::new("/data"));
    check_finds(with(&["sys_ptrace"]), target, source, &["CAP_SYS_CHROOT"]);
    assert!(!guest.is_filtered(), "check left a filter");
    let enough = || with(&["sys_ptrace", "sys_chroot"]);
    check_agrees(enough(), target, source);
    let dest = guest.beside("backup");
    go::assert_state(&backup::start_command(enough(), target, &dest, &["--source", path(source)]).finish());
    guest.assert_goes_on();
}

/// A guest of another user, with data that only that user may read.
fn of_a_user() -> Guest {
    let scratch = tempfile::TempDir::with_prefix("hotbackup-").expect("a scratch directory");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = scratch.path().join("rings");
    fs::copy(compile("rings", Linked::Dynamically), &program).expect("room for a guest");
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    chown(&dir, Some(USER), Some(USER)).expect("these tests need root");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("ours");
    let mut command = Command::new(program);
    command.arg(&dir).args(["4", "64", "200"]).uid(USER).gid(USER);
    Guest::spawn(scratch, dir, command)
}

#[test]
fn another_users_program_takes_cap_dac_override_and_for_its_owners_cap_chown_and_cap_fowner() {
    let _alone = alone();
    let mut guest = of_a_user();
    let (target, source) = (guest.pid(), guest.dir.clone());
    let enough = ["sys_ptrace", "dac_override", "chown", "fowner"];
    for (one, words) in [("sys_ptrace", "CAP_SYS_PTRACE"), ("dac_override", "CAP_DAC_OVERRIDE")] {
        check_finds(with(&without(&enough, one)), target, &source, &[words]);
        let said = refused_by(with(&without(&enough, one)), &mut guest, "not_permitted");
        assert_names(&said, &[words]);
        assert!(!guest.is_filtered(), "a refused attach left a filter");
    }
    let mut take = |name: &str, capabilities: &[&str]| {
        let dest = guest.beside(name);
        let outcome = backup::start_command(with(capabilities), target, &dest, &["--source", path(&source)]).finish();
        guest.assert_goes_on();
        (outcome, dest)
    };
    let (outcome, dest) = take("all", &enough);
    assert_right(&outcome, 4);
    assert_eq!(fs::metadata(dest.join("0")).expect("in the backup").uid(), USER);
    run("rm", &["-r", path(&dest)]);
    // Without, there is a backup, and a warning that names what is not as it was.
    let (outcome, dest) = take("no-chown", &without(&enough, "chown"));
    outcome.report();
    let told = outcome.events.iter().filter(|event| event["event"] == "warning").map(ToString::to_string);
    assert_names(&told.collect::<String>(), &["the owner could not be set: 0/"]);
    assert_eq!(fs::metadata(dest.join("0")).expect("in the backup").uid(), 0);
    // To set the mode of what has been given away is what takes CAP_FOWNER.
    let (outcome, _) = take("no-fowner", &without(&enough, "fowner"));
    outcome.failure("dest_io");
}

#[test]
fn where_only_the_source_itself_is_anothers_the_warning_names_it() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    chown(&guest.dir, Some(USER), Some(USER)).expect("these tests need root");
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let command = with(&["sys_ptrace", "dac_override"]);
    let outcome = backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]).finish();
    outcome.report();
    let told = outcome.events.iter().filter(|event| event["event"] == "warning");
    let told: Vec<&str> = told.filter_map(|event| event["message"].as_str()).collect();
    assert!(told.contains(&"the owner could not be set: ."), "{told:?}");
    guest.assert_goes_on();
}

/// hotbackup below a seccomp filter of its own that makes one call an error.
fn forbidden(call: i64) -> Command {
    // The rest of the line is executed below the filter.
    const FILTERED: &str = "import ctypes,os,sys,struct\n\
        nr=int(sys.argv[1])\n\
        code=struct.pack('HBBI',0x20,0,0,0)+struct.pack('HBBI',0x15,0,1,nr)+struct.pack('HBBI',6,0,0,0x50001)+struct.pack('HBBI',6,0,0,0x7fff0000)\n\
        buffer=ctypes.create_string_buffer(code,len(code))\n\
        class Program(ctypes.Structure): _fields_=[('len',ctypes.c_ushort),('filter',ctypes.c_void_p)]\n\
        program=Program(4,ctypes.addressof(buffer))\n\
        libc=ctypes.CDLL(None,use_errno=True)\n\
        assert libc.prctl(38,1,0,0,0)==0\n\
        assert libc.prctl(22,2,ctypes.byref(program),0,0)==0\n\
        os.execv(sys.argv[2],sys.argv[2:])\n";
    let mut command = Command::new("python3");
    command.args(["-c", FILTERED, &call.to_string(), HOTBACKUP]);
    command
}

#[test]
fn a_call_that_a_filter_on_hotbackup_itself_forbids_is_named_before_anything_is_touched() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    let (target, source) = (guest.pid(), guest.dir.clone());
    let calls = [(438, "pidfd_getfd"), (272, "unshare"), (312, "kcmp")];
    for (number, name) in calls {
        let words = [name, "a seccomp filter on hotbackup itself"];
        check_finds(forbidden(number), target, &source, &words);
        let said = refused_by(forbidden(number), &mut guest, "not_permitted");
        assert_names(&said, &words);
        assert!(!said.contains("another user"), "{said}");
        assert!(!guest.is_filtered(), "a refused attach left a filter");
    }
}

#[test]
fn a_program_with_a_filter_of_its_own_is_refused_to_a_hotbackup_that_has_one_too() {
    let _alone = alone();
    let mut guest = Guest::start("harmless_filter", Linked::Dynamically, &[]);
    let harmless = || forbidden(libc_reboot());
    check_finds(harmless(), guest.pid(), &guest.dir.clone(), &["hotbackup itself runs under a seccomp filter"]);
    let said = refused_by(harmless(), &mut guest, "cannot_follow");
    assert_names(&said, &["hotbackup itself runs under a seccomp filter", "seccomp=unconfined"]);
}

/// A call that hotbackup never makes.
fn libc_reboot() -> i64 {
    169
}
