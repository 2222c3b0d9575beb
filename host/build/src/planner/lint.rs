//! The linter: which findings count, and what is to be said of what FROM names.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use dockerfile::expand::{self, Options};
use dockerfile::lint::{
    Config, FROM_PLATFORM_CONSTANT, Finding, INVALID_DEFAULT_ARG, REDUNDANT_PLATFORM, UNDEFINED_FROM_ARG,
};
use dockerfile::{File, Stage};
use oci::{Platform, Reference};
use plan::{Diagnostic, Severity};

use super::scope::Variables;
use crate::error::Error;

/// Gathers what counts.
pub(super) struct Linter {
    config: Config,
    findings: Mutex<Vec<Diagnostic>>,
}

impl Linter {
    /// By the build argument, else by the file's own directive.
    pub(super) fn new(file: &File, build_args: &[(String, String)]) -> Result<Self, Error> {
        const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
        let given = build_args.iter().rev().find(|(name, _)| name == ARGUMENT);
        let config = match (given, &file.directives.check) {
            (Some((_, options)), _) => Config::parse(options)
                .map_err(|reason| Error::Request(format!("failed to parse build-arg:{ARGUMENT}: {reason}")))?,
            (None, Some((options, span))) => Config::of_directive(options).map_err(|reason| {
                Error::at("InvalidCheck", format!("failed to parse check options: {reason}"), span)
            })?,
            (None, None) => Config::default(),
        };
        let linter = Self { config, findings: Mutex::default() };
        dockerfile::lint::syntax(file).into_iter().for_each(|finding| linter.add(finding));
        Ok(linter)
    }

    pub(super) fn add(&self, finding: Finding<'_>) {
        let is_lint = finding.diagnostic.severity == Severity::Warning;
        if !is_lint || self.config.counts(&finding.diagnostic.code, finding.comments) {
            self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding.diagnostic);
        }
    }

    /// Everything found, in the order of the lines.
    pub(super) fn take(&self) -> Vec<Diagnostic> {
        let mut findings = std::mem::take(&mut *self.findings.lock().unwrap_or_else(PoisonError::into_inner));
        findings.sort_by_key(|finding| finding.span.as_ref().map(|span| span.start.line));
        findings
    }

    /// Whether these findings fail the build.
    pub(super) fn verdict(&self, findings: &[Diagnostic]) -> Result<(), Error> {
        let lint = findings.iter().filter(|finding| finding.severity == Severity::Warning);
        let rules: BTreeSet<&str> = lint.map(|finding| finding.code.as_str()).collect();
        if !self.config.error || rules.is_empty() {
            return Ok(());
        }
        let rules: Vec<&str> = rules.into_iter().collect();
        Err(Error::Request(format!("lint violation found for rules: {}", rules.join(", "))))
    }
}

/// What a FROM says, expanded.
#[derive(Clone, Debug)]
pub(super) struct From {
    pub(super) base: String,
    pub(super) platform: Option<Platform>,
    /// Names of the arguments in it.
    pub(super) used: BTreeSet<String>,
}

/// A text with the variables that were used in it.
struct Used {
    text: String,
    known: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// Names and values that FROM can use, and how the file writes escapes.
pub(super) struct FromScope<'f> {
    pub(super) file: &'f File,
    pub(super) globals: &'f Variables,
    /// The same if the user had given no arguments.
    pub(super) defaults: Option<Variables>,
}

