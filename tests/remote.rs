//! Sources and contexts from elsewhere: files on the web, repositories over HTTP and ssh, archives, standard input.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Place, all, free_port, need, need_root, output, run, wait_for};

/// A web server whose files are those of a folder; `/git` are repositories, `/private` wants a password and `/bearer` a
/// token.
struct Web {
    process: Child,
    port: u16,
    folder: PathBuf,
    log: PathBuf,
}

impl Web {
    fn start(place: &Place) -> Self {
        let (port, folder, log) = (free_port(), place.join("web"), place.join("access.log"));
        fs::create_dir_all(folder.join("bearer")).unwrap();
        fs::create_dir_all(place.join("repositories")).unwrap();
        let backend =
            PathBuf::from(run(Command::new(need("git", "git")).arg("--exec-path")).trim()).join("git-http-backend");
        place.write("users", "x-access-token:of-the-secret\n");
        let repositories = format!(
            "cgi.assign = (\"\" => \"\")\nsetenv.add-environment = (\"GIT_PROJECT_ROOT\" => \"{}\", \"GIT_HTTP_EXPORT_ALL\" => \"1\")",
            place.join("repositories").display()
        );
        let text = format!(
            r#"
server.modules = ("mod_access", "mod_alias", "mod_auth", "mod_authn_file", "mod_setenv", "mod_cgi", "mod_accesslog")
server.document-root = "{folder}"
server.port = {port}
mimetype.assign = ("" => "application/octet-stream")
server.bind = "127.0.0.1"
server.stat-cache-engine = "disable"
server.errorlog = "{errors}"
accesslog.filename = "{log}"
alias.url = ("/git" => "{backend}", "/private" => "{backend}")
auth.backend = "plain"
auth.backend.plain.userfile = "{users}"
$HTTP["url"] =~ "^/git" {{
{repositories}
}}
$HTTP["url"] =~ "^/private" {{
auth.require = ("" => ("method" => "basic", "realm" => "r", "require" => "valid-user"))
{repositories}
}}
$HTTP["url"] =~ "^/bearer" {{
$REQUEST_HEADER["Authorization"] != "Bearer of-the-secret" {{ url.access-deny = ("") }}
}}
"#,
            folder = folder.display(),
            errors = place.join("web-errors.log").display(),
            log = log.display(),
            backend = backend.display(),
            users = place.join("users").display(),
        );
        let config = place.write("lighttpd.conf", text);
        let process = Command::new(need("lighttpd", "lighttpd")).arg("-D").arg("-f").arg(config).spawn().unwrap();
        let web = Self { process, port, folder, log };
        let address = ("127.0.0.1", port);
        wait_for("the web server", Duration::from_secs(10), || std::net::TcpStream::connect(address).is_ok());
        web
    }

    fn address(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.folder.join(path), content).unwrap();
        run(Command::new("touch").args(["-d", "2020-02-02T02:02:02Z"]).arg(self.folder.join(path)));
        self.address(path)
    }

    /// The requests for a path, as method and status.
    fn requests(&self, path: &str) -> Vec<String> {
        // The log is written when the server feels like it, at the latest on a signal.
        run(Command::new("kill").arg("-HUP").arg(self.process.id().to_string()));
        std::thread::sleep(Duration::from_millis(300));
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(&format!("/{path} ")));
        lines.map(|line| line.split('"').nth(2).unwrap().split_whitespace().next().unwrap().to_owned()).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn git(folder: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(words).current_dir(folder);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "t"),
        ("GIT_AUTHOR_EMAIL", "t@example.org"),
        ("GIT_COMMITTER_NAME", "t"),
        ("GIT_COMMITTER_EMAIL", "t@example.org"),
        ("GIT_AUTHOR_DATE", "2021-03-04T05:06:07Z"),
        ("GIT_COMMITTER_DATE", "2021-03-04T05:06:07Z"),
    ] {
        command.env(name, value);
    }
    run(&mut command).trim().to_owned()
}

