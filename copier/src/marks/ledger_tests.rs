use super::*;
use crate::base::sys::Stat;
use crate::marks::node::Xattrs;

fn known(ledger: &Ledger, blocks: u64) -> (Arc<File>, FileId) {
    let id = FileId { dev: 1, ino: 2, btime_ns: 3 };
    let file = Arc::new(File::new(id, 0, Stat { size: blocks * BLOCK, ..Stat::default() }));
    ledger.register(Node::File(Arc::clone(&file)));
    copied(&file);
    (file, id)
}

/// As after a pass.
fn copied(file: &File) {
    let mut state = file.state();
    state.map.take();
    state.map.done(0..u64::MAX);
    state.xattrs = Xattrs::known(Vec::new());
}

#[test]
fn a_write_may_take_capabilities_away_and_nothing_else() {
    let ledger = Ledger::default();
    let (file, id) = known(&ledger, 1);
    for (attribute, strips) in [(c"user.a", false), (c"security.capability", true)] {
        file.state().xattrs = Xattrs::known(vec![(attribute.to_owned(), vec![1])]);
        ledger.take();
        ledger.mark(&Effect::Content { file: id, start: 0, end: 1 });
        assert!(matches!(&*ledger.take().dirty, [(_, meta)] if *meta == strips), "{attribute:?}");
    }
}

#[test]
fn what_is_lacking_is_counted_once_and_not_when_forgotten() {
    let ledger = Ledger::default();
    let (file, id) = known(&ledger, 10);
    // `known` copied it behind the ledger's back.
    ledger.add_lacking(-10);
    let mark = |blocks: u64| ledger.mark(&Effect::Content { file: id, start: 0, end: blocks * BLOCK });
    mark(4);
    file.state().map.take();
    // Two of those that a pass has taken change again.
    mark(2);
    assert_eq!(ledger.lacking_bytes(), 4 * BLOCK);
    file.done(&ledger, 0..3);
    assert_eq!(ledger.lacking_bytes(), 3 * BLOCK);
    ledger.forget(&Node::File(Arc::clone(&file)));
    assert_eq!(ledger.lacking_bytes(), 0);
    // Whoever copies it may not know yet.
    file.done(&ledger, 3..4);
    ledger.add_lacking(1);
    assert_eq!(ledger.lacking_bytes(), BLOCK);
}

#[test]
fn a_file_replaced_by_another_under_its_number_is_not_counted() {
    let ledger = Ledger::default();
    let file = |number, blocks| {
        let stat = Stat { size: blocks * BLOCK, ..Stat::default() };
        Node::File(Arc::new(File::new(FileId { dev: 1, ino: 2, btime_ns: 0 }, number, stat)))
    };
    ledger.register(file(0, 5));
    ledger.register(file(1, 3));
    assert_eq!(ledger.lacking_bytes(), 3 * BLOCK);
}

fn due_from(file: &File) -> Option<u64> {
    let state = file.state();
    let all = state.map.touched(0, u64::MAX);
    state.map.due_run(all, 100).map(|run| run.start)
}

#[test]
fn an_append_that_has_not_seen_a_cut_marks_from_where_it_was_cut() {
    let ledger = Ledger::default();
    let (file, id) = known(&ledger, 10);
    ledger.mark(&Effect::Resize { file: id, len: 3 * BLOCK });
    copied(&file);
    for graces in 0..CUT_GRACES {
        assert_eq!(due_from(&file), None);
        ledger.mark(&Effect::Append { file: id, size: 10 * BLOCK - 1 });
        assert_eq!(due_from(&file), Some(3), "after {graces} graces");
        copied(&file);
        ledger.grace_done();
    }
    ledger.mark(&Effect::Append { file: id, size: 10 * BLOCK - 1 });
    assert_eq!(due_from(&file), Some(9));
}

#[test]
fn a_mark_lists_a_node_once_and_again_after_it_was_taken() {
    let ledger = Ledger::default();
    let (_, id) = known(&ledger, 1);
    assert_eq!(ledger.take().dirty.len(), 1);
    ledger.mark(&Effect::Metadata { file: id });
    ledger.mark(&Effect::Content { file: id, start: 0, end: 1 });
    let taken = ledger.take();
    assert!(matches!(&*taken.dirty, [(Node::File(_), true)]));
    assert!(ledger.take().dirty.is_empty());
    ledger.mark(&Effect::Content { file: id, start: 0, end: 1 });
    assert!(matches!(&*ledger.take().dirty, [(Node::File(_), false)]));
}

#[test]
fn what_is_put_back_is_taken_again_whole() {
    let ledger = Ledger::default();
    let (_, id) = known(&ledger, 1);
    ledger.take();
    let unknown = FileId { dev: 9, ino: 9, btime_ns: 9 };
    ledger.mark(&Effect::Entry { dir: unknown, name: "x".into() });
    ledger.mark(&Effect::Metadata { file: id });
    ledger.mark(&Effect::Metadata { file: unknown });
    let taken = ledger.take();
    ledger.put_back(taken);
    let again = ledger.take();
    assert!(again.entries.contains(&(unknown, "x".into())) && again.others.contains(&unknown));
    assert!(matches!(&*again.dirty, [(Node::File(_), true)]));
}

#[test]
fn names_are_marked_in_unknown_directories_and_only_once() {
    let ledger = Ledger::default();
    let dir = FileId { dev: 9, ino: 9, btime_ns: 9 };
    for _ in 0..3 {
        ledger.mark(&Effect::Entry { dir, name: "x".into() });
    }
    assert_eq!(ledger.entry_count(), 1);
    assert_eq!(ledger.take().entries.len(), 1);
    assert_eq!(ledger.entry_count(), 0);
}

#[test]
fn only_effects_on_devices_of_known_nodes_concern_a_hold() {
    let ledger = Ledger::default();
    assert_eq!(ledger.device_count(), 0);
    known(&ledger, 1);
    assert_eq!(ledger.device_count(), 1);
    let entry = |dev| Effect::Entry { dir: FileId { dev, ino: 77, btime_ns: 0 }, name: "x".into() };
    assert!(!ledger.concerns(&[entry(2)]));
    assert!(ledger.concerns(&[entry(2), entry(1)]));
}

#[test]
fn the_first_failure_is_the_one_that_counts() {
    let ledger = Ledger::default();
    ledger.fail(Error::Cancelled);
    ledger.fail(Error::LetGo);
    assert!(matches!(ledger.failure(), Some(Error::Cancelled)));
}

#[test]
fn what_is_known_by_its_number_alone_is_not_what_was_born_later_under_it() {
    let ledger = Ledger::default();
    let (file, id) = known(&ledger, 1);
    let number = FileId { btime_ns: 0, ..id };
    let found =
        |id: &FileId, at_ns| matches!(ledger.find(id, at_ns), Some(Node::File(found)) if Arc::ptr_eq(&found, &file));
    assert!(found(&id, 0) && found(&number, id.btime_ns));
    assert!(!found(&number, id.btime_ns - 1));
    assert!(!found(&FileId { btime_ns: 4, ..id }, 9) && !found(&FileId { ino: 3, ..number }, 9));
}
