//! In `tracer/src`, `copier/src` and `service/src` imports run downwards only: in no circle among files, and among the folders from the
//! upper layers to the lower ones, in the order that stands here.
//!
//! What is read are `use` lines and paths in the code, `crate::a::b` or `a::b` where `a` is a module that the file knows. A
//! name that a module only passes on (`pub use`) is followed to the file that it comes from. Parts for tests are left out.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

mod layers {
    pub mod modules;
}
use layers::modules::Modules;

/// The layers of `copier/src` from the ground up: folders, and files directly in `src`. What is not listed stands above all.
const COPIER: [&str; 14] = [
    "error",
    "base",
    "interface",
    "marks",
    "tree",
    "gate",
    "space",
    "stage",
    "trial",
    "context",
    "passes",
    "drain",
    "hold",
    "publish",
];

/// The same of `tracer/src`.
const TRACER: [&str; 13] = [
    "error", "sys", "shared", "target", "calls", "helper", "ptracer", "attach", "keeper", "flight", "hot", "receive",
    "follow",
];

/// The same of `service/src`.
const SERVICE: [&str; 12] =
    ["util", "wire", "trial", "config", "host", "places", "tls", "control", "jobs", "commands", "front", "nightly"];

#[test]
fn imports_of_the_service_run_down() {
    assert_runs_down("service/src", &SERVICE);
}

#[test]
fn imports_of_the_copier_run_down() {
    assert_runs_down("copier/src", &COPIER);
}

#[test]
fn imports_of_the_tracer_run_down() {
    assert_runs_down("tracer/src", &TRACER);
}

fn assert_runs_down(dir: &str, layers: &[&str]) {
    let mut files = BTreeMap::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), "", &mut files);
    let graph = Graph::new(&files);
    let of_tests = |file: &str| file.split('/').any(|part| part.trim_end_matches(".rs").ends_with("tests"));
    let unread: Vec<&String> = files.keys().filter(|file| !graph.files.contains(*file) && !of_tests(file)).collect();
    assert!(unread.is_empty(), "no `mod` line was found that leads to {unread:?}");
    let faults = graph.faults(layers);
    assert!(faults.is_empty(), "{} faults in {dir}:\n{}", faults.len(), faults.join("\n"));
}

fn read_all(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_all(&entry.path(), &format!("{name}/"), files);
        } else if name.ends_with(".rs") {
            files.insert(name, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Which file imports which.
struct Graph {
    files: BTreeSet<String>,
    edges: BTreeSet<(String, String)>,
}

impl Graph {
    /// Of a crate whose root is `lib.rs`.
    fn new(files: &BTreeMap<String, String>) -> Self {
        let modules = Modules::new(files);
        let mut edges = BTreeSet::new();
        for (index, module) in modules.all.iter().enumerate() {
            // What is passed on and not used here is no import of this file's.
            let used = module.imports.iter().filter(|import| !import.public || module.words.contains(&import.name));
            for path in used.map(|import| &import.path).chain(&module.paths) {
                if let Some(end) = modules.resolve(index, path, 0).map(|(end, _)| &modules.all[end].file)
                    && *end != module.file
                {
                    edges.insert((module.file.clone(), end.clone()));
                }
            }
        }
        Self { files: modules.all.iter().map(|module| module.file.clone()).collect(), edges }
    }

    fn leads_to(&self, from: &str, to: &str) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at) {
                next.extend(self.edges.iter().filter(|(a, _)| a == at).map(|(_, b)| b.as_str()));
            }
        }
        false
    }

    fn faults(&self, layers: &[&str]) -> Vec<String> {
        let layer = |file: &str| file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let rank = |file: &str| layers.iter().position(|known| *known == layer(file)).unwrap_or(usize::MAX);
        let mut faults = Vec::new();
        for (from, to) in &self.edges {
            if self.leads_to(to, from) {
                faults.push(format!("a circle: {from} imports {to}, which leads back to it"));
            }
            if rank(to) > rank(from) {
                faults.push(format!("upwards: {from} imports {to}"));
            }
        }
        let folders = self.files.iter().filter(|file| file.contains('/') && rank(file) == usize::MAX).map(|f| layer(f));
        let folders: BTreeSet<String> = folders.collect();
        faults.extend(folders.iter().map(|folder| format!("the folder {folder} is not in the list of layers")));
        let empty = layers.iter().filter(|known| !self.files.iter().any(|file| layer(file) == **known));
        faults.extend(empty.map(|known| format!("there is nothing in the layer {known}")));
        faults
    }
}

mod self_check {
    use super::*;

