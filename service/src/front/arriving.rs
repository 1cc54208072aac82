//! Whatever arrives at either door, for who tries it with arbitrary bytes: `service/fuzz`, and the test below.
use super::frames::{Frames, Step};
use super::relay::judge;
use crate::commands;
use crate::wire::{self, HEADER, Header};

/// Takes bytes as both doors do. What is no message is refused; what is one can be passed on and answered; nothing panics.
pub fn take_in(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk::<HEADER>().and_then(|head| Header::read(*head).ok()) {
        let _ = wire::peek(header, bytes);
    }
    if let Ok(message) = wire::parse(bytes) {
        assert!(wire::encode(1, 2, false, &message.body).is_some(), "what is parsed can be passed on");
        if let Ok(command) = commands::parse(&message.body, &|_| Ok(1)) {
            assert!(!format!("{command:?}").is_empty());
        }
    }
    // The port takes it in pieces, whose size the first byte decides; nothing may be made up, or kept beyond what came.
    let mut frames = Frames::default();
    let (mut collected, mut ended) = (0, false);
    for piece in bytes.chunks(usize::from(bytes.first().copied().unwrap_or_default()) % 8 * 41 + 13) {
        frames.feed(piece);
        while !ended {
            match frames.step(&mut |header, there| judge(header, there, &mut None, &mut None)) {
                Ok(Step::Hungry) => break,
                Ok(Step::Moved) => {}
                Ok(Step::Message(message)) => collected += message.len(),
                Err(_) => ended = true,
            }
        }
    }
    assert!(frames.output.len() + collected <= bytes.len(), "more went on than came");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    /// Numbers that are the same with the same seed.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize
        }
    }

    /// Messages of every kind, with a few of their bytes changed, cut, doubled and put one behind the other.
    #[test]
    fn two_hundred_thousand_messages_that_are_hardly_any_harm_nobody() {
        let deep = (0..120).fold(doc! {}, |inner, _| doc! {"a": inner});
        let seeds: Vec<Vec<u8>> = [
            doc! {"backupStart": "/b/x", "wait": false, "$db": "admin"},
            doc! {"backupThrottle": 128_000_i64, "$db": "admin", "lsid": {"id": 1}},
            doc! {"createBackup": 1, "backupDir": "x", "comment": [1, {"b": "c"}], "$db": "admin"},
            doc! {"hello": 1, "compression": ["zlib"], "$db": "admin"},
            doc! {"backupStatus": 1, "deep": deep, "$db": "admin"},
        ]
        .iter()
        .flat_map(|body| [wire::encode(7, 0, false, body).unwrap(), wire::encode_reply(7, 8, body).unwrap()])
        .collect();
        let seed = std::env::var("HOTBACKUP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_129);
        println!("HOTBACKUP_SEED={seed}");
        let mut random = Random(seed | 1);
        let mut parsed = 0;
        for _ in 0..200_000 {
            let mut bytes = seeds[random.next() % seeds.len()].clone();
            for _ in 0..random.next() % 4 {
                let at = random.next() % bytes.len();
                match random.next() % 4 {
                    0 => bytes[at] ^= 1 << (random.next() % 8),
                    1 => bytes[at] = [0, 0xff, 0x7f, 0x80, 1, 5][random.next() % 6],
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.extend_from_slice(&seeds[random.next() % seeds.len()]),
                }
            }
            // The kind, and often the right length again, or all would be refused for that.
            if bytes.len() >= HEADER && random.next().is_multiple_of(4) {
                bytes[12..16].copy_from_slice(&[2013_i32, 2004, 2012, 1][random.next() % 4].to_le_bytes());
            }
            if bytes.len() >= HEADER && random.next().is_multiple_of(2) {
                let length = bytes.len() as i32;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
            }
            parsed += u32::from(wire::parse(&bytes).is_ok());
            take_in(&bytes);
        }
        assert!((10_000..190_000).contains(&parsed), "{parsed}: neither all nor none of them are messages");
    }
}
