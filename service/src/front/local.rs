//! The Unix socket: drivers connect to it as to a server that knows our commands and little else.
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bson::{DateTime, Document, doc};

use super::base::{IDLE, Numbers, is_on_admin, is_there};
use crate::commands::{self, Code, NAMES, Refusal, refusal};
use crate::jobs::Target;
use crate::wire::{self, HEADER, Header, MAX_COMMAND, MAX_MESSAGE, Malformed, Message};

/// Speaks to one client until it goes.
pub(super) fn serve(mut stream: UnixStream, target: &Arc<Target>) {
    if let Err(error) = talk(&mut stream, target) {
        tracing::debug!("a client of {}'s socket has gone: {error}", target.name());
    }
}

fn talk(stream: &mut UnixStream, target: &Arc<Target>) -> io::Result<()> {
    let numbers = Numbers::default();
    // Who has said nothing is not waited for; later on a driver may keep quiet as long as it likes.
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    loop {
        let mut head = [0; HEADER];
        stream.read_exact(&mut head)?;
        stream.set_read_timeout(Some(IDLE))?;
        let answer = match Header::read(head) {
            Err(error) => return complain(stream, &numbers, 0, &error),
            Ok(header) if header.is_compressed() => {
                return complain(stream, &numbers, header.id, &Malformed::Compressed);
            }
            Ok(header) if header.length > MAX_COMMAND => {
                let rest = (header.length - HEADER) as u64;
                let gone = io::copy(&mut stream.take(rest), &mut io::sink())?;
                if gone < rest {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let words = format!("a command of {} bytes: {MAX_COMMAND} are enough for any here", header.length);
                Some((header.id, false, refusal(&Refusal::new(Code::BSONObjectTooLarge, words))))
            }
            Ok(header) => {
                let mut message = vec![0; header.length];
                message[..HEADER].copy_from_slice(&head);
                stream.read_exact(&mut message[HEADER..])?;
                match wire::parse(&message) {
                    Err(error) => return complain(stream, &numbers, header.id, &error),
                    Ok(message) => {
                        let socket: &UnixStream = stream;
                        let answer = answer(target, &message, &|| is_there(socket.as_fd()));
                        answer.map(|answer| (header.id, message.legacy, answer))
                    }
                }
            }
        };
        if let Some((id, legacy, answer)) = answer {
            let bytes = if legacy {
                wire::encode_reply(numbers.next(), id, &answer)
            } else {
                wire::encode(numbers.next(), id, false, &answer)
            };
            stream.write_all(&bytes.ok_or(io::ErrorKind::InvalidData)?)?;
        }
        stream.set_read_timeout(None)?;
    }
}

/// The last that is said to who sends what is no message.
fn complain(stream: &mut UnixStream, numbers: &Numbers, id: i32, error: &Malformed) -> io::Result<()> {
    let words = refusal(&Refusal::new(Code::ProtocolError, error));
    stream.write_all(&wire::encode(numbers.next(), id, false, &words).ok_or(io::ErrorKind::InvalidData)?)?;
    Err(io::Error::other(error.clone()))
}

fn answer(target: &Arc<Target>, message: &Message, wanted: &dyn Fn() -> bool) -> Option<Document> {
    let name = message.body.keys().next().map_or("", String::as_str);
    if message.more_to_come {
        // Nobody would hear what became of it.
        return None;
    }
    if NAMES.contains(&name) {
        if message.sequences || !is_on_admin(&message.body) {
            let words = format!("{name} may only be run against the admin database.");
            return Some(refusal(&Refusal::new(Code::Unauthorized, words)));
        }
        return commands::run(target, &message.body, wanted);
    }
    Some(match name {
        "hello" | "isMaster" | "ismaster" => hello(name),
        "ping" | "endSessions" | "logout" => doc! {"ok": 1.0},
        "buildInfo" | "buildinfo" => doc! {
            "version": "6.0.0", "versionArray": [6, 0, 0, 0], "hotbackup": env!("CARGO_PKG_VERSION"), "modules": [],
            "maxBsonObjectSize": 16 << 20, "ok": 1.0,
        },
        "connectionStatus" => doc! {"authInfo": {"authenticatedUsers": [], "authenticatedUserRoles": []}, "ok": 1.0},
        name => refusal(&Refusal::new(Code::CommandNotFound, format!("no such command: '{name}'"))),
    })
}

/// A server of its own that drivers of today speak to. It keeps no sessions and streams nothing.
fn hello(asked: &str) -> Document {
    let mut answer = doc! {"helloOk": true};
    answer.insert(if asked == "hello" { "isWritablePrimary" } else { "ismaster" }, true);
    answer.extend(doc! {
        "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": MAX_MESSAGE as i32,
        "maxWriteBatchSize": 100_000,
        "localTime": DateTime::now(),
        "minWireVersion": 0,
        "maxWireVersion": 17,
        "readOnly": false,
        "ok": 1.0,
    });
    answer
}
