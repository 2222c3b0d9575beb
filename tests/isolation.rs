//! How commands are isolated in places that allow less: what works is found by trying, and what does not is told with what
//! would help. The places are made with unshare(1) and setpriv(1), as container engines make them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Place, all, layers, need_root, output, run};

/// A container's root with all that seccomp=unconfined leaves it: user namespaces, and no CAP_SYS_ADMIN.
const UNCONFINED: &str = "exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin -- \"$@\"";
/// The same, with parts of /proc covered, as every engine does.
const MASKED: &str = "mount --bind /dev/null /proc/keys; \
     exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin -- \"$@\"";
/// Without the numbers that a user namespace could be given, as after `--cap-drop ALL`.
const DROPPED: &str = "exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"";

/// A place, and the base image as a named context.
struct Scene(Place, String);

impl Scene {
    fn new() -> Self {
        need_root();
        let place = Place::new();
        let base = place.busybox_base();
        Self(place, base)
    }

    /// The program in a place that a script makes.
    fn command(&self, script: &str, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", support::PLYWOOD]);
        let template = self.0.plywood();
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(words).current_dir(self.0.path());
        command
    }

    fn doctor(&self, script: &str) -> Vec<Value> {
        let told = run(&mut self.command(script, &["doctor", "--json"]));
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// Builds a step; gives what was said, and the image's layers above the base.
    fn build(&self, script: &str, step: &str, words: &[&str]) -> (String, Vec<Vec<u8>>) {
        let base = &self.1;
        let text = format!("FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN {step}\n");
        self.0.write("c/Dockerfile", text);
        let out = tempfile::tempdir_in(self.0.path()).unwrap().keep();
        let layout = format!("type=oci,tar=false,dest={}", out.display());
        let words =
            [&["build", "--progress=plain", "--no-cache", "--build-context", base, "-o", &layout], words, &["c"]];
        let built = output(&mut self.command(script, &words.concat()));
        assert!(built.status.success(), "{}", all(&built));
        (all(&built), layers(&out))
    }
}

fn works(findings: &[Value], mode: &str) -> bool {
    let finding = findings.iter().find(|finding| finding["name"] == mode);
    finding.unwrap_or_else(|| panic!("{mode}: {findings:#?}"))["works"] == true
}

fn of<'f>(findings: &'f [Value], mode: &str, what: &str) -> &'f str {
    findings.iter().find(|finding| finding["name"] == mode).unwrap()[what].as_str().unwrap_or_default()
}

/// Owner and mode of a file of a layer.
fn entry(layer: &[u8], path: &str) -> (u64, u64, u32) {
    let mut archive = tar::Archive::new(layer);
    let found =
        archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().to_str() == Some(path));
    let header = found.unwrap_or_else(|| panic!("{path} is not in the layer")).header().clone();
    (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap())
}

#[test]
fn each_place_has_the_best_that_it_allows() {
    let scene = Scene::new();
    let machine = scene.doctor("exec \"$@\"");
    assert!(works(&machine, "ns-root") && works(&machine, "ns-user"), "{machine:#?}");
    let unconfined = scene.doctor(UNCONFINED);
    assert!(!works(&unconfined, "ns-root") && works(&unconfined, "ns-user"), "{unconfined:#?}");
    assert!(of(&unconfined, "ns-root", "help").contains("SYS_ADMIN"));
    let masked = scene.doctor(MASKED);
    assert!(!works(&masked, "ns-user") && works(&masked, "ns-user-bindproc"), "{masked:#?}");
    assert!(of(&masked, "ns-user", "told").contains("mounting /proc"), "{masked:#?}");
    assert!(of(&masked, "ns-user", "help").contains("procMount: Unmasked"), "{masked:#?}");
    let docker = scene.doctor(DOCKER);
    assert!(works(&docker, "chroot") && !works(&docker, "ns-root"), "{docker:#?}");
    let dropped = scene.doctor(DROPPED);
    assert!(!works(&dropped, "chroot") && of(&dropped, "chroot", "help").contains("drop: [ALL]"), "{dropped:#?}");
    assert!(works(&dropped, "none") && of(&dropped, "ns-user", "help").contains("usermod"), "{dropped:#?}");
    for (script, mode) in [("exec \"$@\"", "ns-root"), (UNCONFINED, "ns-user"), (MASKED, "ns-user-bindproc")] {
        let step = "busybox touch /a; busybox chown 33:44 /a; busybox chmod 640 /a; busybox id -u";
        let (told, layers) = scene.build(script, step, &[]);
        assert!(told.contains(&format!("commands run in {mode}: ")), "{mode}: {told}");
        assert_eq!(entry(layers.last().unwrap(), "a"), (33, 44, 0o640), "{mode}");
    }
}

