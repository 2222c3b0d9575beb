//! `plywood cache`.

mod outside;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;
use store::{Kind, Limits, Store};

use crate::args::Global;
use crate::args::cache::{CacheArgs, CacheCommand, GcArgs, Where};
use crate::commands::{print, print_foreign};
use crate::request;
use crate::session;

pub(crate) async fn run(global: &Global, args: &CacheArgs) -> Result<()> {
    if let Some(cache) = outside(&args.command).cache.as_deref() {
        return outside::run(global, cache, &args.command).await;
    }
    let store = session::store(global)?;
    match &args.command {
        CacheCommand::Ls(args) => list(&store, args.json),
        CacheCommand::Du(args) => usage(&store, args.json),
        CacheCommand::Gc(args) => make_room(&store, limits(args)?, args.dry_run).await,
        CacheCommand::Prune(args) => {
            make_room(&store, Limits { bytes: Some(0), ..Limits::default() }, args.dry_run).await
        }
    }
}

/// The cache that a command is about; none: the store.
fn outside(command: &CacheCommand) -> &Where {
    match command {
        CacheCommand::Ls(args) | CacheCommand::Du(args) => &args.place,
        CacheCommand::Gc(args) => &args.place,
        CacheCommand::Prune(args) => &args.place,
    }
}

fn limits(args: &GcArgs) -> Result<Limits> {
    let age = args.keep_within.as_deref().map(|text| request::age("--keep-within", text)).transpose()?;
    let bytes = args.keep_bytes.as_deref().map(|text| request::bytes("--keep-bytes", text)).transpose()?;
    let since = |age| SystemTime::now().checked_sub(Duration::from_secs(age)).unwrap_or(UNIX_EPOCH);
    Ok(Limits { used_since: age.map(since), bytes })
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len() - 1).take_while(|power| bytes >> (10 * (power + 1)) > 0).count();
    match power {
        0 => format!("{bytes} bytes"),
        _ => format!("{:.1} {}", bytes as f64 / 1024f64.powi(i32::try_from(power).unwrap_or(0)), units[power]),
    }
}

fn list(store: &Store, json: bool) -> Result<()> {
    let records = store.newest_records(usize::MAX);
    if json {
        print(&serde_json::to_string_pretty(&records)?);
        return Ok(());
    }
    for record in records {
        let layers = store.variants(record.layer);
        let size = layers.iter().map(|variant| variant.size).max().map_or_else(|| "gone".to_owned(), human);
        print_foreign(&format!("{:20}  {size:>12}  {}", record.created, record.name));
    }
    Ok(())
}

fn usage(store: &Store, json: bool) -> Result<()> {
    let usage = store.usage()?;
    let rows = [
        ("images", usage.images, "images with a name"),
        ("blobs", usage.blobs, "layers and documents that would be made or fetched again"),
        ("trees", usage.trees, "layers unpacked"),
        ("mounts", usage.mounts, "cache mounts"),
        ("other", usage.other, "records, indexes, notes"),
        ("total", usage.total(), ""),
    ];
    if json {
        let rows: serde_json::Map<String, serde_json::Value> =
            rows.iter().map(|(name, bytes, _)| ((*name).to_owned(), json!(bytes))).collect();
        print(&serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for (name, bytes, what) in rows {
        print(format!("{name:8}  {:>12}  {what}", human(bytes)).trim_end());
    }
    Ok(())
}

async fn make_room(store: &Store, limits: Limits, dry_run: bool) -> Result<()> {
    let alone = match store.end_use(false)? {
        Some(alone) => alone,
        None => {
            crate::report::note("the store is in use: waiting until it is not");
            store.end_use(true)?.context("the store is in use")?
        }
    };
    let collected = build::collect(store, limits, dry_run, &alone).await?;
    let bytes: u64 = collected.items.iter().map(|item| item.bytes).sum();
    let of = |kind: Kind| collected.items.iter().filter(|item| item.kind == kind).count();
    let (blobs, trees, mounts) = (of(Kind::Blob), of(Kind::Tree), of(Kind::Mount));
    let does = if dry_run { "would go" } else { "gone" };
    let left = human(collected.left);
    print(&format!("{does}: {blobs} blobs, {trees} trees, {mounts} mounts, {}; {left} left", human(bytes)));
    Ok(())
}

/// Keeps the store below a size after a build, unless others use it: the last of them does.
pub(crate) async fn keep_below(global: &Global, bytes: u64) -> Result<()> {
    let store = session::store(global)?;
    let Some(alone) = store.end_use(false)? else { return Ok(()) };
    let collected = build::collect(&store, Limits { bytes: Some(bytes), ..Limits::default() }, false, &alone).await?;
    if collected.left > bytes {
        let (left, most) = (human(collected.left), human(bytes));
        crate::report::note(&format!("warning: images with a name take {left}, more than --store-max {most}"));
    }
    Ok(())
}
