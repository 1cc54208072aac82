//! Terminals: one that was stopped (Ctrl-S), one that hangs up, and one that wants no output from the background.

use std::process::Command;

use crate::common::backup::{HOTBACKUP, alone, verify};
use crate::common::process::path;
use crate::rings;

/// Starts the command of its arguments from the third on on a terminal of its own, in the state that the second says, and waits until
/// the file that the first names is there, or the command has ended.
const ON_A_TERMINAL: &str = "
import os, pty, signal, sys, termios, time
done, how, command = sys.argv[1], sys.argv[2], sys.argv[3:]
leader, terminal = pty.openpty()
name = os.ttyname(terminal)
start, go = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(leader)
    os.close(go)
    os.setsid()
    import fcntl
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(terminal, number)
    os.read(start, 1)
    if how == 'background':
        # As a job of a shell whose user has said `stty tostop`.
        attributes = termios.tcgetattr(0)
        attributes[3] |= termios.TOSTOP
        termios.tcsetattr(0, termios.TCSANOW, attributes)
        if os.fork():
            _, status = os.wait()
            os._exit(os.waitstatus_to_exitcode(status))
        os.setpgid(0, 0)
    if how == 'hangup-ignored':
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(command[0], command)
os.close(terminal)
if how == 'stopped':
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    termios.tcflow(terminal, termios.TCOOFF)
if how.startswith('hangup'):
    os.write(go, b'x')
    os.read(leader, 1)
    os.close(leader)
else:
    os.write(go, b'x')
limit = time.monotonic() + 30
status = None
while time.monotonic() < limit and status is None:
    if how == 'stopped' and os.path.exists(done):
        termios.tcflow(terminal, termios.TCOON)
        how = 'background'
    if how == 'background':
        os.set_blocking(leader, False)
        try:
            os.read(leader, 65536)
        except OSError:
            pass
    ended, code = os.waitpid(pid, os.WNOHANG)
    if ended:
        status = os.waitstatus_to_exitcode(code)
    time.sleep(0.002)
if status is None:
    os.kill(pid, signal.SIGKILL)
print(status)
";

/// How a backup on such a terminal ended.
fn on_a_terminal(how: &str, dest: &str, more: &[&str]) -> (String, bool) {
    let mut guest = rings();
    let dest = guest.beside(dest);
    let mut command = Command::new("python3");
    command.args(["-c", ON_A_TERMINAL, path(&dest.join(".hotbackup/manifest.json")), how, HOTBACKUP, "backup"]);
    command.args(["--pid", &guest.pid().to_string(), "--source", path(&guest.dir)]).args(more).arg(&dest);
    let output = command.output().expect("Python");
    guest.assert_goes_on();
    let is_published = dest.exists();
    if is_published {
        verify(&dest);
    } else {
        let left = std::fs::read_dir(guest.scratch.path()).expect("there").count();
        assert_eq!(left, 1, "something is left");
    }
    (String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned(), is_published)
}

#[test]
fn a_stopped_terminal_stops_no_backup() {
    let _alone = alone();
    assert_eq!(on_a_terminal("stopped", "backup", &[]), ("0".into(), true));
}

#[test]
fn a_terminal_that_wants_no_output_from_the_background_stops_no_backup() {
    let _alone = alone();
    assert_eq!(on_a_terminal("background", "backup", &[]), ("0".into(), true));
}

#[test]
fn a_terminal_that_hangs_up_cancels_unless_that_is_ignored() {
    let _alone = alone();
    assert_eq!(on_a_terminal("hangup", "backup", &["--throttle", "0"]), ("130".into(), false));
    // Its result cannot be said.
    assert_eq!(on_a_terminal("hangup-ignored", "backup", &[]), ("70".into(), true));
}