/// A repository with two branches, tags and a submodule; gives the commit of its first tag.
fn repository(place: &Place, web: &Web) -> String {
    let root = place.join("repositories");
    for name in ["part.git", "main.git"] {
        git(&root, &["init", "-q", "--bare", "-b", "main", name]);
        git(&root.join(name), &["config", "uploadpack.allowReachableSHA1InWant", "true"]);
    }
    let part = place.join("part");
    git(place.path(), &["clone", "-q", &root.join("part.git").display().to_string(), "part"]);
    fs::write(part.join("inner"), "of the part\n").unwrap();
    git(&part, &["add", "."]);
    git(&part, &["commit", "-q", "-m", "part"]);
    git(&part, &["push", "-q", "origin", "HEAD:main"]);

    let work = place.join("work");
    git(place.path(), &["clone", "-q", &root.join("main.git").display().to_string(), "work"]);
    git(&work, &["checkout", "-q", "-b", "main"]);
    fs::write(work.join("file"), "first\n").unwrap();
    fs::create_dir(work.join("sub")).unwrap();
    fs::write(work.join("sub/Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    fs::write(work.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "first"]);
    git(&work, &["tag", "-a", "-m", "v1", "v1"]);
    let first = git(&work, &["rev-parse", "HEAD"]);
    fs::write(work.join("file"), "second\n").unwrap();
    let url = web.address("git/part.git");
    git(&work, &["submodule", "-q", "add", &url, "part"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "second"]);
    git(&work, &["push", "-q", "--tags", "origin", "main", "main:feature"]);
    first
}

struct Built {
    folder: PathBuf,
}

impl Built {
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.folder.join(path)).unwrap_or_else(|error| format!("{path}: {error}"))
    }
}

/// Builds a Dockerfile that stands alone, its files into a folder.
fn build(place: &Place, name: &str, dockerfile: &str, words: &[&str]) -> Built {
    place.write(&format!("{name}/Dockerfile"), dockerfile);
    build_context(place, name, &place.join(name).display().to_string(), words)
}

fn build_context(place: &Place, name: &str, context: &str, words: &[&str]) -> Built {
    let folder = place.join(format!("{name}-out"));
    let mut command = place.plywood();
    run(command.arg("build").args(words).arg("-o").arg(&folder).arg(context));
    Built { folder }
}

