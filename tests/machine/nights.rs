//! What the issue of all this is: a backup every night, on a new machine, by what the document says alone.
use crate::common::backup::{alone, seed};
use crate::common::load::Load;
use crate::common::{mongod, validate};
use crate::document::commands;
use crate::house::{
    DOCUMENT, assert_no_complaints, backups, history, latest, let_night_fall, listed, morning, name, set_up, status,
};

/// More than `keep.last` of the document, so that the oldest must go.
const NIGHTS: usize = 4;

#[test]
fn a_new_machine_goes_from_package_to_verified_rotated_backups_by_the_document_alone() {
    let _alone = alone();
    let machine = set_up();
    assert_eq!(backups(&machine).len(), 1, "the first one was to be taken by hand");
    let mut taken = backups(&machine);
    assert_eq!(status(&machine)["process"], machine.main_pid("mongod"));

    let load = Load::start(&machine.uri(27017), seed());
    for number in 1..=NIGHTS {
        load.wait_for(50);
        let_night_fall(&machine);
        let night = morning(&machine, number);
        let its = name(&night);
        assert_eq!((latest(&machine), &listed(&machine, &its)["check"]["good"]), (its.clone(), &true.into()));
        taken.push(its);
    }
    load.wait_for(50);
    // All were taken on one day of the machine: what keeps for days and weeks keeps the newest alone.
    assert_eq!(backups(&machine), taken[taken.len() - 3..], "the three newest are kept");
    assert_eq!(history(&machine).len(), NIGHTS);

    let seen: String = commands(DOCUMENT, "### The morning after").iter().map(|block| machine.run(block)).collect();
    println!("{seen}");
    let newest = taken.last().expect("some");
    assert!(seen.contains(&format!("last good  /var/backups/mongodb/{newest} ")), "status says nothing of it:\n{seen}");
    for its in &taken[taken.len() - 3..] {
        assert!(seen.lines().any(|line| line.starts_with(its) && line.ends_with("good")), "{its}:\n{seen}");
    }
    let told = seen.lines().filter(|line| line.contains("hotbackup[") && line.contains("by schedule is good")).count();
    assert_eq!(told, NIGHTS, "the journal has a line for each night:\n{seen}");
    // With fields, for whoever looks by program.
    let of_newest =
        format!("journalctl --output=json --lines=1 HOTBACKUP_DEST=/var/backups/mongodb/{newest} PRIORITY=6");
    assert!(machine.run(&of_newest).contains(r#""_SYSTEMD_UNIT":"hotbackup.service""#));

    let acks = load.stop();
    let point = listed(&machine, newest)["point_in_time_ns"].as_u64().expect("a time");
    let server = commands(DOCUMENT, "### Would a server start on it?");
    let [start, end] = &server[..] else { panic!("to start it, and to end it: {server:?}") };
    machine.run(start);
    validate::holds(&mongod::client(&machine.uri(27117)), &acks, point).unwrap_or_else(|wrong| panic!("{wrong}"));
    machine.run(end);
    assert_no_complaints(&machine);
}
