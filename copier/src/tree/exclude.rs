//! What a backup leaves out: patterns in the language of `.gitignore` (gitignore(5)), relative to each source, matched by globset.
//!
//! - Without a slash in its beginning or middle, a pattern matches a name at any depth: `*.log`, `diagnostic.data`.
//! - With one, it matches the path from the source: `/diagnostic.data`, `journal/*.tmp`. `./a`, `/a` and `//a` are the same.
//! - With one at its end, it matches only what is a directory in the backup: also a link that leads out of the sources to one.
//! - `*`, `?` and classes match no slash; `**/`, `/**` and `/**/` match any number of directories; a backslash takes a
//!   character as it is; `!` in the beginning takes back in what an earlier pattern leaves out. The last that matches decides.
//! - A directory that is left out is so with everything below it, which no later pattern brings back.
//!
//! Unlike in a file, there are no comments (`#` is itself), and blanks at the end count; `{a,b}` is either. What git would take for a
//! pattern that matches nothing is refused: who writes one means something.
use crate::Error;
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The patterns of a backup.
#[derive(Debug, Default)]
pub(crate) struct Exclude {
    set: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    /// It brings back what an earlier one leaves out.
    brings_back: bool,
    only_dirs: bool,
    /// Something was there that it matches.
    has_matched: AtomicBool,
}

/// The patterns that match one path, were it a directory or not.
#[derive(Debug)]
pub(super) struct Matching<'a> {
    exclude: &'a Exclude,
    /// In the order in which they were given.
    rules: Vec<usize>,
}

impl Exclude {
    /// # Errors
    /// The first pattern that is malformed, or can match nothing.
    pub fn new(patterns: &[String]) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let bad = |cause: String| Error::BadExclude { pattern: pattern.clone(), cause };
            let (rule, glob) = read(pattern).map_err(bad)?;
            let glob = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
            set.add(glob.map_err(|error| bad(error.kind().to_string()))?);
            all.rules.push(rule);
        }
        all.set = set
            .build()
            .map_err(|error| Error::BadExclude { pattern: patterns.join(", "), cause: error.kind().to_string() })?;
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The patterns that match a path below a source; `None` where there are none.
    pub(super) fn matching(&self, path: &Path) -> Option<Matching<'_>> {
        let rules = self.set.matches_candidate(&Candidate::new(path));
        (!rules.is_empty()).then_some(Matching { exclude: self, rules })
    }

    /// Each pattern.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }

    /// Patterns that nothing ever matched.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| !rule.has_matched.load(Ordering::Relaxed)).map(|rule| rule.text.as_str())
    }
}

impl Matching<'_> {
    /// The pattern that leaves this out, by its place in the list.
    fn decide(&self, is_dir: bool) -> Option<usize> {
        let applies = |rule: &&usize| is_dir || !self.exclude.rules[**rule].only_dirs;
        let last = *self.rules.iter().rfind(applies)?;
        (!self.exclude.rules[last].brings_back).then_some(last)
    }

    /// The same whatever it is; `None` if that depends on whether it is a directory.
    pub fn by_name(&self) -> Option<Option<usize>> {
        let (dir, other) = (self.decide(true), self.decide(false));
        (dir.is_some() == other.is_some()).then_some(other)
    }

    /// The pattern that leaves this out. Something is there, so these patterns have not been given in vain.
    pub fn excludes(&self, is_dir: bool) -> Option<usize> {
        for rule in self.rules.iter().map(|rule| &self.exclude.rules[*rule]).filter(|rule| is_dir || !rule.only_dirs) {
            rule.has_matched.store(true, Ordering::Relaxed);
        }
        self.decide(is_dir)
    }
}

/// Reads one pattern: what it means, and the glob of all paths that it matches.
fn read(text: &str) -> Result<(Rule, String), String> {
    const NOTHING: &str = "it names nothing below the source";
    let (brings_back, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    if rest.contains("[[:") {
        return Err("classes by name, such as [:digit:], are not known: write 0-9".into());
    }
    let mut parts = split(rest)?;
    let only_dirs = parts.len() > 1 && parts.last().is_some_and(String::is_empty);
    while only_dirs && parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    let is_path = parts.len() > 1;
    parts.retain(|part| !part.is_empty() && part != ".");
    if parts.iter().any(|part| part == "..") {
        return Err("paths begin at the source and have no `..` in them".into());
    }
    let mut glob = parts.join("/");
    if glob.is_empty() {
        return Err(NOTHING.into());
    }
    glob = classes(&glob)?;
    if !is_path {
        glob.insert_str(0, "**/");
    }
    if glob.ends_with("/**") && is_path {
        // What is in the directory, not the directory itself.
        glob.push_str("/*");
    }
    Ok((Rule { text: text.into(), brings_back, only_dirs, has_matched: AtomicBool::new(false) }, glob))
}

/// Sees to it that no class matches a slash, as everywhere but in globset.
fn classes(glob: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), glob.chars().peekable());
    while let Some(char) = rest.next() {
        out.push(char);
        match char {
            '\\' => out.extend(rest.next()),
            '[' => {
                let negated = rest.next_if(|next| matches!(next, '!' | '^'));
                out.extend(negated);
                // Right at its begin the closing bracket is one of the class.
                let mut class: Vec<char> = rest.next_if_eq(&']').into_iter().collect();
                class.extend(std::iter::from_fn(|| rest.next_if(|next| *next != ']')));
                if class.contains(&'\\') {
                    return Err(
                        "a backslash in a class means different things to different programs: leave it out".into()
                    );
                }
                if class.windows(3).any(|range| range[1] == '-' && range[0] <= '/' && '/' <= range[2]) {
                    return Err("a class matches no slash: write its range in two parts, before and after it".into());
                }
                let first = usize::from(class.first() == Some(&']'));
                out.extend(&class[..first]);
                out.extend(negated.map(|_| '/'));
                out.extend(&class[first..]);
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The parts of a pattern between its slashes; an escaped slash is one.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let next = if char == '\\' { chars.next() } else { Some(char) };
        match (char, next) {
            (_, Some('/')) => parts.push(String::new()),
            (_, None) => return Err("it ends with a backslash that escapes nothing".into()),
            (_, Some(next)) => {
                let part = parts.last_mut().ok_or("it is empty")?;
                if char == '\\' {
                    part.push(char);
                }
                part.push(next);
            }
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
