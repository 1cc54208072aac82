//! Whatever arrives as a message: no panic, and what is parsed can be encoded.
#![no_main]

use hotbackup_service::commands;
use hotbackup_service::wire::{self, HEADER, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = bytes.first_chunk::<HEADER>() else { return };
    let Ok(header) = Header::read(*head) else { return };
    let _ = wire::peek(header, bytes);
    if let Ok(message) = wire::parse(bytes) {
        assert!(wire::encode(1, 2, false, &message.body).is_some());
        let _ = commands::parse(&message.body, &|_| Ok(1));
    }
});
