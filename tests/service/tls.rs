//! TLS on either side of the port in front of mongod.
use std::fs;
use std::path::Path;
use std::process::Command;

use mongodb::bson::doc;

use crate::common::mongod;
use crate::harness::{Place, must};
use crate::servers::{start, target};

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().expect("openssl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `NAME.ca.pem`, and `NAME.pem`: a certificate of 127.0.0.1 that it has signed, with its key.
fn certificate(dir: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(dir, &format!("req -x509 {key} -subj /CN={name} -keyout {name}.ca.key -out {name}.ca.pem"));
    openssl(dir, &format!("req {key} -subj /CN=server -keyout {name}.key -out {name}.csr"));
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    let sign = format!("-CA {name}.ca.pem -CAkey {name}.ca.key -CAcreateserial -days 2 -extfile ext");
    openssl(dir, &format!("x509 -req -in {name}.csr {sign} -out {name}.crt"));
    let both = [fs::read(dir.join(format!("{name}.crt"))), fs::read(dir.join(format!("{name}.key")))];
    fs::write(dir.join(format!("{name}.pem")), both.map(|part| part.expect("a file")).concat()).expect("a file");
}

#[test]
fn both_sides_may_be_encrypted_and_mongod_must_be_the_one_that_is_meant() {
    let place = Place::new();
    for name in ["front", "mongod"] {
        certificate(place.0.path(), name);
    }
    let file = |name: &str| place.path(name).to_str().expect("text").to_owned();
    let (key, ca) = (file("mongod.pem"), file("mongod.ca.pem"));
    // preferTLS: the tests' own look at whether it has started is in clear.
    let server = start(
        &place,
        &[
            "--tlsMode",
            "preferTLS",
            "--tlsCertificateKeyFile",
            &key,
            "--tlsCAFile",
            &ca,
            "--tlsAllowConnectionsWithoutCertificates",
        ],
    );
    let tls = |ca: &str| {
        format!(", tls = {{ certificate = {:?} }}, server_tls = {{ ca = {:?} }}", file("front.pem"), file(ca))
    };
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", &tls("mongod.ca.pem"))));
    let uri = |front: &str, ca: &str, limit: u32| {
        format!(
            "mongodb://{front}/?directConnection=true&tls=true&tlsCAFile={}&serverSelectionTimeoutMS={limit}",
            file(ca)
        )
    };
    let client = mongod::client(&uri(&service.front(), "front.ca.pem", 30_000));
    assert_eq!(must(&client, doc! {"backupStart": "one"}), doc! {"ok": 1.0});
    let documents = (0..20).map(|n| doc! {"_id": n, "pad": "x".repeat(500_000)});
    client.database("test").collection("c").insert_many(documents).run().expect("10 MB pass");
    assert_eq!(
        client
            .database("test")
            .collection::<mongodb::bson::Document>("c")
            .count_documents(doc! {})
            .run()
            .expect("counted"),
        20
    );
    let clear = std::net::TcpStream::connect(service.front()).expect("connected");
    let hello = crate::raw::command(1, 0, &doc! {"hello": 1, "$db": "admin"});
    crate::raw::ask(&mut &clear, &hello).expect_err("not in clear");
    service.stop();
    // A mongod that another has signed for is not spoken to.
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", &tls("front.ca.pem"))));
    let options =
        mongodb::options::ClientOptions::parse(uri(&service.front(), "front.ca.pem", 2000)).run().expect("an address");
    let client = mongodb::sync::Client::with_options(options).expect("a client");
    client.database("admin").run_command(doc! {"ping": 1}).run().expect_err("nobody is there");
}
