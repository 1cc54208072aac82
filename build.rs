//! Builds the small static program that keeper and ptracer are (`tracer/keeper`), to be held by hotbackup whole.
use std::env::{var, var_os};
use std::path::PathBuf;
use std::process::Command;

/// Its package, and the program.
const KEEPER: &str = "hotbackup-keeper";
/// All that it is made of.
const SOURCES: &[&str] =
    &["tracer/src", "tracer/Cargo.toml", "tracer/event", "tracer/keeper", "Cargo.toml", "Cargo.lock", "build.rs"];
/// What is said to cargo and to the compiler of this build, and is not meant for that program: one that looks at code
/// (clippy), flags, another target.
const NOT_PASSED_ON: &[&str] =
    &["RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = PathBuf::from(var_os("OUT_DIR").expect("cargo says where"));
    let target = var("TARGET").expect("cargo says for what");
    // A directory of its own: cargo holds the usual one locked just now.
    let directory = out.join("keeper");
    let mut cargo = Command::new(var_os("CARGO").expect("cargo says which"));
    cargo.args(["build", "--frozen", "--package", KEEPER, "--profile", "keeper", "--target", &target]);
    cargo.arg("--target-dir").arg(&directory);
    // Fail points are armed in both or in neither: tests kill keepers at theirs.
    cargo.args(["--config", &format!("profile.keeper.debug-assertions={}", cfg!(debug_assertions))]);
    for name in NOT_PASSED_ON {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(status.success(), "{KEEPER} cannot be built (it wants a static C library: libc6-dev)");
    let program = directory.join(target).join("keeper").join(KEEPER);
    println!("cargo::rustc-env=HOTBACKUP_KEEPER_PROGRAM={}", program.display());
}
