//! `plywood cache` with a cache outside of the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use cache::{Backend, Holding, Keep};
use serde_json::json;

use super::human;
use crate::args::Global;
use crate::args::cache::{CacheCommand, GcArgs};
use crate::commands::{print, print_foreign};
use crate::request;
use crate::session::Session;
use crate::surroundings::Process;

pub(super) async fn run(global: &Global, cache: &str, command: &CacheCommand) -> Result<()> {
    let place = request::cache_place(cache)?;
    let session = Session::open(global, None)?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let backend = cache::open(&place, &session.registry(&plugins))?;
    match command {
        CacheCommand::Ls(args) => list(&cache::holding(&*backend).await?, args.json),
        CacheCommand::Du(args) => usage(&cache::holding(&*backend).await?, args.json),
        CacheCommand::Gc(args) => make_room(&*backend, keep(args)?, args.dry_run).await,
        CacheCommand::Prune(args) => {
            make_room(&*backend, Keep { bytes: Some(0), ..Keep::default() }, args.dry_run).await
        }
    }
}

fn keep(args: &GcArgs) -> Result<Keep> {
    let age = args.keep_within.as_deref().map(|text| request::age("--keep-within", text)).transpose()?;
    let bytes = args.keep_bytes.as_deref().map(|text| request::bytes("--keep-bytes", text)).transpose()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Ok(Keep { since: age.map(|age| now.saturating_sub(age)), bytes })
}

fn list(holding: &Holding, json: bool) -> Result<()> {
    if json {
        let item = |item: &cache::Held| json!({ "name": item.title, "created": build::rfc3339(item.created_at), "bytes": item.size(), "key": item.key() });
        print(&serde_json::to_string_pretty(&holding.items.iter().map(item).collect::<Vec<_>>())?);
        return Ok(());
    }
    for item in &holding.items {
        let size = if item.is_of_use() { human(item.size()) } else { "gone".into() };
        print_foreign(&format!("{:20}  {size:>12}  {}", build::rfc3339(item.created_at), item.title));
    }
    Ok(())
}

fn usage(holding: &Holding, json: bool) -> Result<()> {
    let (entries, bytes, foreign) = (holding.items.len(), holding.size(), holding.foreign);
    if json {
        print(&serde_json::to_string_pretty(&json!({ "entries": entries, "bytes": bytes, "others": foreign }))?);
        return Ok(());
    }
    print(&format!("entries  {entries:>12}  steps, cache mounts and indexes of base images"));
    print(&format!("bytes    {:>12}  of blobs, each once", human(bytes)));
    if foreign > 0 {
        print(&format!("others   {foreign:>12}  what is none of ours: left alone by gc and prune"));
    }
    Ok(())
}

async fn make_room(backend: &dyn Backend, keep: Keep, dry_run: bool) -> Result<()> {
    let freed = cache::collect(backend, keep, dry_run).await?;
    let does = if dry_run { "would go" } else { "gone" };
    let (left, size) = (freed.left.items.len(), human(freed.left.size()));
    let (gone, superseded) = (freed.items.len(), freed.superseded);
    print(&format!("{does}: {gone} entries, {superseded} superseded ones; {left} left, {size}"));
    match freed.bytes {
        Some(bytes) => print(&format!("{} of blobs that nothing needs gone", human(bytes))),
        None if dry_run || gone + superseded == 0 => {}
        None if backend.repository().is_some() => {
            print("the registry takes the blobs away when it collects its garbage");
        }
        None => print("blobs are kept: there is something in the same place that is none of ours and may need them"),
    }
    Ok(())
}
