//! Trouble with what a build cannot do without: the base image comes and the image goes, or it is said why not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::proxy::{Fault, Proxy, Rule, always, first, once, times};
use crate::scene::{CHANCE, PLAIN, Scene, all, from, is_right, to};

#[derive(Clone, Copy)]
enum Then {
    Well,
    Fails(&'static str),
    /// One or the other; never a wrong image.
    Either,
}

type Case = (Vec<Rule>, Then);

const MANIFEST: &str = "/v2/base/manifests/";
const BLOB: &str = "/v2/base/blobs/";

/// The base comes the difficult way.
fn pulled(scene: &Scene, (rules, then): &Case) -> Result<(), String> {
    let proxy = Proxy::open(&scene.registry.host, rules.clone());
    let layout = scene.place.join(scene.fresh("layout"));
    let output = format!("-otype=oci,tar=false,dest={}", layout.display());
    let ended = scene.build(&scene.fresh("machine"), &proxy.host, &[output])?;
    if proxy.hits() == 0 {
        return Err("nothing went wrong".into());
    }
    match then {
        Then::Fails(cause) => ended.failed(&[cause]),
        Then::Either if ended.code != Some(0) => ended.failed(&[]),
        Then::Well | Then::Either => ended.built().and_then(|()| is_right(&layout, "1")),
    }
}

#[test]
fn a_base_image_comes_whole_or_not_at_all() {
    let scene = Scene::new(CHANCE);
    let status = |status: u16| Fault::Status(status, "");
    let body = |bytes: Vec<u8>| Fault::Body("application/vnd.oci.image.manifest.v1+json", Arc::new(bytes));
    let nothing = format!("sha256:{}", "0".repeat(64));
    let missing: Fault = Fault::Edit(Arc::new(move |m| m["layers"][0]["digest"] = json!(nothing)));
    let huge = format!("{{\"schemaVersion\":2,\"a\":\"{}\"}}", "a".repeat(5 << 20)).into_bytes();
    let cases: Vec<(&str, Case)> = vec![
        ("429", (vec![once("HEAD", MANIFEST, Fault::Status(429, "Retry-After: 1\r\n"))], Then::Well)),
        ("503", (vec![times(2, "GET", MANIFEST, status(503))], Then::Well)),
        ("500 for blobs", (vec![once("GET", BLOB, status(500))], Then::Well)),
        ("no answer", (vec![once("HEAD", MANIFEST, Fault::NoAnswer), once("GET", BLOB, Fault::NoAnswer)], Then::Well)),
        ("blobs are cut", (vec![times(3, "GET", BLOB, Fault::CutAnswer)], Then::Well)),
        ("half a blob", (vec![times(2, "GET", BLOB, Fault::HalfAnswer)], Then::Well)),
        ("slow blobs", (vec![always("GET", BLOB, Fault::Slow(10, Duration::from_millis(150)))], Then::Well)),
        ("a manifest is cut", (vec![once("GET", MANIFEST, Fault::CutAnswer)], Then::Well)),
        ("a flipped byte, once", (vec![once("GET", BLOB, Fault::Flip)], Then::Either)),
        ("a flipped byte", (vec![always("GET", BLOB, Fault::Flip)], Then::Fails("was asked for"))),
        ("a flipped byte of the manifest", (vec![always("GET", MANIFEST, Fault::Flip)], Then::Either)),
        ("500 always", (vec![always("GET", BLOB, status(500))], Then::Fails("500"))),
        ("403 always", (vec![always("HEAD", MANIFEST, status(403))], Then::Fails("pull base"))),
        ("401 always", (vec![always("GET", BLOB, status(401))], Then::Fails("an anonymous user"))),
        ("404 for blobs", (vec![always("GET", BLOB, status(404))], Then::Fails("is not there"))),
        ("a long pause", (vec![always("GET", BLOB, Fault::Status(429, "Retry-After: 9999\r\n"))], Then::Fails("429"))),
        ("always cut", (vec![always("GET", BLOB, Fault::CutAnswer)], Then::Either)),
        ("never an answer", (vec![always("GET", BLOB, Fault::NoAnswer)], Then::Fails("broke off"))),
        ("something else", (vec![always("GET", BLOB, body(b"<html>".to_vec()))], Then::Fails("was asked for"))),
        ("no JSON", (vec![always("GET", MANIFEST, body(b"<html>".to_vec()))], Then::Fails("no manifest"))),
        ("too long", (vec![always("GET", MANIFEST, body(huge))], Then::Fails("longer than"))),
        ("no manifest", (vec![always("GET", MANIFEST, body(b"{}".to_vec()))], Then::Fails("base:1"))),
        ("layers that are nowhere", (vec![always("GET", MANIFEST, missing)], Then::Fails("is not there"))),
    ];
    all(&cases, |case| pulled(&scene, case));
}

/// The image goes the difficult way: from the machine, and from a cache in the same registry.
fn pushed(scene: &Scene, (rules, then): &Case) -> Result<(), String> {
    let ways = if matches!(then, Then::Well) { &[false, true][..] } else { &[false] };
    for cached in ways.iter().copied() {
        let proxy = Proxy::open(&scene.registry.host, rules.clone());
        let repository = scene.fresh("image");
        let mut words = vec![format!("-t={}/{repository}:1", proxy.host), "--push".into()];
        if cached {
            words.extend([from(&proxy.host, "app/cache"), to(&proxy.host, "app/cache", "")]);
        }
        let ended = scene.build(&scene.fresh("machine"), &proxy.host, &words)?;
        let what = |reason: String| format!("{}: {reason}", if cached { "from a cache" } else { "from here" });
        if proxy.hits() == 0 {
            return Err(what("nothing went wrong".into()));
        }
        let is_right = || scene.pushed_is_right(&format!("{}/{repository}:1", scene.registry.host));
        match then {
            Then::Fails(cause) => ended.failed(&[cause]),
            Then::Either if ended.code != Some(0) => ended.failed(&[]),
            Then::Well | Then::Either => ended.built().and_then(|()| is_right()),
        }
        .map_err(what)?;
    }
    Ok(())
}

#[test]
fn an_image_goes_whole_or_not_at_all() {
    let scene = Scene::new(PLAIN);
    scene.filled("app/cache");
    let status = |status: u16| Fault::Status(status, "");
    let (upload, manifest) = ("/blobs/uploads/", "/v2/image");
    let cases: Vec<(&str, Case)> = vec![
        ("mounts break", (vec![always("POST", "?mount=", Fault::NoAnswer)], Then::Well)),
        ("429", (vec![once("POST", upload, Fault::Status(429, "Retry-After: 1\r\n"))], Then::Well)),
        ("503", (vec![times(2, "PUT", manifest, status(503))], Then::Well)),
        ("500", (vec![once("PUT", upload, status(500)), once("HEAD", manifest, status(500))], Then::Well)),
        ("no answer", (vec![once("POST", upload, Fault::NoAnswer), once("PUT", upload, Fault::NoAnswer)], Then::Well)),
        ("uploads are cut", (vec![once("PUT", upload, Fault::CutRequest(100))], Then::Well)),
        ("an answer is lost", (vec![first("PUT", upload, Fault::LostAnswer)], Then::Well)),
        ("a mount's answer is lost", (vec![once("POST", upload, Fault::LostAnswer)], Then::Well)),
        ("the last answer is lost", (vec![once("PUT", "/manifests/1", Fault::LostAnswer)], Then::Well)),
        ("no mounts", (vec![always("POST", "?mount=", status(405))], Then::Well)),
        ("mounts are not allowed", (vec![always("POST", "?mount=", status(403))], Then::Well)),
        ("slow", (vec![always("PUT", manifest, Fault::Slow(4, Duration::from_millis(150)))], Then::Well)),
        ("401", (vec![always("POST", "/v2/image", status(401))], Then::Fails("an anonymous user"))),
        ("403", (vec![always("PUT", "/manifests/1", status(403))], Then::Fails("push image"))),
        ("405", (vec![always("PUT", "/manifests/1", status(405))], Then::Fails("405"))),
        ("409", (vec![always("PUT", "/manifests/1", status(409))], Then::Fails("409"))),
        ("500 always", (vec![always("PUT", "/manifests/1", status(500))], Then::Fails("500"))),
        ("no answer ever", (vec![always("PUT", "/manifests/1", Fault::NoAnswer)], Then::Fails("broke off"))),
        ("uploads are always cut", (vec![always("PUT", upload, Fault::CutRequest(100))], Then::Fails("http"))),
    ];
    all(&cases, |case| pushed(&scene, case));
}
