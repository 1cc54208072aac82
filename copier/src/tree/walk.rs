//! All directories by their paths. The path is kept beside the walk: to put each together from its parents takes time that grows with
//! the square of the depth.
use super::{DirNode, Entry, Tree};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

impl Tree {
    /// Shows each known directory of some sources, or of all, once, with its path in the backup; in the order of names.
    pub fn walk<'a>(&'a self, sources: Option<&[usize]>, mut visit: impl FnMut(&Path, &'a DirNode)) {
        let mut seen = HashSet::new();
        for (index, root) in self.roots.iter().enumerate() {
            let is_one = sources.is_none_or(|some| some.contains(&index)) && seen.insert(root.id);
            let Some(node) = self.dirs.get(&root.id).filter(|_| is_one) else { continue };
            let mut path = root.name.as_ref().map(PathBuf::from).unwrap_or_default();
            visit(&path, node);
            let mut levels = vec![node.entries.iter()];
            while let Some(left) = levels.last_mut() {
                let Some((name, entry)) = left.next() else {
                    levels.pop();
                    path.pop();
                    continue;
                };
                if let Entry::Dir(id) = entry
                    && let Some(node) = self.dirs.get(id)
                    && seen.insert(*id)
                {
                    path.push(&**name);
                    visit(&path, node);
                    levels.push(node.entries.iter());
                }
            }
        }
    }
}
