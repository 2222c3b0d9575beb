//! `plywood executor`, `plywood warmer` and `plywood migrate`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use clap::Parser;
use image::Location;
use oci::Reference;

use crate::args::build::BuildArgs;
use crate::args::executor::{
    ExecutorArgs, ExecutorCommand, Foreign, KanikoArgs, KanikoPushArgs, LoginArgs, MigrateArgs, RegistryArgs,
    WarmerArgs,
};
use crate::args::{Args, Command, Global};
use crate::commands::{build, image as images, plan, print};
use crate::request::executor::{self as translation, Translation};
use crate::session::Session;
use crate::surroundings::Process;
use crate::{report, request, surroundings};

/// The file of an image that the warmer has fetched, with the name by which a Dockerfile calls it.
const NAME: &str = "name";

pub(crate) async fn run(global: &Global, args: &ExecutorArgs) -> ExitCode {
    let result = match &args.command {
        None => return execute(global, &args.build).await,
        Some(ExecutorCommand::Login(args)) => login(args),
        Some(ExecutorCommand::Push(args)) => push(global, args).await,
        Some(ExecutorCommand::Version) => {
            print(concat!("Plywood version ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    done(result)
}

fn done(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error, None),
    }
}

async fn execute(global: &Global, args: &KanikoArgs) -> ExitCode {
    let translated = translate(args).and_then(|to| Ok((parsed(global, &to)?, to)));
    let (global, command, to) = match translated {
        Ok(((global, command), to)) => (global, command, to),
        Err(error) => return report::failure(&error, None),
    };
    to.notes.iter().for_each(|note| report::note(note));
    match command {
        Command::Build(build) => {
            let fetched_images = match fetched_images(args) {
                Ok(images) => images,
                Err(error) => return report::failure(&error, None),
            };
            let switches = &args.switches;
            if !switches.no_push
                && !args.registry.switches.skip_push_permission_check
                && let Err(error) = may_push(&global, &args.destination).await
            {
                return report::failure(&error, None);
            }
            let build = BuildArgs { fetched_images, ..*build };
            build::run_where(&global, &build, to.may_be_there).await
        }
        Command::Plan(args) => plan::run(&global, &args).await,
        _ => unreachable!("a translation is a build or a plan"),
    }
}

/// Whether what is built can be pushed, before it is built.
async fn may_push(global: &Global, destinations: &[String]) -> Result<()> {
    let session = Session::open(global, None)?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let client = session.registry(&plugins);
    let mut asked = BTreeSet::new();
    for name in destinations {
        let reference: Reference = name.parse().with_context(|| format!("--destination {name}"))?;
        if asked.insert(reference.name()) {
            let may = client.may_push(&reference).await;
            may.with_context(|| {
                format!("--destination {name}: before the build (--skip-push-permission-check leaves this out)")
            })?;
        }
    }
    Ok(())
}

fn translate(args: &KanikoArgs) -> Result<Translation> {
    translation::build(args, &Path::exists, &|name| std::env::var(name).ok())
}

/// What the warmer has fetched, by the names that registries know.
fn fetched_images(args: &KanikoArgs) -> Result<Vec<(Reference, PathBuf)>> {
    let age = request::age("--cache-ttl", &args.cache_ttl)?;
    let images = fetched(&args.cache_dir, age).into_iter();
    Ok(images.filter_map(|(name, folder)| Some((name.parse().ok()?, folder))).collect())
}

/// The translation as if it had been typed; what the command line says of every command counts with it.
fn parsed(global: &Global, to: &Translation) -> Result<(Global, Command)> {
    let typed = Args::try_parse_from(std::iter::once("plywood".to_owned()).chain(to.words.iter().cloned()))?;
    let of = |own: &[String], typed: &[String]| [own, typed].concat();
    let merged = Global {
        insecure_registry: of(&global.insecure_registry, &typed.global.insecure_registry),
        registry_mirror: of(&global.registry_mirror, &typed.global.registry_mirror),
        only_mirrors: global.only_mirrors || typed.global.only_mirrors,
        registry_ca: [&global.registry_ca[..], &typed.global.registry_ca].concat(),
        ..global.clone()
    };
    Ok((merged, typed.command))
}

/// What a command of kaniko's says of registries.
fn with_registries(global: &Global, args: &RegistryArgs, destinations: &[String]) -> Result<Global> {
    let mut to = Translation { words: vec!["images".into()], ..Translation::default() };
    translation::registries(&mut to, args, destinations, None)?;
    to.notes.iter().for_each(|note| report::note(note));
    Ok(parsed(global, &to)?.0)
}

pub(crate) fn migrate(args: &MigrateArgs) -> ExitCode {
    let Foreign::Kaniko { words } = &args.from;
    // With the program's name, or a container engine's words before it, or without.
    let is_program = |word: &String| word == "executor" || word.ends_with("/executor");
    let own = words.iter().position(is_program).map_or(&words[..], |at| &words[at + 1..]);
    let typed = Args::try_parse_from(["plywood", "executor"].into_iter().map(str::to_owned).chain(own.iter().cloned()));
    let args = match typed.map(|args| args.command) {
        Ok(Command::Executor(args)) if args.command.is_none() => args.build,
        Ok(_) => return done(Err(anyhow::anyhow!("`login` and `push` are the same behind `plywood executor`"))),
        Err(error) => return done(Err(error.into())),
    };
    let translated = translation::build(&args, &Path::exists, &|name| std::env::var(name).ok());
    done(translated.map(|to| {
        print(&format!("plywood {}", translation::quoted(&to.words)));
        to.notes.iter().for_each(|note| report::note(note));
    }))
}

/// Writes credentials where Docker's tools look for them, beside what is there.
fn login(args: &LoginArgs) -> Result<()> {
    let password = match (&args.password, args.password_stdin) {
        (Some(password), _) => password.clone(),
        (None, true) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("the password on standard input")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => bail!("give --password-stdin, or --password"),
    };
    let path = surroundings::docker_config().context("there is no home folder: set DOCKER_CONFIG")?;
    let mut config: serde_json::Value = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => serde_json::json!({}),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    // Docker Hub goes by an address of old.
    let registry = match args.registry.as_str() {
        "docker.io" | "index.docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", args.username));
    let malformed = || format!("{} is no configuration of Docker's", path.display());
    let auths = config.as_object_mut().with_context(malformed)?.entry("auths").or_insert_with(|| serde_json::json!({}));
    auths.as_object_mut().with_context(malformed)?.insert(registry.to_owned(), serde_json::json!({ "auth": auth }));
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| folder.display().to_string())?;
    let aside = path.with_extension(unique("new"));
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(&config)?)?;
    fs::rename(&aside, &path).with_context(|| path.display().to_string())?;
    print(&format!("credentials for {} are in {}", args.registry, path.display()));
    Ok(())
}

