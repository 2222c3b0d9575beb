//! `skip=A,B;error=true;experimental=C`: which rules count, by the directive `# check=` or BUILDKIT_DOCKERFILE_CHECK.

use crate::directive;
use crate::lint::rules::EXPERIMENTAL;

/// Which rules count, and whether a finding fails the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    skip: Rules,
    experimental: Rules,
    /// Whether a finding fails the build.
    pub error: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rules {
    All,
    Named(Vec<String>),
}

impl Default for Rules {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Rules {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

impl Config {
    /// Reads options. Names of rules are not checked, so that files may name rules of other versions.
    ///
    /// # Errors
    /// In BuildKit's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid check option \"{part}\""))?;
            match key.trim() {
                "skip" => config.skip = Rules::parse(value),
                "experimental" => config.experimental = Rules::parse(value),
                "error" => {
                    config.error = match value.trim() {
                        "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
                        "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
                        _ => return Err(format!("failed to parse check option \"{part}\": it is true or false")),
                    }
                }
                key => return Err(format!("invalid check option \"{key}\"")),
            }
        }
        Ok(config)
    }

    /// The options of a directive's value, which end at the first blank.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_directive(value: &str) -> Result<Self, String> {
        Self::parse(value.split(' ').next().unwrap_or_default())
    }

    /// Whether a finding of this rule counts, with these comments above its instruction.
    #[must_use]
    pub fn counts(&self, rule: &str, comments: &[String]) -> bool {
        let above = comments.iter().find_map(|comment| {
            let line = format!("#{comment}");
            let (name, value) = directive::parse(&line)?;
            // One that makes no sense says nothing: it may be a comment after all.
            name.eq_ignore_ascii_case("check").then(|| Self::of_directive(value).unwrap_or_default())
        });
        let above = above.unwrap_or_default();
        if rule == EXPERIMENTAL {
            return self.experimental.has(rule) || above.experimental.has(rule);
        }
        !self.skip.has(rule) && !above.skip.has(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn options_are_read() {
        let config = Config::of_directive("skip=A,B;error=true // why").expect("options");
        assert!(config.error && !config.counts("A", &[]) && config.counts("C", &[]));
        assert!(!config.counts("C", &["check=skip=C".to_owned()]));
        assert!(!config.counts("InvalidDefinitionDescription", &[]));
        assert!(
            Config::parse("skip=all;experimental=all").expect("options").counts("InvalidDefinitionDescription", &[])
        );
        assert_eq!(Config::parse("sikp=A"), Err("invalid check option \"sikp\"".into()));
        assert_eq!(Config::parse("skip"), Err("invalid check option \"skip\"".into()));
        assert!(Config::parse("error=maybe").is_err());
    }
}
