//! What a step's key is made of: each input changes it, and nothing else does.
//!
//! A row of `rows` is a Dockerfile, whose last step is meant, and one change. The change of an input changes the key, and a
//! build that finds the results of the one before gives what one without a cache gives. The change of anything else leaves
//! the key as it is, and everything is found.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::time::{Duration, SystemTime};

use crate::rows::Change::{
    Base, Capability, Content, Link, Mode, Moved, Owner, Remove, Rename, Text, Time, Touched, Words,
};
use crate::rows::{Change, INPUTS, OTHERS, Row, UNSEEN};
use crate::scene::{Scene, Work, all_cached, difference, side_by_side};

/// What the rows begin with.
fn lay(work: &Work<'_>, dockerfile: &str) {
    work.write("Dockerfile", dockerfile);
    let files = ["a", "b", "ignored", "folder/x", "folder/y", "folder/deep/z", "deep/b"];
    for name in files {
        work.write(name, "1");
    }
    work.write("folder/x", "x");
    work.write("folder/y", "y");
    work.write(".dockerignore", "ignored\n**/*.tmp\n");
    symlink("x", work.context.join("folder/link")).unwrap();
    symlink("a", work.context.join("link")).unwrap();
    let mut ball = tar::Builder::new(Vec::new());
    ball.append_dir("in-the-ball", work.context.join("deep")).unwrap();
    work.write("ball.tar", ball.into_inner().unwrap());
    for (name, text) in [("secret-1", "1"), ("secret-2", "2"), ("other/x", "other")] {
        let path = work.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Words of the command line that hold before and after a change.
fn words(text: &str) -> Vec<String> {
    let always = "--allow=security.insecure --secret=id=one,src=secret-1 --secret=id=two,src=secret-2";
    always.split_whitespace().chain(text.split_whitespace()).map(str::to_owned).collect()
}

fn change(work: &mut Work<'_>, change: &Change) {
    let at = |name: &str| work.context.join(name);
    match change {
        Text(from, to) => {
            let text = fs::read_to_string(at("Dockerfile")).unwrap();
            assert!(text.contains(from), "no {from:?} in {text}");
            fs::write(at("Dockerfile"), text.replace(from, to)).unwrap();
        }
        Content(name, text) => {
            if at(name).is_symlink() {
                fs::remove_file(at(name)).unwrap();
            }
            work.write(name, text);
        }
        Mode(name, mode) => work.mode(name, *mode),
        Link(name, target) => {
            fs::remove_file(at(name)).unwrap();
            symlink(target, at(name)).unwrap();
        }
        Rename(name, to) => fs::rename(at(name), at(to)).unwrap(),
        Remove(name) => fs::remove_file(at(name)).unwrap(),
        Capability(name) => capability(&at(name)),
        Owner(name) => chown(at(name), Some(1234), Some(1234)).unwrap(),
        Time(name) => {
            let file = fs::File::open(at(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        }
        Touched(name) => {
            // The time of a change has no call of its own.
            work.mode(name, 0o600);
            work.mode(name, 0o644);
        }
        Base(_, line) => work.base = base(work, line),
        Moved => {
            let other = work.join("moved");
            fs::rename(&work.context, &other).unwrap();
            work.context = other;
        }
        Words(..) => {}
    }
}

/// cap_net_raw, effective and permitted, as `setcap` writes it.
fn capability(file: &std::path::Path) {
    let mut command = std::process::Command::new(crate::support::need("setcap", "libcap2-bin"));
    crate::support::run(command.arg("cap_net_raw=ep").arg(file));
}

/// The base image with a line more.
fn base(work: &Work<'_>, line: &str) -> std::path::PathBuf {
    work.derived(&format!("FROM base\n{line}\n"))
}

/// What a row is before its change, and the words before and after.
fn begin<'s>(scene: &'s Scene, (_, dockerfile, change): &Row) -> (Work<'s>, Vec<String>, Vec<String>) {
    let mut work = scene.work();
    lay(&work, dockerfile);
    if let Base(line, _) = change {
        work.base = base(&work, line);
    }
    match change {
        Words(before, after) => (work, words(before), words(after)),
        _ => (work, words(""), words("")),
    }
}

/// The words that `plan` takes.
fn of_plan(words: &[String]) -> Vec<String> {
    let takes = |word: &&String| {
        ["--build-arg", "--build-context", "--platform", "--target"].iter().any(|name| word.starts_with(name))
    };
    words.iter().filter(takes).cloned().collect()
}

/// The keys before and after a change; none where `plan` has no word for what has changed.
fn keys(work: &mut Work<'_>, row: &Row, before: &[String], after: &[String]) -> Option<[Vec<String>; 2]> {
    let shown = match row.2 {
        Words(..) => of_plan(before) != of_plan(after),
        // It has no --allow either.
        Text(_, to) => to != "insecure",
        _ => true,
    };
    let was = shown.then(|| work.keys(&of_plan(before)));
    change(work, &row.2);
    Some([was?, work.keys(&of_plan(after))])
}

fn name(row: &Row) -> String {
    row.0.to_owned()
}

#[test]
fn each_input_counts() {
    let scene = Scene::new();
    side_by_side(INPUTS, name, |row| {
        let (mut work, before, after) = begin(&scene, row);
        let whole = |work: &Work<'_>, words: &[String]| {
            work.timeless("fresh", &words.iter().cloned().chain(["--no-cache".to_owned()]).collect::<Vec<_>>())
        };
        let was = whole(&work, &before)?;
        work.timeless("cached", &before)?;
        let keys = keys(&mut work, row, &before, &after);
        let expected = whole(&work, &after)?;
        if difference(&was, &expected).is_none() {
            return Err("it cannot be seen, the row proves nothing".to_owned());
        }
        let built = work.timeless("cached", &after)?;
        let same = keys.is_some_and(|[was, is]| was.last() == is.last());
        match difference(&expected, &built) {
            None if same => Err("the key is the same".to_owned()),
            None => Ok(()),
            Some(difference) => Err(format!("the cache gives another image (one key: {same}):\n{difference}")),
        }
    });
}

#[test]
fn so_does_what_makes_no_difference_here() {
    let scene = Scene::new();
    side_by_side(UNSEEN, name, |row| {
        let (mut work, before, after) = begin(&scene, row);
        let [was, is] = keys(&mut work, row, &before, &after).unwrap();
        if was.last() == is.last() { Err("the key is the same".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn nothing_else_counts() {
    let scene = Scene::new();
    side_by_side(OTHERS, name, |row| {
        let (mut work, before, after) = begin(&scene, row);
        work.build("cached", &before)?;
        if keys(&mut work, row, &before, &after).is_some_and(|[was, is]| was.is_empty() || was.last() != is.last()) {
            return Err("the key is another".to_owned());
        }
        work.build("cached", &all_cached(&after))?;
        Ok(())
    });
}
