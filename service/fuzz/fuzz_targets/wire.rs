//! Whatever arrives at a door of the service: no panic, and nothing is made up.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hotbackup_service::take_in(bytes));