#[test]
fn where_a_step_sees_other_processes_it_learns_nothing_of_the_builder_and_leaves_none_behind() {
    let scene = Scene::new();
    let marked = format!("export PLYWOOD_TEST_MARK=mark-of-the-builder; {MASKED}");
    // Names of this run alone: so long the commands that are left would sleep.
    let (first, second) = (format!("9{:07}", std::process::id()), format!("8{:07}", std::process::id()));
    let step = format!(
        "busybox cat /proc/[0-9]*/environ 2> /dev/null | busybox grep -c mark-of-the-builder > /seen; \
         busybox setsid busybox sleep {first} > /dev/null 2>&1 & busybox sleep 0.1; busybox true"
    );
    let (told, layers) = scene.build(&marked, &step, &[]);
    assert!(told.contains("ns-user-bindproc"), "{told}");
    let layer = layers.last().unwrap();
    let mut archive = tar::Archive::new(&layer[..]);
    let text = |name: &str, archive: &mut tar::Archive<&[u8]>| {
        let mut text = String::new();
        let mut file =
            archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().to_str() == Some(name));
        std::io::Read::read_to_string(file.as_mut().unwrap(), &mut text).unwrap();
        text
    };
    let seen = text("seen", &mut archive);
    assert_eq!(seen.trim(), "0", "no variable of the builder's is read");
    let left = support::processes().into_iter().filter(|process| process.command.contains(&first)).count();
    assert_eq!(left, 0, "what a step leaves running ends with it");
    // Nor when the build is ended from outside.
    let base = scene.1.clone();
    let words = format!("busybox setsid busybox sleep {second} & busybox sleep {second}");
    scene.0.write("c/Dockerfile", format!("FROM base\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"{words}\"]\n"));
    let mut command = scene.command(MASKED, &["build", "--progress=plain", "--build-context", &base, "c"]);
    let mut child = support::Guard(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let running = || {
        support::processes().into_iter().filter(|process| process.command.contains(&format!("sleep {second}"))).count()
    };
    let limit = std::time::Duration::from_secs(30);
    support::wait_for("the step runs", limit, || running() >= 2);
    child.0.kill().unwrap();
    support::wait_for("everything ends with the build", limit, || running() == 0);
}

#[test]
fn what_is_asked_for_is_what_is_had() {
    let scene = Scene::new();
    let (told, _) = scene.build("exec \"$@\"", "busybox true", &["--isolation=ns-user"]);
    assert!(told.contains("commands run in ns-user: "), "{told}");
    let base = scene.1.clone();
    let refused = |script: &str, mode: &str| {
        let words = ["build", "--build-context", &base, "--no-cache", "--isolation", mode, "c"];
        let failed = output(&mut scene.command(script, &words));
        assert!(!failed.status.success(), "{mode}");
        all(&failed)
    };
    let told = refused(UNCONFINED, "ns-root");
    assert!(told.contains("Dockerfile:3: commands cannot be run here: ns-root: CAP_SYS_ADMIN"), "{told}");
    assert!(refused(MASKED, "ns-user").contains("mounting /proc"));
    assert!(refused("exec \"$@\"", "docker").contains("`docker` is none of ns-root, "));
    // Where nothing works, what runs nothing is built all the same.
    let told = refused(DROPPED, "ns-user");
    assert!(told.contains("usermod --add-subuids"), "{told}");
    scene.0.write("d/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let built = output(&mut scene.command(DROPPED, &["--root", "other", "build", "d"]));
    assert!(built.status.success(), "{}", all(&built));
}

#[test]
fn a_store_on_an_overlay_is_no_place_for_another() {
    let scene = Scene::new();
    for folder in ["lower", "upper", "work", "merged"] {
        fs::create_dir(scene.0.join(folder)).unwrap();
    }
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work {0}/merged; export PLYWOOD_ROOT={0}/merged/store; {MASKED}",
        scene.0.path().display()
    );
    let told = scene.doctor(&mount);
    assert!(!works(&told, "ns-user-bindproc"), "{told:#?}");
    assert!(of(&told, "ns-user-bindproc", "help").contains("emptyDir"), "{told:#?}");
    let store = told.iter().find(|finding| finding["about"] == "store").unwrap();
    assert!(store["told"].as_str().unwrap().starts_with("on overlay, "), "{store}");
}

