//! Builds that are killed, that run side by side, that have no rights: nothing is left behind, nothing is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{
    Guard, Place, Process, all, family, files, layers, need, need_root, output, processes, processes_of, run, wait_for,
};

/// Long enough for two loaded cores; it only bounds a test that hangs.
const LONG: Duration = Duration::from_secs(120);

const SLEEPER: &str =
    "FROM base\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo started; exec /bin/busybox sleep 600\"]\n";

/// What is in a store though nobody works in it.
fn litter(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join("tmp"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Every blob of the store must be what its name says.
fn check_blobs(root: &Path) {
    for path in files(&root.join("blobs/blobs/sha256")) {
        let sum = run(Command::new("sha256sum").arg(&path));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(sum.starts_with(&name), "{} is damaged", path.display());
    }
}

/// Has a tool that is not ours read every byte of an archive.
fn check_image(place: &Place, archive: &Path) {
    let target = tempfile::tempdir_in(place.path()).unwrap();
    let skopeo = need("skopeo", "skopeo");
    let mut command = Command::new(skopeo);
    command.args(["copy", "--insecure-policy"]).arg(format!("oci-archive:{}", archive.display()));
    run(command.arg(format!("dir:{}", target.path().join("dir").display())));
}

fn check_no_mounts(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own: Vec<&str> = mounts.lines().filter(|line| line.contains(&root.display().to_string())).collect();
    assert!(own.is_empty(), "mounts are left: {own:?}");
}

/// Starts a build that sleeps in its RUN, and waits until it does.
fn sleeping(place: &Place) -> (Guard, Vec<u32>) {
    let base = place.busybox_base();
    let context = place.join("context");
    place.write("context/Dockerfile", SLEEPER);
    let log = fs::File::create(place.join("log")).unwrap();
    let mut command = place.plywood();
    command.args(["build", "--progress=plain", "--build-context", &base]).arg(&context);
    let child = Guard(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    let id = child.0.id();
    let is_asleep = || {
        let family = family(id);
        processes().iter().any(|process| family.contains(&process.pid) && process.command.ends_with("sleep 600"))
    };
    wait_for("the command runs", LONG, is_asleep);
    let family = family(id);
    assert!(family.len() >= 4, "a build, a worker, a step and its command: {family:?}");
    (child, family)
}

fn alive(pids: &[u32]) -> Vec<String> {
    let all = processes();
    all.iter().filter(|process| pids.contains(&process.pid)).map(|process| format!("{process:?}")).collect()
}

/// Kills what a failed test must not leave, then fails it.
fn all_gone(pids: &[u32], within: Duration) {
    let start = Instant::now();
    while start.elapsed() < within {
        if alive(pids).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = alive(pids);
    for pid in pids {
        signal(*pid, "KILL");
    }
    assert!(left.is_empty(), "still there after {within:?}: {left:#?}");
}

fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

fn wait(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    wait_for("the build ends", limit, || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}

#[test]
fn a_signal_ends_everything() {
    need_root();
    // More than once: what ends the step is in a race with the end of the process.
    for (name, code) in [("TERM", 143), ("INT", 130), ("TERM", 143), ("INT", 130)] {
        let place = Place::new();
        let (mut child, family) = sleeping(&place);
        signal(child.0.id(), name);
        let start = Instant::now();
        let status = wait(&mut child.0, Duration::from_secs(10));
        all_gone(&family, Duration::from_secs(2).saturating_sub(start.elapsed()));
        assert_eq!(status.code(), Some(code), "{name}: {status}");
        check_no_mounts(&place.root());
    }
}

/// The build, its worker, its step: whichever is killed, the others end, and the next build works.
#[test]
fn whoever_is_killed_takes_the_rest_along() {
    need_root();
    let mut problems = Vec::new();
    for (at, who) in ["the build", "the worker", "the step", "the command"].into_iter().enumerate() {
        let place = Place::new();
        let (mut child, family) = sleeping(&place);
        signal(family[at], "KILL");
        let gone = std::panic::catch_unwind(|| all_gone(&family, Duration::from_secs(5)));
        if gone.is_err() {
            problems.push(who);
        }
        let status = wait(&mut child.0, LONG);
        match at {
            0 => assert_eq!(status.signal(), Some(9)),
            // A command that is killed has failed; that is no code of its own.
            _ => assert_eq!(status.code(), Some(1), "{who}: {status}"),
        }
        check_no_mounts(&place.root());
        place.write("context/Dockerfile", "FROM base\nRUN echo again > /again\n");
        let base = place.busybox_base();
        run(place.plywood().args(["build", "-q", "--build-context", &base]).arg(place.join("context")));
        assert_eq!(litter(&place.root()), Vec::<PathBuf>::new(), "after {who} was killed");
    }
    assert!(problems.is_empty(), "processes outlived {problems:?}");
}

#[test]
fn builds_side_by_side_on_one_store() {
    need_root();
    let place = Place::new();
    let base = place.busybox_base();
    let dockerfile = "FROM base\n\
        RUN cat /proc/sys/kernel/random/uuid > /one && mkdir -p /d && chmod 700 /d && echo x > /d/x\n\
        COPY data /data\n\
        RUN cat /one > /two && rm /d/x\n\
        FROM base\n\
        COPY --from=0 /one /two /\n\
        RUN cmp /one /two\n";
    place.write("context/Dockerfile", dockerfile);
    place.write("context/data", vec![7u8; 1 << 20]);
    let build = |at: usize| {
        let mut command = place.plywood();
        let output = format!("type=oci,dest={}", place.join(format!("{at}.tar")).display());
        command
            .args(["build", "-q", "-t", "side:1", "--build-context", &base, "-o", &output])
            .arg(place.join("context"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let running: Vec<Child> = (0..6).map(|at| build(at).spawn().unwrap()).collect();
    for (at, child) in running.into_iter().enumerate() {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "build {at}: {}", all(&ended));
    }
    (0..6).for_each(|at| check_image(&place, &place.join(format!("{at}.tar"))));
    assert_eq!(litter(&place.root()), Vec::<PathBuf>::new());
    check_blobs(&place.root());
    check_no_mounts(&place.root());
    // From here on everybody gets the same.
    let again: Vec<String> = (0..2).map(|at| run(&mut build(at)).trim().to_owned()).collect();
    assert_eq!(again[0], again[1]);
}

#[test]
fn builds_side_by_side_into_one_layout() {
    let place = Place::new();
    let layout = place.join("layout");
    place.write("context/Dockerfile", "FROM scratch\nCOPY data /data\nARG N\nLABEL n=$N\n");
    // Large enough that writing it takes a while.
    place.write("context/data", vec![7u8; 64 << 20]);
    let build = |at: usize| {
        let mut command = place.plywood();
        let output = format!("type=oci,tar=false,compression=none,dest={}", layout.display());
        command.args(["build", "-q", "-t", &format!("side:{at}"), "--build-arg", &format!("N={at}"), "-o", &output]);
        command.arg(place.join("context")).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let running: Vec<Child> = (0..6).map(|at| build(at).spawn().unwrap()).collect();
    let ended: Vec<_> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for (at, ended) in ended.iter().enumerate() {
        assert!(ended.status.success(), "build {at}: {}", all(ended));
    }
    for (at, ended) in ended.iter().enumerate() {
        let found =
            place.plywood().arg("inspect").arg(format!("oci-layout://{}:{at}", layout.display())).output().unwrap();
        assert!(found.status.success(), "image {at}: {}", all(&found));
        let digest = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        assert!(all(&found).contains(&digest), "image {at}: {}", all(&found));
    }
    let blobs = files(&layout.join("blobs/sha256"));
    assert_eq!(blobs.len(), 1 + 6 * 2, "a layer, and of each image two documents: {blobs:?}");
    for path in blobs {
        let sum = run(Command::new("sha256sum").arg(&path));
        assert!(sum.starts_with(&*path.file_name().unwrap().to_string_lossy()), "{} is damaged", path.display());
    }
}

/// A step that was made anew must not be put below what was made on the old one.
#[test]
fn layers_of_different_builds_are_not_mixed() {
    need_root();
    let place = Place::new();
    let base = place.busybox_base();
    let steps = "FROM base\nRUN cat /proc/sys/kernel/random/uuid > /one\n\
        RUN --mount=type=secret,id=stop [ ! -e /run/secrets/stop ] && cat /one > /two\n";
    place.write("context/Dockerfile", steps);
    let build = |more: &[&str]| {
        output(place.plywood().args(["build", "-q", "--build-context", &base]).args(more).arg(place.join("context")))
    };
    let first = build(&[]);
    assert!(first.status.success(), "{}", all(&first));
    let secret = place.write("stop", "x");
    // It fails behind its first step, which it has kept.
    let second = build(&["--no-cache", "--secret", &format!("id=stop,src={}", secret.display())]);
    assert!(!second.status.success());
    place.write("context/Dockerfile", format!("{steps}RUN cmp /one /two\n"));
    let third = build(&[]);
    assert!(third.status.success(), "{}", all(&third));
}

/// Builds that are killed, and what must hold after each.
struct Killing {
    place: Place,
    base: String,
    kills: usize,
    problems: Vec<String>,
}

impl Killing {
    fn new() -> Self {
        need_root();
        let place = Place::new();
        let base = place.busybox_base();
        // A copy of its own: processes are found by the program they run.
        fs::copy(support::PLYWOOD, place.join("plywood")).unwrap();
        place.write("context/Dockerfile", "FROM base\nCOPY data /data\nRUN cat /data /data > /twice && mkdir /d\n");
        place.write("context/data", "data\n");
        place.write("warm/Dockerfile", "FROM base\nRUN echo warm > /warm\n");
        Self { place, base, kills: 0, problems: Vec::new() }
    }

    fn build(&self, mut command: Command, context: &str, archive: &str) -> Command {
        let output = format!("type=oci,dest={}", self.place.join(archive).display());
        command.env("XDG_CACHE_HOME", self.place.join("cache")).env("HOME", self.place.join("home"));
        // Fewer threads make a longer row of calls for each.
        command.env_remove("PLYWOOD_ROOT").env("TOKIO_WORKER_THREADS", "1").stdin(Stdio::null());
        command.arg("--root").arg(self.place.join("killed")).args(["build", "-q", "--build-context", &self.base]);
        command.args(["-o", &output]).arg(self.place.join(context));
        command
    }

    fn program(&self) -> Command {
        Command::new(self.place.join("plywood"))
    }

    /// Processes of any of these builds.
    fn left(&self) -> Vec<Process> {
        let place = self.place.path();
        let runs_it = |process: &Process| {
            let program = fs::read_link(format!("/proc/{}/exe", process.pid));
            program.is_ok_and(|program| program.starts_with(place))
        };
        let mut found = processes_of(place);
        found.extend(processes().into_iter().filter(runs_it));
        found
    }

    /// Starts from a store that has nothing, or one that has unpacked the base.
    fn start(&self, warm: bool) {
        let _ = fs::remove_dir_all(self.place.join("killed"));
        if warm {
            run(&mut self.build(self.program(), "warm", "warm.tar"));
        }
    }

    /// What must hold after a kill.
    fn check(&mut self, when: &str) {
        self.kills += 1;
        let root = self.place.join("killed");
        let start = Instant::now();
        while !self.left().is_empty() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.left();
        if !left.is_empty() {
            self.problems.push(format!("{when}: processes are left: {left:?}"));
            left.iter().for_each(|process| signal(process.pid, "KILL"));
        }
        check_no_mounts(&root);
        let next = output(&mut self.build(self.program(), "context", "next.tar"));
        if next.status.success() {
            check_image(&self.place, &self.place.join("next.tar"));
            check_blobs(&root);
        } else {
            self.problems.push(format!("{when}: the next build fails: {}", all(&next)));
        }
        let litter = litter(&root);
        if !litter.is_empty() {
            self.problems.push(format!("{when}: half-made things are left: {litter:?}"));
        }
    }

    fn end(self, what: &str) {
        assert!(self.kills > 0, "{what}: nothing was killed");
        assert!(self.problems.is_empty(), "after {} kills:\n{}", self.kills, self.problems.join("\n"));
    }
}

/// Kills whoever makes the n-th call of a kind, for every n until the build gets through. Threads count for themselves.
fn killed_at(calls: &str) {
    let strace = need("strace", "strace");
    let mut killing = Killing::new();
    for warm in [false, true] {
        let mut at = 1;
        loop {
            assert!(at < 2000, "{calls}: the build never gets through");
            killing.start(warm);
            let mut command = Command::new(&strace);
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
            command.args(["-e", &format!("inject={calls}:signal=KILL:when={at}")]).arg(killing.place.join("plywood"));
            let ended = output(&mut killing.build(command, "context", "killed.tar"));
            if ended.status.success() {
                check_image(&killing.place, &killing.place.join("killed.tar"));
                break;
            }
            killing.check(&format!("{calls} {at}, warm: {warm}"));
            // The first two dozen one by one, then ever further apart.
            at += 1 + (at / 24) * 3;
        }
    }
    killing.end(calls);
}

/// Kills the build, or its worker, at moments all over its life.
fn killed_while_it_runs(name: Option<&str>) {
    const MOMENTS: u32 = 24;
    let mut killing = Killing::new();
    killing.start(false);
    let start = Instant::now();
    run(&mut killing.build(killing.program(), "context", "whole.tar"));
    let whole = start.elapsed();
    for moment in 0..MOMENTS {
        killing.start(moment % 2 == 1);
        let mut command = killing.build(killing.program(), "context", "killed.tar");
        let mut child = Guard(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        std::thread::sleep(whole * moment / MOMENTS);
        let id = child.0.id();
        let family = family(id);
        let victim = match name {
            None => Some(id),
            Some(name) => processes().into_iter().find(|p| family.contains(&p.pid) && p.command == name).map(|p| p.pid),
        };
        if let Some(victim) = victim {
            signal(victim, "KILL");
        }
        wait(&mut child.0, LONG);
        killing.check(&format!("moment {moment} of {MOMENTS}"));
    }
    killing.end("moments");
}

#[test]
fn a_build_killed_at_any_moment() {
    killed_while_it_runs(None);
}

#[test]
fn a_worker_killed_at_any_moment() {
    killed_while_it_runs(Some("plywood-worker"));
}

#[test]
fn killed_at_any_rename() {
    killed_at("rename,renameat,renameat2");
}

#[test]
fn killed_at_any_sync() {
    killed_at("fsync,fdatasync");
}

#[test]
fn killed_at_any_mount() {
    killed_at("mount,move_mount,fsmount,umount2");
}

#[test]
fn killed_at_any_file_that_is_made_or_goes() {
    killed_at("mkdir,mkdirat,unlink,unlinkat,rmdir");
}

/// Hard links are made only where a layer has some; a build that makes none must get through.
#[test]
fn killed_at_any_lock() {
    killed_at("flock,link,linkat");
}

struct User {
    place: Place,
    name: &'static str,
}

impl User {
    /// An ordinary user, made if it is missing; `range` is for subordinate numbers.
    fn new(name: &'static str, range: bool) -> Self {
        need_root();
        need("newuidmap", "uidmap");
        let useradd = need("useradd", "passwd");
        let exists =
            Command::new("id").arg(name).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success();
        if !exists {
            // A system user gets no range.
            let kind = if range { "--user-group" } else { "--system" };
            let mut command = Command::new(useradd);
            run(command.args(["--no-create-home", "--shell", "/bin/sh", kind, name]));
        }
        let has_range = fs::read_to_string("/etc/subuid")
            .unwrap_or_default()
            .lines()
            .any(|line| line.starts_with(&format!("{name}:")));
        assert_eq!(has_range, range, "{name} in /etc/subuid");
        let place = Place::new();
        fs::copy(support::PLYWOOD, place.join("plywood")).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { place, name }
    }

    fn plywood(&self) -> Command {
        let place = &self.place;
        run(Command::new("chown").arg("-R").arg(format!("{}:", self.name)).arg(place.path()));
        let mut command = Command::new(need("setpriv", "util-linux"));
        command.arg(format!("--reuid={}", self.name)).args(["--init-groups", "--inh-caps=-all"]);
        let group = run(Command::new("id").args(["-g", self.name]));
        command.arg(format!("--regid={}", group.trim())).arg(place.join("plywood"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", place.join("home"));
        command.arg("--root").arg(place.root()).stdin(Stdio::null()).current_dir(place.path());
        command
    }

    /// As `Place::busybox_base`, by this user.
    fn base(&self) -> String {
        let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nENV PATH=/bin\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
        let context = self.place.busybox_context("base-context", text);
        let layout = self.place.join("base-layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        run(self.plywood().args(["build", "-q", "-t", "base:1", "-o", &output]).arg(context));
        format!("base=oci-layout://{}:1", layout.display())
    }
}

/// Owner, mode and path of every entry of a layer.
fn entries(layer: &[u8]) -> Vec<(String, u64, u64, u32)> {
    let mut archive = tar::Archive::new(layer);
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let header = entry.header();
        let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        (path, header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap() & 0o7777)
    };
    archive.entries().unwrap().map(entry).collect()
}

#[test]
fn an_ordinary_user_builds_with_exact_owners() {
    let user = User::new("plywood-sub", true);
    let place = &user.place;
    let base = user.base();
    place.write(
        "context/Dockerfile",
        "FROM base\nRUN echo x > /x && chown 33:34 /x && mkdir /d && chown 1000:1000 /d && chmod 2750 /d\n\
         RUN [ \"$(stat -c %u:%g /x)\" = 33:34 ] && [ \"$(id -u)\" = 0 ] && rm -r /d\nUSER 33\nRUN id -u > /tmp-id 2>/dev/null || [ $(id -u) = 33 ]\n",
    );
    let layout = place.join("out");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    run(user
        .plywood()
        .args(["build", "--progress=plain", "--build-context", &base, "-o", &output])
        .arg(place.join("context")));
    let found: Vec<_> = layers(&layout).iter().map(|layer| entries(layer)).collect();
    assert!(found[1].contains(&("x".into(), 33, 34, 0o644)), "{found:?}");
    assert!(found[1].contains(&("d".into(), 1000, 1000, 0o2750)), "{found:?}");
    assert!(found[2].iter().any(|entry| entry.0 == ".wh.d"), "{found:?}");
    assert_eq!(litter(&place.root()), Vec::<PathBuf>::new());
}

/// What other numbers than the user's have written in a build that was killed is swept by the next one.
#[test]
fn an_ordinary_users_debris_is_swept() {
    let user = User::new("plywood-sub", true);
    let place = &user.place;
    let base = user.base();
    place.write(
        "context/Dockerfile",
        "FROM base\nRUN mkdir -p /d/e && echo x > /d/e/f && chown -R 33:33 /d && chmod 700 /d && exec sleep 600\n",
    );
    let mut command = user.plywood();
    command
        .args(["build", "--build-context", &base])
        .arg(place.join("context"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = Guard(command.spawn().unwrap());
    let id = child.0.id();
    let is_asleep = || {
        let family = family(id);
        processes().iter().any(|process| family.contains(&process.pid) && process.command == "sleep 600")
    };
    wait_for("the command runs", LONG, is_asleep);
    let family = family(id);
    signal(id, "KILL");
    wait(&mut child.0, LONG);
    all_gone(&family, Duration::from_secs(5));
    place.write("context/Dockerfile", "FROM base\nRUN echo again > /again\n");
    run(user.plywood().args(["build", "-q", "--build-context", &base]).arg(place.join("context")));
    assert_eq!(litter(&place.root()), Vec::<PathBuf>::new());
}

#[test]
fn without_a_range_owners_are_written_down() {
    let user = User::new("plywood-none", false);
    let place = &user.place;
    let base = user.base();
    place.write("context/Dockerfile", "FROM base\nCOPY --chown=33:34 data /data\nWORKDIR /w\n");
    place.write("context/data", "data\n");
    let layout = place.join("out");
    let output_flag = format!("type=oci,tar=false,dest={}", layout.display());
    run(user.plywood().args(["build", "-q", "--build-context", &base, "-o", &output_flag]).arg(place.join("context")));
    assert!(layers(&layout).iter().any(|layer| entries(layer).contains(&("data".into(), 33, 34, 0o644))));
    place.write("context/Dockerfile", "FROM base\nRUN busybox touch /made; busybox chown 33:34 /made\n");
    let build = |more: &[&str]| {
        let mut command = user.plywood();
        output(command.args(["build", "--build-context", &base]).args(more).arg(place.join("context")))
    };
    let layout = place.join("made");
    let built = build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    assert!(built.status.success() && all(&built).contains("commands run in ns-user-single: "), "{}", all(&built));
    assert!(layers(&layout).iter().any(|layer| entries(layer).contains(&("made".into(), 33, 34, 0o644))));
    // Who wants them exact is told what is missing.
    let refused = build(&["--no-cache", "--isolation=ns-user"]);
    let text = all(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("subuid") && text.contains("plywood-none") && text.contains("Dockerfile:2"), "{text}");
}

#[test]
fn a_secret_is_nowhere() {
    need_root();
    let place = Place::new();
    let base = place.busybox_base();
    let secrets = ["v3rySecretInAFile-6b1f", "v3rySecretInAVariable-9c2e"];
    let file = place.join("home/token");
    place.write("home/token", secrets[0]);
    let check = |at: usize| format!("[ $(sha256sum < /run/secrets/t | cut -c1-8) = {} ]", &sum(secrets[at])[..8]);
    let dockerfile = format!(
        "FROM base\n\
         RUN --mount=type=secret,id=t {} && cat /run/secrets/t | rev > /reversed\n\
         RUN --mount=type=secret,id=t,target=/root/.netrc,mode=0444,uid=33 [ $(wc -c < /root/.netrc) = {} ]\n\
         RUN --mount=type=secret,id=v,env=TOKEN [ ${{#TOKEN}} = {} ]\n\
         RUN [ ! -e /run/secrets/t ] && [ -z \"$TOKEN\" ]\n",
        check(0),
        secrets[0].len(),
        secrets[1].len(),
    );
    place.write("context/Dockerfile", &dockerfile);
    let layout = place.join("out");
    let output_flag = format!("type=oci,tar=false,dest={}", layout.display());
    let build = |progress: &str, more: &[&str]| {
        let mut command = place.plywood();
        command.args(["build", progress, "--build-context", &base, "-o", &output_flag]);
        command
            .arg("--secret")
            .arg(format!("id=t,src={}", file.display()))
            .args(["--secret", "id=v,env=PLYWOOD_TEST_V"]);
        command.arg("--metadata-file").arg(place.join("metadata.json")).args(more);
        command.env("PLYWOOD_TEST_V", secrets[1]).arg(place.join("context"));
        output(&mut command)
    };
    let plain = build("--progress=plain", &[]);
    assert!(plain.status.success(), "{}", all(&plain));
    let json = build("--progress=json", &["--no-cache"]);
    assert!(json.status.success(), "{}", all(&json));
    let contents = layers(&layout);
    // A failing step is told of in full, but for the secret.
    place.write("context/Dockerfile", "FROM base\nRUN --mount=type=secret,id=t --mount=type=secret,id=v,env=TOKEN cat /run/secrets/t > /copy; false\n");
    let failed = build("--progress=plain", &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", all(&failed));
    let plan = output(place.plywood().args(["plan", "--json", "--build-context", &base]).arg(place.join("context")));
    for secret in secrets {
        for (what, ended) in [("plain", &plain), ("json", &json), ("the failure", &failed), ("the plan", &plan)] {
            assert!(!all(ended).contains(secret), "{what}: {}", all(ended));
        }
        let has = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!contents.iter().any(|layer| has(layer)), "in a layer");
        let everywhere = files(&place.root()).into_iter().chain(files(&layout)).chain([place.join("metadata.json")]);
        for path in everywhere {
            assert!(!has(&fs::read(&path).unwrap_or_default()), "in {}", path.display());
        }
    }
    // What could not be found above, had it been there: the command did get the secret.
    let reversed: String = secrets[0].chars().rev().collect();
    assert!(contents.iter().any(|layer| layer.windows(reversed.len()).any(|window| window == reversed.as_bytes())));
    let names: Vec<String> = contents.iter().flat_map(|layer| entries(layer)).map(|entry| entry.0).collect();
    assert!(!names.iter().any(|name| name.starts_with("run/secrets") || name.contains(".netrc")), "{names:?}");
}

fn sum(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
