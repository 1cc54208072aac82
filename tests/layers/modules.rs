//! The modules of a crate, with what each imports and names, read from its source text.
use std::collections::{BTreeMap, BTreeSet};

pub struct Import {
    pub path: Vec<String>,
    /// What it is called here.
    pub name: String,
    pub public: bool,
}

pub struct Module {
    pub file: String,
    parent: usize,
    children: BTreeMap<String, usize>,
    pub imports: Vec<Import>,
    pub paths: Vec<Vec<String>>,
    /// Every name in it, outside of imports.
    pub words: BTreeSet<String>,
}

/// The modules of a crate, its root first.
#[derive(Default)]
pub struct Modules {
    pub all: Vec<Module>,
}

impl Modules {
    /// Of a crate whose root is `lib.rs`.
    pub fn new(files: &BTreeMap<String, String>) -> Self {
        let mut modules = Self::default();
        modules.add(files, "lib.rs", "", 0);
        modules
    }

    /// Reads the module in `file`, whose own modules lie in `dir`, and those.
    fn add(&mut self, files: &BTreeMap<String, String>, file: &str, dir: &str, parent: usize) -> usize {
        let tokens = tokens(&files[file]);
        let index = self.open(file, parent);
        Reader { files, tokens: &tokens, at: 0 }.module(self, index, dir);
        index
    }

    fn open(&mut self, file: &str, parent: usize) -> usize {
        let (children, imports, paths, words) = Default::default();
        self.all.push(Module { file: file.into(), parent, children, imports, paths, words });
        self.all.len() - 1
    }

    /// The module in which a path ends, and whether it is that module itself. `None`: outside of the crate.
    pub fn resolve(&self, from: usize, path: &[String], depth: u32) -> Option<(usize, bool)> {
        assert!(depth < 64, "imports that lead back to themselves: {path:?} in {}", self.all[from].file);
        let (mut at, mut inside) = (from, false);
        for part in path {
            let module = &self.all[at];
            let import = module.imports.iter().find(|import| import.name == *part && import.path != path);
            match (part.as_str(), module.children.get(part), import) {
                ("crate", ..) => at = 0,
                ("self", ..) => {}
                ("super", ..) => at = module.parent,
                (_, Some(child), _) => at = *child,
                (_, None, Some(import)) => match self.resolve(at, &import.path, depth + 1) {
                    Some((end, true)) => at = end,
                    other => return other,
                },
                (_, None, None) => return inside.then_some((at, false)),
            }
            inside = true;
        }
        Some((at, true))
    }
}

/// Reads one file.
struct Reader<'a> {
    files: &'a BTreeMap<String, String>,
    tokens: &'a [String],
    at: usize,
}

