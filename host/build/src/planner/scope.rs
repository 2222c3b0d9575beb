//! Variables: those of the whole file, and those of a stage.

use std::collections::BTreeSet;

use dockerfile::expand::{self, Options};
use oci::Platform;
use plan::op::{ExpandError, Expanded, Expansion};

/// Proxies may be given as build arguments without being declared; they leave no trace in image or key.
pub(crate) const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Names with values, in the order of their first setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    pairs: Vec<(String, String)>,
    /// Whose value is an argument's.
    arguments: BTreeSet<String>,
}

impl Variables {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.arguments.remove(name);
        match self.pairs.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.pairs.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(crate) fn set_argument(&mut self, name: &str, value: &str) {
        self.set(name, value);
        self.arguments.insert(name.to_owned());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.arguments.remove(name);
        self.pairs.retain(|(known, _)| known != name);
    }

    pub(crate) fn as_pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    pub(crate) fn arguments(&self) -> &BTreeSet<String> {
        &self.arguments
    }

    pub(crate) fn expand(&self, text: &str, escape: char, how: Expansion) -> Result<Expanded, ExpandError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        let options = Options { escape, ..Options::default() };
        match how {
            Expansion::Word => expand::word(text, &lookup, options),
            Expansion::Words => expand::words(text, &lookup, options),
            // Quotes in a here-document are text; they do not keep variables from being expanded. A backslash does,
            // whatever else the file lets escape.
            Expansion::Raw => expand::word(text, &lookup, Options { ignore_quotes: true, escape: '\\', ..options }),
        }
    }
}

/// What every file can use in FROM: the platforms, each of which a build argument may override.
pub(crate) fn automatic(build: &Platform, target: &Platform, stage: &str, given: &[(String, String)]) -> Variables {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let values = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", text(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", text(&build.variant)),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", text(&target.os_version)),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", text(&target.variant)),
        ("TARGETSTAGE", stage.to_owned()),
    ];
    let mut variables = Variables::default();
    for (name, value) in values {
        let given = given.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        variables.set(name, &given.unwrap_or(value));
    }
    variables
}
