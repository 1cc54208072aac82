//! The checks that the backups of a mongod go through, themselves checked: a good copy passes, a broken one does not.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mongodb::bson::doc;
use tempfile::TempDir;

mod common {
    pub mod acks;
    pub mod backup;
    pub mod load;
    pub mod mongod;
    pub mod random;
    pub mod validate;
}
use common::acks::Acks;
use common::backup::{alone, now, scratch, seed};
use common::load::{self, Load};
use common::mongod::{Mongod, Opts};
use common::validate;

/// A database under load, stopped, and what its clients know of it.
struct Stopped {
    scratch: TempDir,
    dbpath: PathBuf,
    acks: Acks,
    point: u64,
}

fn stopped() -> Stopped {
    let scratch = scratch();
    let dbpath = scratch.path().join("db");
    fs::create_dir(&dbpath).expect("a data directory");
    let server = Mongod::start(&Opts { dbpath: dbpath.clone(), small_journal: true, ..Opts::default() });
    let mut load = Load::start(&server.uri(), seed());
    load.wait_for(3000);
    // What is written from here on is in no checkpoint, only in the journal.
    load.end_schema_changes();
    load.wait_for(200);
    let acks = load.stop();
    // No clean end: the copy has to hold what the journal alone may hold.
    server.kill();
    Stopped { scratch, dbpath, acks, point: now() }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

#[test]
fn a_copy_of_a_killed_server_passes_and_broken_copies_fail() {
    let _alone = alone();
    let stopped = stopped();
    let place = |name: &str| stopped.scratch.path().join(name);

    copy(&stopped.dbpath, &place("whole"));
    validate::check(&place("whole"), false, &stopped.acks, stopped.point).expect("an untouched copy is right");

    // Writes the clients never had acknowledged: as if T were earlier than the copy.
    copy(&stopped.dbpath, &place("late"));
    let early = stopped.point - 60_000_000_000;
    let error = validate::check(&place("late"), false, &stopped.acks, early).expect_err("held too much");
    assert!(error.contains("sent before T"), "{error}");

    // The journal lost: what was acknowledged since the last checkpoint is missing.
    copy(&stopped.dbpath, &place("unjournaled"));
    fs::remove_dir_all(place("unjournaled").join("journal")).expect("a journal");
    assert!(fails(&place("unjournaled"), &stopped), "a copy without its journal passed");

    // The middle half of the largest table lost: less might hit only blocks that no checkpoint uses.
    copy(&stopped.dbpath, &place("torn"));
    let largest = fs::read_dir(place("torn"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("collection-")))
        .max_by_key(|path| fs::metadata(path).map_or(0, |data| data.len()))
        .expect("a table");
    let len = fs::metadata(&largest).expect("a table").len();
    let table = fs::File::options().write(true).open(&largest).expect("a table");
    table.write_all_at(&vec![0; usize::try_from(len / 2).expect("a small table")], (len / 4) & !4095).expect("written");
    assert!(fails(&place("torn"), &stopped), "a copy with a hole in {largest:?} passed");
}

/// Whether the check finds fault with a copy, in whatever way: a server that does not start is one.
fn fails(copy: &Path, stopped: &Stopped) -> bool {
    let check = || validate::check(copy, false, &stopped.acks, stopped.point);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    println!("{}: {outcome:?}", copy.display());
    !matches!(outcome, Ok(Ok(())))
}

#[test]
fn a_document_missing_in_the_middle_or_a_wrong_counter_is_found() {
    let _alone = alone();
    let stopped = stopped();
    let damage = |name: &str, harm: &dyn Fn(&mongodb::sync::Client)| {
        let place = stopped.scratch.path().join(name);
        copy(&stopped.dbpath, &place);
        let server = Mongod::start(&Opts { dbpath: place.clone(), ..Opts::default() });
        harm(&server.client());
        server.stop();
        validate::check(&place, false, &stopped.acks, stopped.point).expect_err(name)
    };
    let error = damage("sequence", &|client| {
        load::journaled(client, &load::sequence_name(1)).delete_one(doc! {"seq": 5_i64}).run().expect("deleted");
    });
    assert!(error.contains("5 is missing, 6 is there"), "{error}");
    let error = damage("counter", &|client| {
        let change = doc! {"$inc": {"n": -2_i64}};
        load::journaled(client, load::COUNTERS).update_one(doc! {"_id": 2_i64}, change).run().expect("updated");
    });
    assert!(error.contains("never so"), "{error}");
    let error = damage("window", &|client| {
        let window = load::journaled(client, &load::window_name(3));
        let sixth = window.find(doc! {}).sort(doc! {"_id": 1}).skip(5).run().expect("found").next();
        window.delete_one(sixth.expect("a full window").expect("readable")).run().expect("deleted");
    });
    assert!(error.contains("is missing"), "{error}");
}
