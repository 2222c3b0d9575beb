//! What RUN gets from the command line: ssh agents and control groups.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Place, all, need, need_root, output, run, wait_for};

/// An agent that ends with the test.
struct Agent {
    process: std::process::Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(place: &Place, keys: &[&str]) -> Self {
        let socket = place.join("agent.sock");
        let mut command = Command::new(need("ssh-agent", "openssh-client"));
        let process = command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Self { process, socket };
        wait_for("the ssh agent", std::time::Duration::from_secs(10), || agent.socket.exists());
        for key in keys {
            run(Command::new("ssh-add").arg("-q").arg(place.join(key)).env("SSH_AUTH_SOCK", &agent.socket));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A context with busybox, this machine's ssh-add with all it loads, and public keys.
fn context(place: &Place, keys: &[&str], dockerfile: &str) -> std::path::PathBuf {
    let context = place.busybox_context("context", dockerfile);
    let ssh_add = need("ssh-add", "openssh-client");
    let listed = run(Command::new("ldd").arg(&ssh_add));
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for file in libraries.chain([ssh_add.as_path()]) {
        let target = context.join("files").join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
    for key in keys {
        fs::copy(place.join(format!("{key}.pub")), context.join(format!("{key}.pub"))).unwrap();
    }
    context
}

fn make_key(place: &Place, name: &str, words: &[&str]) {
    let mut command = Command::new(need("ssh-keygen", "openssh-client"));
    run(command.args(["-q", "-N", "", "-C", name, "-f"]).arg(place.join(name)).args(words));
}

const DOCKERFILE: &str = r#"FROM scratch
COPY busybox /bin/busybox
COPY files /
COPY *.pub /keys/
SHELL ["/bin/busybox", "sh", "-ec"]
RUN printf 'root:x:0:0::/:/bin/sh\nuser:x:7:7::/:/bin/sh\n' > /etc/passwd
# Each key signs, and what it signed is checked with the public key; nothing of the agent can be changed.
RUN --mount=type=ssh /usr/bin/ssh-add -T /keys/*.pub && ! /usr/bin/ssh-add -D && /usr/bin/ssh-add -l > /listed
USER user
RUN --mount=type=ssh,uid=7,target=/tmp/agent.sock /usr/bin/ssh-add -l && test "$SSH_AUTH_SOCK" = /tmp/agent.sock
RUN ! /usr/bin/ssh-add -l && test ! -e /tmp/agent.sock
"#;

#[test]
fn an_agent_is_passed_on() {
    let place = Place::new();
    make_key(&place, "first", &["-t", "ed25519"]);
    let agent = Agent::start(&place, &["first"]);
    let context = context(&place, &["first"], DOCKERFILE);
    let out = place.join("out");
    let mut build = place.plywood();
    build.env("SSH_AUTH_SOCK", &agent.socket).args(["build", "--ssh", "default", "-o"]).arg(&out).arg(&context);
    run(&mut build);
    assert!(fs::read_to_string(out.join("listed")).unwrap().contains("first (ED25519)"));
    assert!(!out.join("run/buildkit/ssh_agent.0").exists());
    // The agent still has its key: removing all was refused.
    let left = run(Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &agent.socket));
    assert!(left.contains("first"), "{left}");
}

#[test]
fn keys_of_every_kind_sign_without_an_agent() {
    let place = Place::new();
    let kinds: [(&str, &[&str]); 4] = [
        ("ed25519", &["-t", "ed25519"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
    ];
    kinds.iter().for_each(|(name, words)| make_key(&place, name, words));
    let names = kinds.map(|(name, _)| name);
    let context = context(&place, &names, DOCKERFILE);
    let paths = names.map(|name| place.join(name).display().to_string());
    let mut build = place.plywood();
    build.env_remove("SSH_AUTH_SOCK").args(["build", "--ssh", &format!("default={}", paths.join(","))]);
    run(build.arg(&context));
}

#[test]
fn a_key_with_a_passphrase_is_refused_before_anything_runs() {
    let place = Place::new();
    let mut command = Command::new(need("ssh-keygen", "openssh-client"));
    run(command.args(["-q", "-t", "ed25519", "-N", "open sesame", "-f"]).arg(place.join("locked")));
    let context = place.busybox_context("context", "FROM scratch\n");
    let locked = format!("default={}", place.join("locked").display());
    let refused = output(place.plywood().args(["build", "--ssh", &locked]).arg(&context));
    assert!(!refused.status.success());
    assert!(all(&refused).contains("it has a passphrase"), "{}", all(&refused));
}

/// Whether this process may make control groups that limit memory.
fn memory_groups() -> bool {
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().any(|tree| {
        let group = Path::new(tree).join(format!("plywood-test-{}", std::process::id()));
        let limit = ["memory.limit_in_bytes", "memory.max"].iter().any(|file| Path::new(tree).join(file).exists());
        let made = limit && fs::create_dir(&group).is_ok();
        made && fs::remove_dir(&group).is_ok()
    })
}

#[test]
fn memory_is_limited_where_the_machine_allows() {
    need_root();
    let place = Place::new();
    let base = place.busybox_base();
    // tail keeps in memory what has no line end.
    let text = "FROM base\nRUN head -c 200000000 /dev/zero | tail -n 1 | wc -c\n";
    let context = place.busybox_context("context", text);
    let words = ["build", "--build-context", &base, "--memory", "32m", "--memory-swap", "32m", "--no-cache"];
    let limited = output(place.plywood().args(words).arg(&context));
    let words = ["build", "--build-context", &base, "--resource", "memory=32m,memory-swap=32m", "--no-cache"];
    let parent = ["--cgroup-parent", "/plywood-test-parent"];
    let told = output(place.plywood().args(words).args(parent).arg(&context));
    for (wrong, phrase) in [("memory=1m,memory=2m", "given twice"), ("cpus=3", "there is no limit `cpus`")] {
        let refused = output(place.plywood().args(["build", "--resource", wrong]).arg(&context));
        assert!(!refused.status.success() && all(&refused).contains(phrase), "{}", all(&refused));
    }
    if memory_groups() {
        for build in [&limited, &told] {
            // The shell tells of it, unless it is the one that goes.
            assert!(
                all(build).to_lowercase().contains("killed") && !all(build).contains("200000000\n"),
                "{}",
                all(build)
            );
        }
        assert!(!Path::new("/sys/fs/cgroup/memory/plywood-test-parent").exists());
    } else {
        assert!(all(&limited).contains("control group"), "{}", all(&limited));
    }
}
