//! The service's target ends, and comes back.
use mongodb::bson::{Bson, doc};

use crate::harness::{Place, ask, assert_published, must, newest, running, start_paused, until};
use crate::servers::start;

#[test]
fn a_server_that_is_restarted_is_found_again() {
    let place = Place::new();
    let server = start(&place, &[]);
    let _service = place.serve(&place.config(&format!("match = \"dbpath={}\"", place.path("db").display())));
    let client = place.client();
    must(&client, doc! {"backupStart": "one"});
    // One that runs ends with its server, and whoever asks hears why.
    start_paused(&client, "two");
    assert_eq!(running(&client).get_i64("process").ok(), Some(server.pid().into()));
    server.stop();
    until("the backup ends", || !crate::harness::in_progress(&client));
    let failed = newest(&client);
    assert_eq!(failed.get_str("kind").ok(), Some("target_exited"), "{failed}");
    let (code, words) = ask(&client, doc! {"backupStart": "three"}).expect_err("there is no server");
    assert!(code == 96 && words.contains("no server has its data"), "{code} {words}");
    let server = start(&place, &[]);
    must(&client, doc! {"backupThrottle": Bson::Null});
    must(&client, doc! {"backupStart": "three"});
    for name in ["one", "three"] {
        assert_published(&place.path("backups").join(name));
    }
    let status = must(&client, doc! {"backupStatus": 1, "details": true});
    let details = status.get_document("details").expect("details");
    assert_eq!(details.get_i64("process").ok(), Some(server.pid().into()));
    assert_eq!(place.left_but(&["one", "three"]), [""; 0]);
}
