//! Commands for images that exist: list, name, copy, look at.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use image::{ArchiveFormat, ArchiveSink, LayoutSink, Location, RegistrySink, Sink, Source, StoreSink};
use oci::Reference;

use crate::args::Global;
use crate::args::image::{CopyArgs, InspectArgs, PullArgs, PushArgs, RmiArgs, TagArgs};
use crate::commands::print;
use crate::session::Session;
use crate::surroundings::Process;

pub(crate) fn images(global: &Global) -> Result<()> {
    let session = Session::open(global, None)?;
    for tagged in session.store.images()? {
        print(&format!("{}  {}", tagged.reference, tagged.descriptor.digest()));
    }
    Ok(())
}

pub(crate) fn tag(global: &Global, args: &TagArgs) -> Result<()> {
    let session = Session::open(global, None)?;
    let (source, target): (Reference, Reference) = (args.source.parse()?, args.target.parse()?);
    let tagged = session.store.image(&source)?.with_context(|| format!("{source} is not in the store"))?;
    session.store.tag(&target, &tagged.descriptor)?;
    Ok(())
}

pub(crate) fn rmi(global: &Global, args: &RmiArgs) -> Result<()> {
    let session = Session::open(global, None)?;
    for name in &args.names {
        let reference: Reference = name.parse()?;
        match session.store.untag(&reference)? {
            Some(digest) => print(&format!("untagged {reference} ({digest})")),
            None => bail!("{reference} is not in the store"),
        }
    }
    Ok(())
}

pub(crate) async fn copy(global: &Global, args: &CopyArgs) -> Result<()> {
    transfer(global, &args.source.parse()?, &args.destination.parse()?).await
}

pub(crate) async fn pull(global: &Global, args: &PullArgs) -> Result<()> {
    let reference: Reference = args.name.trim_start_matches("docker://").parse()?;
    transfer(global, &Location::Registry(reference.clone()), &Location::Store(reference)).await
}

pub(crate) async fn push(global: &Global, args: &PushArgs) -> Result<()> {
    let source = match args.source.parse::<Location>() {
        Ok(location) => location,
        Err(_) => Location::Store(args.source.parse()?),
    };
    let target = match (&args.name, &source) {
        (Some(name), _) => name.trim_start_matches("docker://").parse()?,
        (None, Location::Store(reference)) => reference.clone(),
        (None, _) => bail!("pushing {source} needs the name that it shall have"),
    };
    transfer(global, &source, &Location::Registry(target)).await
}

/// Whether there is an image at a place.
pub(crate) async fn is_readable(global: &Global, place: &Location) -> bool {
    let open = async {
        let session = Session::open(global, None)?;
        let plugins = session.plugins(Arc::new(Process::default())).await?;
        let source = build::open_image(place, &session.store, &session.registry(&plugins))?;
        source.root().await?;
        anyhow::Ok(())
    };
    open.await.is_ok()
}

/// Copies an image from place to place, and prints its digest.
pub(crate) async fn transfer(global: &Global, from: &Location, to: &Location) -> Result<()> {
    let session = Session::open(global, None)?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let client = session.registry(&plugins);
    let source = build::open_image(from, &session.store, &client)?;
    let names = |name: &Option<String>| name.iter().map(|name| image::Name::new(name)).collect::<Vec<_>>();
    let sink: Box<dyn Sink> = match to {
        Location::Registry(reference) => Box::new(RegistrySink::new(&client, reference.clone())),
        Location::Store(reference) => Box::new(StoreSink::new(&session.store, vec![reference.clone()])),
        Location::Layout(folder, name) => Box::new(LayoutSink::new(folder, names(name))?),
        Location::OciArchive(path, name) => Box::new(ArchiveSink::create(path, ArchiveFormat::Oci, names(name))?),
        Location::DockerArchive(path, name) => Box::new(ArchiveSink::create(path, ArchiveFormat::Docker, names(name))?),
    };
    let digest = image::copy(source, &*sink, &|_| {}).await.with_context(|| format!("copying {from} to {to}"))?;
    print(&digest.to_string());
    Ok(())
}

pub(crate) async fn inspect(global: &Global, args: &InspectArgs) -> Result<()> {
    let session = Session::open(global, None)?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let client = session.registry(&plugins);
    let source: Arc<dyn Source> = match args.image.parse::<Location>() {
        Ok(location) => build::open_image(&location, &session.store, &client)?,
        Err(_) => {
            let reference: Reference = args.image.parse()?;
            match session.store.image(&reference)? {
                Some(_) => build::open_image(&Location::Store(reference), &session.store, &client)?,
                None => build::open_image(&Location::Registry(reference), &session.store, &client)?,
            }
        }
    };
    let root = source.root().await?;
    let found = image::resolve(&*source, &args.image, &oci::Platform::host(), false).await?;
    let layers = found.layers.iter().map(|(descriptor, diff_id)| {
        serde_json::json!({
            "digest": descriptor.digest(),
            "mediaType": descriptor.media_type(),
            "size": descriptor.size(),
            "diffId": diff_id,
        })
    });
    let shown = serde_json::json!({
        "digest": root.descriptor.digest(),
        "mediaType": root.descriptor.media_type(),
        "manifest": found.digest,
        "layers": layers.collect::<Vec<_>>(),
        "config": found.config,
    });
    print(&serde_json::to_string_pretty(&shown)?);
    Ok(())
}
