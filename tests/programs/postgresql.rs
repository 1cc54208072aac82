//! PostgreSQL is a program of several processes, and a backup by PID is refused: always, and before anything is touched.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use crate::common::backup::{self, alone, scratch};
use crate::pipe::Shell;
use crate::server::{Server, free_port, must};

const PACKAGE: &str = "postgresql-15";

/// A running server.
struct Postgresql {
    server: Server,
    bin: PathBuf,
    port: u16,
    dir: PathBuf,
    scratch: TempDir,
}

impl Postgresql {
    fn start() -> Self {
        let bin = fs::read_dir("/usr/lib/postgresql")
            .ok()
            .and_then(|versions| versions.flatten().map(|version| version.path().join("bin")).max())
            .unwrap_or_else(|| panic!("no PostgreSQL: apt-get install {PACKAGE}"));
        let user = User::from_name("postgres").ok().flatten().expect("its package makes the user postgres");
        let scratch = scratch();
        chown(scratch.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("we are root");
        let dir = scratch.path().join("data");
        let program = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").arg("-D").arg(&dir);
            command
        };
        must(program("initdb").args(["--no-sync", "--auth=trust", "--username=postgres"]), PACKAGE);
        let port = free_port();
        let mut command = program("postgres");
        command.args(["-p", &port.to_string(), "-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(scratch.path());
        let server = Server::start(command, &scratch.path().join("log"), PACKAGE);
        let mut postgresql = Self { server, bin, port, dir, scratch };
        let mut ready = postgresql.tool("pg_isready");
        postgresql.server.wait_until(|| ready.output().is_ok_and(|output| output.status.success()));
        postgresql
    }

    /// Its own client.
    fn psql(&self) -> Shell {
        let mut command = self.tool("psql");
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1"]);
        Shell::open(command, PACKAGE)
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.arg("-h").arg(self.scratch.path()).args(["-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }

    /// A backup of the first of its processes must be refused, with nothing left and nothing done.
    fn assert_refused(&mut self, point: &str) -> String {
        let dest = self.scratch.path().join("backup");
        let source = self.dir.to_str().expect("a plain name");
        let outcome = backup::take(self.server.pid(), &dest, &["--source", source, "--point", point]);
        let said = outcome.failure("several_processes");
        assert!(!dest.exists());
        self.server.assert_alive();
        said
    }
}

/// How many seccomp filters a process has.
fn filters(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).expect("the kernel tells").trim().to_owned()
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the kernel tells children");
    text.split_whitespace().map(|child| child.parse().expect("a number")).collect()
}

#[test]
fn postgresql_is_refused_as_several_processes_and_goes_on() {
    let _alone = alone();
    let mut server = Postgresql::start();
    let postmaster = server.server.pid();
    let before = filters(postmaster);
    // Idle: nobody is connected, and nothing is written.
    for point in ["end", "start", "end"] {
        let said = server.assert_refused(point);
        assert!(said.contains("several processes") && said.contains("child"), "{said}");
        assert!(
            children(postmaster).iter().any(|child| said.contains(&child.to_string())),
            "no child is named: {said}"
        );
    }
    // Under load.
    let mut psql = server.psql();
    psql.say("create table t(k bigint);");
    for k in 0..20 {
        let insert = format!("insert into t select {k}; select count(*) from t;");
        assert_eq!(psql.say(&insert), [(k + 1).to_string()]);
        if k % 5 == 4 {
            server.assert_refused("end");
        }
    }
    assert_eq!(filters(postmaster), before, "a refused process is not touched");
    assert_eq!(psql.say("insert into t select 20; checkpoint; select count(*) from t;"), ["21"]);
    psql.end();
    // A fast end, as its service manager asks for.
    kill(Pid::from_raw(postmaster), Signal::SIGINT).expect("our child can be signalled");
    server.server.wait_for_end();
}
