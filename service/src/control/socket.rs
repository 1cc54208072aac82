//! Unix sockets that only their owner and root may speak to.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;

/// A socket that is listened at; its name goes with it.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode: another may have taken the name over.
    id: (u64, u64),
}

impl Drop for Bound {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A short way to a name in a directory: an address of a socket holds 108 bytes.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY).open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}

/// Listens at `path`, with mode 0600. What is there already is replaced if it is a socket at which nobody listens.
///
/// # Errors
/// Somebody listens there, or it cannot be made.
pub fn bind(path: &Path) -> io::Result<Bound> {
    let (_directory, to) = short(path)?;
    match UnixStream::connect(&to) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt;
            if !fs::symlink_metadata(&to)?.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
            }
            fs::remove_file(&to)?;
        }
        Err(_) => {}
    }
    // Under another name first, so that nobody finds it before its mode is set.
    let hidden = to.with_file_name(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    fs::rename(&hidden, &to)?;
    let found = fs::symlink_metadata(&to)?;
    Ok(Bound { listener, path: std::path::absolute(path)?, id: (found.dev(), found.ino()) })
}

/// Connects to who listens at `path`.
///
/// # Errors
/// Nobody does, or it is not permitted.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_directory, to) = short(path)?;
    UnixStream::connect(to)
}

/// Whether who is at the other end may steer: root, and the user that this process runs as.
pub fn may_steer(stream: &UnixStream) -> bool {
    let peer = getsockopt(stream, PeerCredentials);
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == Uid::effective().as_raw())
}

/// Where sockets of this user are: `HOTBACKUP_RUNTIME_DIR`; of root /run/hotbackup; else `XDG_RUNTIME_DIR`/hotbackup, or a
/// directory in /tmp that nobody else may enter. It is made if it is not there.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub fn runtime_directory() -> io::Result<PathBuf> {
    let user = Uid::effective();
    let path = match (std::env::var_os("HOTBACKUP_RUNTIME_DIR"), std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(path), _) if !path.is_empty() => PathBuf::from(path),
        _ if user.is_root() => "/run/hotbackup".into(),
        (_, Some(path)) if !path.is_empty() => Path::new(&path).join("hotbackup"),
        _ => format!("/tmp/hotbackup-{user}").into(),
    };
    if let Err(error) = DirBuilder::new().mode(0o700).create(&path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let found = fs::symlink_metadata(&path)?;
    if !found.is_dir() || found.uid() != user.as_raw() || found.mode() & 0o022 != 0 {
        let words = format!("{} is not a directory of this user's that only he may write to", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_owners_and_goes_with_him() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than an address may be.
        let long = dir.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let path = long.join("a.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let stream = connect(&path).unwrap();
        assert!(may_steer(&stream));
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
        assert!(connect(&path).is_err());
    }

    #[test]
    fn what_a_dead_listener_left_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
