//! Dockerfiles with what must come of them: one text file a case, under `tests/cases/`.
//!
//! A case is sections that start with `--- name`: `Dockerfile`, `context/PATH [mode]` for each file of the context,
//! `tar/PATH` for an archive in the context, whose lines are what `expect` says of files, folders and links,
//! `named/NAME/PATH` for files of a named context, `flags` for further words of the command line, and `expect`, whose
//! lines are: `file PATH MODE UID:GID CONTENT`, `dir PATH MODE UID:GID`, `link PATH TARGET`, `absent PATH`,
//! `config KEY JSON`, `history TEXT`, `layers N`, `error PHRASE`. A base named `busybox` is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

/// What is at a path of an image.
#[derive(Clone, Debug)]
struct Entry {
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    content: String,
}

struct Image {
    config: Value,
    layers: usize,
    tree: BTreeMap<String, Entry>,
}

fn plywood(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.env("HOME", root).env("XDG_CACHE_HOME", std::env::temp_dir().join("plywood-test-cache"));
    command.env_remove("XDG_CONFIG_HOME").env("PLYWOOD_ROOT", root.join("store"));
    command
}

/// The base image: Debian's static busybox with its applets, made by Plywood itself.
static BUSYBOX: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("plywood-cases-base-{}", std::process::id()));
    let context = folder.join("context");
    fs::create_dir_all(&context).expect("a folder");
    let binary = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(binary.expect("the tests need Debian's package busybox-static"), context.join("busybox")).expect("a copy");
    let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/\nCOPY passwd group /etc/\nCOPY --chmod=1777 tmp /tmp\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCMD [\"sh\"]\n";
    fs::write(context.join("Dockerfile"), text).expect("a file");
    fs::write(context.join("passwd"), "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n")
        .expect("a file");
    fs::write(context.join("group"), "root:x:0:\nwww:x:34:\nmail:x:8:www\n").expect("a file");
    fs::create_dir_all(context.join("tmp")).expect("a folder");
    let layout = folder.join("layout");
    let output = plywood(&folder)
        .args(["build", "-o"])
        .arg(format!("type=oci,tar=false,dest={}", layout.display()))
        .arg(&context)
        .output()
        .expect("plywood runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    layout
});

/// The sections of a case, in order.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match (line.strip_prefix("--- "), sections.last_mut()) {
            (Some(name), _) => sections.push((name.trim().to_owned(), String::new())),
            (None, Some((_, body))) => body.push_str(line),
            (None, None) => {}
        }
    }
    sections
}

/// A tar of what the lines say.
fn archive(lines: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for line in lines.lines() {
        let mut fields = line.splitn(5, ' ');
        let mut next = || fields.next().unwrap_or_default();
        let (word, path) = (next(), next());
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        if word == "link" {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o644);
            archive.append_link(&mut header, path, next()).expect("an entry");
            continue;
        }
        header.set_mode(u32::from_str_radix(next(), 8).expect("a mode in octal digits"));
        let (uid, gid) = next().split_once(':').expect("an owner");
        header.set_uid(uid.parse().expect("a number"));
        header.set_gid(gid.parse().expect("a number"));
        let content = next().as_bytes();
        let is_dir = word == "dir";
        header.set_entry_type(if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).expect("an entry");
    }
    archive.into_inner().expect("a tar")
}

fn build(folder: &Path, sections: &[(String, String)]) -> Output {
    let context = folder.join("context");
    fs::create_dir_all(&context).expect("a folder");
    let mut flags = Vec::new();
    for (name, body) in sections {
        let (path, mode) = name.split_once(' ').unwrap_or((name, "644"));
        if path == "Dockerfile" || path.starts_with("context/") || path.starts_with("named/") {
            let place = if path == "Dockerfile" { context.join(path) } else { folder.join(path) };
            fs::create_dir_all(place.parent().expect("a parent")).expect("a folder");
            if let Some(target) = mode.strip_prefix("-> ") {
                std::os::unix::fs::symlink(target, &place).expect("a link");
                continue;
            }
            fs::write(&place, body).expect("a file");
            let mode = u32::from_str_radix(mode, 8).expect("a mode in octal digits");
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("permissions");
        } else if let Some(path) = path.strip_prefix("tar/") {
            fs::write(context.join(path), archive(body)).expect("a file");
        } else if path == "flags" {
            flags.extend(
                body.lines()
                    .flat_map(str::split_whitespace)
                    .map(|word| word.replace("{named}", &folder.join("named").display().to_string())),
            );
        }
    }
    let mut command = plywood(folder);
    command.args(["build", "--progress=plain"]).args(flags);
    command.arg("-o").arg(format!("type=oci,tar=false,dest={}", folder.join("image").display()));
    command.arg("--build-context").arg(format!("busybox=oci-layout://{}", BUSYBOX.display()));
    command.arg(&context).output().expect("plywood runs")
}

fn read_image(layout: &Path) -> Image {
    let read = |path: PathBuf| fs::read(path).expect("a file of the layout");
    let json = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).expect("JSON") };
    let blob = |digest: &Value| read(layout.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/")));
    let index = json(read(layout.join("index.json")));
    let manifest = json(blob(&index["manifests"][0]["digest"]));
    let config = json(blob(&manifest["config"]["digest"]));
    let layers = manifest["layers"].as_array().expect("layers");
    let mut tree = BTreeMap::new();
    for layer in layers {
        apply(&mut tree, &blob(&layer["digest"]));
    }
    Image { layers: layers.len(), config, tree }
}

