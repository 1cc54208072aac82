//! From a document to what it asks for.
use bson::{Bson, Document};

use super::answers::{Code, Refusal};

/// The commands' names, as they are written.
pub const NAMES: [&str; 7] =
    ["backupStart", "backupStatus", "backupThrottle", "createBackup", "backupCancel", "backupList", "backupVerify"];

/// Fields that drivers add to every command, and that mean nothing here.
const ADDED: [&str; 13] = [
    "$db",
    "$readPreference",
    "$clusterTime",
    "$configServerState",
    "$audit",
    "$client",
    "lsid",
    "comment",
    "apiVersion",
    "apiStrict",
    "apiDeprecationErrors",
    "readConcern",
    "writeConcern",
];

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A backup.
    Start {
        /// Where it goes.
        dest: String,
        /// Whether the answer comes at its end.
        wait: bool,
        /// The longest that the answer may take, in milliseconds.
        limit_ms: Option<u64>,
    },
    /// How it stands.
    Status {
        /// All of it.
        details: bool,
    },
    /// Another rate; `None` is no limit.
    Throttle(Option<u64>),
    /// The end of the backup that runs.
    Cancel,
    /// Those that have been.
    List {
        /// So many at most.
        most: usize,
    },
    /// Whether a backup is what its manifest says.
    Verify {
        /// Which.
        dest: String,
    },
}

/// Reads a command. `bytes` reads rates like `64MiB`.
///
/// # Errors
/// What is to be answered.
pub fn parse(body: &Document, bytes: &dyn Fn(&str) -> Result<u64, String>) -> Result<Command, Refusal> {
    let (name, value) = body.iter().next().ok_or_else(|| Refusal::new(Code::BadValue, "the command is empty"))?;
    let limit_ms = match body.get("maxTimeMS").map(|value| whole(value).ok_or(value)).transpose() {
        Ok(limit) => limit.filter(|limit| *limit > 0),
        Err(value) => return Err(mistyped("maxTimeMS", value, "a number of milliseconds")),
    };
    let (command, fields): (_, &[&str]) = match name.as_str() {
        "backupStart" => {
            let wait = flag(body, "wait", true)?;
            (Command::Start { dest: text(name, value)?, wait, limit_ms }, &["wait"])
        }
        "createBackup" => {
            if let Some(field) = ["archive", "s3"].iter().find(|field| body.contains_key(**field)) {
                let words = format!("createBackup with {field} is not supported: only backupDir, a directory, is");
                return Err(Refusal::new(Code::InvalidOptions, words));
            }
            let dest = body.get("backupDir").ok_or_else(|| {
                Refusal::new(Code::MissingField, "createBackup needs the field 'backupDir': where the backup goes")
            })?;
            (Command::Start { dest: text("backupDir", dest)?, wait: true, limit_ms }, &["backupDir"])
        }
        "backupStatus" => (Command::Status { details: flag(body, "details", false)? }, &["details"]),
        "backupThrottle" => (Command::Throttle(rate(value, bytes)?), &[]),
        "backupCancel" => (Command::Cancel, &[]),
        "backupList" => {
            let most = match body.get("limit") {
                None => 100,
                Some(value) => whole(value).ok_or_else(|| mistyped("limit", value, "a number"))?.min(1000),
            };
            (Command::List { most: most as usize }, &["limit"])
        }
        "backupVerify" => (Command::Verify { dest: text(name, value)? }, &[]),
        _ => return Err(Refusal::new(Code::CommandNotFound, format!("no such command: '{name}'"))),
    };
    // A misspelt `wait` must not mean its default.
    let known = |field: &str| fields.contains(&field) || ADDED.contains(&field) || field == "maxTimeMS";
    if let Some(field) = body.keys().skip(1).find(|field| !known(field)) {
        return Err(Refusal::new(Code::UnknownField, format!("BSON field '{name}.{field}' is an unknown field.")));
    }
    Ok(command)
}

fn mistyped(field: &str, value: &Bson, wanted: &str) -> Refusal {
    Refusal::new(Code::TypeMismatch, format!("the field '{field}' is to be {wanted}, not {:?}", value.element_type()))
}

fn text(field: &str, value: &Bson) -> Result<String, Refusal> {
    value.as_str().map(str::to_owned).ok_or_else(|| mistyped(field, value, "a text"))
}

fn flag(body: &Document, field: &str, usual: bool) -> Result<bool, Refusal> {
    match body.get(field) {
        None => Ok(usual),
        Some(Bson::Boolean(value)) => Ok(*value),
        // As mongod takes them.
        Some(value @ (Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_))) => Ok(whole(value) != Some(0)),
        Some(value) => Err(mistyped(field, value, "true or false")),
    }
}

