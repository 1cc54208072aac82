//! What is answered, in the shapes that operators know.
use bson::{Bson, DateTime, Document, doc};
use serde_json::Value;

use crate::control::{Ended, TargetStatus};
use crate::jobs;

/// Errors by their numbers in MongoDB; clients look at these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are MongoDB's")]
pub enum Code {
    BadValue = 2,
    HostUnreachable = 6,
    Unauthorized = 13,
    TypeMismatch = 14,
    ProtocolError = 17,
    MaxTimeMSExpired = 50,
    CommandNotFound = 59,
    InvalidOptions = 72,
    OperationFailed = 96,
    ConflictingOperationInProgress = 117,
    BSONObjectTooLarge = 10334,
    Interrupted = 11601,
    MissingField = 40414,
    UnknownField = 40415,
}

impl Code {
    fn name(self) -> String {
        match self {
            // These have no names there.
            Self::MissingField => "Location40414".into(),
            Self::UnknownField => "Location40415".into(),
            code => format!("{code:?}"),
        }
    }
}

/// An error to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The number.
    pub code: Code,
    /// The words.
    pub words: String,
}

impl Refusal {
    /// With these words.
    pub fn new(code: Code, words: impl ToString) -> Self {
        Self { code, words: words.to_string() }
    }
}

impl From<jobs::Error> for Refusal {
    fn from(error: jobs::Error) -> Self {
        let code = match error {
            jobs::Error::Destination(_) => Code::BadValue,
            jobs::Error::Busy(_) => Code::ConflictingOperationInProgress,
            _ => Code::OperationFailed,
        };
        Self::new(code, error)
    }
}

/// An error's document.
pub fn refusal(refusal: &Refusal) -> Document {
    doc! {"ok": 0.0, "errmsg": &refusal.words, "code": refusal.code as i32, "codeName": refusal.code.name()}
}

/// Done.
pub(super) fn done() -> Document {
    doc! {"ok": 1.0}
}

/// How a backup ended.
pub(super) fn ended(ended: &Ended) -> Document {
    if ended.ok {
        return done();
    }
    let kind = ended.kind.clone().unwrap_or_default();
    let code = if kind == "cancelled" { Code::Interrupted } else { Code::OperationFailed };
    let mut document = refusal(&Refusal::new(code, ended.message.as_deref().unwrap_or("the backup failed")));
    document.insert("kind", kind);
    document.insert("exitCode", ended.exit_code.map(i32::from));
    document
}

/// How a target stands: as ever, or with all there is.
pub(super) fn status(status: &TargetStatus, details: bool) -> Document {
    let running = status.running.clone().unwrap_or_default();
    let files = i32::try_from(running.files_copied).map_or_else(|_| long(running.files_copied), Bson::Int32);
    let mut document = doc! {
        "inProgress": status.running.is_some(),
        "bytesCopied": long(running.bytes_copied),
        "filesCopied": files,
    };
    if details {
        let all = serde_json::to_value(status).ok().and_then(|value| bson::serialize_to_bson(&value).ok());
        document.insert("details", all);
    }
    document.insert("ok", 1.0);
    document
}

/// Those that have been.
pub(super) fn list(all: &[(Ended, bool)]) -> Document {
    let backups = all.iter().map(|(ended, there)| {
        let mut one = doc! {
            "backup": &ended.dest,
            "succeeded": ended.ok,
            "present": there,
            "started": date(ended.started_ms),
            "ended": date(ended.ended_ms),
        };
        if let Some(ns) = ended.point_in_time_ns {
            one.insert("pointInTime", date(ns / 1_000_000));
            one.extend(doc! {
                "bytes": long(ended.bytes), "files": long(ended.files), "holdMicros": long(ended.hold_us),
            });
        }
        if !ended.ok {
            one.extend(doc! {"kind": ended.kind.clone(), "errmsg": ended.message.clone()});
        }
        Bson::Document(one)
    });
    doc! {"backups": backups.collect::<Vec<_>>(), "ok": 1.0}
}

/// What `verify` said.
pub(super) fn verified(lines: &[Value]) -> Document {
    let of = |event: &str| lines.iter().find(|line| line["event"] == event);
    let Some(result) = of("result") else {
        let words =
            of("error").and_then(|error| error["message"].as_str()).unwrap_or("the backup could not be looked at");
        return refusal(&Refusal::new(Code::OperationFailed, words));
    };
    let all = result["problems"].as_array().map_or(&[][..], Vec::as_slice);
    // An answer has an end.
    let problems = all.iter().take(1000).filter_map(|problem| bson::serialize_to_bson(problem).ok());
    doc! {
        "good": all.is_empty(),
        "entries": long(result["entries"].as_u64().unwrap_or_default()),
        "bytes": long(result["bytes"].as_u64().unwrap_or_default()),
        "problems": problems.collect::<Vec<_>>(),
        "problemsFound": long(all.len() as u64),
        "ok": 1.0,
    }
}

fn long(number: u64) -> Bson {
    Bson::Int64(i64::try_from(number).unwrap_or(i64::MAX))
}

fn date(ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Running;

    #[test]
    fn the_status_is_as_operators_know_it() {
        let mut stands = TargetStatus::default();
        let expected = doc! {"inProgress": false, "bytesCopied": 0_i64, "filesCopied": 0, "ok": 1.0};
        assert_eq!(status(&stands, false), expected);
        stands.running = Some(Running { bytes_copied: 5, files_copied: 6, ..Running::default() });
        let expected = doc! {"inProgress": true, "bytesCopied": 5_i64, "filesCopied": 6, "ok": 1.0};
        assert_eq!(status(&stands, false), expected);
        let details = status(&stands, true);
        assert_eq!(
            details.get_document("details").unwrap().get_document("running").unwrap().get("files_copied"),
            Some(&Bson::Int64(6))
        );
    }

    #[test]
    fn a_failure_has_code_kind_and_words() {
        let failed = Ended {
            kind: Some("dest_full".into()),
            exit_code: Some(23),
            message: Some("full".into()),
            ..Ended::default()
        };
        let answer = ended(&failed);
        assert_eq!(
            answer,
            doc! {"ok": 0.0, "errmsg": "full", "code": 96, "codeName": "OperationFailed", "kind": "dest_full", "exitCode": 23}
        );
        let cancelled = ended(&Ended { kind: Some("cancelled".into()), ..Ended::default() });
        assert_eq!(cancelled.get_i32("code").ok(), Some(11601));
        assert_eq!(ended(&Ended { ok: true, ..Ended::default() }), doc! {"ok": 1.0});
    }

    #[test]
    fn what_verify_said_is_passed_on() {
        let line = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let bad = line(r#"{"event":"result","entries":3,"bytes":4,"problems":[{"path":"a","what":"b"}]}"#);
        let answer = verified(&[bad, line(r#"{"event":"error","message":"m"}"#)]);
        assert_eq!(
            answer,
            doc! {
                "good": false, "entries": 3_i64, "bytes": 4_i64, "problems": [{"path": "a", "what": "b"}], "problemsFound": 1_i64, "ok": 1.0,
            }
        );
        assert_eq!(verified(&[line(r#"{"event":"error","message":"m"}"#)]).get_str("errmsg").ok(), Some("m"));
    }
}