fn apply(tree: &mut BTreeMap<String, Entry>, blob: &[u8]) {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob));
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = if parent.is_empty() { gone.to_owned() } else { format!("{parent}/{gone}") };
            tree.retain(|path, _| *path != gone && !path.starts_with(&format!("{gone}/")));
            continue;
        }
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        if entry.header().entry_type() == tar::EntryType::Link {
            let target = tree.get(&link.expect("a target")).cloned().expect("the target comes first");
            tree.insert(path, target);
            continue;
        }
        let mut content = link.unwrap_or_default();
        if entry.header().entry_type() == tar::EntryType::Regular {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            content = String::from_utf8_lossy(&bytes).into_owned();
        }
        let header = entry.header();
        let owner = (header.uid().expect("an owner"), header.gid().expect("a group"));
        let mode = header.mode().expect("a mode") & 0o7777;
        tree.insert(path, Entry { kind: header.entry_type(), mode, owner, content });
    }
}

/// Compares one line of what is expected; gives what is wrong.
fn check(line: &str, image: &Image) -> Option<String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let at = |path: &str| image.tree.get(path.trim_start_matches('/')).cloned();
    let mut fields = rest.splitn(4, ' ');
    let mut next = || fields.next().unwrap_or_default();
    match word {
        "file" | "dir" => {
            let (path, mode, owner, content) = (next(), next(), next(), next());
            let Some(entry) = at(path) else { return Some(format!("{path} is not there")) };
            let kind = if word == "dir" { tar::EntryType::Directory } else { tar::EntryType::Regular };
            let got = format!(
                "{:?} {:o} {}:{} {}",
                entry.kind,
                entry.mode,
                entry.owner.0,
                entry.owner.1,
                entry.content.trim_end()
            );
            let expected = format!("{kind:?} {mode} {owner} {}", content.replace("\\n", "\n"));
            (got.trim_end() != expected.trim_end()).then(|| format!("{path}: expected {expected:?}, got {got:?}"))
        }
        "link" => {
            let (path, target) = (next(), next());
            let got = at(path).filter(|entry| entry.kind == tar::EntryType::Symlink).map(|entry| entry.content);
            (got.as_deref() != Some(target)).then(|| format!("{path}: expected a link to {target}, got {got:?}"))
        }
        "absent" => at(rest).map(|entry| format!("{rest} is there: {entry:?}")),
        "config" => {
            let (key, json) = rest.split_once(' ').expect("a key and a value");
            let expected: Value = serde_json::from_str(json).expect("JSON");
            let got = image.config["config"].get(key).cloned().unwrap_or(Value::Null);
            (got != expected).then(|| format!("{key}: expected {expected}, got {got}"))
        }
        "history" => {
            let lines = image.config["history"].as_array().cloned().unwrap_or_default();
            let all: Vec<&str> = lines.iter().filter_map(|line| line["created_by"].as_str()).collect();
            (!all.contains(&rest)).then(|| format!("no history line {rest:?} among {all:?}"))
        }
        "layers" => (image.layers.to_string() != rest).then(|| format!("expected {rest} layers, got {}", image.layers)),
        _ => Some(format!("what is `{line}`?")),
    }
}

fn run(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a case");
    let sections = sections(&text);
    let expect = sections.iter().find(|(name, _)| name == "expect").map(|(_, body)| body.as_str()).unwrap_or_default();
    let lines: Vec<&str> = expect.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return vec!["it expects nothing".into()];
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = build(folder.path(), &sections);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let phrases: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("error ")).collect();
    if !phrases.is_empty() {
        if output.status.success() {
            return vec!["it was built, and must not be".into()];
        }
        let missing = phrases.iter().filter(|phrase| !log.contains(**phrase));
        return missing.map(|phrase| format!("the message lacks {phrase:?}: {log}")).collect();
    }
    if !output.status.success() {
        return vec![log];
    }
    let image = read_image(&folder.path().join("image"));
    lines.iter().filter_map(|line| check(line, &image)).collect()
}

#[test]
fn the_page_on_the_language_is_what_the_plugin_says() {
    let folder = std::env::temp_dir().join(format!("plywood-language-{}", std::process::id()));
    let printed = plywood(&folder).args(["help", "dockerfile"]).output().expect("plywood runs");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dockerfile/README.md");
    let page = fs::read_to_string(&path).expect("the page");
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(page == printed, "write it anew: plywood help dockerfile > plugins/dockerfile/README.md");
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn every_case_comes_out_as_it_must() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder).expect("cases").flatten().map(|entry| entry.path()).collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let _ = &*BUSYBOX;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let half = cases.len().div_ceil(2);
        let work = |part: Vec<PathBuf>| {
            let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
            let told = |path: PathBuf| run(&path).into_iter().map(move |reason| format!("{}: {reason}", name(&path)));
            part.into_iter().flat_map(told).collect::<Vec<String>>()
        };
        let (a, b) = (cases[..half].to_vec(), cases[half..].to_vec());
        let threads = [scope.spawn(move || work(a)), scope.spawn(move || work(b))];
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