/// Fewer rights than containers have, none back by set-user-ID programs, and a filter.
#[test]
fn strict_is_stricter() {
    let scene = Scene::new();
    let step = "busybox grep -e NoNewPrivs -e Seccomp: -e CapEff /proc/self/status; \
        busybox touch /a; busybox chown 33:44 /a; busybox mknod /d c 1 3 2> /dev/null || echo no devices";
    for (script, mode) in [("exec \"$@\"", "ns-root"), (MASKED, "ns-user-bindproc")] {
        let (told, layers) = scene.build(script, step, &["--security=strict"]);
        assert!(told.contains(&format!("commands run in {mode}: ")), "{told}");
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000800004fb", "no devices"] {
            assert!(told.contains(line), "{mode}: {line}: {told}");
        }
        assert_eq!(entry(layers.last().unwrap(), "a"), (33, 44, 0o644), "{mode}");
        let (told, _) = scene.build(script, step, &[]);
        assert!(told.contains("NoNewPrivs:\t0") && told.contains("Seccomp:\t2"), "{told}");
    }
    let (told, _) = scene.build(DOCKER, "busybox chown 33:44 /bin", &["--security=strict", "--isolation=chroot"]);
    assert!(told.contains("commands run in chroot: "), "{told}");
}

/// With one user in the namespace nothing can be given away: who should have it is written down, and is in the layer.
#[test]
fn with_one_user_the_layer_says_whose_files_are() {
    let scene = Scene::new();
    let base = &scene.1;
    let text = "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nCOPY --chown=5:6 Dockerfile /given/file\n\
        RUN busybox mkdir -p /d/e; cd /d; echo > e/one; busybox chown 7:8 e/one e; busybox chown 9 e/one; busybox ln e/one two; busybox mv e f; \
        busybox ln -s f/one link; busybox chown -h 3:3 link; busybox chmod 4755 f/one; busybox chown 10 f/one; echo > three; \
        busybox chown 11:12 /given; busybox chown 99 missing 2> /dev/null || echo refused; busybox su -s /bin/busybox nobody 2> /dev/null; busybox id -u\n\
        RUN echo more >> /given/file; echo >> /d/three\n\
        USER 7:8\nRUN busybox chown 20 /d/three 2> /dev/null || echo not by others; echo > /d/own; busybox grep -q CapEff:.0000000000000000 /proc/self/status && echo nor otherwise\n";
    scene.0.write("c/Dockerfile", text);
    let out = scene.0.join("single-out");
    let layout = format!("type=oci,tar=false,dest={}", out.display());
    let words =
        ["build", "--progress=plain", "--isolation=ns-user-single", "--build-context", base, "-o", &layout, "c"];
    let built = output(&mut scene.command(UNCONFINED, &words));
    let told = all(&built);
    assert!(built.status.success() && told.contains("commands run in ns-user-single: "), "{told}");
    assert!(told.contains(" refused\n") && told.contains(" not by others\n"), "{told}");
    assert!(told.contains(" nor otherwise\n"), "{told}");
    let layers = layers(&out);
    let [.., first, second, third] = &layers[..] else { panic!("{}", layers.len()) };
    for (path, expected) in [
        ("d/f/", (7, 8, 0o755)),
        // As everywhere, who gives a file away takes its set-user-ID. Busybox looks up a group that it is not told: root's.
        ("d/f/one", (10, 0, 0o755)),
        ("d/two", (10, 0, 0o755)),
        ("d/three", (0, 0, 0o644)),
        ("given/", (11, 12, 0o755)),
    ] {
        assert_eq!(entry(first, path), expected, "{path}");
    }
    assert_eq!(entry(second, "given/file"), (5, 6, 0o644), "what a layer gave away is still another's");
    assert_eq!(entry(second, "given/"), (11, 12, 0o755));
    assert!(!support::entries(third).iter().any(|line| line.contains("d/three")), "nothing has changed there");
    assert_eq!(entry(third, "d/own"), (7, 8, 0o644), "what another user makes is that user's");
}

