//! The language of patterns: each row of the table in docs/operations.md, and against git itself.
use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// Directories end in a slash.
const PATHS: [&str; 20] = [
    "diagnostic.data/",
    "diagnostic.data",
    "old/diagnostic.data/",
    "mongod.log",
    "journal/",
    "journal/a.log",
    "journal/a.tmp",
    "journal/deep/b.tmp",
    "a.log",
    "a1.log",
    "ab.log",
    "a[1].log",
    "*.log",
    "!odd",
    "#odd",
    "a/x",
    "a/b/x",
    "a/b/c/x",
    "x",
    "sub/x",
];

fn excludes(patterns: &[&str], path: &str) -> bool {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let exclude = Exclude::new(&patterns).unwrap_or_else(|error| panic!("{patterns:?}: {error}"));
    // As the tree is walked: what is below something that is left out is never asked for.
    let names: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    (1..=names.len()).any(|count| {
        let is_dir = count < names.len() || path.ends_with('/');
        let above = names[..count].join("/");
        exclude.matching(Path::new(&above)).is_some_and(|matching| matching.excludes(is_dir).is_some())
    })
}

fn excluded(patterns: &[&str]) -> Vec<&'static str> {
    PATHS.into_iter().filter(|path| excludes(patterns, path)).collect()
}

