//! Package managers, and which of their commands give something else on another day.
//!
//! What installs from lists that a layer below holds (`apt-get install`) is not among them; what looks at a repository by
//! itself (`apk add`, `dnf install`) is.

use crate::shell;

/// Shells in shells; nobody writes more.
const DEEPEST: usize = 8;

/// A program whose first word that is no option says what it does.
struct Manager {
    names: &'static [&'static str],
    updates: &'static [&'static str],
    /// Options that may stand before that word and take the next word as their value.
    valued: &'static [&'static str],
}

const MANAGERS: &[Manager] = &[
    Manager {
        names: &["apt-get", "apt", "aptitude"],
        updates: &["update", "upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade"],
        valued: &["-o", "--option", "-c", "--config-file", "-t", "--target-release", "-a", "--host-architecture"],
    },
    Manager {
        names: &["apk"],
        updates: &["update", "upgrade", "add"],
        valued: &[
            "-X",
            "--repository",
            "-p",
            "--root",
            "--arch",
            "--keys-dir",
            "--repositories-file",
            "--wait",
            "--cache-dir",
            "--cache-max-age",
        ],
    },
    Manager {
        names: &["dnf", "dnf5", "yum", "microdnf", "tdnf"],
        updates: &[
            "update",
            "upgrade",
            "install",
            "check-update",
            "makecache",
            "distro-sync",
            "update-minimal",
            "upgrade-minimal",
            "groupinstall",
            "group",
            "builddep",
        ],
        valued: &[
            "-c",
            "--config",
            "-x",
            "--exclude",
            "--enablerepo",
            "--disablerepo",
            "--repo",
            "--repoid",
            "--releasever",
            "--installroot",
            "--setopt",
        ],
    },
    Manager {
        names: &["zypper"],
        updates: &["refresh", "ref", "update", "up", "dist-upgrade", "dup", "patch", "install", "in"],
        valued: &["-R", "--root", "--installroot", "-D", "--reposd-dir", "-C", "--cache-dir", "--releasever"],
    },
    Manager {
        names: &["npm", "pnpm", "yarn", "bun"],
        updates: &["update", "up", "upgrade"],
        valued: &["--prefix", "-C", "--dir", "--cwd", "-w", "--workspace", "--filter"],
    },
    Manager { names: &["opkg", "brew"], updates: &["update", "upgrade"], valued: &["-f", "-o", "-d"] },
    Manager { names: &["conda", "mamba", "micromamba"], updates: &["update", "upgrade"], valued: &[] },
    Manager { names: &["composer"], updates: &["update", "upgrade", "u"], valued: &["-d", "--working-dir"] },
    Manager {
        names: &["gem", "bundle", "cargo", "rustup", "poetry", "tlmgr"],
        updates: &["update"],
        valued: &["-C", "--directory", "--color", "--config"],
    },
    Manager { names: &["pipx"], updates: &["upgrade", "upgrade-all"], valued: &[] },
    Manager { names: &["snap"], updates: &["refresh"], valued: &[] },
];

/// A program that executes the command behind its own words.
struct Wrapper {
    names: &'static [&'static str],
    /// Options that take the next word as their value.
    valued: &'static [&'static str],
    /// Words of its own before the command.
    words: usize,
}

const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        names: &["if", "then", "elif", "else", "while", "until", "do", "!", "{", "time", "exec", "command", "nohup"],
        valued: &[],
        words: 0,
    },
    Wrapper { names: &["busybox", "eatmydata", "setarch", "linux32", "retry"], valued: &[], words: 0 },
    Wrapper { names: &["sudo", "doas"], valued: &["-u", "--user", "-g", "--group", "-h", "-p", "-D", "-C"], words: 0 },
    Wrapper { names: &["env"], valued: &["-u", "--unset", "-C", "--chdir"], words: 0 },
    Wrapper { names: &["nice", "ionice"], valued: &["-n", "-c"], words: 0 },
    Wrapper { names: &["timeout"], valued: &["-k", "--kill-after", "-s", "--signal"], words: 1 },
    Wrapper { names: &["chroot"], valued: &[], words: 1 },
    Wrapper { names: &["xargs"], valued: &["-n", "-P", "-I", "-L", "-d", "-a", "-s", "-E"], words: 0 },
];