/// Root with what Docker leaves to a container's by default.
const DOCKER: &str = "c=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,\
     +net_bind_service,+sys_chroot,+kill,+audit_write; exec setpriv --bounding-set=$c --inh-caps=$c -- \"$@\"";

/// With mounts or without: the same steps give the same image, to the byte.
#[test]
fn without_mounts_steps_give_what_they_give_with_them() {
    let scene = Scene::new();
    scene.0.write("c/given", "given\n");
    scene.0.write("c/secret", "hidden-word\n");
    let text = "FROM base AS other\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN busybox mkdir -p /made/deep; echo 1 > /made/deep/one\n\
        FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
        RUN busybox mkdir /a /b; echo 1 > /a/one; echo 2 > /a/two; busybox ln -s one /a/link; busybox chown 7:8 /a/two; busybox chmod 640 /a/two\n\
        COPY given /a/given\n\
        RUN busybox rm /a/one; busybox mv /a/two /b/two; busybox rm /a/given; busybox mkdir /a/new; echo 3 > /a/new/three\n\
        COPY --from=other /made /made\n\
        RUN --mount=type=secret,id=word --mount=type=bind,from=other,target=/x --mount=type=bind,target=/context --mount=type=tmpfs,target=/b \
        busybox cat /run/secrets/word > /word; busybox cat /x/made/deep/one /context/given > /read; echo 1 > /b/gone; [ -e /b/two ] || echo covered > /seen\n\
        RUN --mount=type=cache,target=/cache echo more >> /cache/log; busybox cp /cache/log /log\n\
        RUN busybox id > /who; busybox cat /etc/hosts > /hosts; [ -c /dev/null ] && echo device > /device; busybox setsid busybox sleep 7654321 > /dev/null 2>&1 &\n\
        WORKDIR /w/x\nUSER 7:8\nRUN echo mine > /w/x/own 2> /dev/null || echo no > /tmp/no 2> /dev/null || true\n";
    scene.0.write("c/Dockerfile", text);
    let build = |script: &str, mode: &str, root: &str| {
        let out = scene.0.join(format!("out-{root}"));
        let layout = format!("type=oci,tar=false,dest={},rewrite-timestamp=true", out.display());
        let mode = format!("--isolation={mode}");
        let words = [
            "--root",
            root,
            "build",
            "--progress=plain",
            "--build-context",
            &scene.1,
            "--build-arg=SOURCE_DATE_EPOCH=1700000000",
            "--secret=id=word,src=c/secret",
            &mode,
            "-o",
            &layout,
            "c",
        ];
        let built = output(&mut scene.command(script, &words));
        assert!(built.status.success(), "{mode}: {}", all(&built));
        (String::from_utf8_lossy(&built.stdout).trim().to_owned(), layers(&out))
    };
    let (with, with_layers) = build("exec \"$@\"", "ns-root", "one");
    let (without, without_layers) = build(DOCKER, "chroot", "two");
    for (number, (one, other)) in with_layers.iter().zip(&without_layers).enumerate() {
        assert_eq!(support::entries(one), support::entries(other), "layer {number}");
    }
    assert_eq!(with, without);
    let left = support::processes().into_iter().filter(|process| process.command.contains("7654321")).count();
    assert_eq!(left, 0, "what a step leaves running ends with it");
    // What a cache mount holds is there for the next build, wherever its step runs.
    let again = scene.0.join("two/mounts");
    let logs: Vec<_> = support::files(&again).into_iter().filter(|path| path.ends_with("log")).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(fs::read_to_string(&logs[0]).unwrap(), "more\n");
    assert!(!support::files(&scene.0.join("two")).iter().any(|path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(11).any(|window| window == b"hidden-word"))
            && !path.ends_with("word")
    }));
}