/// A whole number from 0, of whatever type: shells send doubles.
fn whole(value: &Bson) -> Option<u64> {
    match *value {
        Bson::Int32(number) => u64::try_from(number).ok(),
        Bson::Int64(number) => u64::try_from(number).ok(),
        Bson::Double(number) if number >= 0.0 && number.fract() == 0.0 && number <= 2_f64.powi(63) => {
            Some(number as u64)
        }
        _ => None,
    }
}

/// Bytes a second; null is no limit, and so is the largest number that there is.
fn rate(value: &Bson, bytes: &dyn Fn(&str) -> Result<u64, String>) -> Result<Option<u64>, Refusal> {
    let rate = match value {
        Bson::Null => return Ok(None),
        Bson::String(text) => bytes(text).map_err(|words| Refusal::new(Code::BadValue, words))?,
        value => whole(value).ok_or_else(|| {
            let words = format!("backupThrottle takes bytes per second, from 0 on, or null for no limit; not {value}");
            Refusal::new(Code::BadValue, words)
        })?,
    };
    Ok((rate < i64::MAX as u64).then_some(rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn read(body: Document) -> Result<Command, Refusal> {
        parse(&body, &|text| text.parse().map_err(|_| format!("{text:?} is not a size")))
    }

    #[test]
    fn every_command_is_read() {
        let start = |dest: &str, wait| Command::Start { dest: dest.into(), wait, limit_ms: None };
        for (body, command) in [
            (doc! {"backupStart": "/d"}, start("/d", true)),
            (doc! {"backupStart": "/d", "wait": false}, start("/d", false)),
            (doc! {"backupStart": "", "lsid": {"id": 1}, "$db": "admin"}, start("", true)),
            (doc! {"createBackup": 1, "backupDir": "/d"}, start("/d", true)),
            (doc! {"backupStatus": 1}, Command::Status { details: false }),
            (doc! {"backupStatus": 1, "details": true}, Command::Status { details: true }),
            (doc! {"backupThrottle": 128_000}, Command::Throttle(Some(128_000))),
            (doc! {"backupThrottle": 128_000_i64}, Command::Throttle(Some(128_000))),
            (doc! {"backupThrottle": 128_000.0}, Command::Throttle(Some(128_000))),
            (doc! {"backupThrottle": "5"}, Command::Throttle(Some(5))),
            (doc! {"backupThrottle": 0}, Command::Throttle(Some(0))),
            (doc! {"backupThrottle": Bson::Null}, Command::Throttle(None)),
            (doc! {"backupThrottle": i64::MAX}, Command::Throttle(None)),
            (doc! {"backupCancel": 1}, Command::Cancel),
            (doc! {"backupList": 1}, Command::List { most: 100 }),
            (doc! {"backupList": 1, "limit": 3}, Command::List { most: 3 }),
            (doc! {"backupVerify": "d"}, Command::Verify { dest: "d".into() }),
        ] {
            assert_eq!(read(body.clone()), Ok(command), "{body}");
        }
        let limited = read(doc! {"backupStart": "d", "maxTimeMS": 5}).unwrap();
        assert!(matches!(limited, Command::Start { limit_ms: Some(5), .. }));
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_code() {
        for (body, code) in [
            (doc! {}, Code::BadValue),
            (doc! {"find": 1}, Code::CommandNotFound),
            (doc! {"backupStart": 1}, Code::TypeMismatch),
            (doc! {"backupStart": "d", "Wait": false}, Code::UnknownField),
            (doc! {"backupStart": "d", "wait": "no"}, Code::TypeMismatch),
            (doc! {"backupStart": "d", "maxTimeMS": "x"}, Code::TypeMismatch),
            (doc! {"createBackup": 1}, Code::MissingField),
            (doc! {"createBackup": 1, "archive": "/x"}, Code::InvalidOptions),
            (doc! {"backupThrottle": -1}, Code::BadValue),
            (doc! {"backupThrottle": 1.5}, Code::BadValue),
            (doc! {"backupThrottle": f64::NAN}, Code::BadValue),
            (doc! {"backupThrottle": "x"}, Code::BadValue),
            (doc! {"backupThrottle": {}}, Code::BadValue),
            (doc! {"backupList": 1, "limit": "x"}, Code::TypeMismatch),
            (doc! {"backupVerify": 1}, Code::TypeMismatch),
        ] {
            assert_eq!(read(body.clone()).map_err(|refusal| refusal.code), Err(code), "{body}");
        }
    }
}
