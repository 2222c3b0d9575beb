//! What BuildKit's linter says of single instructions: its rules' names and texts.

use plywood_sdk::instruction::{Diagnostic, Severity, Span, TextEdit};

use crate::scope::Scope;

/// A rule, as its documentation has it.
pub(crate) struct Rule {
    name: &'static str,
    /// In the address of its page.
    slug: &'static str,
    description: &'static str,
}

const JSON_ARGS: Rule = Rule {
    name: "JSONArgsRecommended",
    slug: "json-args-recommended",
    description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
};
pub(crate) const MAINTAINER: Rule = Rule {
    name: "MaintainerDeprecated",
    slug: "maintainer-deprecated",
    description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
};
pub(crate) const RELATIVE_WORKDIR: Rule = Rule {
    name: "WorkdirRelativePath",
    slug: "workdir-relative-path",
    description: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
};
const UNDEFINED: Rule =
    Rule { name: "UndefinedVar", slug: "undefined-var", description: "Variables should be defined before their use" };
const SEVERAL: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    slug: "multiple-instructions-disallowed",
    description: "Multiple instructions of the same type should not be used in the same stage",
};
pub(crate) const LEGACY: Rule = Rule {
    name: "LegacyKeyValueFormat",
    slug: "legacy-key-value-format",
    description: "Legacy key/value format with whitespace separator should not be used",
};
const SECRETS: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    slug: "secrets-used-in-arg-or-env",
    description: "Sensitive data should not be used in the ARG or ENV commands",
};
pub(crate) const EXPOSE_CASING: Rule = Rule {
    name: "ExposeProtoCasing",
    slug: "expose-proto-casing",
    description: "Protocol in EXPOSE instruction should be lowercase",
};
pub(crate) const EXPOSE_FORMAT: Rule = Rule {
    name: "ExposeInvalidFormat",
    slug: "expose-invalid-format",
    description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
};

impl Rule {
    /// Something that the rule has found.
    pub(crate) fn finding(&self, message: String, span: &Span) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            code: self.name.into(),
            message,
            span: Some(span.clone()),
            help: None,
            description: Some(self.description.into()),
            url: Some(format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.slug)),
            fixes: Vec::new(),
        }
    }

    /// The same with an edit that mends it.
    pub(crate) fn mended(&self, message: String, span: &Span, replacement: String) -> Diagnostic {
        let fixes = vec![TextEdit { span: span.clone(), replacement }];
        Diagnostic { fixes, ..self.finding(message, span) }
    }
}

/// Names in `word` that have no value and were not declared.
pub(crate) fn undefined(scope: &Scope<'_>, word: &str, unset: &[String]) {
    /// Read by BuildKit's attestations, declared nowhere.
    const EXEMPT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];
    if unset.is_empty() {
        return;
    }
    let arguments = scope.stage.build_args();
    let config = scope.stage.config();
    for name in unset {
        if EXEMPT.contains(&name.as_str()) || arguments.iter().any(|argument| argument.key == *name) {
            continue;
        }
        let known = config.env.iter().chain(&arguments).map(|pair| pair.key.as_str());
        let near = nearest(name, known).map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
        let at = word.find(&format!("${name}")).or_else(|| word.find(&format!("${{{name}"))).unwrap_or(0);
        let number = |n: usize| u32::try_from(n).unwrap_or(0);
        let span = scope.locate(word, number(at), number(at + name.len() + 1));
        scope.find(UNDEFINED.finding(format!("Usage of undefined variable '${name}'{near}"), &span));
    }
}

/// The candidate at most two edits away, the nearest first.
fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let near = candidates.map(|candidate| (distance(name, candidate), candidate));
    near.filter(|(distance, _)| (1..3).contains(distance)).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// The number of single-byte edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A second instruction of a kind of which only the last counts.
pub(crate) fn several(scope: &Scope<'_>, field: &str) {
    if let Some(earlier) = scope.stage.set_at(field) {
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            scope.word()
        );
        scope.find(SEVERAL.finding(message, &earlier));
    }
}

/// A command in shell form whose shell would stand between it and signals.
pub(crate) fn shell_form(scope: &Scope<'_>) {
    if scope.stage.config().shell.is_empty() {
        let message = format!(
            "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
            scope.word()
        );
        scope.find(JSON_ARGS.finding(message, &scope.instruction.span));
    }
}

/// A name that says that its value should be nobody's to see.
pub(crate) fn secret(scope: &Scope<'_>, name: &str) {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const PUBLIC: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&PUBLIC) {
        let keyword = &scope.instruction.keyword;
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        scope.find(SECRETS.finding(message, &scope.locate(name, 0, u32::try_from(name.len()).unwrap_or(0))));
    }
}
