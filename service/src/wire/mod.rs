//! MongoDB's wire protocol, as far as a service of few commands needs it: OP_MSG, and OP_QUERY for the first hello of older
//! clients. What arrives is not trusted: lengths are checked before anything is reserved, depth before anything is parsed.
mod crc;
mod message;
mod scan;

pub use crc::crc32c;
pub use message::{Header, Message, Peek, encode, encode_reply, parse, peek};
pub use scan::scan;

/// Longest message that MongoDB allows (`maxMessageSizeBytes`).
pub const MAX_MESSAGE: usize = 48_000_000;
/// Longest message that a command of ours may come in. They are some hundred bytes; sessions and the like are not much more.
pub const MAX_COMMAND: usize = 64 << 10;
/// How deep documents may lie in each other; mongod allows 200.
pub const MAX_DEPTH: usize = 100;
/// Bytes of a header.
pub const HEADER: usize = 16;

/// What is wrong with bytes that are to be a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The header's length.
    #[error("a message of {0} bytes: from 16 to {MAX_MESSAGE} are allowed")]
    Length(i32),
    /// OP_COMPRESSED.
    #[error("compressed messages are not understood here, and no compression was agreed on")]
    Compressed,
    /// Another kind of message.
    #[error("messages of kind {0} are not understood")]
    Kind(i32),
    /// Required flags that nobody has defined.
    #[error("flags {0:#x} of a message are not understood")]
    Flags(u32),
    /// The checksum is another.
    #[error("a message's checksum does not match")]
    Checksum,
    /// Anything that runs over its end, or does not fill it.
    #[error("a message is malformed: {0}")]
    Shape(&'static str),
    /// Too deep.
    #[error("documents lie in each other more than {MAX_DEPTH} deep")]
    Depth,
}