/// What a command updates with, as a few words for people.
pub(crate) fn update(argv: &[String]) -> Option<String> {
    of_command(argv, 0)
}

/// The same for a text that a shell is fed with.
pub(crate) fn update_of_script(text: &str) -> Option<String> {
    of_script(text, 0)
}

fn of_script(text: &str, depth: usize) -> Option<String> {
    if depth > DEEPEST {
        return None;
    }
    shell::commands(text).iter().find_map(|command| of_command(command, depth + 1))
}

fn of_command(mut words: &[String], depth: usize) -> Option<String> {
    loop {
        let (program, rest) = words.split_first()?;
        let name = program.rsplit('/').next().unwrap_or(program);
        if is_assignment(program) {
            words = rest;
        } else if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name)) {
            let at = first_word(rest, wrapper.valued).unwrap_or(rest.len());
            words = rest.get(at + wrapper.words..)?;
        } else {
            return of_program(name, rest, depth);
        }
    }
}

fn of_program(name: &str, rest: &[String], depth: usize) -> Option<String> {
    let has = |option: &dyn Fn(&str) -> bool| rest.iter().any(|word| option(word));
    let found = |what: &str| Some(format!("{name} {what}"));
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    match unversioned {
        "sh" | "bash" | "dash" | "ash" | "zsh" | "ksh" | "su" => {
            let at = rest.iter().position(|word| short(word).contains('c'))?;
            // `bash -c -e text` is as good as `bash -ec text`.
            return of_script(rest[at + 1..].iter().find(|word| !word.starts_with('-'))?, depth);
        }
        "eval" => return of_script(&rest.join(" "), depth),
        "python" | "pypy" => {
            let at = rest.iter().position(|word| word == "-m")?;
            return of_command(&rest[at + 1..], depth);
        }
        "uv" if rest.first().is_some_and(|word| word == "pip") => return of_command(rest, depth),
        "uv" => {
            let upgrades = has(&|word| word == "-U" || word == "--upgrade");
            return found(rest.first().filter(|_| upgrades)?);
        }
        "pip" => {
            let at = first_word(rest, &["--proxy", "--timeout", "--cert", "--log", "--cache-dir", "--python"])?;
            let upgrades = rest[at..].iter().any(|word| short(word).contains('U') || word == "--upgrade");
            return if rest[at] == "install" && upgrades { found("install --upgrade") } else { None };
        }
        // Their options say what is done, several in one word.
        "pacman" | "yay" => {
            let sync = has(&|word| short(word).contains('S') || word == "--sync");
            let refresh =
                has(&|word| short(word).contains(['y', 'u']) || word == "--refresh" || word == "--sysupgrade");
            return if sync && refresh { found("-Sy") } else { None };
        }
        "xbps-install" => {
            let syncs = has(&|word| short(word).contains(['S', 'u']) || word == "--sync" || word == "--update");
            return if syncs { found("-S") } else { None };
        }
        "emerge" => return if has(&|word| word == "--sync") { found("--sync") } else { None },
        "go" => {
            let updates = rest.first().is_some_and(|word| word == "get") && has(&|word| word.starts_with("-u"));
            return if updates { found("get -u") } else { None };
        }
        _ => {}
    }
    let manager = MANAGERS.iter().find(|manager| manager.names.contains(&name))?;
    let word = &rest[first_word(rest, manager.valued)?];
    if manager.updates.contains(&word.as_str()) { found(word) } else { None }
}

/// Where the first word stands that is neither an option nor the value of one.
fn first_word(words: &[String], valued: &[&str]) -> Option<usize> {
    let mut at = 0;
    loop {
        let word = words.get(at)?.as_str();
        // `cargo +nightly update`, `env A=b command`
        let is_option = word.starts_with(['-', '+']) || is_assignment(word);
        if !is_option {
            return Some(at);
        }
        at += if valued.contains(&word) { 2 } else { 1 };
    }
}

