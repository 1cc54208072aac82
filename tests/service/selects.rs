//! `backup` and `check` by a server's data, and by its unit.
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{Place, assert_published};
use crate::servers::start;

#[test]
fn a_server_is_named_by_its_data_or_its_unit_also_beside_another() {
    let (place, other) = (Place::new(), Place::new());
    let (mut server, _other) = (start(&place, &[]), start(&other, &[]));
    let by_data = format!("dbpath={}", place.path("db").display());
    let dest = place.path("backups/one");
    let output = place.run(&["backup", "--json", "--lease", "20s", "--match", &by_data, dest.to_str().expect("text")]);
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let report: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((&report["event"], &report["pid"]), (&Value::from("result"), &Value::from(server.pid())), "{report}");
    assert_published(&dest);
    // systemd's word is that of whoever is called systemctl.
    let bin = place.path("bin");
    fs::create_dir(&bin).expect("a directory");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'show --property=MainPID --value -- mongod.service' ] && echo {}\n",
        server.pid()
    );
    fs::write(bin.join("systemctl"), script).expect("a program");
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let checked = place.command(&["check", "--unit", "mongod.service"]).env("PATH", &path).output().expect("it starts");
    assert!(checked.status.success(), "{checked:?}");
    for (arguments, words) in [
        (["check", "--match", "dbpath=/nowhere"], place.path("db").to_str().expect("text").to_owned()),
        (["check", "--unit", "other.service"], "other.service".into()),
    ] {
        let refused = place.command(&arguments).arg("--json").env("PATH", &path).output().expect("it starts");
        let said: Value =
            serde_json::from_slice(&refused.stdout).unwrap_or_else(|error| panic!("{error}: {refused:?}"));
        assert_eq!((refused.status.code(), &said["kind"]), (Some(55), &Value::from("not_one_process")), "{said}");
        assert!(said["message"].as_str().expect("words").contains(&words), "{said}");
    }
    server.assert_unharmed();
}
