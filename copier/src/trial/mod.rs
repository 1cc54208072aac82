//! The trial: what can the destination hold of what is in the source?
//!
//! Nothing is assumed by the name of a file system: the same driver keeps owners with one mount option and not with another, and a FUSE
//! server may say that it did what it did not. So everything is tried in a directory of its own below the staging directory,
//! and looked at afterwards, once the tree is known and before the first byte is copied:
//!
//! 1. [`capabilities`]: a dozen small things, whatever the source is;
//! 2. [`needs`]: what the source has of each, counted in the model of the tree;
//! 3. [`findings`]: a pure function of both. Where content or names would be lost the backup fails; where it is only metadata,
//!    it is told;
//! 4. [`exact`]: what depends on the very names, times and lengths of the source, tried with these.
//!
//! What appears later is found when it is put into place, by the same causes ([`crate::publish`]), and what became of each entry's metadata
//! is looked at again there.
mod capabilities;
mod exact;
mod findings;
mod ground;
mod needs;

use crate::stage::Stage;
use crate::tree::Tree;
use crate::{Error, NotKept};
use findings::Finding;
use ground::Ground;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::LazyLock;

pub(crate) use capabilities::Capabilities;
pub(crate) use findings::Loss;

/// What was found, for whoever puts things into place.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// One for each staging directory.
    capabilities: Vec<Capabilities>,
    /// What was told before copying: once is enough.
    pub told: BTreeMap<Loss, NotKept>,
}

impl Trial {
    /// What a destination can hold.
    pub fn capabilities(&self, part: usize) -> &Capabilities {
        static EVERYTHING: LazyLock<Capabilities> = LazyLock::new(Capabilities::default);
        self.capabilities.get(part).unwrap_or(&EVERYTHING)
    }
}

/// Tries what each destination can hold of what goes there. An error where something of the source would be lost but its
/// metadata; that is told by `warn`.
pub(crate) fn before_copying(stage: &Stage, tree: &Tree, mut warn: impl FnMut(&str)) -> Result<Trial, Error> {
    let mut trial = Trial::default();
    for (part, dir) in stage.parts().enumerate() {
        let own = [part];
        let sources = if stage.more.is_empty() { None } else { Some(&own[..]) };
        let (capabilities, found) = try_one(dir, tree, sources)?;
        trial.capabilities.push(capabilities);
        for (loss, finding) in found {
            warn(&finding.words());
            let new = finding.not_kept(loss);
            match trial.told.entry(loss) {
                Entry::Occupied(mut told) => told.get_mut().count += new.count,
                Entry::Vacant(none) => drop(none.insert(new)),
            }
        }
    }
    Ok(trial)
}

fn try_one(
    stage: &Stage,
    tree: &Tree,
    sources: Option<&[usize]>,
) -> Result<(Capabilities, Vec<(Loss, Finding)>), Error> {
    let ground = Ground::new(stage)?;
    let result = (|| {
        let mut capabilities = Capabilities::find(&ground)?;
        let needs = needs::Needs::of(tree, sources, &capabilities);
        exact::try_own_name(&ground, &capabilities)?;
        exact::try_names(&ground, (tree, sources), &capabilities)?;
        exact::try_lengths(&ground, &needs, &mut capabilities)?;
        exact::try_times(&ground, &needs, &mut capabilities)?;
        let mut told = Vec::new();
        for finding in findings::of(&capabilities, &needs) {
            let Some(loss) = finding.warning() else { return Err(finding.error()) };
            told.push((loss, finding));
        }
        Ok((capabilities, told))
    })();
    let cleared = ground.clear();
    let found = result?;
    cleared?;
    Ok(found)
}
