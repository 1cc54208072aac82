//! Which backups stay. A pure function of when they were begun and what is known of them.
//!
//! As in restic and others: `last` keeps the newest so many; `daily` the newest of each of the last so many days *that have
//! one*, and `weekly`, `monthly`, `yearly` likewise (weeks begin on Monday, days at midnight of the time zone). What any rule keeps
//! stays. Backups that were found to be bad count for no rule, so that none is kept in the place of a good one; they stay as long
//! as nothing newer is good, for whoever has to look into it.
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// How many to keep, by each rule. Without any rule all are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The newest.
    pub last: usize,
    /// Days.
    pub daily: usize,
    /// Weeks.
    pub weekly: usize,
    /// Months.
    pub monthly: usize,
    /// Years.
    pub yearly: usize,
}

/// Why a backup stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There are no rules.
    NoPolicy,
    /// It is the newest good one.
    LastGood,
    /// It is the newest that a check has found good.
    LastChecked,
    /// `latest` leads to it.
    Latest,
    /// It is bad, and nothing newer is good.
    NothingNewer,
    /// Rules.
    Last,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays.
    Keep(Vec<Reason>),
    /// No rule keeps it.
    Remove,
}

impl Policy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Says for each backup (when it was begun, and whether it is good as far as anybody knows) what becomes of it, in the same order.
pub fn plan(backups: &[(Timestamp, bool)], policy: &Policy, zone: &TimeZone) -> Vec<Fate> {
    if policy.is_empty() {
        return vec![Fate::Keep(vec![Reason::NoPolicy]); backups.len()];
    }
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); backups.len()];
    let mut newest_first: Vec<usize> = (0..backups.len()).collect();
    newest_first.sort_by_key(|&index| std::cmp::Reverse((backups[index].0, index)));
    let good: Vec<usize> = newest_first.iter().copied().filter(|&index| backups[index].1).collect();
    match good.first() {
        Some(&newest) => {
            reasons[newest].push(Reason::LastGood);
            newest_first
                .iter()
                .take_while(|&&index| index != newest)
                .for_each(|&index| reasons[index].push(Reason::NothingNewer));
        }
        None => reasons.iter_mut().for_each(|all| all.push(Reason::NothingNewer)),
    }
    good.iter().take(policy.last).for_each(|&index| reasons[index].push(Reason::Last));
    type Period = fn(Date) -> Date;
    let rules = [
        (policy.daily, Reason::Daily, (|day| day) as Period),
        (policy.weekly, Reason::Weekly, week),
        (policy.monthly, Reason::Monthly, Date::first_of_month),
        (policy.yearly, Reason::Yearly, Date::first_of_year),
    ];
    for (many, reason, period) in rules {
        let (mut kept, mut last) = (0, None);
        for &index in &good {
            let this = period(backups[index].0.to_zoned(zone.clone()).date());
            if kept < many && last != Some(this) {
                (kept, last) = (kept + 1, Some(this));
                reasons[index].push(reason);
            }
        }
    }
    reasons.into_iter().map(|all| if all.is_empty() { Fate::Remove } else { Fate::Keep(all) }).collect()
}

/// The Monday of a day's week; near the beginning of the calendar, the day itself.
fn week(day: Date) -> Date {
    day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).unwrap_or(day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// What stays of these, all good, by their place.
    fn kept(times: &[&str], policy: Policy) -> Vec<usize> {
        let backups: Vec<_> = times.iter().map(|text| (at(text), true)).collect();
        let fates = plan(&backups, &policy, &TimeZone::UTC);
        (0..times.len()).filter(|&index| fates[index] != Fate::Remove).collect()
    }

    const TIMES: [&str; 7] = [
        "2026-10-31T02:00:00Z", // a Saturday
        "2026-11-01T02:00:00Z",
        "2026-11-02T02:00:00Z", // a Monday
        "2026-11-02T14:00:00Z",
        "2026-11-03T02:00:00Z",
        "2026-11-05T02:00:00Z",
        "2026-11-05T14:00:00Z",
    ];

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let none = Policy::default();
        assert_eq!(kept(&TIMES, Policy { last: 2, ..none }), [5, 6]);
        assert_eq!(kept(&TIMES, Policy { daily: 3, ..none }), [3, 4, 6]);
        assert_eq!(kept(&TIMES, Policy { weekly: 2, ..none }), [1, 6]);
        assert_eq!(kept(&TIMES, Policy { monthly: 5, ..none }), [0, 6]);
        assert_eq!(kept(&TIMES, Policy { yearly: 1, ..none }), [6]);
        assert_eq!(kept(&TIMES, Policy { last: 1, daily: 2, monthly: 2, ..none }), [0, 4, 6]);
        assert_eq!(kept(&TIMES, none), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let backups: Vec<_> = ["2026-11-02T23:30:00Z", "2026-11-03T00:30:00Z"].iter().map(|t| (at(t), true)).collect();
        let policy = Policy { daily: 2, ..Policy::default() };
        let remove = |zone| plan(&backups, &policy, &zone).iter().filter(|fate| **fate == Fate::Remove).count();
        assert_eq!(remove(TimeZone::UTC), 0);
        assert_eq!(remove(TimeZone::fixed(jiff::tz::offset(1))), 1);
    }

    #[test]
    fn a_bad_backup_takes_no_good_ones_place() {
        let policy = Policy { last: 1, ..Policy::default() };
        let fates = plan(&[(at(TIMES[0]), true), (at(TIMES[1]), false)], &policy, &TimeZone::UTC);
        assert_eq!(fates, [Fate::Keep(vec![Reason::LastGood, Reason::Last]), Fate::Keep(vec![Reason::NothingNewer])]);
        let fates = plan(&[(at(TIMES[0]), false), (at(TIMES[1]), true)], &policy, &TimeZone::UTC);
        assert_eq!(fates, [Fate::Remove, Fate::Keep(vec![Reason::LastGood, Reason::Last])]);
    }

    proptest! {
        /// Whatever the rules, and in whatever order they are given: the newest good one stays, a rule keeps as many as it says at
        /// most, and removing what is to be removed leaves nothing more to remove.
        #[test]
        fn the_last_good_one_always_stays(
            backups in prop::collection::vec((0i64..200 * 86_400, any::<bool>()), 0..40),
            (last, daily, weekly, monthly, yearly) in (0usize..5, 0usize..5, 0usize..5, 0usize..5, 0usize..3),
        ) {
            let backups: Vec<_> =
                backups.into_iter().map(|(second, good)| (Timestamp::from_second(second).unwrap(), good)).collect();
            let policy = Policy { last, daily, weekly, monthly, yearly };
            let fates = plan(&backups, &policy, &TimeZone::UTC);
            let stays: Vec<_> = backups.iter().zip(&fates).filter(|(_, fate)| **fate != Fate::Remove).map(|(b, _)| *b).collect();
            let newest = |all: &[(Timestamp, bool)]| all.iter().filter(|(_, good)| *good).map(|(time, _)| *time).max();
            prop_assert_eq!(newest(&backups), newest(&stays));
            if policy != Policy::default() {
                let good = stays.iter().filter(|(_, good)| *good).count();
                prop_assert!(good <= (last + daily + weekly + monthly + yearly).max(1));
            }
            prop_assert!(plan(&stays, &policy, &TimeZone::UTC).iter().all(|fate| *fate != Fate::Remove));
        }
    }
}
