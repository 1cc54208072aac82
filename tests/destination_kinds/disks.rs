//! Every kind of destination, made in one place.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::disk::{Loop, make_file_system, run};

/// A file system that backups go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    /// With the inodes of ext3, which have no room for more than seconds of 32 bits.
    Ext4SmallInodes,
    Xfs,
    Btrfs,
    Tmpfs,
    /// By FUSE: exfat-fuse.
    ExFat,
    /// By FUSE: ntfs-3g, as it is mounted usually.
    Ntfs,
    /// The same, with owners and modes.
    NtfsPermissions,
    /// By FUSE: sshfs, with OpenSSH's server of files at the other end.
    Sftp,
    /// By FUSE: bindfs, which says that it set owners and modes, and did not.
    Bindfs,
}

/// A mounted destination, taken down when dropped.
pub struct Disk {
    kind: Kind,
    /// Where it is mounted.
    pub at: PathBuf,
    device: Option<Loop>,
    /// What the server serves, and the server.
    served: PathBuf,
    servers: Vec<Child>,
}

/// Sparse. xfs wants so much.
const MIB: u64 = 384;

impl Disk {
    /// Makes it in a directory.
    pub fn new(kind: Kind, dir: &Path) -> Self {
        let (at, served, image) = (dir.join("volume"), dir.join("served"), dir.join("image"));
        fs::create_dir(&at).expect("a mount point");
        fs::create_dir(&served).expect("a directory");
        let mut disk = Self { kind, at, device: None, served, servers: Vec::new() };
        if !matches!(kind, Kind::Tmpfs | Kind::Sftp | Kind::Bindfs) {
            fs::File::create(&image).and_then(|file| file.set_len(MIB << 20)).expect("an image");
            let device = Loop::new(&image);
            let path = device.0.clone();
            match kind {
                Kind::Ext4SmallInodes => make_file_system("ext4", &path, &["-I", "128"]),
                Kind::ExFat => run("mkfs.exfat", &[path.as_os_str()]),
                Kind::Ntfs | Kind::NtfsPermissions => {
                    run("mkfs.ntfs", &["-F".as_ref(), "-Q".as_ref(), path.as_os_str()])
                }
                Kind::Xfs => make_file_system("xfs", &path, &[]),
                Kind::Btrfs => make_file_system("btrfs", &path, &[]),
                _ => make_file_system("ext4", &path, &[]),
            }
            disk.device = Some(device);
        }
        disk.mount();
        disk
    }

    fn mount(&mut self) {
        let at = self.at.as_os_str();
        let device = self.device.as_ref().map(|device| device.0.as_os_str()).unwrap_or_default();
        match self.kind {
            Kind::Tmpfs => run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), at]),
            Kind::ExFat => run("mount.exfat-fuse", &[device, at]),
            Kind::Ntfs => run("ntfs-3g", &[device, at]),
            Kind::NtfsPermissions => run("ntfs-3g", &["-o".as_ref(), "permissions".as_ref(), device, at]),
            Kind::Bindfs => {
                let ignored = ["--chmod-ignore", "--chown-ignore", "--chgrp-ignore", "--xattr-none"].map(OsStr::new);
                run("bindfs", &[&ignored[..], &[self.served.as_os_str(), at]].concat());
            }
            Kind::Sftp => self.serve(),
            _ => run("mount", &[device, at]),
        }
    }

    /// Has sshfs speak to a server of files as if that were at the other end of a connection.
    fn serve(&mut self) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let ends = |end: &UnixStream| -> (OwnedFd, OwnedFd) {
            (end.try_clone().expect("a descriptor").into(), end.try_clone().expect("a descriptor").into())
        };
        let mut server = Command::new("/usr/lib/openssh/sftp-server");
        let (input, output) = ends(&theirs);
        self.servers.push(server.stdin(input).stdout(output).spawn().expect("openssh-sftp-server is installed"));
        let mut sshfs = Command::new("sshfs");
        sshfs.arg(format!("served:{}", self.served.display())).arg(&self.at).args(["-o", "passive"]);
        let (input, output) = ends(&ours);
        let sshfs = sshfs.stdin(input).stdout(output).stderr(Stdio::null()).spawn().expect("sshfs is installed");
        self.servers.push(sshfs);
        let began = Instant::now();
        while !is_mounted(&self.at) {
            assert!(began.elapsed() < Duration::from_secs(30), "sshfs does not mount");
            std::thread::yield_now();
        }
    }

    /// Takes it out of the tree and puts it back: what was only in a server's memory is gone.
    pub fn mount_again(&mut self) {
        if self.kind == Kind::Tmpfs {
            return;
        }
        run("umount", &[self.at.as_os_str()]);
        // They end with the mount.
        self.servers.drain(..).for_each(|mut server| drop(server.wait()));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        for mut server in self.servers.drain(..) {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Whether something is mounted there.
fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}
