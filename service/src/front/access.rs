//! Who may back up is mongod's to say: its answers, read.
//!
//! A backup holds everything, users and their keys included. So one may who may read all that a dump reads, as mongod's own role
//! `backup` does: every collection, the users, and a note in the oplog. A role that inherits `backup` does, too, and `root`.
use bson::{Bson, Document, doc};

/// NoReplicationEnabled, NotYetInitialized and the like are other numbers: this one says that it may not even be asked.
const UNAUTHORIZED: i32 = 13;

/// What mongod says of who is at the other end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// May.
    May,
    /// May not.
    MayNot(String),
    /// Nobody has logged in: is there access control at all?
    Nobody,
}

/// Asks who it is, on his own connection.
pub(super) fn who() -> Document {
    doc! {"connectionStatus": 1, "showPrivileges": true, "$db": "admin"}
}

/// Reads the answer.
pub(super) fn verdict(answer: &Document) -> Verdict {
    let info = match answer.get_document("authInfo") {
        Ok(info) if is_ok(answer) => info,
        _ => return Verdict::MayNot("mongod does not say who this connection's user is".into()),
    };
    let users = info.get_array("authenticatedUsers").map_or(&[][..], Vec::as_slice);
    if users.is_empty() {
        return Verdict::Nobody;
    }
    let privileges = info.get_array("authenticatedUserPrivileges").map_or(&[][..], Vec::as_slice);
    let missing = NEEDED.iter().find(|(resource, action)| !privileges.iter().any(|one| grants(one, *resource, action)));
    match missing {
        None => Verdict::May,
        Some(_) => {
            let name = users[0].as_document().and_then(|user| user.get_str("user").ok()).unwrap_or_default();
            Verdict::MayNot(format!("not authorized on admin to take backups: user '{name}' lacks the role 'backup'"))
        }
    }
}

/// A command that anybody may give where there is no access control, and else only who has logged in.
pub(super) fn is_there_control() -> Document {
    doc! {"getCmdLineOpts": 1, "$db": "admin"}
}

/// Whether the answer to that says that there is none. It must be the answer to that, and not just any that says yes.
pub(super) fn there_is_none(answer: &Document) -> bool {
    is_ok(answer) && answer.get_array("argv").is_ok()
}

/// A command that may not be given by anybody from elsewhere; but who speaks to a mongod without access control may, and, from its
/// own machine, so may who speaks to one without users. mongod takes all that comes through the front for its own machine's.
pub(super) fn is_open_to_all() -> Document {
    doc! {"replSetGetStatus": 1, "$db": "admin"}
}

/// Whether the answer to that says that mongod itself refuses strangers.
pub(super) fn refuses_strangers(answer: &Document) -> bool {
    !is_ok(answer) && answer.get_i32("code").is_ok_and(|code| code == UNAUTHORIZED)
}

fn is_ok(answer: &Document) -> bool {
    matches!(answer.get("ok"), Some(Bson::Double(1.0) | Bson::Int32(1) | Bson::Int64(1) | Bson::Boolean(true)))
}

/// A resource of mongod's.
#[derive(Debug, Clone, Copy)]
enum Resource {
    Cluster,
    /// Every collection of every database but the system's.
    AllCollections,
    Collection(&'static str, &'static str),
}

const NEEDED: [(Resource, &str); 3] = [
    (Resource::AllCollections, "find"),
    (Resource::Collection("admin", "system.users"), "find"),
    (Resource::Cluster, "appendOplogNote"),
];

fn grants(privilege: &Bson, wanted: Resource, action: &str) -> bool {
    let Some(privilege) = privilege.as_document() else { return false };
    let Ok(resource) = privilege.get_document("resource") else { return false };
    let flag = |name: &str| resource.get_bool(name).unwrap_or(false);
    let is = |db: &str, collection: &str| {
        let has = |field: &str, value: &str| resource.get_str(field).is_ok_and(|found| found == value);
        has("db", db) && has("collection", collection)
    };
    let covers = flag("anyResource")
        || match wanted {
            Resource::Cluster => flag("cluster"),
            Resource::AllCollections => is("", ""),
            Resource::Collection(db, collection) => is(db, collection) || is("", collection),
        };
    let actions = privilege.get_array("actions").map_or(&[][..], Vec::as_slice);
    covers && actions.iter().any(|one| matches!(one.as_str(), Some(one) if one == action || one == "anyAction"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(privileges: Vec<Document>) -> Document {
        let users = vec![doc! {"user": "x", "db": "admin"}];
        doc! {"authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": privileges}, "ok": 1.0}
    }

    fn backup() -> Vec<Document> {
        vec![
            doc! {"resource": {"cluster": true}, "actions": ["appendOplogNote", "listDatabases"]},
            doc! {"resource": {"db": "", "collection": ""}, "actions": ["find", "listIndexes"]},
            doc! {"resource": {"db": "admin", "collection": "system.users"}, "actions": ["find"]},
        ]
    }

    #[test]
    fn who_has_all_that_the_role_gives_may() {
        assert_eq!(verdict(&answer(backup())), Verdict::May);
        let all = doc! {"resource": {"anyResource": true}, "actions": ["anyAction"]};
        assert_eq!(verdict(&answer(vec![all])), Verdict::May);
    }

    #[test]
    fn who_lacks_any_of_it_may_not() {
        for gone in 0..3 {
            let mut privileges = backup();
            privileges.remove(gone);
            assert!(matches!(verdict(&answer(privileges)), Verdict::MayNot(_)), "{gone}");
        }
        let mut one_database = backup();
        one_database[1] = doc! {"resource": {"db": "test", "collection": ""}, "actions": ["find"]};
        assert!(matches!(verdict(&answer(one_database)), Verdict::MayNot(_)));
        let mut other_action = backup();
        other_action[2] = doc! {"resource": {"db": "admin", "collection": "system.users"}, "actions": ["listIndexes"]};
        assert!(matches!(verdict(&answer(other_action)), Verdict::MayNot(_)));
    }

    #[test]
    fn answers_that_say_nothing_permit_nothing() {
        let nobody = doc! {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}, "ok": 1.0};
        assert_eq!(verdict(&nobody), Verdict::Nobody);
        for answer in [doc! {}, doc! {"ok": 1.0}, doc! {"ok": 0.0, "code": 13}] {
            assert!(matches!(verdict(&answer), Verdict::MayNot(_)), "{answer}");
            assert!(!there_is_none(&answer), "{answer}");
        }
        assert!(!there_is_none(&nobody), "an answer to another question");
        assert!(there_is_none(&doc! {"argv": ["mongod"], "parsed": {}, "ok": 1.0}));
        assert!(refuses_strangers(&doc! {"ok": 0.0, "code": 13}));
        for open in [doc! {"ok": 0.0, "code": 76}, doc! {"ok": 1.0}, doc! {}] {
            assert!(!refuses_strangers(&open), "{open}");
        }
    }
}
