//! Other users of the machine, at the Unix sockets.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use mongodb::bson::doc;

use crate::harness::{Place, guest};
use crate::raw;

/// Connects, sends, and says what came of it. Debian's own Python: another user need not reach the one that is in the path.
const CLIENT: &str = "
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(60)
try:
    client.connect(sys.argv[1])
    client.sendall(bytes.fromhex(sys.argv[2]))
    print('answered' if client.recv(1) else 'closed')
except (BrokenPipeError, ConnectionResetError):
    print('closed')
except PermissionError:
    print('refused')
";

fn as_user(uid: &str, socket: &Path, bytes: &[u8]) -> String {
    let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "/usr/bin/python3", "-I", "-c", CLIENT]);
    let output = command.arg(socket).arg(bytes).current_dir("/").output().expect("setpriv starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn another_user_is_refused_at_the_sockets_by_their_mode_and_by_who_he_is() {
    let (place, (_guest, target)) = (Place::new(), guest());
    // Where everybody gets to: what refuses him is to be the socket.
    let open = tempfile::tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(open.path(), Permissions::from_mode(0o755)).expect("its mode");
    let (drivers, control) = (open.path().join("main.sock"), open.path().join("control.sock"));
    let config = place
        .config(&target)
        .replace(&format!("socket = {:?}", place.path("main.sock")), &format!("socket = {drivers:?}"));
    let _service = place.serve(&format!("control = {control:?}\n{config}"));
    let hello = raw::command(1, 0, &doc! {"hello": 1, "$db": "admin"});
    for (socket, bytes) in [(&drivers, &hello[..]), (&control, b"{\"op\":\"status\"}\n")] {
        assert_eq!(fs::metadata(socket).expect("a socket").permissions().mode() & 0o777, 0o600);
        assert_eq!(as_user("65534", socket, bytes), "refused", "by the mode of {socket:?}");
        assert_eq!(as_user("0", socket, bytes), "answered");
        // Somebody has widened it.
        fs::set_permissions(socket, Permissions::from_mode(0o666)).expect("its mode");
        assert_eq!(as_user("65534", socket, bytes), "closed", "by who he is, at {socket:?}");
        assert_eq!(as_user("0", socket, bytes), "answered");
    }
}