/// The letters of a word of short options.
fn short(word: &str) -> &str {
    word.strip_prefix('-').filter(|letters| !letters.starts_with('-')).unwrap_or_default()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !name.is_empty() && name.bytes().all(is_name) && !name.starts_with(|c: char| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates() {
        for (script, expected) in [
            ("apt-get update && apt-get install -y curl", "apt-get update"),
            ("apt-get -qq -o Acquire::Retries=3 update", "apt-get update"),
            ("DEBIAN_FRONTEND=noninteractive apt upgrade -y", "apt upgrade"),
            ("set -eux; /usr/bin/apt-get \\\n  update", "apt-get update"),
            ("apk update", "apk update"),
            ("apk --no-cache add git", "apk add"),
            ("apk -X http://mirror/main add git", "apk add"),
            ("dnf -y --setopt install_weak_deps=False install gcc", "dnf install"),
            ("yum update -y", "yum update"),
            ("microdnf upgrade", "microdnf upgrade"),
            ("zypper --non-interactive refresh", "zypper refresh"),
            ("pacman -Syu --noconfirm", "pacman -Sy"),
            ("pacman -S -y git", "pacman -Sy"),
            ("pacman --sync --refresh", "pacman -Sy"),
            ("pip install --no-cache-dir --upgrade pip", "pip install --upgrade"),
            ("pip3.12 install -qU pip", "pip3.12 install --upgrade"),
            ("python3 -m pip install --upgrade pip", "pip install --upgrade"),
            ("uv pip install -U x", "pip install --upgrade"),
            ("uv lock --upgrade", "uv lock"),
            ("npm --prefix web update", "npm update"),
            ("yarn upgrade", "yarn upgrade"),
            ("go get -u ./...", "go get -u"),
            ("cargo +nightly update", "cargo update"),
            ("sudo -u root -E apt-get update", "apt-get update"),
            ("timeout -k 5 60 apt-get update", "apt-get update"),
            ("if ! apt-get update; then exit 1; fi", "apt-get update"),
            ("for i in 1 2 3; do apt-get update && break; done", "apt-get update"),
            ("bash -euxc 'apt-get update'", "apt-get update"),
            ("sh -c \"sh -c 'apk update'\"", "apk update"),
            ("su -c 'apt-get update' root", "apt-get update"),
            ("eval apt-get update", "apt-get update"),
            ("busybox sh -c 'apk update'", "apk update"),
            ("env -u HOME A=b apt-get update", "apt-get update"),
            ("x=$(apt-get update) true", "apt-get update"),
            ("(cd / && { apt-get update; })", "apt-get update"),
            ("apt-get update>/dev/null 2>&1", "apt-get update"),
            ("case $x in debian) apt-get update;; esac", "apt-get update"),
            ("cat <<E > motd\ndon't\nE\napt-get update", "apt-get update"),
        ] {
            assert_eq!(update_of_script(script).as_deref(), Some(expected), "{script}");
        }
    }

    #[test]
    fn no_updates() {
        for script in [
            "",
            "apt-get install -y curl",
            "echo apt-get update",
            "echo 'apt-get update' >> /etc/motd",
            "# apt-get update",
            "apt-get -o update install x",
            "./apt-get-update update",
            "rm -rf /var/lib/apt/lists/*; apt-get clean update",
            "apk del git",
            "apk info add",
            "dnf remove install",
            "pacman -S git",
            "pacman -Qy",
            "pip install x",
            "pip install --upgrade-strategy eager x",
            "pip download -U x",
            "uv sync",
            "npm install update",
            "npm ci",
            "make update",
            "git submodule update",
            "update-ca-certificates",
            "go get ./...",
            "cargo build --locked",
            "bash script.sh update",
            "grep -c apt-get update",
            "sudo",
            "timeout 5",
            "X=apt-get update",
        ] {
            assert_eq!(update_of_script(script), None, "{script}");
        }
    }

    #[test]
    fn an_argument_list_is_one_command() {
        let update = |words: &[&str]| update(&words.iter().map(|&word| word.into()).collect::<Vec<_>>());
        assert_eq!(update(&["apt-get", "update"]).as_deref(), Some("apt-get update"));
        assert_eq!(update(&["/bin/sh", "-c", "apk add x"]).as_deref(), Some("apk add"));
        assert_eq!(update(&["/bin/busybox", "sh", "-c", "true; apk add x"]).as_deref(), Some("apk add"));
        assert_eq!(update(&["echo", ";", "apt-get", "update"]), None);
        assert_eq!(update(&[]), None);
    }
}
