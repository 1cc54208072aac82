//! A target that is captured and not copied, and where its threads stand.
use std::fs;
use std::ops::Range;

use hotbackup_tracer::Tracer;

use crate::common::guest::Guest;
use crate::common::nobody;
use crate::common::process::{threads, wait_until};

/// Follows a guest, whose calls are captured at their sites where that can be.
pub fn follow(guest: &Guest) -> Tracer {
    nobody::follow(guest.pid(), true)
}

/// Waits until so many sites are captured.
pub fn wait_for_sites(tracer: &Tracer, count: u64) {
    wait_until("call sites to be captured", || tracer.sites().is_some_and(|sites| sites >= count));
}

/// Waits until so many calls have been shown that each site had its chance: they are looked at one after the other, as they come.
pub fn wait_until_all_were_looked_at(tracer: &Tracer) {
    let before = tracer.received();
    wait_until("calls are shown", || tracer.received() > before + 4000);
}

/// Where in a target our code is.
pub fn region(guest: &Guest) -> Range<u64> {
    const LENGTH: u64 = 64 << 10;
    let maps = fs::read_to_string(format!("/proc/{}/maps", guest.pid())).expect("it runs");
    let found = maps.lines().find_map(|line| {
        let [range, "r-xp", _, _, "0"] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let (start, end) = range.split_once('-')?;
        let of = |text| u64::from_str_radix(text, 16).ok();
        let range = of(start)?..of(end)?;
        (range.end - range.start == LENGTH).then_some(range)
    });
    found.unwrap_or_else(|| panic!("no region in {maps}"))
}

/// A thread that sleeps in a call there, and where it stands.
pub fn thread_inside(guest: &Guest) -> (i32, u64) {
    let region = region(guest);
    let mut found = None;
    wait_until("a thread in our code", || {
        found = threads(guest.pid()).into_iter().find_map(|tid| {
            let said = fs::read_to_string(format!("/proc/{}/task/{tid}/syscall", guest.pid())).ok()?;
            let at = u64::from_str_radix(said.trim().rsplit(" 0x").next()?, 16).ok()?;
            // Not one that is there in passing.
            (said.starts_with("1 0x") && region.contains(&at)).then_some((tid, at))
        });
        found.is_some()
    });
    found.expect("found")
}
