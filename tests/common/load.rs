//! Clients that write in an order that can be checked afterwards, and log when each write was acknowledged.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::sync::{Client, Collection};

use super::acks::{Ack, Acks};
use super::backup::now;
use super::mongod;
use super::random::Random;

/// The database the clients write to.
pub const DATABASE: &str = "load";
/// How many clients write.
pub const CLIENTS: usize = 4;
/// How many documents each client keeps in its window before it deletes the oldest.
pub const WINDOW: u64 = 40;
/// Each client repeats these, in this order: insert into its sequence, count it, insert into its window, delete the
/// oldest of its window. Operation number `k` is step `k % STEPS` of round `k / STEPS`.
pub const STEPS: u64 = 4;

/// Fills a table of its own with about `mebibytes` of documents, so that there is something to copy.
pub fn fill(uri: &str, mebibytes: u64) {
    let client = mongod::client(uri);
    let stock = client.database(DATABASE).collection::<Document>("stock");
    let mut random = Random::new(mebibytes);
    for batch in 0..mebibytes {
        let documents = (0..128).map(|_| doc! {"batch": batch.cast_signed(), "pad": pad(&mut random, 8100, 8192)});
        stock.insert_many(documents).run().expect("fill the stock");
    }
    client.database("admin").run_command(doc! {"fsync": 1}).run().expect("force a checkpoint");
}

/// A running load. Any failed operation of any client panics in its thread, and `stop` passes that on.
pub struct Load {
    end: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Ack>>>,
    schema: Option<JoinHandle<u64>>,
    schema_end: Arc<AtomicBool>,
    began: Instant,
}

