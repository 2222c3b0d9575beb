//! Why a step was not found: what is no more as it was when the step most like it was done.

use std::collections::{BTreeMap, BTreeSet};

use oci::Digest;
use plan::graph::{Graph, Vertex, VertexId, VertexOp};
use plan::key::{Component, Kind};
use serde::{Deserialize, Serialize};
use store::{Record, Store};

use crate::key::{Listing, Listings};

/// Something that a step depends on, and that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The component's name: `context:src`, `arg:VERSION`.
    pub component: String,
    /// For people: `the argument VERSION has another value`.
    pub text: String,
    /// Of a context, where it is known which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
}

/// A file of a context that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// In the context.
    pub path: String,
    /// What became of it.
    pub how: FileState,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its content, mode or kind is another.
    Changed,
}

/// Files of one component that are named; how many more there are is in its text.
const MOST_FILES: usize = 1000;
/// Entries that are compared with: the newest.
pub(super) const MOST_RECORDS: usize = 2000;

/// `RUN make` of `[builder 2/5] RUN make`.
fn text(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, text)| text)
}

fn keyword(name: &str) -> &str {
    text(name).split(' ').next().unwrap_or_default()
}

/// The entry of the step that is most like this one, if any is like it: in most of what it depends on, and the newest.
fn nearest<'r>(records: &'r [Record], components: &[Component], name: &str) -> Option<&'r Record> {
    let now: BTreeMap<&str, Digest> = components.iter().map(|c| (c.name.as_str(), c.digest)).collect();
    let score = |record: &Record| {
        let same = |wanted: &str| record.components.iter().any(|(n, d)| n == wanted && now.get(wanted) == Some(d));
        let same_text = text(&record.name) == text(name);
        // A command that is written otherwise is the same step if it stands where that one stood.
        let same_place = keyword(&record.name) == keyword(name)
            && (same("parent") || record.name.split(']').next() == name.split(']').next());
        let equal = record.components.iter().filter(|(name, digest)| now.get(name.as_str()) == Some(digest)).count();
        (same("op") || same_text || same_place).then_some((same_text || same("op"), equal, record.created_at))
    };
    // Of equals the last counts, and the newest come first.
    let scored = records.iter().rev().filter_map(|record| Some((score(record)?, record)));
    scored.max_by_key(|(score, _)| *score).map(|(_, record)| record)
}

/// What has changed since the step most like this one was done; none where there was none. `records` are the newest first.
pub(super) fn changes(
    store: &Store,
    records: &[Record],
    (graph, id): (&Graph, VertexId),
    components: &[Component],
    listings: &Listings,
) -> Option<Vec<Change>> {
    let vertex = &graph[id];
    let record = nearest(records, components, &vertex.name)?;
    let before: BTreeMap<&str, Digest> = record.components.iter().map(|(n, d)| (n.as_str(), *d)).collect();
    let mut changes = Vec::new();
    for component in components {
        let files = match before.get(component.name.as_str()) {
            Some(digest) if *digest == component.digest => continue,
            Some(digest) => files(store, *digest, listings.get(&component.digest).map(|listing| &**listing)),
            None => Vec::new(),
        };
        let is_new = !before.contains_key(component.name.as_str());
        let text = match component.kind {
            Kind::Parent => parent(graph, vertex),
            Kind::Stage => stage(graph, component.subject.as_deref().unwrap_or_default()),
            Kind::Op if text(&record.name) != text(&vertex.name) => format!("it was `{}`", text(&record.name)),
            kind => what(kind, component.subject.as_deref().unwrap_or_default(), is_new, &files),
        };
        let files = files.into_iter().take(MOST_FILES).collect();
        changes.push((component.kind, Change { component: component.name.clone(), text, files }));
    }
    let names: BTreeSet<&str> = components.iter().map(|component| component.name.as_str()).collect();
    for name in before.keys().filter(|name| !names.contains(**name)) {
        let text = match name.split_once(':') {
            Some(("arg", name)) => format!("the argument {name} is gone"),
            Some(("env", name)) => format!("the variable {name} is gone"),
            _ => format!("it does not depend on {name} any more"),
        };
        changes.push((Kind::Added, Change { component: (*name).to_owned(), text, files: Vec::new() }));
    }
    // What has happened further up is told there; what has happened here comes first.
    changes.sort_by_key(|(kind, _)| matches!(kind, Kind::Parent | Kind::Stage));
    Some(changes.into_iter().map(|(_, change)| change).collect())
}

fn parent(graph: &Graph, vertex: &Vertex) -> String {
    match vertex.parent.map(|parent| &graph[parent]) {
        Some(Vertex { op: VertexOp::Image(image), .. }) => format!("the base image {} is another", image.name),
        Some(step) => format!("the step below it is another: {}", step.name),
        None => "it stood on something".into(),
    }
}