fn fails(place: &Place, dockerfile: &str, words: &[&str]) -> String {
    place.write("fails/Dockerfile", dockerfile);
    let output = output(place.plywood().arg("build").args(words).arg(place.join("fails")));
    assert!(!output.status.success(), "{}", all(&output));
    all(&output)
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in [("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "in the archive\n"), ("sub/c", "c\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        header.set_cksum();
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn files_are_added_from_the_web() {
    let place = Place::new();
    let web = Web::start(&place);
    let (file, tar) = (web.put("file.txt", "from the web\n"), web.put("files.tar.gz", archive()));
    let sum = digest(b"from the web\n");
    let text = format!(
        "FROM scratch\nADD {file}?x=1 /in/\nADD --chmod=644 --checksum={sum} {file} /as\nADD {tar} /kept/\n\
         ADD --unpack=true {tar} /unpacked/\n"
    );
    let built = build(&place, "web-add", &text, &["--progress=plain"]);
    assert_eq!(built.text("in/file.txt"), "from the web\n");
    assert_eq!(built.text("as"), "from the web\n");
    assert!(built.folder.join("kept/files.tar.gz").exists());
    assert_eq!(built.text("unpacked/sub/c"), "c\n");
    let listed = run(Command::new("stat").args(["-c", "%a %Y"]).arg(built.folder.join("in/file.txt")));
    assert_eq!(listed.trim(), "600 1580608922");
    let wrong = fails(&place, &format!("FROM scratch\nADD --checksum={} {file} /\n", digest(b"other")), &[]);
    assert!(wrong.contains("digest mismatch"), "{wrong}");
    let missing = fails(&place, &format!("FROM scratch\nADD {} /\n", web.address("nothing")), &[]);
    assert!(missing.contains("invalid response status 404"), "{missing}");
    let copied = fails(&place, &format!("FROM scratch\nCOPY {file} /\n"), &[]);
    assert!(copied.contains("source can't be a URL for COPY"), "{copied}");
}

#[test]
fn what_has_not_changed_is_not_fetched_again() {
    let place = Place::new();
    let web = Web::start(&place);
    let text = format!("FROM scratch\nADD {} /\n", web.put("big", "one\n"));
    place.write("c/Dockerfile", &text);
    let built = |expected: &str| {
        let told = output(place.plywood().args(["build", "--progress=plain"]).arg(place.join("c")));
        assert!(told.status.success() && all(&told).contains(expected), "{expected}: {}", all(&told));
    };
    built("DONE");
    built("CACHED");
    assert_eq!(web.requests("big"), ["200", "304"]);
    web.put("big", "two\n");
    run(Command::new("touch").arg(web.folder.join("big")));
    built("DONE");
    assert_eq!(web.requests("big"), ["200", "304", "200"]);
    // With a checksum nobody is asked for what is in the cache.
    let text = format!("FROM scratch\nADD --checksum={} {} /\n", digest(b"two\n"), web.address("big"));
    place.write("c/Dockerfile", &text);
    built("DONE");
    built("CACHED");
    assert_eq!(web.requests("big"), ["200", "304", "200", "200"]);
}

#[test]
fn repositories_are_added() {
    let place = Place::new();
    let web = Web::start(&place);
    let first = repository(&place, &web);
    let url = web.address("git/main.git");
    let text = format!(
        "FROM scratch\nADD {url} /head\nADD {url}#v1 /tag\nADD {url}?ref={first}&subdir=sub /commit\nADD {url}?branch=feature&submodules=false /bare\n\
         ADD --keep-git-dir=true {url}#main /kept\nADD --checksum={first} {url}#v1 /checked\n"
    );
    let built = build(&place, "git-add", &text, &[]);
    assert_eq!(built.text("head/file"), "second\n");
    assert_eq!(built.text("head/part/inner"), "of the part\n");
    assert!(!built.folder.join("head/.git").exists());
    assert_eq!(built.text("tag/file"), "first\n");
    assert!(built.folder.join("commit/Dockerfile").exists() && !built.folder.join("commit/file").exists());
    assert!(!built.folder.join("bare/part/inner").exists());
    assert_eq!(built.text("kept/.git/HEAD").len(), 41);
    assert_eq!(built.text("checked/file"), "first\n");
    for (source, reason) in [
        (format!("{url}?branch=invalid"), "repository does not contain ref"),
        (format!("{url}?tag=v1#refs/heads/main"), "ref conflicts"),
        (format!("--checksum=0123456789 {url}"), "expected checksum to match 0123456789, got"),
        (format!("{url}#:nothing"), "invalid subdir nothing"),
        (web.address("git/nothing.git"), "failed to fetch remote"),
    ] {
        let told = fails(&place, &format!("FROM scratch\nADD {source} /\n"), &[]);
        assert!(told.contains(reason), "{source}: {told}");
    }
    // The same commit is in the cache, whatever it is called.
    place.write("again/Dockerfile", format!("FROM scratch\nADD {url}#refs/tags/v1 /tag\n"));
    let build = || all(&output(place.plywood().args(["build", "--progress=plain"]).arg(place.join("again"))));
    assert!(build().contains("DONE"));
    place.write("again/Dockerfile", format!("FROM scratch\nADD {url}?ref={first} /tag\n"));
    assert!(build().contains("CACHED"));
}

#[test]
fn secrets_open_what_is_private_and_are_nowhere() {
    let place = Place::new();
    let web = Web::start(&place);
    repository(&place, &web);
    let (git, file) = (web.address("private/main.git"), web.put("bearer/file", "private\n"));
    place.write("token", "of-the-secret\n");
    let text = format!("FROM scratch\nADD {git}?submodules=false /r\nADD {file} /f\n");
    assert!(fails(&place, &text, &[]).contains("failed to fetch remote"));
    let token = place.join("token").display().to_string();
    let secrets = [
        format!("--secret=id=GIT_AUTH_TOKEN.127.0.0.1:{},src={token}", web.port),
        format!("--secret=id=HTTP_AUTH_TOKEN_127.0.0.1,src={token}"),
    ];
    let words: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let built = build(&place, "private", &text, &words);
    assert_eq!(built.text("r/file"), "second\n");
    assert_eq!(built.text("f"), "private\n");
    let store = output(Command::new("grep").args(["-rl", "of-the-secret"]).arg(place.root()));
    assert!(store.stdout.is_empty(), "{}", all(&store));
}

#[test]
fn repositories_are_contexts() {
    let place = Place::new();
    let web = Web::start(&place);
    let first = repository(&place, &web);
    let url = web.address("git/main.git");
    let whole = build_context(&place, "whole", &url, &[]);
    assert_eq!(whole.text("file"), "second\n");
    assert!(!whole.folder.join(".git").exists());
    let sub = build_context(&place, "sub", &format!("{url}#v1:sub"), &[]);
    assert!(!sub.folder.join("file").exists());
    let kept = build_context(&place, "kept", &url, &["--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]);
    assert_eq!(kept.text(".git/HEAD").len(), 41);
    let other = build_context(&place, "other", &format!("{url}?ref={first}"), &["-f", "sub/Dockerfile"]);
    assert_eq!(other.text("file"), "first\n");
    // Names for repositories and files of the web.
    let context = format!("source={url}#v1");
    let named = format!("note={}", web.put("note.txt", "noted\n"));
    let words = ["--build-context", &context, "--build-context", &named];
    let text = "FROM source AS based\nFROM scratch\nCOPY --from=source file /a\nCOPY --from=note context /b\nCOPY --from=based Dockerfile /c\n";
    let built = build(&place, "named", text, &words);
    assert_eq!((built.text("a"), built.text("b")), ("first\n".into(), "noted\n".into()));
    assert_eq!(built.text("c"), "FROM scratch\nCOPY . /\n");
}

#[test]
fn archives_and_files_of_the_web_are_contexts() {
    let place = Place::new();
    let web = Web::start(&place);
    let tar = web.put("context.tar.gz", archive());
    assert_eq!(build_context(&place, "tar", &tar, &[]).text("b"), "in the archive\n");
    let alone = web.put("alone", "FROM scratch\nCOPY <<E /x\nalone\nE\nCOPY context /itself\n");
    let built = build_context(&place, "alone", &alone, &[]);
    assert_eq!(built.text("x"), "alone\n");
    assert!(built.text("itself").starts_with("FROM scratch"));
    // A build file from elsewhere, for a context that is here.
    let file = web.put("Other", "FROM scratch\nCOPY here /there\n");
    place.write("local/here", "here\n");
    let built = build_context(&place, "elsewhere", &place.join("local").display().to_string(), &["-f", &file]);
    assert_eq!(built.text("there"), "here\n");
}

fn with_stdin(place: &Place, words: &[&str], input: &[u8]) -> std::process::Output {
    let mut child = place.plywood();
    let mut child = child
        .arg("build")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn standard_input_is_a_context_or_a_build_file() {
    let place = Place::new();
    let out = place.join("out");
    let dest = format!("type=local,dest={}", out.display());
    let built = with_stdin(&place, &["-o", &dest, "-"], b"FROM scratch\nCOPY <<E /x\nalone\nE\n");
    assert!(built.status.success(), "{}", all(&built));
    assert_eq!(fs::read_to_string(out.join("x")).unwrap(), "alone\n");
    let built = with_stdin(&place, &["-o", &dest, "-"], &archive());
    assert!(built.status.success(), "{}", all(&built));
    assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "in the archive\n");
    let refused = with_stdin(&place, &["-f", "x", "-"], b"FROM scratch\n");
    assert!(all(&refused).contains("ambiguous Dockerfile source"), "{}", all(&refused));
}

#[test]
fn times_come_from_where_the_files_come_from() {
    let place = Place::new();
    let web = Web::start(&place);
    repository(&place, &web);
    let url = web.address("git/main.git");
    let created = |words: &[&str], context: &str| {
        let layout = place.join("layout");
        let _ = fs::remove_dir_all(&layout);
        let dest = format!("type=oci,tar=false,dest={}", layout.display());
        run(place.plywood().args(["build", "-q", "-o", &dest]).args(words).arg(context));
        let config = support::skopeo_inspect(&format!("oci:{}", layout.display()));
        config["Created"].as_str().unwrap().to_owned()
    };
    let epoch = |value: &str| format!("--build-arg=SOURCE_DATE_EPOCH={value}");
    assert_eq!(created(&[&epoch("1")], &url), "1970-01-01T00:00:01Z");
    assert_eq!(created(&[&epoch("context")], &url), "2021-03-04T05:06:07Z");
    let tar = web.put("context.tar.gz", archive());
    assert_eq!(created(&[&epoch("context")], &tar), "2020-02-02T02:02:02Z");
    let named = format!("--build-context=source={url}");
    place.write("c/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let here = place.join("c").display().to_string();
    assert_eq!(created(&[&epoch("source"), &named], &here), "2021-03-04T05:06:07Z");
    let text = format!(
        "FROM scratch AS Stamp\nARG X\nADD {url} /\nFROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL e=$SOURCE_DATE_EPOCH\n"
    );
    place.write("c/Dockerfile", text);
    assert_eq!(created(&[&epoch("stamp")], &here), "2021-03-04T05:06:07Z");
    let inspected =
        support::run(place.plywood().args(["inspect"]).arg(format!("oci-layout://{}", place.join("layout").display())));
    assert!(inspected.contains("\"e\": \"1614834367\""), "{inspected}");
    place.write("fails/Dockerfile", "FROM scratch\n");
    let wrong = fails(&place, "FROM scratch AS s\nCOPY Dockerfile /\nFROM scratch\n", &[&epoch("s")]);
    assert!(wrong.contains("does not meet source-only requirements: unsupported COPY instruction"), "{wrong}");
    assert!(fails(&place, "FROM scratch\n", &[&epoch("nothing")]).contains("invalid SOURCE_DATE_EPOCH: nothing"));
}

#[test]
fn repositories_behind_ssh_are_opened_with_keys() {
    need_root();
    let place = Place::new();
    let web = Web::start(&place);
    repository(&place, &web);
    let keygen = |name: &str| {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place.join(name)))
    };
    keygen("user");
    keygen("host");
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nUsePAM no\n",
        place.join("host").display(),
        place.join("user.pub").display(),
    );
    let config = place.write("sshd_config", config);
    fs::create_dir_all("/run/sshd").unwrap();
    let server = Command::new(need("sshd", "openssh-server")).arg("-D").arg("-f").arg(config).spawn().unwrap();
    let _server = Ended(server);
    wait_for("sshd", Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!("ssh://root@127.0.0.1:{port}{}", place.join("repositories/main.git").display());
    let key = format!("--ssh=default={}", place.join("user").display());
    let built = build(&place, "ssh", &format!("FROM scratch\nADD {url}?submodules=false /r\n"), &[&key]);
    assert_eq!(built.text("r/file"), "second\n");
    let context = build_context(&place, "ssh-context", &format!("{url}?submodules=false"), &[&key]);
    assert_eq!(context.text("file"), "second\n");
    assert!(fails(&place, &format!("FROM scratch\nADD {url}#feature /r\n"), &[]).contains("failed to fetch remote"));
}
