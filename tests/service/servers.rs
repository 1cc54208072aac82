//! mongod with access control, and the port in front of it.
use std::fs;

use mongodb::bson::{Document, doc};
use mongodb::sync::Client;

use crate::common::mongod::{self, Mongod, Opts};
use crate::harness::{Place, must};

/// All users' password.
pub const PASSWORD: &str = "secret";

/// Starts a server on the place's `db`.
pub fn start(place: &Place, args: &[&str]) -> Mongod {
    let dbpath = place.path("db");
    fs::create_dir_all(&dbpath).expect("a data directory");
    Mongod::start(&Opts { dbpath, args: args.iter().map(ToString::to_string).collect(), ..Opts::default() })
}

/// One with access control, and users with each of these names: `root`, `backup`, `inherits` (a role that does so from `backup`),
/// `read` (of everything), and `cluster`.
pub fn start_guarded(place: &Place) -> Mongod {
    let server = start(place, &["--auth"]);
    let user = |name: &str, roles: Vec<Document>| doc! {"createUser": name, "pwd": PASSWORD, "roles": roles};
    let role = |name: &str| doc! {"role": name, "db": "admin"};
    must(&server.client(), user("root", vec![role("root")]));
    let root = mongod::client(&as_user("root", &address(&server)));
    must(&root, doc! {"createRole": "nightly", "privileges": [], "roles": ["backup"]});
    for (name, of) in
        [("backup", "backup"), ("inherits", "nightly"), ("read", "readAnyDatabase"), ("cluster", "clusterManager")]
    {
        must(&root, user(name, vec![role(of)]));
    }
    server
}

/// Starts the same server again, where it listened before.
pub fn again(place: &Place, address: &str) -> Mongod {
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    Mongod::start(&Opts { dbpath: place.path("db"), args: vec!["--auth".into()], port, ..Opts::default() })
}

/// Where a server listens.
pub fn address(server: &Mongod) -> String {
    let uri = server.uri();
    uri.trim_start_matches("mongodb://").split('/').next().expect("an address").to_owned()
}

/// What a configuration says of a server and the port in front of it.
pub fn target(place: &Place, server: &Mongod, listen: &str, more: &str) -> String {
    let front = format!("front = {{ listen = {listen:?}, server = {:?}{more} }}", address(server));
    format!("match = \"dbpath={}\"\n{front}", place.path("db").display())
}

/// A user's address of the server at `address`.
pub fn as_user(name: &str, address: &str) -> String {
    format!(
        "mongodb://{name}:{PASSWORD}@{address}/?directConnection=true&authSource=admin&retryReads=false&retryWrites=false"
    )
}

/// A user's client.
pub fn client(name: &str, address: &str) -> Client {
    mongod::client(&as_user(name, address))
}

/// A client that does not log in.
pub fn stranger(address: &str) -> Client {
    mongod::client(&format!(
        "mongodb://{address}/?directConnection=true&retryReads=false&serverSelectionTimeoutMS=30000"
    ))
}
