//! Messages: a header, and what is behind it.
use bson::Document;

use super::scan::{Bytes, scan};
use super::{HEADER, MAX_MESSAGE, Malformed, crc32c};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;

const CHECKSUM: u32 = 1 << 0;
const MORE_TO_COME: u32 = 1 << 1;
/// Flags that a receiver must understand.
const REQUIRED: u32 = 0xffff;

/// The first bytes of every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the whole message, this header included.
    pub length: usize,
    /// The sender's number for it.
    pub id: i32,
    /// The number of what it answers.
    pub response_to: i32,
    /// Its kind.
    pub kind: i32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// Its length is none that a message may have.
    pub fn read(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let word = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = usize::try_from(word(0)).ok().filter(|length| (HEADER..=MAX_MESSAGE).contains(length));
        let length = length.ok_or(Malformed::Length(word(0)))?;
        Ok(Self { length, id: word(4), response_to: word(8), kind: word(12) })
    }

    /// Whether it is compressed.
    pub fn is_compressed(self) -> bool {
        self.kind == OP_COMPRESSED
    }
}

/// A message as it was meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// The command, or the answer.
    pub body: Document,
    /// No answer is wanted; or, of an answer, another one follows by itself.
    pub more_to_come: bool,
    /// Came as OP_QUERY, and is answered by OP_REPLY.
    pub legacy: bool,
    /// Has document sequences besides.
    pub sequences: bool,
}

/// What the beginning of a message shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// More bytes are needed to say.
    Short,
    /// A command of this name. Names that are longer than any of interest are cut.
    Command(Vec<u8>),
    /// Anything else.
    Other,
}

/// The longest name that is looked at.
const LONGEST_NAME: usize = 32;

/// Which command a message begins with, of which only the beginning may be there. Nothing is checked.
pub fn peek(header: Header, message: &[u8]) -> Peek {
    let enough = message.len() >= header.length.min(HEADER + 512);
    match peek_bytes(header.kind, &message[HEADER.min(message.len())..]) {
        Ok(Some(name)) => Peek::Command(name),
        Ok(None) => Peek::Other,
        Err(_) if enough => Peek::Other,
        Err(_) => Peek::Short,
    }
}

