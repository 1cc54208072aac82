//! What to do about the error of a look or a change that is no matter of what was asked, but of what it was asked of: a disk, a server,
//! or a file system that is not as it should be.
use std::io;

use nix::errno::Errno;

/// What is wrong there, and what to do about it, as it goes on after the error's own words; nothing where these say it all.
pub fn after(error: &io::Error) -> &'static str {
    error.raw_os_error().map_or("", of)
}

fn of(errno: i32) -> &'static str {
    match Errno::from_raw(errno) {
        // EFSCORRUPTED and EFSBADCRC have these numbers.
        Errno::EUCLEAN | Errno::EBADMSG => ": its file system is damaged; unmount it, and have it checked (fsck)",
        Errno::EIO => ": the disk fails, or whoever serves the file system; see what the kernel says (dmesg)",
        Errno::ENODEV | Errno::ENXIO | Errno::ENOMEDIUM => {
            ": the disk or device below it is gone; attach it, and mount its file system again"
        }
        Errno::ESTALE => {
            ": its file system is not the one any more that was mounted there; unmount it, and mount it again"
        }
        Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ESHUTDOWN => {
            ": the process that serves its file system has ended; unmount it, and mount it again"
        }
        Errno::ETIMEDOUT
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::ENETUNREACH
        | Errno::ECONNRESET
        | Errno::ECONNREFUSED
        | Errno::EREMOTEIO => ": the server of its file system does not answer; look at it, and at the network",
        Errno::ETXTBSY => ": it is in use, as a program that runs or as swap space; end that first",
        Errno::ENOKEY | Errno::EKEYEXPIRED | Errno::EKEYREVOKED | Errno::EKEYREJECTED => {
            ": it is encrypted, and its key is not there; unlock it first"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_system_is_told_with_what_to_do() {
        let table = [
            (Errno::EUCLEAN, "damaged", "fsck"),
            (Errno::EBADMSG, "damaged", "fsck"),
            (Errno::EIO, "fails", "dmesg"),
            (Errno::ENODEV, "gone", "attach it"),
            (Errno::ENXIO, "gone", "attach it"),
            (Errno::ESTALE, "not the one any more", "mount it again"),
            (Errno::ENOTCONN, "has ended", "mount it again"),
            (Errno::ETIMEDOUT, "does not answer", "network"),
            (Errno::ETXTBSY, "in use", "end that first"),
            (Errno::ENOKEY, "encrypted", "unlock it"),
        ];
        for (errno, cause, remedy) in table {
            let words = after(&io::Error::from(errno));
            assert!(words.starts_with(": ") && words.contains(cause) && words.contains(remedy), "{errno}: {words}");
        }
    }

    #[test]
    fn what_says_it_all_gets_no_more_words() {
        for errno in [Errno::ENOENT, Errno::EACCES, Errno::ENOSPC, Errno::EINVAL, Errno::EEXIST] {
            assert_eq!(after(&io::Error::from(errno)), "", "{errno}");
        }
        assert_eq!(after(&io::Error::other("words")), "");
    }
}
