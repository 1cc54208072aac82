//! The keeper and the ptracer of hotbackup: one small program, which hotbackup holds and starts from memory.
#![forbid(unsafe_code)]

fn main() {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    std::process::exit(hotbackup_tracer::helper_main(&arguments).unwrap_or(2));
}
