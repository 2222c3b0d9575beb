//! A command line of kaniko's becomes one of `plywood build`: one place for what runs it and for what prints it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::args::executor::{KanikoArgs, RegistryArgs};

/// What a command line of kaniko's is here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Words behind `plywood`.
    pub(crate) words: Vec<String>,
    /// What is otherwise here, or changes nothing.
    pub(crate) notes: Vec<String>,
    /// Whether an image counts as pushed that a registry has under a tag which it lets nobody write again.
    pub(crate) may_be_there: bool,
}

impl Translation {
    fn flag(&mut self, name: &str, value: impl Into<String>) {
        self.words.push(format!("--{name}={}", value.into()));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// The host of an image's name.
fn registry_of(name: &str) -> Result<String> {
    let reference: oci::Reference = name.parse().with_context(|| format!("--destination {name}"))?;
    Ok(reference.registry().to_owned())
}

/// The repository of an image's name.
fn repository_of(name: &str) -> Result<String> {
    let reference: oci::Reference = name.parse().with_context(|| format!("--destination {name}"))?;
    Ok(reference.name())
}

/// Translates a build. `is_there` says whether a path is, and `environment` what a variable holds.
pub(crate) fn build(
    args: &KanikoArgs,
    is_there: &dyn Fn(&Path) -> bool,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Translation> {
    let mut to = Translation::default();
    let switches = &args.switches;
    if args.destination.is_empty() && !switches.no_push {
        bail!("give --destination, or --no-push where the image is to stay here");
    }
    to.words.push(if switches.dryrun { "plan" } else { "build" }.into());
    registries(&mut to, &args.registry, &args.destination, args.cache_repo.as_deref())?;
    for text in &args.build_arg {
        to.flag("build-arg", text);
    }
    if let Some(target) = args.target.first().filter(|target| !target.is_empty()) {
        to.flag("target", target);
    }
    if args.target.len() > 1 {
        to.note("of several targets the first is built; build the others each with a line of its own");
    }
    if let Some(platform) = args.custom_platform.as_ref().filter(|platform| !platform.is_empty()) {
        to.flag("platform", platform);
    }
    for text in &args.secret {
        to.flag("secret", text);
    }
    if let Some(mode) = args.isolation.as_ref().filter(|_| !switches.dryrun) {
        to.flag("isolation", mode);
    }
    if switches.reproducible {
        to.flag("build-arg", "SOURCE_DATE_EPOCH=0");
    }
    cache(&mut to, args)?;
    if !switches.dryrun {
        outputs(&mut to, args)?;
    }
    match args.verbosity.to_lowercase().as_str() {
        "panic" | "fatal" | "error" if !switches.dryrun => to.flag("progress", "quiet"),
        _ if switches.dryrun => {}
        _ if args.log_format == "json" => to.flag("progress", "json"),
        _ => to.flag("progress", "plain"),
    }
    moot(&mut to, args);
    let context = context(&mut to, args, environment)?;
    if let Some(file) = dockerfile(args, &context, is_there) {
        to.flag("file", file);
    }
    to.words.push(context);
    Ok(to)
}

/// Words about registries, which every command takes.
pub(crate) fn registries(
    to: &mut Translation,
    args: &RegistryArgs,
    destinations: &[String],
    cache_repo: Option<&str>,
) -> Result<()> {
    let mut insecure: Vec<String> = [&args.insecure_registry[..], &args.skip_tls_verify_registry].concat();
    let switches = &args.switches;
    if switches.insecure || switches.skip_tls_verify {
        let cache = cache_repo.filter(|repo| !repo.starts_with("oci:"));
        for name in destinations.iter().map(String::as_str).chain(cache) {
            insecure.push(registry_of(name)?);
        }
    }
    if switches.insecure_pull || switches.skip_tls_verify_pull {
        insecure.push("*".into());
    }
    insecure.sort();
    insecure.dedup();
    for host in insecure {
        to.flag("insecure-registry", host);
    }
    for text in &args.registry_certificate {
        let (_, file) =
            text.split_once('=').with_context(|| format!("--registry-certificate {text}: it must be HOST=FILE"))?;
        to.flag("registry-ca", file);
    }
    if !args.registry_client_cert.is_empty() {
        bail!("--registry-client-cert: certificates of one's own are not supported; let a proxy show them");
    }
    for mirror in args.registry_mirror.iter().filter(|mirror| !mirror.is_empty()) {
        to.flag("registry-mirror", mirror);
    }
    for text in args.registry_map.iter().filter(|text| !text.is_empty()) {
        if !text.contains('=') {
            bail!("--registry-map {text}: it must be HOST=MIRROR");
        }
        to.flag("registry-mirror", text);
    }
    if switches.skip_default_registry_fallback {
        to.words.push("--only-mirrors".into());
    }
    for (is_given, flag, why) in [
        (args.push_retry.is_some(), "push-retry", "transfers are tried again in any case"),
        (args.image_download_retry.is_some(), "image-download-retry", "transfers are tried again in any case"),
        (!args.credential_helpers.is_empty(), "credential-helpers", "`plywood plugin list` shows who is asked"),
    ] {
        if is_given {
            to.note(format!("--{flag} changes nothing: {why}"));
        }
    }
    Ok(())
}

fn cache(to: &mut Translation, args: &KanikoArgs) -> Result<()> {
    let switches = &args.switches;
    if !switches.cache {
        return Ok(());
    }
    super::age("--cache-ttl", &args.cache_ttl)?;
    let ttl = &args.cache_ttl;
    let repository = match (&args.cache_repo, args.destination.first()) {
        (Some(repo), _) if !repo.is_empty() => repo.clone(),
        (_, Some(destination)) => format!("{}/cache", repository_of(destination)?),
        (_, None) => bail!("--cache with --no-push needs --cache-repo: there is no destination to keep results beside"),
    };
    let (from, into) = match repository.strip_prefix("oci:") {
        Some(folder) => (format!("type=local,src={folder}"), format!("type=local,dest={folder}")),
        None => (format!("type=registry,ref={repository}"), format!("type=registry,ref={repository}")),
    };
    to.flag("cache-from", format!("{from},max-age={ttl}"));
    if !switches.no_push_cache && !switches.dryrun {
        to.flag("cache-to", format!("{into},max-age={ttl}"));
    }
    Ok(())
}

fn outputs(to: &mut Translation, args: &KanikoArgs) -> Result<()> {
    let switches = &args.switches;
    for name in &args.destination {
        to.flag("tag", name);
    }
    for text in &args.label {
        to.flag("label", text);
    }
    for text in &args.annotation {
        to.flag("annotation", text);
    }
    let is_zstd = match args.compression.as_str() {
        "gzip" | "" => false,
        "zstd" => true,
        other => bail!("--compression {other}: it is gzip or zstd"),
    };
    match args.image_format.as_deref() {
        Some("docker") if is_zstd => {
            bail!("--image-format docker has no name for zstd layers: leave out --compression=zstd")
        }
        Some(format @ ("docker" | "oci")) => to.flag("format", format),
        Some("") | None => {}
        Some(other) => bail!("--image-format {other}: it is docker or oci"),
    }
    if is_zstd {
        if args.tar_path.is_some() {
            bail!("--tar-path: an archive for `docker load` cannot hold zstd layers: leave out --compression=zstd");
        }
        to.flag("compression", "zstd");
    }
    let times = if switches.reproducible { ",rewrite-timestamp=true" } else { "" };
    if let Some(path) = &args.tar_path {
        to.flag("output", format!("type=docker,dest={}{times}", path.display()));
    }
    if let Some(path) = &args.oci_layout_path {
        to.flag("output", format!("type=oci,tar=false,dest={}{times}", path.display()));
    }
    if !switches.no_push {
        to.flag("output", format!("type=registry{times}"));
    }
    for (path, flag) in [
        (&args.digest_file, "iidfile"),
        (&args.image_name_with_digest_file, "image-name-with-digest-file"),
        (&args.image_name_tag_with_digest_file, "image-name-tag-with-digest-file"),
    ] {
        if let Some(path) = path {
            to.flag(flag, path.display().to_string());
        }
    }
    to.may_be_there = switches.push_ignore_immutable_tag_errors;
    Ok(())
}

/// The context as `plywood build` names it.
fn context(to: &mut Translation, args: &KanikoArgs, environment: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let given = match args.bucket.as_deref().filter(|bucket| !bucket.is_empty()) {
        Some(bucket) if bucket.contains("://") => bucket.to_owned(),
        Some(bucket) => format!("gs://{bucket}/{}", args.context.trim_start_matches('/')),
        None => args.context.clone(),
    };
    let below = args.context_sub_path.as_deref().map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
    let (scheme, rest) = given.split_once("://").unwrap_or(("dir", &given));
    if scheme != "git" && !args.git.is_empty() {
        to.note("--git is about git:// contexts, and this is none");
    }
    match scheme {
        "dir" => Ok(match below {
            Some(below) => Path::new(rest).join(below).display().to_string(),
            None => rest.to_owned(),
        }),
        "tar" | "https" | "http" | "s3" | "gs" if below.is_some() => {
            bail!("--context-sub-path: of an archive the whole is the context; pack the folder alone")
        }
        "tar" if rest == "stdin" => Ok("-".into()),
        "tar" => Ok(rest.to_owned()),
        "https" | "http" | "s3" | "gs" => Ok(given.clone()),
        "git" => git(to, args, rest, below, environment),
        other => bail!(
            "--context {given}: {other}:// is not supported; dir://, tar://, git://, https://, s3:// and gs:// are"
        ),
    }
}

/// `git://HOST/REPO#REF#COMMIT`, fetched over https unless GIT_PULL_METHOD says otherwise.
fn git(
    to: &mut Translation,
    args: &KanikoArgs,
    rest: &str,
    below: Option<&str>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String> {
    let mut parts = rest.split('#');
    let (repository, mut name, commit) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let mut query = Vec::new();
    let mut branch = None;
    for text in args.git.iter().flat_map(|text| text.split(',')) {
        match text.split_once('=') {
            Some(("branch", value)) => branch = Some(value.to_owned()),
            Some(("recurse-submodules", value)) => query.push(format!("submodules={value}")),
            Some(("single-branch" | "depth", _)) => {}
            Some(("insecure-skip-tls", "true")) => {
                bail!("--git {text}: a certificate that is not known is given with --registry-certificate HOST=FILE")
            }
            Some(("insecure-skip-tls", _)) => {}
            _ => {
                bail!("--git {text}: it is branch=, single-branch=, depth=, recurse-submodules= or insecure-skip-tls=")
            }
        }
    }
    if !args.git.iter().any(|text| text.contains("recurse-submodules")) {
        query.push("submodules=false".into());
    }
    if name.is_empty() {
        name = branch.as_deref().unwrap_or_default();
    }
    if let Some(commit) = commit.filter(|commit| !commit.is_empty()) {
        name = commit;
    }
    if environment("GIT_TOKEN").is_some() {
        to.flag("secret", "id=GIT_AUTH_TOKEN,env=GIT_TOKEN");
    } else if environment("GIT_USERNAME").is_some() || environment("GIT_PASSWORD").is_some() {
        bail!("GIT_USERNAME and GIT_PASSWORD are not supported: give GIT_TOKEN");
    }
    let scheme = environment("GIT_PULL_METHOD").unwrap_or_else(|| "https".into());
    if !matches!(scheme.as_str(), "https" | "http") {
        bail!("GIT_PULL_METHOD={scheme}: it is https or http");
    }
    // What ends so is known to be a repository; the hosts that people use serve both names.
    let suffix = if repository.ends_with(".git") { "" } else { ".git" };
    let fragment = match (name, below) {
        ("", None) => String::new(),
        (name, None) => format!("#{name}"),
        (name, Some(below)) => format!("#{name}:{below}"),
    };
    Ok(format!("{scheme}://{}{suffix}?{}{fragment}", repository.trim_end_matches('/'), query.join("&")))
}

/// The build file as `plywood build` names it; none: the context's own.
fn dockerfile(args: &KanikoArgs, context: &str, is_there: &dyn Fn(&Path) -> bool) -> Option<String> {
    let file = &args.dockerfile;
    let is_folder = !context.contains("://") && context != "-" && !context.contains(".tar");
    if file.contains("://") || !is_folder {
        return Some(file.clone()).filter(|file| file != "Dockerfile");
    }
    let inside = Path::new(context).join(file);
    // A path here is looked for first, then one of the context.
    if is_there(Path::new(file)) && *file != "Dockerfile" {
        return Some(file.clone());
    }
    Some(inside.display().to_string()).filter(|_| file != "Dockerfile" && !is_there(Path::new(file)))
}

/// Tells of what has no meaning here, where it was asked for.
fn moot(to: &mut Translation, args: &KanikoArgs) {
    let moot = &args.moot;
    let switches = &moot.switches;
    let changes = [
        (
            moot.snapshot_mode.is_some(),
            "snapshot-mode",
            "what a step has changed is always seen in full, without a walk",
        ),
        (
            switches.single_snapshot,
            "single-snapshot",
            "each step has a layer of its own, which is what the cache is made of; what a later step deletes can be read in \
             the layer of an earlier one: use a stage for it, and COPY --from",
        ),
        (switches.use_new_run, "use-new-run", "there is one way to run commands, see --isolation"),
        (!switches.ignore_var_run, "ignore-var-run", "/var/run is in the image as the steps leave it"),
        (
            !moot.ignore_path.is_empty(),
            "ignore-path",
            "nothing of the builder's is in the image; what a step writes is",
        ),
        (switches.materialize, "materialize", "no file system is built up that could be left"),
        (switches.preserve_context, "preserve-context", "the context is only read"),
        (switches.pre_cleanup, "pre-cleanup", "what a build that was killed has left is taken away in any case"),
        (switches.cleanup, "cleanup", "the container's root is left as it was found in any case"),
        (
            switches.force,
            "force",
            "the root of a machine is never changed, and a container's not without being asked for",
        ),
        (switches.force_build_metadata, "force-build-metadata", "they are always made"),
        (switches.skip_unused_stages, "skip-unused-stages", "stages that nothing needs are always skipped"),
        (moot.image_fs_extract_retry.is_some(), "image-fs-extract-retry", "what breaks is taken up where it broke"),
        (moot.kaniko_dir.is_some(), "kaniko-dir", "--root says where files are kept"),
        (moot.compression_level.is_some(), "compression-level", "each compression has the level that serves it best"),
        (!switches.cache_run_layers, "cache-run-layers", "what a command gave is always kept"),
        (!switches.compressed_caching, "compressed-caching", "layers pass without being held in memory"),
        (switches.log_timestamp, "log-timestamp", "--progress=json has times"),
    ];
    for (is_given, flag, why) in changes {
        if is_given {
            to.note(format!("--{flag} changes nothing: {why}"));
        }
    }
}

/// A command line that a shell reads as these words.
pub(crate) fn quoted(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
    let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Executor {
        #[command(flatten)]
        args: KanikoArgs,
    }

    fn translated(words: &str) -> Result<Translation> {
        let words = std::iter::once("executor").chain(words.split_whitespace());
        let args = Executor::try_parse_from(words).map_err(anyhow::Error::from)?.args;
        build(&args, &|path| path == Path::new("here/Dockerfile"), &|name| (name == "GIT_TOKEN").then(|| "t".into()))
    }

    #[track_caller]
    fn becomes(kaniko: &str, plywood: &str) {
        let translated = translated(kaniko).expect(kaniko);
        assert_eq!(quoted(&translated.words), plywood);
    }

    #[test]
    fn command_lines_of_pipelines() {
        becomes(
            "--context dir:///builds/app --dockerfile /builds/app/Dockerfile --destination r.example/app:1 --cache=true",
            "build --cache-from=type=registry,ref=r.example/app/cache,max-age=336h \
             --cache-to=type=registry,ref=r.example/app/cache,max-age=336h --tag=r.example/app:1 --output=type=registry \
             --progress=plain --file=/builds/app/Dockerfile /builds/app",
        );
        becomes(
            "-c /workspace -f docker/Dockerfile --no-push --tarPath=image.tar -d app:1 --build-arg A=1 --target build",
            "build --build-arg=A=1 --target=build --tag=app:1 --output=type=docker,dest=image.tar --progress=plain \
             --file=/workspace/docker/Dockerfile /workspace",
        );
        becomes("-f here/Dockerfile --no-push", "build --progress=plain --file=here/Dockerfile /workspace/");
        becomes("--no-push", "build --progress=plain /workspace/");
        becomes(
            "-d r.example:5000/a --insecure --skip-tls-verify-pull --cache --cache-repo oci:/c --no-push-cache --cache-ttl 6h",
            "build --insecure-registry=* --insecure-registry=r.example:5000 --cache-from=type=local,src=/c,max-age=6h \
             --tag=r.example:5000/a --output=type=registry --progress=plain /workspace/"
                .replace("--insecure-registry=*", "'--insecure-registry=*'")
                .as_str(),
        );
        becomes(
            "--context git://github.com/a/b#refs/heads/main#abc --context-sub-path=x --no-push --reproducible",
            "build --build-arg=SOURCE_DATE_EPOCH=0 --progress=plain --secret=id=GIT_AUTH_TOKEN,env=GIT_TOKEN \
             'https://github.com/a/b.git?submodules=false#abc:x'",
        );
        becomes("--context tar://stdin --no-push -v error", "build --progress=quiet -");
        becomes("--bucket b -c x.tar.gz --no-push", "build --progress=plain gs://b/x.tar.gz");
        becomes("--dryrun --destination a", "plan /workspace/");
        becomes(
            "--dryrun -d r.example/a --cache",
            "plan --cache-from=type=registry,ref=r.example/a/cache,max-age=336h /workspace/",
        );
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        let notes = translated("--no-push --snapshotMode=redo --use-new-run --single-snapshot --ignore-path=/x")
            .expect("it")
            .notes;
        assert_eq!(notes.len(), 4, "{notes:#?}");
        assert!(translated("--no-push --compressed-caching=false --push-retry 3").expect("it").notes.len() == 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |words: &str| format!("{:#}", translated(words).expect_err(words));
        assert!(refused("").contains("--destination"));
        assert!(refused("--no-push --cache").contains("--cache-repo"));
        assert!(refused("-d a --compression=zstd --tar-path x").contains("zstd"));
        assert!(refused("-d a --compression=zstd --image-format docker").contains("zstd"));
        assert!(refused("-d a --context s3://bucket/x.tar.gz --context-sub-path=y").contains("pack the folder alone"));
        assert!(refused("-d a --registry-client-cert h=c,k").contains("not supported"));
    }

    #[test]
    fn a_shell_reads_the_words_again() {
        assert_eq!(quoted(&["a".into(), "b c".into(), "it's".into(), String::new()]), r"a 'b c' 'it'\''s' ''");
    }
}
