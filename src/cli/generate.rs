//! Manual pages and shell completions, made from the command's own definition: what packages install is what `--help` says.
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Command, Failure};
use crate::exit::Cause;

#[derive(Debug, Args)]
pub(super) struct Generate {
    /// The directory that gets `man1/` and `completions/`
    dir: PathBuf,
}

pub(super) fn run(flags: &Generate) -> Result<(), Failure> {
    write(&flags.dir).map_err(|error| {
        let words = format!("cannot write manual pages and completions to {}: {error}", flags.dir.display());
        Failure::new(Cause::DestIo, words)
    })
}

fn write(dir: &Path) -> io::Result<()> {
    let (man, completions) = (dir.join("man1"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = Command::command();
    command.build();
    clap_mangen::generate_to(command.clone(), &man)?;
    for (shell, name) in [(Shell::Bash, "hotbackup"), (Shell::Zsh, "_hotbackup"), (Shell::Fish, "hotbackup.fish")] {
        let mut file = File::create(completions.join(name))?;
        clap_complete::generate(shell, &mut command.clone(), "hotbackup", &mut file);
        file.sync_all()?;
    }
    Ok(())
}