/// `subject` is `1:/path`, where 1 is the stage's number, or a name.
fn stage(graph: &Graph, subject: &str) -> String {
    let (origin, _) = subject.split_once(':').unwrap_or((subject, ""));
    let number = origin.parse::<usize>().ok();
    let of_number = |vertex: &&Vertex| Some(vertex.stage_index) == number;
    let name = graph.vertices.iter().find(of_number).and_then(|vertex| vertex.stage_name.as_deref());
    format!("what it takes from {} is made otherwise", name.unwrap_or(origin))
}

fn what(kind: Kind, subject: &str, is_new: bool, files: &[FileChange]) -> String {
    let value = |what: &str| match is_new {
        true => format!("{what} {subject} is new"),
        false => format!("{what} {subject} has another value"),
    };
    let content = |of: String| match files {
        [] => format!("{of} has changed"),
        [one] => tell(one),
        [first, rest @ ..] => format!("{}, and {} more", tell(first), rest.len()),
    };
    match kind {
        Kind::Platform => "it is for another platform".into(),
        Kind::Parent => "what it stands on is another".into(),
        Kind::Stage => format!("what it takes from {subject} is made otherwise"),
        Kind::Op => "it has other options, or its variables have other values".into(),
        Kind::User => "the user is another".into(),
        Kind::WorkingDir => "the working directory is another".into(),
        Kind::Epoch => "SOURCE_DATE_EPOCH is another".into(),
        Kind::Arg => value("the argument"),
        Kind::Env => value("the variable"),
        Kind::Context => content(format!("what `{subject}` selects")),
        Kind::Mount => content(format!("what is mounted at {subject}")),
        Kind::Inline => format!("the here-document {subject} has changed"),
        Kind::Http => format!("the file {subject} on the web has changed"),
        Kind::Git => format!("the repository {subject} is at another commit"),
        Kind::Added => format!("the policy's {subject} is another"),
    }
}

fn tell(file: &FileChange) -> String {
    let how = match file.how {
        FileState::Added => "is new",
        FileState::Removed => "is gone",
        FileState::Changed => "has changed",
    };
    format!("{} {how}", file.path)
}

/// The files that differ between what a component was and what it is, as far as both are known.
fn files(store: &Store, before: Digest, now: Option<&Listing>) -> Vec<FileChange> {
    let (Some(now), Some(before)) = (now, store.read_listing(before).and_then(|bytes| Listing::decode(&bytes))) else {
        return Vec::new();
    };
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (before.files().collect(), now.files().collect());
    let mut changed: Vec<(&[u8], FileState)> = Vec::new();
    for (path, digest) in &new {
        match old.get(path) {
            None => changed.push((path, FileState::Added)),
            Some(known) if known != digest => changed.push((path, FileState::Changed)),
            Some(_) => {}
        }
    }
    changed.extend(old.keys().filter(|path| !new.contains_key(*path)).map(|path| (*path, FileState::Removed)));
    changed.sort_unstable_by_key(|(path, _)| *path);
    let change = |(path, how): (&[u8], FileState)| FileChange { path: String::from_utf8_lossy(path).into_owned(), how };
    changed.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components(of: &[(&str, &str)]) -> Vec<Component> {
        let component = |(name, value): &(&str, &str)| match name.split_once(':') {
            Some((_, subject)) => Component::text(Kind::Arg, *value).of(subject),
            None if *name == "op" => Component::text(Kind::Op, *value),
            None => Component::text(Kind::Parent, *value),
        };
        of.iter().map(component).collect()
    }

    fn record(name: &str, created_at: u64, of: &[(&str, &str)]) -> Record {
        let components = components(of).into_iter().map(|component| (component.name, component.digest)).collect();
        let layer = oci::DiffId(Digest::of(b""));
        Record { layer, below: None, created: String::new(), created_at, name: name.into(), components }
    }

    #[test]
    fn the_nearest_is_the_same_step_with_most_in_common() {
        let step = [("op", "make"), ("parent", "a"), ("arg:V", "1")];
        let now = components(&step);
        let name = "[build 2/3] RUN make";
        let other = record("[build 3/3] RUN test", 9, &[("op", "test"), ("parent", "b")]);
        assert_eq!(nearest(std::slice::from_ref(&other), &now, name), None);
        let edited = record("[build 2/3] RUN make all", 8, &[("op", "make all"), ("parent", "a"), ("arg:V", "1")]);
        let far = record(name, 2, &[("op", "make"), ("parent", "c"), ("arg:V", "2")]);
        let near = record(name, 1, &[("op", "make"), ("parent", "a"), ("arg:V", "2")]);
        let records = [other, edited.clone(), far.clone(), near.clone()];
        assert_eq!(nearest(&records, &now, name), Some(&near));
        assert_eq!(nearest(&records[..3], &now, name), Some(&far));
        assert_eq!(nearest(&records[..2], &now, name), Some(&edited));
        let newer = Record { created_at: 3, ..near };
        assert_eq!(nearest(&[records[3].clone(), newer.clone()], &now, name), Some(&newer));
    }
}
