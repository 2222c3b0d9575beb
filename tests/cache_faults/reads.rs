//! Caches that cannot be read, or that give what is none: the step is run, the image is right, and it is said why.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::proxy::{Fault, Proxy, Rule, always, once, times};
use crate::scene::{CHANCE, PLAIN, Scene, all, from, is_right};

const CACHE: &str = "app/cache";
const ENTRY: &str = "app/cache/manifests/";
const BLOB: &str = "app/cache/blobs/";

/// What a build makes of a cache.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The trouble is over when it is asked again: all is found.
    Found,
    /// It helps or it does not, and nothing need be said.
    Whatever,
    /// Nothing is found, and it is said where and why.
    Warned(&'static str),
    /// What is no entry is passed over: nothing is found.
    PassedOver,
    /// What is found turns out to be of no use when its bytes are needed, and it is said where.
    MadeAnew,
}

/// What needs the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// A repository of the same registry, which takes the layers without their bytes passing.
    Repository,
    /// Another registry, to which the bytes are handed on.
    Registry,
    /// A layout: all bytes are needed.
    Layout,
    /// The same, behind a step that is not in the cache and runs on all the others.
    LaterStep,
}

type Case = (Vec<Rule>, Then);

/// Builds on machines that have nothing.
fn check(scene: &Scene, (rules, then): &Case) -> Result<(), String> {
    let ways: &[Way] = match then {
        Then::Warned(_) | Then::PassedOver => &[Way::Layout],
        Then::MadeAnew => &[Way::Registry, Way::Layout, Way::LaterStep],
        Then::Whatever => &[Way::Repository, Way::Registry, Way::Layout],
        Then::Found => &[Way::Repository, Way::Layout],
    };
    let ended = ways.iter().map(|way| build(scene, rules, *then, *way).map_err(|reason| format!("{way:?}: {reason}")));
    let problems: Vec<String> = ended.filter_map(Result::err).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn build(scene: &Scene, rules: &[Rule], then: Then, way: Way) -> Result<(), String> {
    let proxy = Proxy::open(&scene.registry.host, rules.to_vec());
    let (layout, repository) = (scene.place.join(scene.fresh("layout")), scene.fresh("image"));
    // By another name the registry is another.
    let host = if way == Way::Repository { &proxy.host } else { &scene.registry.host };
    let mut words = match way {
        Way::Repository | Way::Registry => vec![format!("-t={host}/{repository}:1"), "--push".into()],
        Way::Layout | Way::LaterStep => vec![format!("-otype=oci,tar=false,dest={}", layout.display())],
    };
    words.push(from(&proxy.host, CACHE));
    let context = if way == Way::LaterStep { "later" } else { "c" };
    let ended = scene.start(&mut scene.command(&scene.fresh("reader"), &proxy.host, context, &words)).end()?;
    // A push moves no bytes of the cache.
    if proxy.hits() == 0 && way != Way::Repository {
        return Err("nothing went wrong".into());
    }
    ended.built()?;
    match way {
        Way::Repository | Way::Registry => scene.pushed_is_right(&format!("{}/{repository}:1", scene.registry.host))?,
        Way::Layout | Way::LaterStep => is_right(&layout, "1")?,
    }
    let (ran, place) = (ended.ran(), format!("{}/{CACHE}", proxy.host));
    match then {
        Then::Found if ran > 0 => Err(format!("{ran} steps were run:\n{}", ended.text)),
        Then::Found => ended.lacks("warning:"),
        Then::Warned(_) | Then::PassedOver if ran != scene.steps => {
            Err(format!("{ran} steps were run, not {}:\n{}", scene.steps, ended.text))
        }
        Then::Warned(cause) => ended.has(&["warning: ", &place, cause]),
        Then::MadeAnew => ended.has(&["warning: ", &place]),
        Then::Whatever | Then::PassedOver => Ok(()),
    }
}

fn scene(dockerfile: &str) -> Scene {
    let scene = Scene::new(dockerfile);
    scene.filled(CACHE);
    scene.context("later", &format!("{dockerfile}RUN cat /data/late > /data/later\n"), "1");
    scene
}

#[test]
fn trouble_that_is_over_when_asked_again_is_no_trouble() {
    let scene = scene(CHANCE);
    let pause = Duration::from_millis(150);
    let cases: Vec<(&str, Case)> = vec![
        ("429", (vec![once("GET", ENTRY, Fault::Status(429, "Retry-After: 1\r\n"))], Then::Found)),
        ("500", (vec![once("GET", ENTRY, Fault::Status(500, ""))], Then::Found)),
        ("502", (vec![once("HEAD", BLOB, Fault::Status(502, ""))], Then::Found)),
        ("503 twice", (vec![times(2, "GET", BLOB, Fault::Status(503, ""))], Then::Found)),
        ("no answer for an entry", (vec![once("GET", ENTRY, Fault::NoAnswer)], Then::Found)),
        ("no answer for a head", (vec![once("HEAD", BLOB, Fault::NoAnswer)], Then::Found)),
        ("no answer for a blob", (vec![once("GET", BLOB, Fault::NoAnswer)], Then::Found)),
        ("a blob is cut", (vec![once("GET", BLOB, Fault::CutAnswer)], Then::Found)),
        ("a blob is cut twice", (vec![times(2, "GET", BLOB, Fault::CutAnswer)], Then::Found)),
        ("half a blob", (vec![once("GET", BLOB, Fault::HalfAnswer)], Then::Found)),
        ("an entry is cut", (vec![once("GET", ENTRY, Fault::CutAnswer)], Then::Found)),
        ("slow entries", (vec![always("GET", ENTRY, Fault::Slow(5, pause))], Then::Found)),
        ("slow blobs", (vec![always("GET", BLOB, Fault::Slow(8, pause))], Then::Found)),
    ];
    all(&cases, |case| check(&scene, case));
}

#[test]
fn a_cache_that_cannot_be_asked_is_left_out() {
    let scene = scene(PLAIN);
    let cases: Vec<(&str, Case)> = vec![
        ("401", (vec![always("GET", ENTRY, Fault::Status(401, ""))], Then::Warned("an anonymous user"))),
        ("403", (vec![always("GET", ENTRY, Fault::Status(403, ""))], Then::Warned("the fault of this test"))),
        ("429", (vec![always("GET", ENTRY, Fault::Status(429, "Retry-After: 0\r\n"))], Then::Warned("429"))),
        (
            "a long pause",
            (vec![always("GET", ENTRY, Fault::Status(429, "Retry-After: 3600\r\n"))], Then::Warned("429")),
        ),
        ("500", (vec![always("GET", ENTRY, Fault::Status(500, ""))], Then::Warned("500"))),
        ("503 for blobs", (vec![always("HEAD", BLOB, Fault::Status(503, ""))], Then::Warned("503"))),
        ("403 for blobs", (vec![always("HEAD", BLOB, Fault::Status(403, ""))], Then::Warned("pull app/cache"))),
        ("no answer", (vec![always("GET", ENTRY, Fault::NoAnswer)], Then::Warned("broke off"))),
        ("entries are cut", (vec![always("GET", ENTRY, Fault::CutAnswer)], Then::Warned("broke off"))),
    ];
    all(&cases, |case| check(&scene, case));
}

fn body(kind: &'static str, bytes: impl Into<Vec<u8>>) -> Fault {
    Fault::Body(kind, Arc::new(bytes.into()))
}

fn edit(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Vec<Rule> {
    vec![always("GET", ENTRY, Fault::Edit(Arc::new(change)))]
}

/// Changes what an entry says of its step.
fn record(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Vec<Rule> {
    edit(move |manifest| {
        let text = &mut manifest["annotations"]["dev.plywood.cache.head"];
        let mut record: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut record);
        *text = record.to_string().into();
    })
}

#[test]
fn what_is_no_entry_is_passed_over() {
    let scene = scene(PLAIN);
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let nothing = format!("sha256:{}", "0".repeat(64));
    let huge = format!("{{\"schemaVersion\":2,\"annotations\":{{\"a\":\"{}\"}}}}", "a".repeat(5 << 20));
    let gone = nothing.clone();
    let annotation = "dev.plywood.cache.head";
    let cases: Vec<(&str, Case)> = vec![
        ("no JSON", (vec![always("GET", ENTRY, body(manifest, "<html>"))], Then::PassedOver)),
        ("nothing", (vec![always("GET", ENTRY, body(manifest, ""))], Then::PassedOver)),
        ("a flipped byte", (vec![always("GET", ENTRY, Fault::Flip)], Then::Whatever)),
        ("half", (vec![always("GET", ENTRY, Fault::HalfAnswer)], Then::PassedOver)),
        ("too long", (vec![always("GET", ENTRY, body(manifest, huge))], Then::Warned("longer than"))),
        (
            "another kind",
            (vec![always("GET", ENTRY, body("text/html", "{\"mediaType\":\"text/html\"}"))], Then::PassedOver),
        ),
        ("its layer is gone", (edit(move |m| m["layers"][0]["digest"] = gone.clone().into()), Then::PassedOver)),
        ("heads of layers are 404", (vec![always("HEAD", BLOB, Fault::Status(404, ""))], Then::PassedOver)),
        ("no layers", (edit(|m| m["layers"] = json!([])), Then::PassedOver)),
        ("a bad digest", (edit(|m| m["layers"][0]["digest"] = "sha256:../../x".into()), Then::PassedOver)),
        ("a kind of layer", (edit(|m| m["layers"][0]["mediaType"] = "text/plain".into()), Then::PassedOver)),
        ("no record", (edit(move |m| m["annotations"][annotation] = "{".into()), Then::PassedOver)),
        ("a deep record", (edit(move |m| m["annotations"][annotation] = "[".repeat(100_000).into()), Then::PassedOver)),
        ("a record of no layer", (record(|r| r["layer"] = "x".into()), Then::PassedOver)),
        ("made never", (record(|r| r["created_at"] = json!(1e300)), Then::PassedOver)),
        ("a negative size", (edit(|m| m["layers"][0]["size"] = json!(-1)), Then::PassedOver)),
    ];
    all(&cases, |case| check(&scene, case));
}

/// The entry is well-formed and the blob is not what it says: only who takes the bytes can know.
#[test]
fn layers_that_are_not_what_they_should_be_are_made_anew() {
    let scene = scene(CHANCE);
    let layers: Vec<String> = scene.entries(CACHE).iter().map(|entry| digest(&entry["layers"][0])).collect();
    let layers = |fault: &Fault| layers.iter().map(|digest| always("GET", blob(digest), fault.clone())).collect();
    let cases: Vec<(&str, Case)> = vec![
        ("404", (layers(&Fault::Status(404, "")), Then::MadeAnew)),
        ("403", (layers(&Fault::Status(403, "")), Then::MadeAnew)),
        ("500", (layers(&Fault::Status(500, "")), Then::MadeAnew)),
        ("no answer", (layers(&Fault::NoAnswer), Then::MadeAnew)),
        ("cut", (layers(&Fault::CutAnswer), Then::MadeAnew)),
        ("half", (layers(&Fault::HalfAnswer), Then::MadeAnew)),
        ("a flipped byte", (layers(&Fault::Flip), Then::MadeAnew)),
        ("something else", (layers(&body("text/html", "<html>")), Then::MadeAnew)),
        ("endless", (layers(&body("text/html", vec![0; 8 << 20])), Then::MadeAnew)),
    ];
    all(&cases, |case| check(&scene, case));
}

/// The same of what tells what is in a layer, which is no more than a help.
#[test]
fn indexes_that_are_not_what_they_should_be_are_done_without() {
    let scene = scene(CHANCE);
    // Of a step's entry the last blob, and of a base image's layer the only one.
    let indexes: Vec<String> = scene.entries(CACHE).iter_mut().map(|entry| digest(last(entry))).collect();
    let indexes = |fault: &Fault| -> Vec<Rule> {
        indexes.iter().map(|digest| always("GET", blob(digest), fault.clone())).collect()
    };
    let cases: Vec<(&str, Vec<Rule>)> = vec![
        ("404", indexes(&Fault::Status(404, ""))),
        ("500", indexes(&Fault::Status(500, ""))),
        ("half", indexes(&Fault::HalfAnswer)),
        ("a flipped byte", indexes(&Fault::Flip)),
        ("something else", indexes(&body("text/html", "<html>"))),
        ("endless", indexes(&body("text/html", vec![0; 8 << 20]))),
        ("named wrongly", edit(|m| *last(m) = m["config"].clone())),
        ("named without sense", edit(|m| last(m)["digest"] = "sha256:x".into())),
        ("gigantic", edit(|m| last(m)["size"] = json!(u64::MAX >> 1))),
        ("none", edit(|m| drop(m["layers"].as_array_mut().unwrap().pop()))),
    ];
    // The last step is another, so that it is run on what was found.
    scene.context("c", CHANCE, "2");
    all(&cases, |rules| {
        let proxy = Proxy::open(&scene.registry.host, rules.clone());
        let layout = scene.place.join(scene.fresh("layout"));
        let output = format!("-otype=oci,tar=false,dest={}", layout.display());
        let ended = scene.build(&scene.fresh("reader"), &proxy.host, &[from(&proxy.host, CACHE), output])?;
        ended.built()?;
        if proxy.hits() == 0 {
            return Err("nothing went wrong".into());
        }
        is_right(&layout, "2")
    });
}

/// Entries that are well-formed and contradict themselves or the registry. One that is consistent is believed: who may write
/// to a cache decides what is in it.
#[test]
fn entries_that_lie_make_no_wrong_image() {
    let scene = scene(PLAIN);
    let entries = scene.entries(CACHE);
    let config = entries[0]["config"].clone();
    let other = entries.iter().map(|entry| entry["layers"][0].clone()).max_by_key(digest).unwrap();
    let cases: Vec<(&str, Case)> = vec![
        ("a gigantic size", (edit(|m| m["layers"][0]["size"] = json!(u64::MAX >> 1)), Then::Whatever)),
        ("a small size", (edit(|m| m["layers"][0]["size"] = json!(1)), Then::Whatever)),
        ("the layer of another step", (edit(move |m| m["layers"][0] = other.clone()), Then::Whatever)),
        (
            "a document as layer",
            (
                edit(move |m| {
                    m["layers"][0]["digest"] = config["digest"].clone();
                    m["layers"][0]["size"] = config["size"].clone();
                }),
                Then::Whatever,
            ),
        ),
        (
            "another compression",
            (
                edit(|m| m["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd".into()),
                Then::Whatever,
            ),
        ),
        ("made in the far future", (record(|r| r["created_at"] = json!(u64::MAX)), Then::Whatever)),
        ("made at no time", (record(|r| r["created"] = "\u{1b}[31mnever\n".into()), Then::PassedOver)),
    ];
    all(&cases, |case| check(&scene, case));
}

fn last(manifest: &mut Value) -> &mut Value {
    manifest["layers"].as_array_mut().unwrap().last_mut().unwrap()
}

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

fn blob(digest: &str) -> String {
    format!("{BLOB}{digest}")
}