impl Reader<'_> {
    fn token(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| token)
    }

    /// Up to the brace that closes the module, or the end of the file.
    fn module(&mut self, modules: &mut Modules, index: usize, dir: &str) {
        let (mut depth, mut path) = (0, None);
        while self.at < self.tokens.len() {
            let before = |back: usize| self.at.checked_sub(back).map_or("", |at| self.tokens[at].as_str());
            match self.token(0) {
                "#" => {
                    let start = self.at;
                    self.skip_group(if self.token(1) == "!" { 2 } else { 1 });
                    let attribute = self.tokens[start..self.at].concat();
                    if attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test") {
                        self.skip_item();
                    } else if let Some(rest) = attribute.strip_prefix("#[path=\"") {
                        path = Some(rest.trim_end_matches([']', '"']).to_owned());
                    }
                    continue;
                }
                "mod" if self.token(2) == ";" || self.token(2) == "{" => {
                    let (name, inline) = (self.token(1).to_owned(), self.token(2) == "{");
                    self.at += 3;
                    let below = format!("{dir}{name}/");
                    let child = if inline {
                        let child = modules.open(&modules.all[index].file.clone(), index);
                        self.module(modules, child, &below);
                        child
                    } else {
                        let beside = modules.all[index].file.rsplit_once('/').map_or("", |(folder, _)| folder);
                        let given = path.take().map(|path| format!("{beside}/{path}").trim_matches('/').to_owned());
                        let places = [format!("{dir}{name}.rs"), format!("{below}mod.rs")];
                        let found = given.into_iter().chain(places).find(|place| self.files.contains_key(place));
                        modules.add(
                            self.files,
                            &found.unwrap_or_else(|| panic!("no file for `mod {name}`")),
                            &below,
                            index,
                        )
                    };
                    modules.all[index].children.insert(name, child);
                    continue;
                }
                "use" if self.token(1) != "<" => {
                    let public = before(1) == "pub" || before(1) == ")";
                    self.at += 1;
                    let mut found = Vec::new();
                    self.import(&[], &mut found);
                    let imports = found.into_iter().map(|(path, name)| Import { path, name, public });
                    modules.all[index].imports.extend(imports);
                    continue;
                }
                "{" => depth += 1,
                "}" if depth == 0 => {
                    self.at += 1;
                    return;
                }
                "}" => depth -= 1,
                word if is_word(word) && before(1) != "::" && before(1) != "." && before(1) != "in" => {
                    let mut path = vec![word.to_owned()];
                    while self.token(1) == "::" && is_word(self.token(2)) {
                        self.at += 2;
                        path.push(self.token(0).to_owned());
                    }
                    modules.all[index].words.insert(path[0].clone());
                    if path.len() > 1 {
                        modules.all[index].paths.push(path);
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// One branch of a `use`, and what ends it.
    fn import(&mut self, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let mut path = prefix.to_vec();
        let mut name = None;
        loop {
            let token = self.token(0).to_owned();
            self.at += 1;
            match token.as_str() {
                "{" => {
                    while self.tokens[self.at - 1] != "}" {
                        self.import(&path, found);
                    }
                    path.clear();
                }
                "as" => {
                    name = Some(self.token(0).to_owned());
                    self.at += 1;
                }
                "," | ";" | "}" | "" => break,
                "::" | "*" => {}
                _ => path.push(token),
            }
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if path.len() > prefix.len() || path.len() == prefix.len() && !path.is_empty() && name.is_none() {
            let name = name.unwrap_or_else(|| path[path.len() - 1].clone());
            found.push((path, name));
        }
    }

    /// Goes behind the bracket that closes the one `ahead`.
    fn skip_group(&mut self, ahead: usize) {
        self.at += ahead;
        let mut depth = 0;
        loop {
            match self.token(0) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => assert!(self.at < self.tokens.len(), "a bracket is not closed"),
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// Goes behind an item: to its semicolon, or behind its braces.
    fn skip_item(&mut self) {
        loop {
            match self.token(0) {
                "{" => return self.skip_group(0),
                "(" | "[" => self.skip_group(0),
                ";" => return self.at += 1,
                "}" | "" => return,
                _ => self.at += 1,
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::`, and every other character by itself; strings begin with their quotation mark. Comments, characters and
/// lifetimes are left out.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c));
    let (mut all, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            '/' if starts(start, "//") => at += text[at..].iter().take_while(|c| **c != '\n').count(),
            '/' if starts(start, "/*") => {
                let mut depth = 1;
                at += 1;
                while depth > 0 && at < text.len() {
                    let (opens, closes) = (starts(at, "/*"), starts(at, "*/"));
                    depth = depth + i32::from(opens) - i32::from(closes);
                    at += if opens || closes { 2 } else { 1 };
                }
            }
            '"' => {
                while at < text.len() && text[at] != '"' {
                    at += if text[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
                all.push(text[start..at.min(text.len())].iter().collect());
            }
            '\'' if starts(at, "\\") => at += 2 + text[at + 2..].iter().take_while(|c| **c != '\'').count() + 1,
            '\'' if text.get(at + 1) == Some(&'\'') => at += 2,
            '\'' => at += text[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count(),
            c if c.is_alphanumeric() || c == '_' => {
                at += text[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                let word: String = text[start..at].iter().collect();
                let hashes = text[at..].iter().take_while(|c| **c == '#').count();
                if ["r", "br", "cr"].contains(&word.as_str()) && text.get(at + hashes) == Some(&'"') {
                    let end = format!("\"{}", "#".repeat(hashes));
                    at += hashes + 1;
                    at += (at..text.len()).take_while(|at| !starts(*at, &end)).count() + end.len();
                } else {
                    all.push(word);
                }
            }
            ':' if starts(start, "::") => {
                at += 1;
                all.push("::".into());
            }
            c if c.is_whitespace() => {}
            c => all.push(c.into()),
        }
    }
    all
}
