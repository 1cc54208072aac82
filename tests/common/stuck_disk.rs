//! A file system that can be made to wait.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::guest::{Linked, compile};

/// A file system that can be stuck and freed (`guests/stuck_disk.c`), mounted until it is dropped.
pub struct Disk {
    /// Where it is mounted.
    pub at: PathBuf,
    switches: PathBuf,
    server: Child,
}

impl Disk {
    /// Mounts it there; its switches are files in a directory.
    pub fn mount(at: PathBuf, switches: PathBuf) -> Self {
        fs::create_dir(&at).expect("a mount point");
        let mut server = Command::new(compile("stuck_disk", Linked::Dynamically))
            .args([&at, &switches])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the file system starts");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let disk = Self { at, switches, server };
        assert_eq!(line, "ready\n", "nothing was mounted (these tests need root and /dev/fuse)");
        disk
    }

    /// From here on it answers nothing.
    pub fn get_stuck(&self) {
        fs::write(self.switches.join("stuck"), "").expect("written");
    }

    /// It answers again.
    pub fn free(&self) {
        fs::write(self.switches.join("free"), "").expect("written");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever waits for it fails by that, and can end.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
