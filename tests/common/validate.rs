//! Whether a directory is a database as it stood at one moment.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::Path;

use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Client;

use super::acks::Acks;
use super::backup::{Outcome, verify};
use super::load::{self, CLIENTS, COUNTERS, STEPS, WINDOW};
use super::mongod::{Mongod, Opts};

/// Fails unless a backup succeeded and holds what the clients know; see [`check`].
pub fn assert_right(outcome: &Outcome, directoryperdb: bool, acks: &Acks) {
    verify(&outcome.dest);
    check(&outcome.dest, directoryperdb, acks, outcome.point())
        .unwrap_or_else(|wrong| panic!("{:?}: {wrong}\n{}", outcome.dest, outcome.report()));
}

/// Starts a server on the backup, and says what is wrong with it, if anything: a table that is not valid, a write
/// acknowledged before `point` (realtime nanoseconds) that is missing, one sent after it that is there, or a client
/// whose documents are not exactly what some number of its operations leaves.
pub fn check(backup: &Path, directoryperdb: bool, acks: &Acks, point: u64) -> Result<(), String> {
    let server = Mongod::start(&Opts { dbpath: backup.to_owned(), directoryperdb, ..Opts::default() });
    holds(&server.client(), acks, point)?;
    server.stop();
    Ok(())
}

/// The same of a server that runs on a backup, or on what was restored from one.
pub fn holds(client: &Client, acks: &Acks, point: u64) -> Result<(), String> {
    tables(client)?;
    for number in 0..CLIENTS {
        let (least, most) = operations(client, number)?;
        let (acknowledged, sent) = acks.bounds(number, point);
        if most < acknowledged {
            return Err(format!(
                "client {number}: {acknowledged} operations acknowledged before T, {most} in the backup"
            ));
        }
        if least > sent {
            return Err(format!("client {number}: {sent} operations sent before T, {least} in the backup"));
        }
    }
    Ok(())
}

/// Validates every collection of every database in full.
fn tables(client: &Client) -> Result<(), String> {
    let mut count = 0;
    for database in client.list_database_names().run().map_err(|error| error.to_string())? {
        let database = client.database(&database);
        for name in database.list_collection_names().run().map_err(|error| error.to_string())? {
            let result = database
                .run_command(doc! {"validate": &name, "full": true})
                .run()
                .map_err(|error| format!("validate {name}: {error}"))?;
            if !result.get_bool("valid").unwrap_or(false)
                || result.get_array("errors").is_ok_and(|errors| !errors.is_empty())
            {
                return Err(format!("{}.{name} is not valid: {result}", database.name()));
            }
            count += 1;
        }
    }
    // The clients' tables and the server's own: an empty database would otherwise pass.
    if count < 2 * CLIENTS + 1 {
        return Err(format!("only {count} collections in the backup"));
    }
    Ok(())
}

/// How many of a client's operations the database holds: exactly those, or an error. At least and at most, for a delete
/// that found nothing to delete leaves no trace.
fn operations(client: &Client, number: usize) -> Result<(u64, u64), String> {
    let inserted = numbers(client, &load::sequence_name(number), "seq")?;
    let rounds = unbroken(&inserted, 0).map_err(|error| format!("client {number}, sequence: {error}"))?;
    let counter = load::journaled(client, COUNTERS)
        .find_one(doc! {"_id": i64::try_from(number).unwrap_or(-1)})
        .run()
        .map_err(|error| error.to_string())?;
    let counted = counter.map_or(0, |counter| integer(&counter, "n"));
    let window = numbers(client, &load::window_name(number), "_id")?;
    let first = window.first().copied().unwrap_or(0);
    let shown = unbroken(&window, first).map_err(|error| format!("client {number}, window: {error}"))?;
    // Of the few operations that leave `rounds` inserts, those that leave all the rest too.
    let some = (rounds * STEPS).saturating_sub(STEPS)..=rounds * STEPS;
    let right: Vec<_> = some.filter(|&done| left_by(done) == (rounds, counted, first, shown)).collect();
    match (right.first(), right.last()) {
        (Some(&least), Some(&most)) => Ok((least, most)),
        _ => Err(format!("client {number}: {rounds} inserts, counter {counted}, window {first}..{shown}: never so")),
    }
}

/// What a client's first `done` operations leave: inserts, counter, first and end of the window.
fn left_by(done: u64) -> (u64, u64, u64, u64) {
    let times = |step| (done + STEPS - 1 - step) / STEPS;
    let (shown, deletes) = (times(2), times(3));
    // The delete of round r removes document r - WINDOW.
    let first = deletes.saturating_sub(WINDOW);
    (times(0), times(1), if shown == 0 { 0 } else { first }, shown)
}

fn numbers(client: &Client, collection: &str, field: &str) -> Result<BTreeSet<u64>, String> {
    let projection = doc! {"_id": 1, field: 1};
    let documents = load::journaled(client, collection).find(doc! {}).projection(projection).run();
    documents
        .map_err(|error| error.to_string())?
        .map(|document| document.map(|document| integer(&document, field)).map_err(|error| error.to_string()))
        .collect()
}

fn integer(document: &Document, field: &str) -> u64 {
    match document.get(field) {
        Some(Bson::Int64(n)) => n.cast_unsigned(),
        Some(Bson::Int32(n)) => u64::from(n.cast_unsigned()),
        other => panic!("{field} is a number, not {other:?}"),
    }
}

/// The end of the run of numbers from `first` on, or which is missing though a later one is there.
fn unbroken(numbers: &BTreeSet<u64>, first: u64) -> Result<u64, String> {
    let mut next = first;
    for &number in numbers {
        if number != next {
            return Err(format!("{next} is missing, {number} is there"));
        }
        next += 1;
    }
    Ok(next)
}
