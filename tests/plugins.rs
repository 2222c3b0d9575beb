//! Plugins that break are told of and do no harm; plugins that are swapped in are used; what is not granted is refused.
//!
//! The plugins are those of tests/plugins. Registries are Debian's `docker-registry`, with `htpasswd` of apache2-utils.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const TARGET: &str = "wasm32-wasip2";
/// How long a call that is cut off may keep the user waiting; compiling the plugins on a busy machine is in it.
const SOON: Duration = Duration::from_secs(20);
/// What runs longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// The folder of the components, built once.
static COMPONENTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target_dir = root.join("target/test-plugins");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--quiet", "--release", "--locked", "--target", TARGET]);
    cargo.args(["--manifest-path", "tests/plugins/Cargo.toml", "--target-dir"]).arg(&target_dir);
    // What is meant for the outer build must not reach the inner one: flags for another target, wrappers, profiles.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_INCREMENTAL",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ];
        if foreign.contains(&text.as_ref()) || text.starts_with("CARGO_PROFILE_") {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "building tests/plugins failed; the errors are above");
    target_dir.join(TARGET).join("release")
});

fn component(name: &str) -> PathBuf {
    COMPONENTS.join(format!("{}.wasm", name.replace('-', "_")))
}

/// A user who has nothing yet: no store, no configuration, no cache; and a context to build.
struct User {
    home: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Duration,
}

impl User {
    fn new(dockerfile: &str) -> Result<Self> {
        let user = Self { home: tempfile::tempdir()? };
        fs::create_dir(user.path("context"))?;
        fs::write(user.path("context/Dockerfile"), dockerfile)?;
        Ok(user)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The program, in an environment that holds nothing of whoever runs the test.
    fn plywood(&self, command: &str, plugin: Option<&str>) -> Command {
        let mut plywood = Command::new(env!("CARGO_BIN_EXE_plywood"));
        plywood.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.home.path());
        plywood.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_CACHE_HOME", self.path("cache"));
        plywood.arg(command).arg("--root").arg(self.path("root"));
        if let Some(plugin) = plugin {
            plywood.arg("--plugin").arg(component(plugin));
        }
        plywood.current_dir(self.path("context")).arg(".");
        plywood
    }

    fn build(&self, plugin: Option<&str>, arguments: &[&str]) -> Result<Ran> {
        self.run(self.plywood("build", plugin).args(arguments))
    }

    /// Builds with a configuration of the user's that says this.
    fn build_with(&self, plugin: &str, configuration: &str, arguments: &[&str]) -> Result<Ran> {
        self.run(self.configured("build", plugin, configuration)?.args(arguments))
    }

    fn configured(&self, command: &str, plugin: &str, configuration: &str) -> Result<Command> {
        let file = self.path("own.toml");
        fs::write(&file, configuration)?;
        let mut plywood = self.plywood(command, Some(plugin));
        plywood.arg("--config").arg(file);
        Ok(plywood)
    }

    fn run(&self, command: &mut Command) -> Result<Ran> {
        let (stdout, stderr) = (self.path("stdout"), self.path("stderr"));
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let began = Instant::now();
        let mut child = command.spawn()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if began.elapsed() > HANGS {
                child.kill()?;
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = began.elapsed();
        let text = |path: PathBuf| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Ran { code: status.code(), stdout: text(stdout)?, stderr: text(stderr)?, took })
    }

    /// Builds, and reads the image's configuration out of a layout.
    fn config_of_image(&self, plugin: Option<&str>, configuration: &str) -> Result<Value> {
        let layout = self.path(plugin.unwrap_or("plain"));
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let built = match plugin {
            Some(plugin) => self.build_with(plugin, configuration, &["-o", &output])?,
            None => self.build(None, &["-o", &output])?,
        };
        built.succeeded();
        let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().context("a digest")?;
            read(layout.join("blobs").join(digest.replace(':', "/")))
        };
        let index = read(layout.join("index.json"))?;
        let manifest = blob(&index["manifests"][0])?;
        Ok(blob(&manifest["config"])?["config"].take())
    }
}