impl Load {
    /// Starts the clients on the server at `uri`, and beside them one that builds and drops indexes, creates and drops
    /// collections, and forces checkpoints.
    pub fn start(uri: &str, seed: u64) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let clients = (0..CLIENTS)
            .map(|number| {
                let (uri, end, done) = (uri.to_owned(), Arc::clone(&end), Arc::clone(&done));
                std::thread::spawn(move || write(&uri, number, seed, &end, &done))
            })
            .collect();
        let schema_end = Arc::new(AtomicBool::new(false));
        let schema = {
            let (uri, end) = (uri.to_owned(), Arc::clone(&schema_end));
            Some(std::thread::spawn(move || change_schema(&uri, &end)))
        };
        Self { end, done, clients, schema, schema_end, began: Instant::now() }
    }

    /// Ends the schema changes and with them the forced checkpoints; the plain writes go on.
    pub fn end_schema_changes(&mut self) {
        self.schema_end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.schema.take() {
            println!("load: {} rounds of schema changes", thread.join().expect("no schema operation failed"));
        }
    }

    /// Operations acknowledged so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` further operations were acknowledged; fails when that takes a minute.
    pub fn wait_for(&self, more: u64) {
        let (goal, began) = (self.done() + more, Instant::now());
        while self.done() < goal {
            self.assert_going();
            assert!(began.elapsed() < Duration::from_secs(60), "the clients stand still at {} operations", self.done());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails when a client has ended: each ends only through a failed operation.
    pub fn assert_going(&self) {
        let ended = self.clients.iter().any(JoinHandle::is_finished)
            || self.schema.as_ref().is_some_and(JoinHandle::is_finished);
        assert!(!ended, "an operation of a client failed: see its panic above");
    }

    /// Ends the load; fails when any operation failed.
    pub fn stop(mut self) -> Acks {
        self.end_schema_changes();
        self.end.store(true, Ordering::Relaxed);
        let logs = self.clients.drain(..).map(|thread| thread.join().expect("no write failed")).collect();
        let acks = Acks(logs);
        println!("load: {} operations in {:.1} s", acks.total(), self.began.elapsed().as_secs_f64());
        acks
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A failing test must not leave clients behind that wait for a killed server.
        self.end.store(true, Ordering::Relaxed);
        self.schema_end.store(true, Ordering::Relaxed);
    }
}

/// A collection whose every write is acknowledged by the journal.
pub fn journaled(client: &Client, name: &str) -> Collection<Document> {
    let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    client.database(DATABASE).collection_with_options(name, options)
}

/// The collection of client `number`'s sequence.
pub fn sequence_name(number: usize) -> String {
    format!("sequence{number}")
}

/// The collection of client `number`'s window.
pub fn window_name(number: usize) -> String {
    format!("window{number}")
}

/// The collection with one counter a client.
pub const COUNTERS: &str = "counters";

fn write(uri: &str, number: usize, seed: u64, end: &AtomicBool, done: &AtomicU64) -> Vec<Ack> {
    let client = mongod::client(uri);
    let sequence = journaled(&client, &sequence_name(number));
    let window = journaled(&client, &window_name(number));
    let counters = journaled(&client, COUNTERS);
    let name = i64::try_from(number).expect("few clients");
    let mut random = Random::new(seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut log = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let at = log.len() as u64;
        let seq = (at / STEPS).cast_signed();
        let sent = now();
        match at % STEPS {
            0 => {
                let pad = pad(&mut random, 200, 4000);
                let document = doc! {"_id": format!("{number}-{seq}"), "c": name, "seq": seq, "pad": pad};
                sequence.insert_one(document).run().expect("insert into the sequence");
            }
            1 => {
                let result = counters
                    .update_one(doc! {"_id": name}, doc! {"$inc": {"n": 1_i64}})
                    .upsert(true)
                    .run()
                    .expect("count the insert");
                let changed = result.modified_count + u64::from(result.upserted_id.is_some());
                assert_eq!(changed, 1, "one counter of client {number} changes");
            }
            2 => {
                let document = doc! {"_id": seq, "pad": pad(&mut random, 50, 500)};
                window.insert_one(document).run().expect("insert into the window");
            }
            _ => {
                let oldest = seq - WINDOW.cast_signed();
                let deleted = window.delete_one(doc! {"_id": oldest}).run().expect("delete from the window");
                assert_eq!(deleted.deleted_count, u64::from(oldest >= 0), "client {number} deletes {oldest} once");
            }
        }
        log.push(Ack { sent, acked: now() });
        done.fetch_add(1, Ordering::Relaxed);
    }
    log
}

/// Everything beside plain writes that changes files: tables created and dropped, indexes built over what the clients
/// insert meanwhile, checkpoints. Returns how many rounds it did.
fn change_schema(uri: &str, end: &AtomicBool) -> u64 {
    let client = mongod::client(uri);
    let database = client.database(DATABASE);
    let mut round = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let churn = journaled(&client, &format!("churn{}", round % 5));
        churn.drop().run().expect("drop a collection");
        let documents = (0..50).map(|n| doc! {"_id": n, "round": round.cast_signed(), "text": "x".repeat(300)});
        churn.insert_many(documents).run().expect("fill a collection");
        churn.create_index(index("by_text", doc! {"text": 1})).run().expect("index a collection");
        let sequence = journaled(&client, &sequence_name(usize::try_from(round).unwrap_or(0) % CLIENTS));
        sequence.create_index(index("by_seq", doc! {"seq": 1})).run().expect("index a sequence");
        client.database("admin").run_command(doc! {"fsync": 1}).run().expect("force a checkpoint");
        sequence.drop_index("by_seq").run().expect("drop an index");
        let gone = database.collection::<Document>(&format!("gone{round}"));
        gone.insert_one(doc! {"round": round.cast_signed()}).run().expect("create a collection");
        gone.drop().run().expect("drop a collection");
        round += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    round
}

fn index(name: &str, keys: Document) -> mongodb::IndexModel {
    let options = mongodb::options::IndexOptions::builder().name(name.to_owned()).build();
    mongodb::IndexModel::builder().keys(keys).options(options).build()
}

/// Between `least` and `most` bytes that do not compress.
fn pad(random: &mut Random, least: u64, most: u64) -> Binary {
    let length = least + random.below(most - least);
    Binary { subtype: BinarySubtype::Generic, bytes: random.bytes(length as usize) }
}
