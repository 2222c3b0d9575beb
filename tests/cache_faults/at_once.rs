//! Ten builds at once, of which some are killed: what is found afterwards is right, in every place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::scene::{CERTAIN, CHANCE, Ended, Running, Scene, from, is_right, to};
use crate::support::{files, processes_of, run, wait_for};

const BUILDS: usize = 10;
const CACHE: &str = "shared/cache";

/// Numbers that differ from run to run; a failure shows the first.
struct Chance(u64);

impl Chance {
    #[expect(clippy::print_stdout, reason = "only a failed test shows it")]
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        println!("chance: {}", now.subsec_nanos());
        Self(u64::from(now.subsec_nanos()))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Contexts of which each even one leaves nothing to chance. All share what stands before their own files.
fn context(scene: &Scene, number: usize) -> String {
    let name = format!("c{number}");
    scene.context(&name, if number.is_multiple_of(2) { CERTAIN } else { CHANCE }, &format!("w{number}"));
    name
}

/// A build that uses the cache; what it gives goes into a layout of its own.
fn begin(scene: &Scene, machine: &str, number: usize, words: &[&str]) -> (Running, std::path::PathBuf) {
    let (host, layout) = (&scene.registry.host, scene.place.join(scene.fresh("layout")));
    let mut all = vec![from(host, CACHE), format!("-otype=oci,tar=false,dest={}", layout.display())];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    let context = context(scene, number);
    (scene.start(&mut scene.command(machine, host, &context, &all)), layout)
}

fn finished(scene: &Scene, machine: &str, number: usize, words: &[&str]) -> Result<Ended, String> {
    let (build, layout) = begin(scene, machine, number, words);
    let ended = build.end()?;
    ended.built()?;
    is_right(&layout, &format!("w{number}"))?;
    Ok(ended)
}

/// Builds from five contexts, each twice, and kills four of them. `machine` says on which store each works.
fn at_once(machine: impl Fn(usize) -> String) {
    let (scene, mut chance) = (Scene::new(CHANCE), Chance::new());
    let host = scene.registry.host.clone();
    let cache = to(&host, CACHE, "");
    let mut running = Vec::new();
    for at in 0..BUILDS {
        let (build, layout) = begin(&scene, &machine(at), at % 5, &[&cache]);
        running.push((at, build, layout));
    }
    let mut killed: Vec<usize> = Vec::new();
    while killed.len() < 4 {
        std::thread::sleep(Duration::from_millis(chance.below(500)));
        let at = usize::try_from(chance.below(BUILDS as u64)).unwrap();
        if !killed.contains(&at) {
            running[at].1.child.0.kill().unwrap();
            killed.push(at);
        }
    }
    let mut well = Vec::new();
    for (at, build, layout) in running {
        let ended = build.end().unwrap();
        // One that is killed may have ended before.
        if !killed.contains(&at) {
            ended.built().unwrap();
        }
        if ended.code == Some(0) {
            is_right(&layout, &format!("w{}", at % 5)).unwrap_or_else(|reason| panic!("build {at}: {reason}"));
            // That something could not be kept may have been said: the registry itself reads what is being written.
            well.push(at);
        }
    }
    assert!(well.len() >= BUILDS - killed.len());
    for at in 0..BUILDS {
        let root = scene.root(&machine(at));
        wait_for("no process is left", Duration::from_secs(10), || processes_of(&root).is_empty());
    }
    for number in 0..5 {
        // A machine that has nothing but the cache. Builds that went side by side may have kept results that do
        // not stand on each other; whoever comes next completes them.
        finished(&scene, &scene.fresh("fresh"), number, &[&cache]).unwrap_or_else(|reason| panic!("{reason}"));
        let ended = finished(&scene, &scene.fresh("fresh"), number, &["--require-cached"]);
        assert_eq!(ended.unwrap_or_else(|reason| panic!("{reason}")).ran(), 0);
    }
    // The stores, those of builds that were killed first.
    for at in killed.iter().chain(&well).take(6) {
        let machine = machine(*at);
        finished(&scene, &machine, at % 5, &[]).unwrap_or_else(|reason| panic!("{reason}"));
        let words = ["-t=after:1".to_owned()];
        scene.start(&mut scene.command(&machine, &host, "c", &words)).end().unwrap().built().unwrap();
        let images = run(scene.machine(&machine).arg("images"));
        assert!(images.contains("after"), "{images}");
        let root = scene.root(&machine);
        assert_eq!(files(&root.join("tmp")), Vec::<std::path::PathBuf>::new());
        // Blobs are what their names say.
        for blob in files(&root.join("blobs/blobs/sha256")) {
            let sum = run(std::process::Command::new("sha256sum").arg(&blob));
            assert!(sum.starts_with(&*blob.file_name().unwrap().to_string_lossy()), "{} is damaged", blob.display());
        }
    }
}

#[test]
fn ten_builds_on_one_store() {
    at_once(|_| "shared".into());
}

#[test]
fn ten_builds_on_ten_stores() {
    at_once(|at| format!("own-{at}"));
}

/// Two builds that know nothing of each other keep what chance gave them; the one that comes first is cut short.
#[test]
fn what_two_builds_have_kept_in_parts_is_whole_after_the_next() {
    let scene = Scene::new(CHANCE);
    let cache = to(&scene.registry.host, CACHE, "");
    scene.place.write("part/Dockerfile", CHANCE.split("RUN cat /data/when").next().unwrap());
    scene.place.write("part/source", "other\n");
    let words = [cache.clone(), "-t=part:1".into()];
    scene.start(&mut scene.command("a", &scene.registry.host, "part", &words)).end().unwrap().built().unwrap();
    // It has begun before the other had kept anything, and what is there is not replaced: its later entries stand on a
    // layer that nobody will find.
    finished(&scene, "b", 1, &[&cache, "--no-cache"]).unwrap();
    finished(&scene, "c", 1, &[&cache]).unwrap();
    finished(&scene, "d", 1, &["--require-cached"]).unwrap_or_else(|reason| panic!("{reason}"));
}
