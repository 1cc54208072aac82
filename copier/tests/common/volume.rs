//! File systems by FUSE in which upper and lower case are the same.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of them, unmounted when dropped.
pub struct Volume {
    device: String,
    pub at: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {} (this test needs root)", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Volume {
    fn new(dir: &Path, make: &[&str], mount: &[&str]) -> Self {
        let (image, at) = (dir.join("image"), dir.join("volume"));
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let disk = Self { device, at };
        run(make[0], &[&make[1..], &[&*disk.device]].concat());
        run(mount[0], &[&mount[1..], &[&*disk.device, disk.at.to_str().unwrap()]].concat());
        disk
    }

    /// An exFAT.
    pub fn exfat(dir: &Path) -> Self {
        Self::new(dir, &["mkfs.exfat"], &["mount.exfat-fuse"])
    }

    /// An NTFS, mounted so that it takes names as Windows does.
    pub fn ntfs(dir: &Path) -> Self {
        Self::new(dir, &["mkfs.ntfs", "-F", "-Q"], &["lowntfs-3g", "-o", "ignore_case"])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