impl Ran {
    fn succeeded(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    /// One error, of the program's own making, that says all of this.
    fn failed(&self, says: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert_eq!(self.stderr.lines().filter(|line| line.starts_with("plywood: ")).count(), 1, "{self:#?}");
        assert!(!self.stderr.contains("panicked at host"), "{self:#?}");
        for text in says {
            assert!(self.stderr.contains(text), "it does not say {text:?}: {self:#?}");
        }
    }

    /// How each step of a build with `--progress=plain` began and ended, by its number.
    fn steps(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut steps: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in self.stdout.lines().chain(self.stderr.lines()).filter(|line| line.starts_with('#')) {
            let (number, text) = line.split_once(' ').unwrap_or((line, ""));
            steps.entry(number).or_default().push(text);
        }
        steps
    }
}

mod an_instruction_that_breaks {
    use super::*;

    /// The error names the plugin, the call and the line, and the user gets it at once.
    fn evil(how: &str, reason: &str) -> Result<Ran> {
        let user = User::new(&format!("FROM scratch\n\nEVIL {how}\n"))?;
        let wasm = Sha256::digest(fs::read(component("evil"))?);
        let digest: String = wasm.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let ran = user.build(Some("evil"), &[])?;
        let plugin = format!("plywood: Dockerfile:3: the plugin evil 0.1.0 (sha256:{digest}, ");
        ran.failed(&[&plugin, &format!("failed in `lower`: {reason}"), &format!("3 | EVIL {how}\n")]);
        assert!(ran.took < SOON, "{ran:#?}");
        Ok(ran)
    }

    #[test]
    fn fine_is_fine() -> Result<()> {
        let user = User::new("FROM scratch\nEVIL fine\n")?;
        let config = user.config_of_image(Some("evil"), "")?;
        assert_eq!(config["Labels"]["evil"], "fine");
        Ok(())
    }

    #[test]
    fn trap() -> Result<()> {
        evil("trap", "")?;
        Ok(())
    }

    #[test]
    fn panic() -> Result<()> {
        let ran = evil("panic", "it panicked")?;
        ran.failed(&["panicked at evil/src/lib.rs:", "plugin says boom"]);
        Ok(())
    }

    #[test]
    fn endless_loop() -> Result<()> {
        evil("loop", "it ran longer than the 2000 ms that a call may take")?;
        Ok(())
    }

    #[test]
    fn endless_memory() -> Result<()> {
        evil("memory", "it wanted more than the 64 MiB of memory that a plugin may have")?;
        Ok(())
    }

    #[test]
    fn endless_recursion() -> Result<()> {
        evil("recursion", "it called itself too deeply")?;
        evil("frames", "it probably called itself too deeply")?;
        Ok(())
    }

    #[test]
    fn huge_answer() -> Result<()> {
        evil("huge", "its answer is larger than the 16 MiB that an answer may be")?;
        Ok(())
    }

    #[test]
    fn too_many_operations() -> Result<()> {
        evil("many", "it gave more than 10000 operations")?;
        Ok(())
    }

    #[test]
    fn nul_in_an_operation() -> Result<()> {
        for how in ["nul", "nulpath", "nulenv"] {
            evil(how, "a NUL character stands in an operation")?;
        }
        Ok(())
    }

    #[test]
    fn relative_mount() -> Result<()> {
        evil("badmount", "the mount target `relative` is not an absolute path")?;
        Ok(())
    }

    #[test]
    fn included_without_end() -> Result<()> {
        let user = User::new("FROM scratch\nEVIL include\n")?;
        user.build(Some("evil"), &[])?.failed(&["instructions are included more than 8 deep"]);
        Ok(())
    }

    #[test]
    fn its_own_word() -> Result<()> {
        evil("internal", "I have lost my way")?;
        Ok(())
    }

