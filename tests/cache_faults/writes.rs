//! Caches that cannot be written: a warning, or an error where the user wants one, and the image in any case.

use crate::proxy::{Fault, Proxy, Rule, always, first, once, times};
use crate::scene::{Ended, PLAIN, Scene, all, from, is_right, to};

const UPLOAD: &str = "/blobs/uploads/";
const ENTRY: &str = "/manifests/";

enum Then {
    /// All is kept, and whoever comes next finds it.
    Kept,
    /// It is not, and it is said where and why.
    Lost(&'static str),
}

type Case = (Vec<Rule>, Then);

/// Builds on a machine that has nothing, and looks at the image.
fn build(scene: &Scene, host: &str, words: &[String], is_kept: bool) -> Result<Ended, String> {
    let layout = scene.place.join(scene.fresh("layout"));
    let output = format!("-otype=oci,tar=false,dest={}", layout.display());
    let ended = scene.build(&scene.fresh("machine"), host, &[words, &[output]].concat())?;
    if is_kept {
        ended.built()?;
        is_right(&layout, "1")?;
    }
    Ok(ended)
}

fn is_found(scene: &Scene, repository: &str) -> Result<(), String> {
    let host = &scene.registry.host;
    build(scene, host, &[from(host, repository), "--require-cached".into()], true)?.lacks("warning:")
}

/// Where writing must not fail, or may.
fn check(scene: &Scene, (rules, then): &Case, strict: bool) -> Result<(), String> {
    let proxy = Proxy::open(&scene.registry.host, rules.clone());
    let repository = scene.fresh("kept");
    let cache = to(&proxy.host, &repository, if strict { ",ignore-error=false" } else { "" });
    let ended = build(scene, &proxy.host, &[cache], !strict || matches!(then, Then::Kept))?;
    if proxy.hits() == 0 {
        return Err("nothing went wrong".into());
    }
    // A failed write is no reason to do anything twice.
    if ended.ran() != scene.steps {
        return Err(format!("{} steps were run:\n{}", ended.ran(), ended.text));
    }
    let place = format!("{}/{repository}", proxy.host);
    match then {
        Then::Kept => ended.lacks("warning:").and_then(|()| is_found(scene, &repository)),
        Then::Lost(cause) if strict => ended.failed(&[&place, cause]),
        Then::Lost(cause) => ended.has(&["warning:", &place, cause]),
    }
}

#[test]
fn what_is_asked_for_again_is_written() {
    let scene = Scene::new(PLAIN);
    let cases: Vec<(&str, Case)> = vec![
        ("429", (vec![once("POST", UPLOAD, Fault::Status(429, "Retry-After: 1\r\n"))], Then::Kept)),
        ("500 for a head", (vec![once("HEAD", "/blobs/", Fault::Status(500, ""))], Then::Kept)),
        ("503 for an upload", (vec![times(2, "PUT", UPLOAD, Fault::Status(503, ""))], Then::Kept)),
        ("502 for an entry", (vec![once("PUT", ENTRY, Fault::Status(502, ""))], Then::Kept)),
        ("no answer", (vec![once("POST", UPLOAD, Fault::NoAnswer), once("PUT", ENTRY, Fault::NoAnswer)], Then::Kept)),
        ("uploads are cut", (vec![once("PUT", UPLOAD, Fault::CutRequest(100))], Then::Kept)),
        ("entries are cut", (vec![once("PUT", ENTRY, Fault::CutRequest(100))], Then::Kept)),
        // Some registries let nobody read what is not there yet.
        ("entries cannot be read", (vec![always("GET", "/v2/kept", Fault::Status(403, ""))], Then::Kept)),
        ("an upload's answer is lost", (vec![first("PUT", UPLOAD, Fault::LostAnswer)], Then::Kept)),
        ("an entry's answer is lost", (vec![once("PUT", ENTRY, Fault::LostAnswer)], Then::Kept)),
        ("only small requests", (vec![always("PUT", UPLOAD, Fault::Longest(100))], Then::Kept)),
        ("tags are immutable", (vec![always("PUT", ENTRY, Fault::Immutable(409))], Then::Kept)),
    ];
    all(&cases, |case| check(&scene, case, true));
}

#[test]
fn what_cannot_be_written_is_told() {
    let scene = Scene::new(PLAIN);
    let status = |status: u16| Fault::Status(status, "");
    let cases: Vec<(&str, Case)> = vec![
        // Those that are tried again for long come first.
        ("429", (vec![always("POST", UPLOAD, Fault::Status(429, "Retry-After: 0\r\n"))], Then::Lost("429"))),
        ("500", (vec![always("POST", UPLOAD, status(500))], Then::Lost("500"))),
        ("503 for heads", (vec![always("HEAD", "/blobs/", status(503))], Then::Lost("503"))),
        ("no answer", (vec![always("POST", UPLOAD, Fault::NoAnswer)], Then::Lost("broke off"))),
        ("uploads are cut", (vec![always("PUT", UPLOAD, Fault::CutRequest(100))], Then::Lost("http"))),
        ("401", (vec![always("POST", UPLOAD, status(401))], Then::Lost("an anonymous user"))),
        ("403", (vec![always("POST", UPLOAD, status(403))], Then::Lost("the fault of this test"))),
        ("405", (vec![always("POST", UPLOAD, status(405))], Then::Lost("405"))),
        ("403 for uploads", (vec![always("PUT", UPLOAD, status(403))], Then::Lost("push kept"))),
        ("400 for entries", (vec![always("PUT", ENTRY, status(400))], Then::Lost("400"))),
        ("401 for entries", (vec![always("PUT", ENTRY, status(401))], Then::Lost("an anonymous user"))),
        ("405 for entries", (vec![always("PUT", ENTRY, status(405))], Then::Lost("405"))),
        ("409 for entries", (vec![always("PUT", ENTRY, status(409))], Then::Lost("409"))),
        // A registry that has something of no use under every name.
        ("no room", (vec![always("GET", "/v2/kept", status(200))], Then::Lost("useless entries"))),
    ];
    let twice = cases.iter().flat_map(|(name, case)| [(*name, (case, false)), (*name, (case, true))]);
    all(&twice.collect::<Vec<_>>(), |(case, strict)| check(&scene, case, *strict));
}

/// Whoever comes second finds the tag taken, and what is in it as good.
#[test]
fn tags_that_another_build_has_written_meanwhile_are_no_failure() {
    let scene = Scene::new(PLAIN);
    for status in [400, 403, 409] {
        let repository = scene.fresh("kept");
        scene.filled(&repository);
        // Looked for before the entry is made and before it is sent.
        let rules = vec![
            times(2, "GET", format!("/v2/{repository}/"), Fault::Status(404, "")),
            always("PUT", ENTRY, Fault::Immutable(status)),
        ];
        let proxy = Proxy::open(&scene.registry.host, rules);
        let cache = to(&proxy.host, &repository, ",ignore-error=false");
        let ended = build(&scene, &proxy.host, &[cache], true).unwrap();
        ended.lacks("warning:").unwrap();
        assert!(proxy.hits() > 2 * scene.steps, "{status}: {} exchanges went wrong", proxy.hits());
        is_found(&scene, &repository).unwrap();
    }
}
