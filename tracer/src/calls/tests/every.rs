//! The answers for all calls, against the filter's table, the page in the documentation, and the kernel's headers.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::every::{Answer, Verdict, all, page};
use super::super::{TABLE, When};

fn answers() -> BTreeMap<i64, Answer> {
    all().map(|answer| (answer.nr, answer)).collect()
}

#[test]
fn every_number_has_one_answer_and_a_reason() {
    let numbers: Vec<i64> = all().map(|answer| answer.nr).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, each once");
    assert!(all().all(|answer| !answer.reason.is_empty()));
    // Up to rseq and the probes, and from the first number that all architectures share.
    let expected: Vec<i64> = (0..=336).chain(424..=469).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn what_is_shown_is_what_the_filter_shows() {
    let rows: BTreeMap<i64, _> = TABLE.iter().map(|row| (row.nr, row)).collect();
    for answer in all() {
        let row = rows.get(&answer.nr);
        let is_for_the_net = row.is_some_and(|row| matches!(row.when, When::ForTheNet | When::Ends));
        let is_for_the_table = row.is_some_and(|row| matches!(row.when, When::ForTheTable(_)));
        assert_eq!(row.is_some(), answer.verdict != Verdict::Cannot, "{answer:?}");
        assert_eq!(is_for_the_net, answer.verdict == Verdict::Net, "{answer:?}");
        assert_eq!(is_for_the_table, answer.verdict == Verdict::Table, "{answer:?}");
        assert!(row.is_none_or(|row| row.name == answer.name), "{answer:?}");
    }
    let answers = answers();
    assert!(rows.keys().all(|nr| answers.contains_key(nr)));
}

/// Holds names and numbers against the table.
fn answered<'a>(named: impl Iterator<Item = (&'a str, i64)>, file: &Path) {
    let (answers, mut count) = (answers(), 0);
    for (name, nr) in named {
        let answer = answers.get(&nr);
        assert!(answer.is_some(), "{} has a call that nobody has judged: {name}, {nr}", file.display());
        assert_eq!(answer.map(|answer| answer.name), Some(name), "call {nr} of {}", file.display());
        count += 1;
    }
    assert!(count > 300, "only {count} calls were found in {}", file.display());
}

#[test]
fn every_call_of_the_installed_headers_is_answered() {
    let places = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let header = places
        .map(PathBuf::from)
        .into_iter()
        .find(|place| place.exists())
        .expect("the kernel's headers (linux-libc-dev)");
    let text = std::fs::read_to_string(&header).unwrap();
    let named = text.lines().filter_map(|line| {
        let (name, nr) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name, nr.trim().parse().ok()?))
    });
    answered(named, &header);
}

/// The crate whose constants we use knows calls that are newer than the headers.
#[test]
fn every_call_of_the_libc_crate_is_answered() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--offline",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
        "--manifest-path",
    ];
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let output = std::process::Command::new(cargo).args(arguments).arg(&manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let libc =
        packages.iter().find(|package| package["name"] == "libc").and_then(|libc| libc["manifest_path"].as_str());
    let below = "src/unix/linux_like/linux/gnu/b64/x86_64/not_x32.rs";
    let file = Path::new(libc.unwrap()).parent().unwrap().join(below);
    let text = std::fs::read_to_string(&file).unwrap();
    let named = text.lines().filter_map(|line| {
        let (name, nr) = line.trim().strip_prefix("pub const SYS_")?.split_once(": c_long = ")?;
        Some((name, nr.trim_end_matches(';').parse().ok()?))
    });
    answered(named, &file);
}

#[test]
fn the_page_says_what_the_table_says() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/calls.md");
    let written = std::fs::read_to_string(&place).unwrap_or_default();
    if written != page() {
        let new = std::env::temp_dir().join("calls.md");
        std::fs::write(&new, page()).unwrap();
        panic!("docs/calls.md is not what the table says: copy {} over it", new.display());
    }
}
