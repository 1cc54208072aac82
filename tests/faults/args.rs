//! The command line of the harness, which `cargo test` also starts with libtest's flags.

use std::time::{SystemTime, UNIX_EPOCH};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Args {
    /// Faults against the guest.
    pub faults: u64,
    /// Faults with a supervisor apart from the keepers.
    pub apart: u64,
    /// Faults against mongod.
    pub mongod: u64,
    /// Everything that is chosen follows from it.
    pub seed: u64,
    /// Guests at work at the same time.
    pub jobs: usize,
    /// Only faults whose kind contains this.
    pub kind: Option<String>,
    /// Only this fault of the sequence.
    pub only: Option<u64>,
    /// Tell each fault.
    pub verbose: bool,
}

/// What is to be done.
pub enum Wanted {
    /// Nothing: libtest's filters leave this test out.
    Nothing,
    /// To say which tests there are.
    List,
    /// A run.
    Run(Args),
}

/// The only test there is, for libtest's filters.
const NAME: &str = "faults";
/// A run that is part of all tests.
const USUAL: u64 = 300;
const USUAL_MONGOD: u64 = 10;
const USUAL_APART: u64 = 25;
/// With `--mongod`.
const ALL_MONGOD: u64 = 200;

/// Reads the arguments. What libtest knows and this does not is passed over.
pub fn read(words: impl Iterator<Item = String>) -> Wanted {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let from_environment = std::env::var("HOTBACKUP_SEED").ok().map(|text| number("HOTBACKUP_SEED", Some(text)));
    let mut args = Args {
        faults: USUAL,
        mongod: USUAL_MONGOD,
        apart: USUAL_APART,
        seed: from_environment.unwrap_or(u64::from(clock.subsec_nanos())),
        jobs: 2,
        kind: None,
        only: None,
        verbose: false,
    };
    let (mut faults, mut mongod, mut apart, mut list, mut filters) = (None, false, false, false, Vec::new());
    let mut words = words;
    while let Some(word) = words.next() {
        let (flag, mut value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || value.take().or_else(|| words.next());
        match &*flag {
            "--faults" => faults = Some(number("--faults", value())),
            "--seed" => args.seed = number("--seed", value()),
            "--jobs" => args.jobs = usize::try_from(number("--jobs", value())).expect("a small number").max(1),
            "--kind" => args.kind = value(),
            "--only" => args.only = Some(number("--only", value())),
            "--mongod" => mongod = true,
            "--apart" => apart = true,
            "--verbose" => args.verbose = true,
            "--list" => list = true,
            "--ignored" => return Wanted::Nothing,
            "--skip" if value().is_some_and(|skipped| NAME.contains(&skipped)) => return Wanted::Nothing,
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" | "--report-time" => drop(value()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter.to_owned()),
        }
    }
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return Wanted::Nothing;
    }
    if mongod {
        (args.faults, args.apart, args.mongod) = (0, 0, faults.unwrap_or(ALL_MONGOD));
    } else if apart {
        (args.faults, args.apart, args.mongod) = (0, faults.unwrap_or(USUAL), 0);
    } else if let Some(faults) = faults {
        args.faults = faults;
    }
    if args.only.is_some() || args.kind.is_some() {
        // For a closer look at one thing.
        args.mongod = if mongod { args.mongod } else { 0 };
        args.apart = if apart { args.apart } else { 0 };
    }
    if list { Wanted::List } else { Wanted::Run(args) }
}

fn number(flag: &str, text: Option<String>) -> u64 {
    let text = text.unwrap_or_else(|| panic!("{flag} wants a number"));
    text.parse().unwrap_or_else(|_| panic!("{flag} wants a number, not {text:?}"))
}
