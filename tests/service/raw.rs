//! Messages as bytes.
use std::io::{self, Read, Write};

use hotbackup_service::wire::{self, HEADER, Header, Message};
use mongodb::bson::Document;

/// OP_COMPRESSED and OP_QUERY.
pub const COMPRESSED: i32 = 2012;
pub const QUERY: i32 = 2004;

/// A message of any kind, whose length may be another than it says.
pub fn message(length: Option<i32>, id: i32, kind: i32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = length.unwrap_or((HEADER + body.len()) as i32);
    let head = [length, id, 0, kind].map(i32::to_le_bytes).concat();
    [head, body].concat()
}

/// A command as OP_MSG, with flags.
pub fn command(id: i32, flags: u32, body: &Document) -> Vec<u8> {
    let body = body.to_vec().expect("short");
    message(None, id, 2013, &[&flags.to_le_bytes(), &[0], &body])
}

/// Reads a message.
pub fn read(stream: &mut impl Read) -> io::Result<Message> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head)?;
    let header = Header::read(head).expect("a header");
    let mut bytes = head.to_vec();
    bytes.resize(header.length, 0);
    stream.read_exact(&mut bytes[HEADER..])?;
    Ok(wire::parse(&bytes).expect("a message"))
}

/// Sends bytes, and reads what is answered.
pub fn ask(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<Message> {
    stream.write_all(bytes)?;
    read(stream)
}
