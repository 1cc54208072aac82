//! Whether names lead where they led at the point in time: asked in the drain of directories whose change time proves nothing.
use super::{DirNode, Entry, Tree};
use crate::base::sys::{self, Found, Kind};
use crate::marks::node::Name;
use hotbackup_event::look::is_gone;
use std::io;

impl Tree {
    /// Whether a name is there and is the same thing as in the model: in kind, in who it is, and in what a symbolic link says.
    /// What that is like by now, in content or metadata, is not asked, nor where a link leads.
    pub fn is_still(&self, node: &DirNode, name: &Name, entry: &Entry) -> io::Result<bool> {
        let found = match sys::stat_at(&node.dir.fd, name) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let place = (node.dir.id, Name::clone(name));
        let followed = self.followed.get(&place).filter(|_| self.volatile.contains(&place));
        let (kind, id) = match (entry, followed) {
            // A link out of the sources, which becomes what it leads to.
            (Entry::File(_) | Entry::Dir(_), Some(link)) => (Kind::Symlink, *link),
            (Entry::File(file), None) => (Kind::File, file.id),
            (Entry::Dir(id), None) => (Kind::Dir, *id),
            (Entry::Other(other), _) => (other.kind(), other.id),
        };
        // Copied to the upper layer it is another one, by a call that says so or not: files are looked at by themselves.
        let is_it = |found: &Found| Ok::<_, io::Error>(found.id == id || sys::is_on_overlayfs(&node.dir.fd)?);
        if found.stat.kind() != kind || !is_it(&found)? {
            return Ok(false);
        }
        let Entry::Other(other) = entry else { return Ok(true) };
        let Some((text, _)) = &other.link else { return Ok(true) };
        // Where there are no birth times, the number may have been used again.
        match sys::read_link(&node.dir.fd, name) {
            Ok(now) => Ok(now == *text),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(error),
        }
    }
}