impl FromScope<'_> {
    /// Every FROM of the file, needed or not, since each must make sense.
    pub(super) fn read(&self, linter: &Linter) -> Result<Vec<From>, Error> {
        for stage in &self.file.stages {
            if let Some(finding) = self.default_base(stage) {
                linter.add(Finding { diagnostic: finding, comments: &[] });
            }
        }
        self.file.stages.iter().map(|stage| self.one(stage, linter)).collect()
    }

    fn is_declared(&self, name: &str) -> bool {
        self.globals.get(name).is_some() || self.file.global_args.iter().any(|arg| arg.name == name)
    }

    fn expand(&self, text: &str, stage: &Stage) -> Result<Used, Error> {
        let (known, unknown) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
        let lookup = |name: &str| {
            let set = if self.is_declared(name) { &known } else { &unknown };
            set.borrow_mut().insert(name.to_owned());
            self.globals.get(name).map(str::to_owned)
        };
        let options = Options { escape: self.file.directives.escape, ..Options::default() };
        let expanded = expand::word(text, &lookup, options).map_err(|error| {
            let message = format!("failed to process \"{text}\": {}", error.message);
            Error::at("InvalidSubstitution", message, &stage.line.instruction.span)
        })?;
        Ok(Used { text: expanded.words.concat(), known: known.into_inner(), unknown: unknown.into_inner() })
    }

    fn one(&self, stage: &Stage, linter: &Linter) -> Result<From, Error> {
        let span = &stage.line.instruction.span;
        let find = |diagnostic| linter.add(Finding { diagnostic, comments: &stage.line.comments });
        let undeclared = |used: &Used| {
            let mut hint = String::new();
            for name in &used.unknown {
                let names = self.globals.as_pairs().iter().map(|(name, _)| name.as_str());
                let names = names.chain(self.file.global_args.iter().map(|arg| arg.name.as_str()));
                hint = match plan::diagnostic::nearest(name, names) {
                    Some(near) => format!(" (did you mean {near}?)"),
                    None => String::new(),
                };
                find(UNDEFINED_FROM_ARG.finding(format!("FROM argument '{name}' is not declared{hint}"), span));
            }
            hint
        };
        let base = self.expand(&stage.base, stage)?;
        let hint = undeclared(&base);
        if base.text.is_empty() {
            let message = format!("base name ({}) should not be blank{hint}", stage.base);
            return Err(Error::at("BlankBase", message, span));
        }
        let Some(written) = &stage.platform else {
            return Ok(From { base: base.text, platform: None, used: base.known });
        };
        let used = self.expand(written, stage)?;
        let hint = undeclared(&used);
        if used.text.is_empty() {
            let message = format!("empty platform value from expression {written}{hint}");
            return Err(Error::at("InvalidPlatform", message, span));
        }
        let platform = used.text.parse::<Platform>().map_err(|error| {
            let message = format!("failed to parse platform {written}: {error}{hint}");
            Error::at("InvalidPlatform", message, span)
        })?;
        const TARGET: &str = "TARGETPLATFORM";
        if used.unknown.is_empty()
            && used.known.iter().map(String::as_str).eq([TARGET])
            && self.globals.get(TARGET) == Some(&used.text)
        {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            find(REDUNDANT_PLATFORM.finding(message, span));
        }
        let name = stage.name.as_deref().unwrap_or_default();
        if used.unknown.is_empty()
            && used.known.is_empty()
            && !name.contains(&platform.os)
            && !name.contains(&platform.architecture)
        {
            let message = format!("FROM --platform flag should not use constant value \"{}\"", used.text);
            find(FROM_PLATFORM_CONSTANT.finding(message, span));
        }
        let names = base.known.into_iter().chain(used.known).collect();
        Ok(From { base: base.text, platform: Some(platform), used: names })
    }

    /// A base that is no image when nobody gives arguments.
    fn default_base(&self, stage: &Stage) -> Option<Diagnostic> {
        let defaults = self.defaults.as_ref()?;
        let lookup = |name: &str| defaults.get(name).map(str::to_owned);
        let options = Options { escape: self.file.directives.escape, ..Options::default() };
        let name = expand::word(&stage.base, &lookup, options).ok()?.words.concat();
        let message = format!("Default value for ARG {} results in empty or invalid base image name", stage.base);
        let is_image = name.parse::<Reference>().is_ok();
        (!is_image).then(|| INVALID_DEFAULT_ARG.finding(message, &stage.line.instruction.span))
    }
}