async fn push(global: &Global, args: &KanikoPushArgs) -> Result<()> {
    let global = with_registries(global, &args.registry, &args.destination)?;
    let source = match args.source.is_dir() {
        true => Location::Layout(args.source.clone(), None),
        false => {
            let archive = Location::DockerArchive(args.source.clone(), None);
            match images::is_readable(&global, &archive).await {
                true => archive,
                false => Location::OciArchive(args.source.clone(), None),
            }
        }
    };
    for name in &args.destination {
        let reference: Reference = name.parse().with_context(|| format!("--destination {name}"))?;
        images::transfer(&global, &source, &Location::Registry(reference)).await?;
    }
    Ok(())
}

/// The names of base images that the warmer has fetched not longer ago than `age`, and where they are.
fn fetched(cache: &Path, age: u64) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(cache) else { return Vec::new() };
    let image = |folder: PathBuf| {
        let note = folder.join(NAME);
        let made = fs::metadata(&note).and_then(|meta| meta.modified()).ok()?;
        let is_young = SystemTime::now().duration_since(made).is_ok_and(|since| since <= Duration::from_secs(age));
        let name = fs::read_to_string(note).ok().filter(|_| is_young)?;
        (!name.is_empty() && !name.contains(['=', '\n'])).then_some((name, folder))
    };
    let mut images: Vec<_> = entries.flatten().filter_map(|entry| image(entry.path())).collect();
    images.sort();
    images
}

/// An ending that no other process uses: in containers every one of them is process 1.
fn unique(word: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{word}-{}-{}", std::process::id(), now.as_nanos())
}

pub(crate) async fn warmer(global: &Global, args: &WarmerArgs) -> ExitCode {
    done(warm(global, args).await)
}

async fn warm(global: &Global, args: &WarmerArgs) -> Result<()> {
    let mut names: BTreeSet<String> = args.image.iter().cloned().collect();
    if let Some(path) = &args.dockerfile {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let build_args: Vec<_> = args.build_arg.iter().filter_map(|text| request::build_arg(text)).collect();
        let plugins = Session::open(global, None)?.plugins(Arc::new(Process::default())).await?;
        names.extend(::build::base_images(&path.display().to_string(), &text, &build_args, &plugins.instructions)?);
    }
    if names.is_empty() {
        bail!("give --image or --dockerfile: there is nothing to fetch");
    }
    if args.custom_platform.is_some() {
        report::note("--custom-platform changes nothing: images are fetched for every platform that they have");
    }
    let global = with_registries(global, &args.registry, &[])?;
    let age = request::age("--cache-ttl", &args.cache_ttl)?;
    let there: BTreeSet<String> = fetched(&args.cache_dir, age).into_iter().map(|(name, _)| name).collect();
    for name in names {
        if !args.force && there.contains(&name) {
            report::note(&format!("{name} is there"));
            continue;
        }
        let reference: Reference = name.parse().with_context(|| format!("--image {name}"))?;
        let folder = args.cache_dir.join(oci::Digest::of(name.as_bytes()).hex());
        // What is there may be read: the new one takes its place when it is whole.
        let aside = folder.with_extension(unique("new"));
        fs::create_dir_all(&args.cache_dir).with_context(|| args.cache_dir.display().to_string())?;
        images::transfer(&global, &Location::Registry(reference), &Location::Layout(aside.clone(), None)).await?;
        fs::write(aside.join(NAME), &name)?;
        if folder.exists() {
            let old = folder.with_extension(unique("old"));
            fs::rename(&folder, &old).with_context(|| folder.display().to_string())?;
            fs::rename(&aside, &folder).with_context(|| folder.display().to_string())?;
            fs::remove_dir_all(&old).with_context(|| old.display().to_string())?;
        } else {
            fs::rename(&aside, &folder).with_context(|| folder.display().to_string())?;
        }
        report::note(&format!("{name} is in {}", folder.display()));
    }
    Ok(())
}