    #[test]
    fn a_refusal_without_a_word() -> Result<()> {
        evil("wordless", "")?;
        Ok(())
    }

    #[test]
    fn where_it_was_is_readable() -> Result<()> {
        evil("recursion", "it called itself too deeply")?.failed(&["evil::descend"]);
        Ok(())
    }
}

#[test]
fn another_meaning_of_env_needs_leave_and_is_used() -> Result<()> {
    let user = User::new("FROM scratch\nENV COLOUR=blue SHAPE=\"a circle\"\n")?;
    let plugin = "env-to-label";
    let help = "to allow it, add `override = [\"ENV\"]` under [plugins.env-to-label.allow]";
    user.build(Some(plugin), &[])?.failed(&["env-to-label may not take over the instruction ENV", help]);

    let has_variable = |config: &Value| config["Env"].to_string().contains("COLOUR=blue");
    let before = user.config_of_image(None, "")?;
    assert!(has_variable(&before) && before["Labels"].is_null(), "{before:#}");
    let after = user.config_of_image(Some(plugin), "[plugins.env-to-label.allow]\noverride = [\"ENV\"]\n")?;
    assert!(!has_variable(&after), "{after:#}");
    assert_eq!(after["Labels"], serde_json::json!({ "COLOUR": "blue", "SHAPE": "a circle" }));
    Ok(())
}

#[test]
fn a_policy_that_never_caches_the_second_step() -> Result<()> {
    // The third is linked, so that it does not depend on what is below it.
    let user = User::new("FROM scratch\nCOPY a /\nCOPY b /\nCOPY --link c /\n")?;
    for name in ["a", "b", "c"] {
        fs::write(user.path("context").join(name), name)?;
    }
    for first in [true, false] {
        let built = user.build(Some("never-second"), &["--progress=plain"])?;
        built.succeeded();
        let steps = built.steps();
        let step = |name: &str| steps.values().find(|lines| lines[0].contains(name)).context("a step");
        for name in ["COPY a /", "COPY --link c /"] {
            assert_eq!(step(name)?.contains(&"CACHED"), !first, "{built:#?}");
        }
        let second = step("COPY b /")?;
        assert!(second[0].ends_with("; the policy: step two is special)"), "{built:#?}");
        assert!(second.iter().any(|line| line.starts_with("DONE")), "{built:#?}");
    }
    Ok(())
}

#[test]
fn a_policy_drops_an_input_only_with_leave() -> Result<()> {
    let user = User::new("FROM scratch\nARG SHA=none\nRUN [\"/bin/true\"]\n")?;
    let plugin = "drop-arg";
    let help = "to allow it, add `drop-inputs = true` under [plugins.drop-arg.allow]";
    user.build(Some(plugin), &[])?.failed(&["plywood: Dockerfile:3: ", "drop-arg may not leave an input", help]);

    let granted = "[plugins.drop-arg.allow]\ndrop-inputs = true\n";
    let key = |plan: &mut Command, sha: &str| -> Result<String> {
        let planned = user.run(plan.args(["--json", "--build-arg", sha]))?;
        planned.succeeded();
        let steps: Value = serde_json::from_str(&planned.stdout)?;
        steps[0]["key"].as_str().map(str::to_owned).context("a key")
    };
    let of_standard = |sha| key(&mut user.plywood("plan", None), sha);
    let of_plugin = |sha| key(&mut user.configured("plan", plugin, granted)?, sha);
    let (one, two) = (of_standard("SHA=one")?, of_standard("SHA=two")?);
    assert_ne!(one, two);
    let dropped = of_plugin("SHA=one")?;
    assert_eq!(dropped, of_plugin("SHA=two")?);
    // Who dropped something is part of the key: no other policy takes such a result for its own.
    assert!(dropped != one && dropped != two);
    Ok(())
}

#[test]
fn a_project_cannot_grant_itself_the_environment() -> Result<()> {
    let user = User::new("FROM scratch\nLABEL a=b\n")?;
    let granted = "[plugins.asks-env.allow]\nenv = [\"PLYWOOD_TEST_TOKEN\"]\n";
    fs::write(user.path("context/plywood.toml"), granted)?;
    let says = ["plywood.toml: the project's file cannot grant the plugin asks-env more", "your own config.toml"];
    user.build(Some("asks-env"), &[])?.failed(&says);
    Ok(())
}

#[test]
fn a_credential_plugin_knows_the_password() -> Result<()> {
    let registry = Registry::start("swapped", "secret-of-the-plugin")?;
    let user = User::new("FROM scratch\nLABEL a=b\n")?;
    let tag = registry.tag();
    let push = ["-t", tag.as_str(), "--push"];
    user.build(None, &push)?.failed(&[&registry.host()]);
    ensure!(!registry.log()?.contains("swapped"), "the user was known without the plugin");

    let pushed = user.build(Some("fixed-password"), &push)?;
    pushed.succeeded();
    assert!(!pushed.stderr.contains("secret-of-the-plugin") && !pushed.stdout.contains("secret-of-the-plugin"));
    let log = registry.log()?;
    assert!(log.contains("auth.user.name=swapped"), "{log}");
    Ok(())
}

#[test]
fn a_credential_plugin_sees_a_variable_only_with_leave() -> Result<()> {
    let registry = Registry::start("token", "of-the-environment")?;
    let user = User::new("FROM scratch\nLABEL a=b\n")?;
    let tag = registry.tag();
    let push = |plywood: &mut Command| {
        user.run(plywood.env("PLYWOOD_TEST_TOKEN", "of-the-environment").args(["-t", &tag, "--push"]))
    };
    push(&mut user.plywood("build", Some("asks-env")))?.failed(&[&registry.host()]);
    let granted = "[plugins.asks-env.allow]\nenv = [\"PLYWOOD_TEST_TOKEN\"]\n";
    push(&mut user.configured("build", "asks-env", granted)?)?.succeeded();
    let log = registry.log()?;
    assert!(log.contains("auth.user.name=token"), "{log}");
    Ok(())
}

#[test]
fn a_secret_that_a_plugin_was_told_is_in_no_log() -> Result<()> {
    let user = User::new("FROM scratch\nLABEL a=b\n")?;
    let granted = "[plugins.asks-secret.allow]\nsecrets = [\"registry\"]\n";
    fs::write(user.path("context/secret"), "of-the-command-line")?;
    let push = |registry: &Registry| {
        let tag = registry.tag();
        user.build_with("asks-secret", granted, &["--secret", "id=registry,src=secret", "-t", &tag, "--push"])
    };
    let registry = Registry::start("secret", "of-the-command-line")?;
    let pushed = push(&registry)?;
    pushed.succeeded();
    assert!(pushed.stderr.contains("refused false: [31m***"), "{pushed:#?}");
    // What it was told is struck out of a panic's text as well.
    let other = Registry::start("secret", "another")?;
    let refused = push(&other)?;
    refused.failed(&["nobody likes ***", "refused true: [31m***"]);
    for ran in [&pushed, &refused] {
        assert!(!ran.stderr.contains("of-the-command-line") && !ran.stdout.contains("of-the-command-line"), "{ran:#?}");
    }
    Ok(())
}

#[test]
fn instructions_are_read_in_the_place_of_another() -> Result<()> {
    let user = User::new("# escape=`\nFROM scratch\nENV COLOUR=blue SHAPE=round\nINCLUDE more\nLABEL seen=$COLOUR\n")?;
    fs::write(user.path("context/more"), "UNSET COLOUR\nLABEL from=`\nmore`\n  # about it\n/inner\nINCLUDE last\n")?;
    fs::write(user.path("context/last"), "WORKDIR /w\n")?;
    let help = "to allow it, add `context = true` under [plugins.include.allow]";
    user.build(Some("include"), &[])?.failed(&["Dockerfile:4: ", "was denied what it needs", help]);
    let granted = "[plugins.include.allow]\ncontext = true\n";
    let config = user.config_of_image(Some("include"), granted)?;
    assert_eq!(config["Labels"], serde_json::json!({ "from": "more/inner", "seen": "" }));
    assert_eq!(config["WorkingDir"], "/w");
    let env = config["Env"].to_string();
    assert!(env.contains("SHAPE=round") && !env.contains("COLOUR"), "{env}");
    // What goes wrong in it has its place there.
    fs::write(user.path("context/more"), "LABEL a=b\nLBAEL c\n")?;
    let wrong = user.build_with("include", granted, &[])?;
    assert_eq!(wrong.code, Some(1), "{wrong:#?}");
    // The warning of the plugin comes before it.
    assert!(wrong.stderr.contains("plywood: Dockerfile:4: warning: more\n"), "{wrong:#?}");
    assert!(wrong.stderr.contains("plywood: more:2: unknown instruction: LBAEL\n"), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_command_gets_what_a_plugin_gives_it() -> Result<()> {
    let user = User::new(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
         WORKDIR /tmp\nRUN chmod 777 /tmp\n\
         TEST read x; echo \"$x $(id -u):$(id -g) $PWD $SETTINGS $WORKDIR_AT $COLOUR\" > got\nUSER 0\nRUN cat got >&2\n",
    )?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.context("busybox, of the package busybox-static")?, user.path("context/busybox"))?;
    let settings = "[plugins.include.settings]\nb = \"1\"\na = \"2\"\n";
    let ran = user.build_with("include", settings, &["--progress=plain"])?;
    ran.succeeded();
    assert!(ran.stderr.contains("fed 33:44 /tmp a b 4 none"), "{ran:#?}");
    Ok(())
}

#[test]
fn a_plugin_of_a_later_addition_to_the_contract_is_taken() -> Result<()> {
    let user = User::new("FROM scratch\nEVIL fine\n")?;
    let renamed = |version: &[u8]| -> Result<Vec<u8>> {
        let mut wasm = fs::read(component("evil"))?;
        let mut at = 0;
        let (mark, end) = (b"plywood:plugin/", b"@0.1.0");
        while let Some(found) = wasm[at..].windows(mark.len()).position(|window| window == mark) {
            at += found + mark.len();
            let version_at = wasm[at..].windows(end.len()).take(40).position(|window| window == end);
            if let Some(offset) = version_at {
                wasm[at + offset..at + offset + version.len()].copy_from_slice(version);
            }
        }
        Ok(wasm)
    };
    let build = |version: &[u8]| -> Result<Ran> {
        fs::write(user.path("evil.wasm"), renamed(version)?)?;
        let mut plywood = user.plywood("build", None);
        user.run(plywood.arg("--plugin").arg(user.path("evil.wasm")))
    };
    build(b"@0.1.7")?.succeeded();
    build(b"@0.2.0")?.failed(&["it speaks plywood:plugin@0.2.0, and this program 0.1."]);
    Ok(())
}

/// A registry with one user.
struct Registry {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Registry {
    fn start(user: &str, password: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let htpasswd = Command::new("htpasswd").args(["-Bbn", user, password]).output();
        fs::write(path("htpasswd"), htpasswd.context("htpasswd, of the package apache2-utils")?.stdout)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = format!(
            "version: 0.1\nlog: {{ level: info, formatter: text }}\n\
             storage: {{ filesystem: {{ rootdirectory: {:?} }} }}\n\
             http: {{ addr: \"127.0.0.1:{port}\" }}\n\
             auth: {{ htpasswd: {{ realm: test, path: {:?} }} }}\n",
            path("data"),
            path("htpasswd"),
        );
        fs::write(path("config.yml"), config)?;
        let log = File::create(path("log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("docker-registry, of the package docker-registry")?;
        let registry = Self { process, port, folder };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(began.elapsed() < SOON, "the registry does not start: {}", registry.log()?);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn tag(&self) -> String {
        format!("{}/team/image:1", self.host())
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
