//! Just enough of MongoDB's wire protocol for the demo: one OP_MSG out, one back.
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use bson::Document;

const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
/// Header, flags, and the kind of the one section.
const PREFIX: usize = HEADER + 4 + 1;
/// No answer of the demo's is near this.
const LIMIT: usize = 48 << 20;

/// A connection to a server on this machine.
pub(super) struct Connection {
    stream: TcpStream,
    next: i32,
}

impl Connection {
    /// Connects; an answer that takes longer than `patience` is an error.
    pub(super) fn open(port: u16, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, next: 1 })
    }

    /// Runs a command on the database that its `$db` names.
    ///
    /// # Errors
    /// The connection, or the command itself (`ok: 0`, write errors, write concern errors).
    pub(super) fn run(&mut self, command: &Document) -> io::Result<Document> {
        let body = command.to_vec().map_err(io::Error::other)?;
        self.next += 1;
        let mut message = Vec::with_capacity(PREFIX + body.len());
        let length = i32::try_from(PREFIX + body.len()).map_err(io::Error::other)?;
        for number in [length, self.next, 0, OP_MSG, 0] {
            message.extend_from_slice(&number.to_le_bytes());
        }
        message.push(0);
        message.extend_from_slice(&body);
        self.stream.write_all(&message)?;
        let answer = self.receive()?;
        refused(&answer).map_or(Ok(()), |what| Err(io::Error::other(what)))?;
        Ok(answer)
    }

    fn receive(&mut self) -> io::Result<Document> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| i32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let length = usize::try_from(word(0)).unwrap_or(0);
        if !(PREFIX..=LIMIT).contains(&length) || word(8) != self.next || word(12) != OP_MSG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to the last message"));
        }
        let mut rest = vec![0; length - HEADER];
        self.stream.read_exact(&mut rest)?;
        if rest[4] != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer with an unknown section"));
        }
        Document::from_reader(&rest[5..]).map_err(io::Error::other)
    }
}

/// What a server says against a command, if anything.
fn refused(answer: &Document) -> Option<String> {
    let ok = answer.get("ok").is_some_and(|ok| match ok {
        bson::Bson::Double(ok) => *ok == 1.0,
        bson::Bson::Int32(ok) => *ok == 1,
        _ => false,
    });
    let errors = answer.contains_key("writeErrors") || answer.contains_key("writeConcernError");
    (!ok || errors).then(|| answer.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use bson::doc;

    use super::*;

    /// A server that answers each message with the given documents, one after the other.
    fn server(answers: Vec<Document>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut header = [0; HEADER];
                stream.read_exact(&mut header).unwrap();
                let word = |at: usize| i32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
                let mut rest = vec![0; word(0) as usize - HEADER];
                stream.read_exact(&mut rest).unwrap();
                assert!(Document::from_reader(&rest[5..]).is_ok());
                let body = answer.to_vec().unwrap();
                for number in [(PREFIX + body.len()) as i32, 77, word(4), OP_MSG, 0] {
                    stream.write_all(&number.to_le_bytes()).unwrap();
                }
                stream.write_all(&[0]).unwrap();
                stream.write_all(&body).unwrap();
            }
        });
        port
    }

    #[test]
    fn an_answer_comes_back_and_a_refusal_is_an_error() {
        let port = server(vec![
            doc! {"ok": 1.0, "n": 3},
            doc! {"ok": 0.0, "errmsg": "no"},
            doc! {"ok": 1.0, "n": 0, "writeErrors": [{"code": 11000}]},
            doc! {"ok": 1.0, "writeConcernError": {"code": 91}},
        ]);
        let mut connection = Connection::open(port, Duration::from_secs(10)).unwrap();
        let command = doc! {"ping": 1, "$db": "admin"};
        assert_eq!(connection.run(&command).unwrap().get_i32("n").unwrap(), 3);
        assert!(connection.run(&command).unwrap_err().to_string().contains("no"));
        assert!(connection.run(&command).unwrap_err().to_string().contains("11000"));
        assert!(connection.run(&command).unwrap_err().to_string().contains("91"));
        assert!(connection.run(&command).is_err(), "the server is gone");
    }
}
