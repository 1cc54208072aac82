//! The page with made-up targets, to be looked at while it is worked on: `cargo run -p hotbackup-web --example sample`.
#[path = "../tests/common/mod.rs"]
mod common;

fn main() {
    let service = common::Service::start(common::targets());
    println!("http://{}/", service.address);
    loop {
        std::thread::park();
    }
}
