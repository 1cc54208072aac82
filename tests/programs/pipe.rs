//! A shell for SQL, fed statement by statement.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Both ends of it.
pub struct Pipe {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pipe {
    /// Starts a shell that ends at the first statement that fails.
    pub fn open(mut command: Command, package: &str) -> (Child, Self) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} ({error}): apt-get install {package}"));
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        (child, Self { input, output: BufReader::new(output) })
    }

    /// Has statements executed, and returns what they print once all of them are.
    pub fn say(&mut self, statements: &str) -> Vec<String> {
        writeln!(self.input, "{statements}\nselect 'done';").expect("the shell reads");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("the shell writes text");
            assert!(read > 0, "the shell ended at {statements:.200}");
            match line.trim_end() {
                "done" => return lines,
                other => lines.push(other.to_owned()),
            }
        }
    }
}

/// A shell that is a client of something else, killed when dropped.
pub struct Shell {
    child: Child,
    pipe: Option<Pipe>,
}

impl Shell {
    /// Starts it.
    pub fn open(command: Command, package: &str) -> Self {
        let (child, pipe) = Pipe::open(command, package);
        Self { child, pipe: Some(pipe) }
    }

    /// As [`Pipe::say`].
    pub fn say(&mut self, statements: &str) -> Vec<String> {
        self.pipe.as_mut().expect("not ended").say(statements)
    }

    /// Ends it, at the end of its input.
    pub fn end(mut self) {
        self.pipe = None;
        assert!(self.child.wait().expect("our child").success());
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