    /// The imports of a crate that is made of these files.
    fn graph(files: &[(&str, &str)]) -> Graph {
        Graph::new(&files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect())
    }

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        graph(files).edges.iter().map(|(from, to)| format!("{from} {to}")).collect()
    }

    #[test]
    fn a_planted_circle_is_found() {
        let mut files = vec![
            ("lib.rs", "mod low; mod high;"),
            ("low/mod.rs", "mod a; mod b; mod c;"),
            ("low/a.rs", "use super::b::B;"),
            ("low/b.rs", "fn f() { crate::low::c::g(); }"),
            ("low/c.rs", ""),
            ("high.rs", "use crate::low::{a::A, b};"),
        ];
        assert!(graph(&files).faults(&["low", "high"]).is_empty());
        files[4].1 = "#[cfg(test)] mod tests { use super::super::a::A; }";
        assert!(graph(&files).faults(&["low", "high"]).is_empty(), "only its tests import it");
        for text in ["use crate::low::a::A;", "fn g() -> super::a::A {}", "use super::a; fn g() { a::f() }"] {
            files[4].1 = text;
            let faults = graph(&files).faults(&["low", "high"]);
            assert_eq!(faults.len(), 3, "{text}: {faults:?}");
            assert!(
                faults.contains(&"a circle: low/c.rs imports low/a.rs, which leads back to it".into()),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn a_planted_import_upwards_is_found() {
        let mut files = vec![
            ("lib.rs", "mod error; mod low; mod high; mod top; pub use high::deep::Thing; pub use error::Error;"),
            ("error.rs", ""),
            ("low/mod.rs", "use crate::Error;"),
            ("high/mod.rs", "pub(crate) mod deep; use crate::low;"),
            ("high/deep.rs", "use crate::{Error, low::Low};"),
            ("top.rs", "use crate::{Thing, high};"),
        ];
        let layers = ["error", "low", "high"];
        assert_eq!(graph(&files).faults(&layers), Vec::<String>::new());
        for (text, to) in [
            ("use crate::{Error, high::deep};", "high/deep.rs"),
            ("pub(crate) use crate::high::deep::X; fn f(_: X) {}", "high/deep.rs"),
            ("use crate::Thing as Other;", "high/deep.rs"),
            ("fn f(_: &'static str, _: crate::Thing) {}", "high/deep.rs"),
            ("mod inner { use super::super::high; }", "high/mod.rs"),
            ("use super::top::f;", "top.rs"),
        ] {
            files[2].1 = text;
            let faults = graph(&files).faults(&layers);
            assert!(faults.contains(&format!("upwards: low/mod.rs imports {to}")), "{text}: {faults:?}");
        }
        files[2].1 = "";
        let faults = graph(&files).faults(&["error", "high"]);
        assert!(faults.contains(&"the folder low is not in the list of layers".into()), "{faults:?}");
        assert_eq!(graph(&files).faults(&["none", "error", "low", "high"]), ["there is nothing in the layer none"]);
    }

    #[test]
    fn what_is_passed_on_is_followed_to_where_it_comes_from() {
        let files = [
            ("lib.rs", "mod room; mod user; pub use room::Moved as Public;"),
            ("room/mod.rs", "mod a; mod b; pub(crate) use a::Moved; pub(crate) use b::Used; struct S(Used);"),
            ("room/a.rs", "use super::S;"),
            ("room/b.rs", ""),
            ("user.rs", "use crate::{Public, room::{self, Used}}; fn f() { room::Moved::new(); }"),
        ];
        let expected = ["room/a.rs room/mod.rs", "room/mod.rs room/b.rs", "user.rs room/a.rs", "user.rs room/b.rs"];
        let found = edges(&files);
        assert_eq!(found.iter().filter(|edge| *edge != "user.rs room/mod.rs").collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_code_is_no_import() {
        let text = r##"
            // use crate::b::X;
            /* crate::b::X /* and */ crate::b::X */
            const A: &str = "crate::b::X \" crate::b::X";
            const B: &str = r#"crate::b::X " "#;
            const C: [char; 3] = ['"', '\'', '\u{1f}'];
            #[cfg(test)] #[allow(unused)] use crate::b::X;
            #[cfg(all(test, target_os = "linux"))] fn f<'a>(_: &'a [u8; 2]) { crate::b::f() }
            #[cfg(test)] #[path = "b_tests.rs"] mod tests;
        "##;
        let files = |text| [("lib.rs", "mod a; mod b;"), ("a.rs", text), ("b.rs", "")];
        assert!(edges(&files(text)).is_empty(), "{:?}", edges(&files(text)));
        assert_eq!(edges(&files(&format!("{text} use crate::b::X;"))), ["a.rs b.rs"]);
    }
}
