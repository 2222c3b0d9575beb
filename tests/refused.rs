//! Build files that must be refused, and what must be said of each.
//!
//! `tests/refused/language.cases` holds them. A case starts with `=== name`; its sections are the build file itself,
//! `--- words` for further words of the command line, and `--- finds`, whose lines are phrases that standard error must
//! contain. The context holds the build file and a file `file`; a base named `busybox` is there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Place, all, output, repository};

#[derive(Default)]
struct Case {
    name: String,
    file: Vec<u8>,
    words: Vec<String>,
    finds: Vec<String>,
}

/// The cases; lines end in a newline alone, since some have a carriage return in them.
fn cases() -> Vec<Case> {
    let bytes = std::fs::read(repository("tests/refused/language.cases")).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    let mut section = "file".to_owned();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned();
        if let Some(name) = text.strip_prefix("=== ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
            "file".clone_into(&mut section);
            continue;
        }
        if let Some(name) = text.strip_prefix("--- ") {
            name.clone_into(&mut section);
            continue;
        }
        let case = cases.last_mut().unwrap();
        match section.as_str() {
            "file" => case.file.extend_from_slice(line),
            "words" => case.words.push(text),
            "finds" => case.finds.push(text),
            other => panic!("no section is called {other}"),
        }
    }
    cases
}

/// What is wrong with how a case came out.
fn run(place: &Place, number: usize, base: &str, case: &Case) -> Option<String> {
    let folder = format!("c{number}");
    place.write(&format!("{folder}/Dockerfile"), &case.file);
    place.write(&format!("{folder}/file"), "file\n");
    let mut command = place.plywood();
    command.args(["build", "--progress=plain", "--build-context", base, "-o"]);
    command.arg(format!("type=oci,dest={}", place.join(format!("{folder}.tar")).display()));
    let ended = output(command.args(&case.words).arg(place.join(&folder)));
    let told = all(&ended);
    if ended.status.code() != Some(1) {
        return Some(format!("{}: it ended with {}:\n{told}", case.name, ended.status));
    }
    let missing: Vec<&String> = case.finds.iter().filter(|phrase| !told.contains(phrase.as_str())).collect();
    (!missing.is_empty()).then(|| format!("{}: the message lacks {missing:?}:\n{told}", case.name))
}

/// Busybox with its applets and an account or two, and no shell of its own making.
fn base(place: &Place) -> String {
    let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nCOPY passwd group /etc/\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";
    let context = place.busybox_context("base", text);
    place.write("base/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n");
    place.write("base/group", "root:x:0:\nwww:x:34:\n");
    let layout = place.join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    support::run(place.plywood().args(["build", "-q", "-t", "busybox:1", "-o", &output]).arg(context));
    format!("busybox=oci-layout://{}:1", layout.display())
}

#[test]
fn what_is_wrong_is_refused_in_its_place() {
    support::need_root();
    let place = Place::new();
    let base = base(&place);
    let cases = cases();
    assert!(cases.len() >= 400, "only {} cases", cases.len());
    assert!(cases.iter().all(|case| !case.finds.is_empty()), "a case must say what is to be found");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((number, case)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(number).map(|case| (number, case))
                } {
                    wrong.lock().unwrap().extend(run(&place, number, &base, case));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
