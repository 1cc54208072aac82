//! Whether bytes are a BSON document, and how deep: found without recursion, before they are handed to a parser.
use super::{MAX_DEPTH, Malformed};

const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const CODE_WITH_SCOPE: u8 = 0x0f;

/// Bytes that are read from the front.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed::Shape("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length of at least `least`, that includes itself or not.
    pub fn length(&mut self, least: usize) -> Result<usize, Malformed> {
        usize::try_from(self.int()?).ok().filter(|length| *length >= least).ok_or(Malformed::Shape("a length lies"))
    }

    /// Up to a zero byte, which is taken as well.
    pub fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed::Shape("a name does not end"))?;
        let name = self.take(end)?;
        self.byte()?;
        Ok(name)
    }

    /// The document at the front, as a whole; its content is not looked at.
    pub fn document(&mut self) -> Result<&'a [u8], Malformed> {
        let length = Bytes(self.0).length(5)?;
        self.take(length)
    }
}

/// Checks that `bytes` are one document: every length fits in the one around it, every type is one of BSON's, and nothing lies
/// too deep.
///
/// # Errors
/// It is not so.
pub fn scan(bytes: &[u8]) -> Result<(), Malformed> {
    let mut rest = Bytes(bytes);
    // How many bytes are left behind the end of each document that is open.
    let mut open = vec![enter(&mut rest, 0)?];
    if open[0] != 0 {
        return Err(Malformed::Shape("something follows a document"));
    }
    while let Some(&behind) = open.last() {
        if rest.0.len() <= behind {
            return Err(Malformed::Shape("a document does not end"));
        }
        let kind = rest.byte()?;
        if kind == 0 {
            if rest.0.len() != behind {
                return Err(Malformed::Shape("a document ends too early"));
            }
            open.pop();
            continue;
        }
        if std::str::from_utf8(rest.name()?).is_err() {
            return Err(Malformed::Shape("a name is not UTF-8"));
        }
        match kind {
            0x01 | 0x09 | 0x11 | 0x12 => drop(rest.take(8)?),
            0x02 | 0x0d | 0x0e => text(&mut rest)?,
            DOCUMENT | ARRAY => {
                if open.len() == MAX_DEPTH {
                    return Err(Malformed::Depth);
                }
                open.push(enter(&mut rest, behind)?);
            }
            0x05 => {
                let length = rest.length(0)?;
                rest.take(1 + length)?;
            }
            0x06 | 0x0a | 0x7f | 0xff => {}
            0x07 => drop(rest.take(12)?),
            0x08 => {
                if rest.byte()? > 1 {
                    return Err(Malformed::Shape("neither true nor false"));
                }
            }
            0x0b => {
                rest.name()?;
                rest.name()?;
            }
            0x0c => {
                text(&mut rest)?;
                rest.take(12)?;
            }
            // Nothing of ours holds code; it would be another way to lie deep.
            CODE_WITH_SCOPE => return Err(Malformed::Shape("code with a scope")),
            0x10 => drop(rest.take(4)?),
            0x13 => drop(rest.take(16)?),
            _ => return Err(Malformed::Shape("a type that BSON does not have")),
        }
    }
    Ok(())
}

/// Reads a document's length; says how many bytes follow the document.
fn enter(rest: &mut Bytes<'_>, behind: usize) -> Result<usize, Malformed> {
    let all = rest.0.len();
    let length = rest.length(5)?;
    all.checked_sub(length).filter(|left| *left >= behind).ok_or(Malformed::Shape("a length lies"))
}

fn text(rest: &mut Bytes<'_>) -> Result<(), Malformed> {
    let length = rest.length(1)?;
    let text = rest.take(length)?;
    match text.split_last() {
        Some((0, text)) if std::str::from_utf8(text).is_ok() => Ok(()),
        _ => Err(Malformed::Shape("a text is not UTF-8, or does not end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Document, doc};
    use proptest::prelude::*;

    fn nested(depth: usize) -> Vec<u8> {
        (1..depth).fold(doc! {}, |inner, _| doc! {"a": inner}).to_vec().unwrap()
    }

    #[test]
    fn every_type_is_read() {
        let document = doc! {
            "double": 1.5, "text": "x\u{e4}", "document": {"a": [1, {"b": null}]}, "bool": true, "int": 1, "long": 2_i64,
            "binary": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] }),
            "id": bson::oid::ObjectId::new(), "date": bson::DateTime::now(), "time": bson::Timestamp { time: 1, increment: 2 },
            "regex": bson::Regex { pattern: bson::raw::cstr!("a").into(), options: bson::raw::cstr!("i").into() },
            "min": Bson::MinKey, "max": Bson::MaxKey, "code": Bson::JavaScriptCode("x".into()), "symbol": Bson::Symbol("x".into()),
            "undefined": Bson::Undefined, "decimal": Bson::Decimal128("1".parse().unwrap()),
        };
        assert_eq!(scan(&document.to_vec().unwrap()), Ok(()));
    }

    #[test]
    fn what_lies_too_deep_is_refused_without_recursion() {
        assert_eq!(scan(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(scan(&nested(MAX_DEPTH + 1)), Err(Malformed::Depth));
        // As deep as a whole message allows: made by hand, the crate's own way is recursive.
        let depth = 500_000;
        let mut bytes = Vec::new();
        for level in 0..depth {
            bytes.extend(((depth - level) as i32 * 8 - 3).to_le_bytes());
            bytes.extend(if level + 1 < depth { &[DOCUMENT, b'a', 0][..] } else { &[] });
        }
        bytes.extend(vec![0; depth]);
        assert_eq!(scan(&bytes), Err(Malformed::Depth));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = doc! {"a": {"b": "text"}, "c": [1]}.to_vec().unwrap();
        for at in 0..good.len() {
            for lie in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = lie;
                let ours = scan(&bad).is_ok();
                // What passes here must be no trouble for the parser.
                assert!(!ours || Document::from_reader(&bad[..]).is_ok(), "{at} {lie}: {bad:?}");
            }
            assert!(scan(&good[..at]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_passes_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if scan(&bytes).is_ok() {
                prop_assert!(Document::from_reader(&bytes[..]).is_ok());
            }
        }
    }
}