#[test]
fn each_row_of_the_documented_table_leaves_out_what_it_says() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    let table = text.split("| patterns | leave out | but not |").nth(1).expect("the table of patterns");
    let mut rows = 0;
    for line in table.lines().skip(2).take_while(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let words = |cell: &'static str| -> Vec<&str> { cell.split('`').skip(1).step_by(2).collect() };
        let cells: Vec<Vec<&str>> = cells.iter().map(|cell| words(String::leak((*cell).to_owned()))).collect();
        let [patterns, out, kept] = &cells[..] else { panic!("{line}") };
        for path in out {
            assert!(excludes(patterns, path), "{path} is not left out by {line}");
        }
        for path in kept {
            assert!(!excludes(patterns, path), "{path} is left out by {line}");
        }
        assert!(!out.is_empty() && !kept.is_empty(), "{line}");
        rows += 1;
    }
    assert!(rows >= 12, "{rows} rows");
}

#[test]
fn the_usual_spellings_of_a_directory_mean_it() {
    for pattern in ["diagnostic.data/", "diagnostic.data//"] {
        assert_eq!(excluded(&[pattern]), ["diagnostic.data/", "old/diagnostic.data/"], "{pattern}");
    }
    for pattern in ["/diagnostic.data/", "./diagnostic.data/", "//diagnostic.data/", "/./diagnostic.data/"] {
        assert_eq!(excluded(&[pattern]), ["diagnostic.data/"], "{pattern}");
    }
    for pattern in ["./diagnostic.data", "/diagnostic.data"] {
        assert_eq!(excluded(&[pattern]), ["diagnostic.data/", "diagnostic.data"], "{pattern}");
    }
    assert_eq!(excluded(&["a//x"]), excluded(&["a/x"]));
    assert_eq!(excluded(&["a/./x"]), ["a/x"]);
}

#[test]
fn what_is_malformed_or_can_match_nothing_is_refused() {
    for pattern in ["", "!", "/", "./", "//", "!/", "a[", "[z-a]", "a\\", "../x", "a/../x", "[[:digit:]]", "{a", "!a["]
    {
        match Exclude::new(&["fine".into(), pattern.into()]) {
            Err(Error::BadExclude { pattern: named, cause }) => {
                assert_eq!(named, pattern);
                assert!(!cause.is_empty());
            }
            other => panic!("{pattern:?}: {other:?}"),
        }
    }
}

#[test]
fn a_pattern_is_in_vain_until_something_is_there_that_it_matches() {
    let patterns = ["*.log", "cache/", "/typo", "!kept.log"].map(String::from);
    let exclude = Exclude::new(&patterns).unwrap();
    let see = |path: &str, is_dir| exclude.matching(Path::new(path)).map(|matching| matching.excludes(is_dir));
    assert_eq!(see("sub/a.log", false), Some(Some(0)));
    assert_eq!(see("cache", false), Some(None), "a file");
    assert_eq!(exclude.unused().collect::<Vec<_>>(), ["cache/", "/typo", "!kept.log"]);
    assert_eq!(see("kept.log", false), Some(None), "brought back");
    assert_eq!(see("x/cache", true), Some(Some(1)));
    assert_eq!(exclude.unused().collect::<Vec<_>>(), ["/typo"]);
}

#[test]
fn names_that_are_not_text_are_matched_by_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let exclude = Exclude::new(&["*.log".into(), "?x".into()]).unwrap();
    let is_matched = |name: &[u8]| exclude.matching(Path::new(std::ffi::OsStr::from_bytes(name))).is_some();
    assert!(is_matched(b"\xff\xfe.log") && is_matched(b"\xffx") && !is_matched(b"\xff\xfe"));
}

/// Which of [`PATHS`] git ignores by these patterns.
fn ignored_by_git(patterns: &[&str]) -> Vec<&'static str> {
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(dir.path()).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir.path()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    assert!(git(&["init", "-q"]).status().expect("git is installed").success());
    std::fs::write(dir.path().join(".gitignore"), patterns.join("\n") + "\n").unwrap();
    // A pattern with a slash at its end asks what is there.
    PATHS
        .into_iter()
        .filter(|path| {
            let place = dir.path().join(path.trim_end_matches('/'));
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            if path.ends_with('/') {
                std::fs::create_dir_all(&place).unwrap();
            } else {
                std::fs::write(&place, "").unwrap();
            }
            let mut child = git(&["check-ignore", "--no-index", "-z", "--stdin"]).spawn().unwrap();
            let name = path.trim_end_matches('/').to_owned() + "\0";
            child.stdin.take().unwrap().write_all(name.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::remove_dir_all(&place).or_else(|_| std::fs::remove_file(&place)).unwrap();
            !output.stdout.is_empty()
        })
        .collect()
}

#[test]
fn git_leaves_out_the_same() {
    for patterns in [
        &["diagnostic.data/"][..],
        &["diagnostic.data"],
        &["/diagnostic.data"],
        &["*.log"],
        &["/*.log"],
        &["journal/*.tmp"],
        &["journal/**/*.tmp"],
        &["**/x"],
        &["a/**"],
        &["a/**/x"],
        &["**/b/**"],
        &["**"],
        &["a**x"],
        &["a*.log", "!ab.log"],
        &["*.log", "!/a.log", "a.*"],
        &["journal", "!journal/a.log"],
        &["a[0-9].log"],
        &["a[!0-9].log"],
        &["a[^b].log"],
        &["a\\[1\\].log"],
        &["a?.log"],
        &["\\*.log"],
        &["\\!odd"],
        &["\\#odd"],
        &["\\x"],
        &["sub/x"],
        &["sub/"],
        &["*"],
        &["*", "!*/", "!x"],
        &["?"],
        &["/*/x"],
    ] {
        assert_eq!(excluded(patterns), ignored_by_git(patterns), "{patterns:?}");
    }
}

/// What git and rsync hold, and globset does not.
#[test]
fn a_class_matches_no_slash() {
    assert!(excludes(&["data[!0-9]*"], "dataX"));
    assert!(!excludes(&["data[!0-9]*"], "data/x"));
    assert!(!excludes(&["/a[!b]c"], "a/c"));
    assert!(excludes(&["[!]x]y"], "ay") && !excludes(&["[!]x]y"], "]y"));
    for pattern in ["x[+-9]", "[.-9]x", r"x[a\-z]"] {
        assert!(Exclude::new(&[pattern.into()]).is_err(), "{pattern}");
    }
}
