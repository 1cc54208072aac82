//! Where the helper is: built in, or installed.

fn main() {
    println!("cargo::rerun-if-env-changed=HOTBACKUP_EMBED");
    println!("cargo::rerun-if-env-changed=HOTBACKUP_INSTALLED");
    if std::env::var_os("CARGO_FEATURE_EMBEDDED").is_some() {
        let helper =
            std::env::var("HOTBACKUP_EMBED").expect("with the feature `embedded`, HOTBACKUP_EMBED names the helper");
        println!("cargo::rerun-if-changed={helper}");
    }
    if std::env::var("TARGET").is_ok_and(|target| target.contains("linux")) {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libHotBackup.so");
    }
}
