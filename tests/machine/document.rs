//! The commands that a document tells its reader to type.
use std::fs;

use crate::common::package::home;

/// The shell commands of a section, its subsections left out: each block that is fenced with ```` ```sh ````, in order.
///
/// # Panics
/// There is no such section, or it has no commands.
pub fn commands(document: &str, heading: &str) -> Vec<String> {
    let text = fs::read_to_string(home().join(document)).expect("the document is there");
    let mut lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if line == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n"));
        } else if line.starts_with("## ") || line.starts_with("### ") {
            break;
        }
    }
    assert!(!blocks.is_empty(), "{document} has no commands below {heading:?}");
    blocks
}
