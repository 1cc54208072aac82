//! What failed once.

use crate::settings::Settings;
use crate::states_that_existed;

const LIST: &str = include_str!("regressions.txt");

fn list() -> impl Iterator<Item = Settings> {
    let lines = LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    // Another one to look at more closely.
    let one = std::env::var("HOTBACKUP_MODEL_RUN").into_iter();
    let lines = lines.map(str::to_owned).chain(one);
    lines.map(|line| line.parse().unwrap_or_else(|wrong| panic!("{line}: {wrong}")))
}

// Named so that it comes first: what failed once is the likeliest to fail again.
#[test]
fn a_seed_that_failed_once_stays_right() {
    for settings in list() {
        states_that_existed(&settings);
    }
}