/// What a step was given does not get into its layer, whatever the step does with the place; and what is not the step's goes
/// back where it was, or the step fails.
#[test]
fn what_was_given_without_mounts_is_taken_back() {
    let scene = Scene::new();
    scene.0.write("c/secret", "hidden-word\n");
    let run = |step: &str, words: &[&str]| {
        let text = format!(
            "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN busybox mkdir -p /own /cover/full /run/secrets\nRUN {step}\n"
        );
        scene.0.write("c/Dockerfile", text);
        let out = tempfile::tempdir_in(scene.0.path()).unwrap().keep();
        let layout = format!("type=oci,tar=false,dest={}", out.display());
        let words = [
            &["--root", "chrooted", "build", "--progress=plain", "--isolation=chroot", "--build-context", &scene.1][..],
            &["--secret=id=word,src=c/secret", "-o", &layout],
            words,
            &["c"],
        ];
        let ended = output(&mut scene.command(DOCKER, &words.concat()));
        (ended.status.success(), all(&ended), out)
    };
    // A folder that is moved with a secret in it, and one that is put in a cache's place.
    let (done, told, _) = run("--mount=type=secret,id=word,target=/own/word busybox mv /own /elsewhere", &[]);
    assert!(!done && told.contains("has moved or replaced what was mounted there"), "{told}");
    let (done, told, _) = run("--mount=type=cache,target=/c busybox rm -rf /c; busybox ln -s / /c", &[]);
    assert!(!done && told.contains("has moved or replaced what was mounted there"), "{told}");
    let mounts = scene.0.join("chrooted/mounts");
    let is_link = |entry: fs::DirEntry| entry.file_type().unwrap().is_symlink();
    assert!(!fs::read_dir(&mounts).is_ok_and(|entries| entries.flatten().any(is_link)), "no link is a cache");
    // One cover in another, and a folder of the image that is empty.
    let step = "--mount=type=tmpfs,target=/run --mount=type=secret,id=word --mount=type=tmpfs,target=/cover busybox cat /run/secrets/word > /dev/null";
    let (done, told, out) = run(step, &[]);
    assert!(done, "{told}");
    let last = layers(&out).pop().unwrap();
    let names: Vec<String> = tar::Archive::new(&last[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.is_empty(), "{names:?}");
    // One that is killed gives the cache back.
    let (done, told, _) = run("--mount=type=cache,id=kept,target=/kept echo kept > /kept/file", &[]);
    assert!(done, "{told}");
    let sleep = format!("7{:07}", std::process::id());
    let text = format!(
        "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN --mount=type=cache,id=kept,target=/kept busybox sleep {sleep} & busybox sleep {sleep}\n"
    );
    scene.0.write("c/Dockerfile", text);
    let words = ["--root", "chrooted", "build", "--isolation=chroot", "--build-context", &scene.1, "c"];
    let mut command = scene.command(DOCKER, &words);
    let mut child = support::Guard(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let running = || support::processes().into_iter().filter(|process| process.command.contains(&sleep)).count();
    let limit = std::time::Duration::from_secs(30);
    support::wait_for("the step runs", limit, || running() >= 2);
    child.0.kill().unwrap();
    support::wait_for("everything ends with the build", limit, || running() == 0);
    let kept = || support::files(&mounts).into_iter().filter(|path| path.ends_with("file")).count();
    support::wait_for("the cache is back", limit, || kept() == 1);
}