fn peek_bytes(kind: i32, body: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut rest = Bytes(body);
    rest.int()?;
    match kind {
        OP_MSG if rest.byte()? == 0 => {}
        OP_QUERY => {
            if !rest.name()?.ends_with(b".$cmd") {
                return Ok(None);
            }
            rest.take(8)?;
        }
        _ => return Ok(None),
    }
    rest.int()?;
    if rest.byte()? == 0 {
        return Ok(None);
    }
    match rest.name() {
        Ok(name) => Ok(Some(name.to_vec())),
        Err(_) if rest.0.len() > LONGEST_NAME => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a whole message.
///
/// # Errors
/// It is none, or none that is understood.
pub fn parse(message: &[u8]) -> Result<Message, Malformed> {
    let head = message.first_chunk().ok_or(Malformed::Shape("it ends too early"))?;
    let header = Header::read(*head)?;
    if header.length != message.len() {
        return Err(Malformed::Shape("its length is another"));
    }
    match header.kind {
        OP_MSG => parse_msg(header, message),
        OP_QUERY => parse_query(header, message),
        OP_REPLY => parse_reply(header, message),
        OP_COMPRESSED => Err(Malformed::Compressed),
        kind => Err(Malformed::Kind(kind)),
    }
}

fn parse_msg(header: Header, message: &[u8]) -> Result<Message, Malformed> {
    let mut rest = Bytes(&message[HEADER..]);
    let flags = rest.int()? as u32;
    if flags & REQUIRED & !(CHECKSUM | MORE_TO_COME) != 0 {
        return Err(Malformed::Flags(flags));
    }
    if flags & CHECKSUM != 0 {
        let (before, sum) = message.split_last_chunk::<4>().ok_or(Malformed::Checksum)?;
        if before.len() < HEADER + 4 || crc32c(before) != u32::from_le_bytes(*sum) {
            return Err(Malformed::Checksum);
        }
        rest = Bytes(&before[HEADER + 4..]);
    }
    let (mut body, mut sequences) = (None, false);
    while !rest.0.is_empty() {
        match rest.byte()? {
            0 if body.is_none() => body = Some(document(rest.document()?)?),
            0 => return Err(Malformed::Shape("two bodies")),
            1 => {
                let length = Bytes(rest.0).length(5)?;
                let mut sequence = Bytes(rest.take(length)?);
                sequence.int()?;
                sequence.name()?;
                while !sequence.0.is_empty() {
                    scan(sequence.document()?)?;
                }
                sequences = true;
            }
            _ => return Err(Malformed::Shape("a section of no known kind")),
        }
    }
    let body = body.ok_or(Malformed::Shape("no body"))?;
    Ok(Message { header, body, more_to_come: flags & MORE_TO_COME != 0, legacy: false, sequences })
}

fn parse_query(header: Header, message: &[u8]) -> Result<Message, Malformed> {
    let mut rest = Bytes(&message[HEADER..]);
    rest.int()?;
    let collection = rest.name()?;
    let database = collection.strip_suffix(b".$cmd").ok_or(Malformed::Kind(OP_QUERY))?;
    let database = String::from_utf8(database.to_vec()).map_err(|_| Malformed::Shape("a name is not UTF-8"))?;
    rest.take(8)?;
    let mut body = document(rest.document()?)?;
    body.insert("$db", database);
    Ok(Message { header, body, more_to_come: false, legacy: true, sequences: false })
}

fn parse_reply(header: Header, message: &[u8]) -> Result<Message, Malformed> {
    let mut rest = Bytes(&message[HEADER..]);
    rest.take(20)?;
    let body = document(rest.document()?)?;
    Ok(Message { header, body, more_to_come: false, legacy: true, sequences: false })
}

fn document(bytes: &[u8]) -> Result<Document, Malformed> {
    scan(bytes)?;
    Document::from_reader(bytes).map_err(|_| Malformed::Shape("a document is not BSON"))
}

/// A command or an answer as OP_MSG. It is `None` where it is longer than a message may be.
pub fn encode(id: i32, response_to: i32, more_to_come: bool, body: &Document) -> Option<Vec<u8>> {
    let flags = if more_to_come { MORE_TO_COME } else { 0 };
    let body = body.to_vec().ok()?;
    whole(id, response_to, OP_MSG, &[&flags.to_le_bytes(), &[0], &body])
}

/// An answer as OP_REPLY, to who asked by OP_QUERY.
pub fn encode_reply(id: i32, response_to: i32, body: &Document) -> Option<Vec<u8>> {
    // Flags (AwaitCapable), cursor, first, and how many documents follow.
    let mut head = [0; 20];
    head[0] = 8;
    head[16] = 1;
    whole(id, response_to, OP_REPLY, &[&head, &body.to_vec().ok()?])
}

fn whole(id: i32, response_to: i32, kind: i32, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let length = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    let words = [i32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE)?, id, response_to, kind];
    let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Some(parts.iter().fold(head, |message, part| [&message, *part].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use proptest::prelude::*;

    fn ping() -> Vec<u8> {
        encode(7, 0, false, &doc! {"ping": 1, "$db": "admin"}).unwrap()
    }

    fn with_length(mut message: Vec<u8>) -> Vec<u8> {
        let length = message.len() as i32;
        message[..4].copy_from_slice(&length.to_le_bytes());
        message
    }

    fn head(message: &[u8]) -> Header {
        Header::read(*message.first_chunk().unwrap()).unwrap()
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let message = parse(&ping()).unwrap();
        assert_eq!(message.body, doc! {"ping": 1, "$db": "admin"});
        assert_eq!((message.header.id, message.legacy, message.more_to_come), (7, false, false));
        let reply = parse(&encode_reply(1, 2, &doc! {"ok": 1}).unwrap()).unwrap();
        assert_eq!((reply.body, reply.header.response_to, reply.legacy), (doc! {"ok": 1}, 2, true));
    }

    #[test]
    fn lengths_beyond_the_bounds_are_refused() {
        for length in [-1, 0, 15, MAX_MESSAGE as i32 + 1, i32::MAX, i32::MIN] {
            let mut bytes = [0; HEADER];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Header::read(bytes), Err(Malformed::Length(length)));
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        let mut message = ping();
        message[16] = 1;
        message.extend([0; 4]);
        let mut message = with_length(message);
        let (before, sum) = message.split_last_chunk_mut::<4>().unwrap();
        *sum = crc32c(before).to_le_bytes();
        assert!(parse(&message).is_ok());
        message[30] ^= 1;
        assert_eq!(parse(&message), Err(Malformed::Checksum));
    }

    #[test]
    fn kinds_flags_and_sections_that_are_not_known_are_refused() {
        let mut compressed = ping();
        compressed[12..16].copy_from_slice(&OP_COMPRESSED.to_le_bytes());
        assert_eq!(parse(&compressed), Err(Malformed::Compressed));
        assert!(head(&compressed).is_compressed());
        let mut flags = ping();
        flags[16] = 4;
        assert_eq!(parse(&flags), Err(Malformed::Flags(4)));
        flags[16..20].copy_from_slice(&(1_u32 << 16).to_le_bytes());
        assert!(parse(&flags).is_ok(), "exhaustAllowed may be ignored");
        let mut section = ping();
        section[20] = 2;
        assert!(parse(&section).is_err());
        let twice = with_length([ping(), ping()[20..].to_vec()].concat());
        assert_eq!(parse(&twice), Err(Malformed::Shape("two bodies")));
    }

    #[test]
    fn document_sequences_are_measured_and_told() {
        let one = doc! {"a": 1}.to_vec().unwrap();
        let mut section = vec![1];
        section.extend((4 + 5 + one.len() as i32).to_le_bytes());
        section.extend(b"docs\0");
        section.extend(&one);
        let good = with_length([ping(), section.clone()].concat());
        assert!(parse(&good).unwrap().sequences);
        section[1] += 1;
        assert!(parse(&with_length([ping(), section].concat())).is_err());
    }

    #[test]
    fn the_command_is_seen_as_soon_as_its_name_is_there() {
        let message = ping();
        for end in HEADER..message.len() {
            let seen = peek(head(&message), &message[..end]);
            let expected = if end < 31 { Peek::Short } else { Peek::Command(b"ping".to_vec()) };
            assert_eq!(seen, expected, "{end}");
        }
        let long = encode(1, 0, false, &doc! {"x".repeat(5000): 1}).unwrap();
        assert_eq!(peek(head(&long), &long[..100]), Peek::Other);
    }

    #[test]
    fn an_old_hello_is_understood() {
        let body = doc! {"isMaster": 1}.to_vec().unwrap();
        let query = whole(5, 0, OP_QUERY, &[&[0; 4], b"admin.$cmd\0", &[0; 8], &body]).unwrap();
        assert_eq!(peek(head(&query), &query), Peek::Command(b"isMaster".to_vec()));
        let message = parse(&query).unwrap();
        assert!(message.legacy);
        assert_eq!(message.body, doc! {"isMaster": 1, "$db": "admin"});
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), HEADER..300), kind in 0_usize..4, flag in 0_u8..4) {
            let mut bytes = bytes;
            bytes[12..16].copy_from_slice(&[OP_MSG, OP_QUERY, OP_REPLY, OP_COMPRESSED][kind].to_le_bytes());
            if let Some(flags) = bytes.get_mut(16..20) {
                flags.copy_from_slice(&[flag, 0, 0, 0]);
            }
            let bytes = with_length(bytes);
            let _ = (parse(&bytes), peek(head(&bytes), &bytes));
        }
    }
}
