//! Programs that nobody here wrote, backed up by PID under load. Each backup is opened and checked with the program's own
//! tools, and must hold every write that was acknowledged before the point in time, and none that was sent after it.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod acks;
    pub mod backup;
    pub mod random;
}
mod etcd;
mod judge;
mod lmdb;
mod load;
mod mariadb;
mod pipe;
mod postgresql;
mod redis;
mod script;
mod server;
mod sqlite;
mod sqlite_threads;
