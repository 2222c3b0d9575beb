//! How people write git repositories: `https://host/repo.git#ref:folder`, `git@host:repo`, with a query in newer forms.
//!
//! BuildKit's rules (`frontend/dockerfile/dfgitutil`): what is no reference by them is a path or a file on the web.

use url::Url;

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Without fragment and query.
    pub remote: String,
    /// Branch, tag or commit; none: the default branch.
    pub name: Option<String>,
    /// Only this folder.
    pub folder: Option<String>,
    /// The commit that it must be, or its beginning.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub without_submodules: bool,
    /// Whether files bear the commit's time.
    pub commit_time: Option<bool>,
    /// Whether the commit is fetched by its number, without asking what the name means.
    pub by_commit: bool,
}

impl Reference {
    /// Reads a reference; none when the text is something else.
    ///
    /// # Errors
    /// When it is a git reference, and malformed.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let (remote, query, fragment) = split(text)?;
        Some(Self::with_options(remote, &query, &fragment))
    }

    /// The same for a build context, where `github.com/user/repo` is one too.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_context(text: &str) -> Option<Result<Self, String>> {
        match text.strip_prefix("github.com/") {
            Some(_) => {
                let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                Some(Self::with_options(format!("https://{path}"), query, fragment))
            }
            None => Self::parse(text),
        }
    }

    fn with_options(remote: String, query: &str, fragment: &str) -> Result<Self, String> {
        let mut reference = Self { remote, ..Self::default() };
        let (name, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        reference.name = filled(name);
        reference.folder = filled(&clean(folder));
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&key.to_string()) {
                return Err(format!("query \"{key}\" has multiple values"));
            }
            seen.push(key.to_string());
            let truth = || match &*value {
                "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
                _ => Err(format!("invalid {key} value: \"{value}\"")),
            };
            match &*key {
                "keep-git-dir" => reference.keep_git_dir = Some(truth()?),
                "submodules" => reference.without_submodules = !truth()?,
                "fetch-by-commit" => reference.by_commit = truth()?,
                _ if value.is_empty() => return Err(format!("query \"{key}\" has no value")),
                "ref" => reference.agree("ref", &value)?,
                "tag" => tag = Some(prefixed("refs/tags/", &value)),
                "branch" => branch = Some(prefixed("refs/heads/", &value)),
                "subdir" => {
                    let folder = clean(&value);
                    if reference.folder.as_ref().is_some_and(|known| *known != folder) {
                        let known = reference.folder.unwrap_or_default();
                        return Err(format!("subdir conflicts: \"{known}\" vs \"{value}\""));
                    }
                    reference.folder = filled(&folder);
                }
                "checksum" | "commit" => reference.checksum = Some(value.to_string()),
                "mtime" => {
                    reference.commit_time = Some(match &*value {
                        "commit" => true,
                        "checkout" => false,
                        _ => {
                            return Err(format!(
                                "invalid mtime value: \"{value}\" (must be \"checkout\" or \"commit\")"
                            ));
                        }
                    });
                }
                _ => return Err(format!("unexpected query \"{key}\"")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".into());
        }
        for name in tag.iter().chain(&branch) {
            reference.agree("ref", name)?;
        }
        Ok(reference)
    }

    fn agree(&mut self, what: &str, name: &str) -> Result<(), String> {
        match &self.name {
            Some(known) if known != name => Err(format!("{what} conflicts: \"{known}\" vs \"{name}\"")),
            _ => {
                self.name = Some(name.to_owned());
                Ok(())
            }
        }
    }

    /// The host, with its port, where the reference is a URL.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        let url = Url::parse(&self.remote).ok()?;
        let host = url.host_str()?;
        Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    }
}

/// Remote, query and fragment of what is a git reference.
fn split(text: &str) -> Option<(String, String, String)> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    let whole = || Some((remote.to_owned(), query.to_owned(), fragment.to_owned()));
    if let Some((scheme, _)) = remote.split_once("://") {
        let url = Url::parse(remote).ok()?;
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => whole(),
            "http" | "https" if url.path().ends_with(".git") => whole(),
            _ => None,
        };
    }
    // `user@host:path`
    let (user, rest) = remote.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_name = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
    };
    if is_name(user, "_") && is_name(host, ".") && !path.is_empty() { whole() } else { None }
}

fn prefixed(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

fn clean(folder: &str) -> String {
    String::from_utf8_lossy(&oci::tree::clean(folder.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Reference;

    fn parse(text: &str) -> Reference {
        Reference::parse(text).expect(text).expect(text)
    }

    #[test]
    fn what_is_no_repository_is_left_to_others() {
        for text in [
            "https://example.com/",
            "https://example.com/foo",
            "https://example.com/foo.git/",
            "https://example.com/foo.git.bar",
            "custom.xyz/moby/buildkit.git",
            "https://github.com/moby/buildkit",
            "./.git",
            ".git",
            "github.com/moby/buildkit",
            "httpx://example.com/foo.git",
            "folder",
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }

    #[test]
    fn references_are_read() {
        let name = |text: &str| (parse(text).name, parse(text).folder);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(name("https://example.com/foo.git"), (None, None));
        assert_eq!(name("https://example.com/foo.git#release/1.2"), (some("release/1.2"), None));
        assert_eq!(name("https://github.com/foo/bar.git#baz/qux:quux/quuz"), (some("baz/qux"), some("quux/quuz")));
        assert_eq!(name("https://github.com/docker/docker.git#:myfolder"), (None, some("myfolder")));
        assert_eq!(name("https://h/d.git?ref=v1.0.0&subdir=/subdir"), (some("v1.0.0"), some("subdir")));
        assert_eq!(name("https://h/d.git?tag=v1.0.0"), (some("refs/tags/v1.0.0"), None));
        assert_eq!(name("https://h/d.git?branch=v1.0"), (some("refs/heads/v1.0"), None));
        assert_eq!(name("https://h/d.git?tag=v0.0.2#refs/tags/v0.0.2"), (some("refs/tags/v0.0.2"), None));
        let scp = parse("git@github.com:moby/buildkit.git?subdir=/subdir#v1.0.0");
        assert_eq!((scp.remote.as_str(), scp.name), ("git@github.com:moby/buildkit.git", some("v1.0.0")));
        assert_eq!(parse("https://foo:bar@h/d.git").remote, "https://foo:bar@h/d.git");
        assert!(parse("https://h/d.git?keep-git-dir").keep_git_dir == Some(true));
        assert!(parse("https://h/d.git?submodules=false").without_submodules);
        let context = Reference::parse_context("github.com/moby/buildkit#master").expect("one").expect("one");
        assert_eq!((context.remote.as_str(), context.name), ("https://github.com/moby/buildkit", some("master")));
    }

    #[test]
    fn contradictions_are_errors() {
        for (text, reason) in [
            ("https://h/d.git?ref=v1.0.0#v1.2.3", "ref conflicts: \"v1.2.3\" vs \"v1.0.0\""),
            ("https://h/d.git?ref=v1.0.0&tag=v1.2.3", "ref conflicts: \"v1.0.0\" vs \"refs/tags/v1.2.3\""),
            ("https://h/d.git?tag=v1.0.0&branch=v1.0", "branch conflicts with tag"),
            ("https://h/d.git?invalid=123", "unexpected query \"invalid\""),
            ("https://h/d.git?ref", "query \"ref\" has no value"),
            ("https://h/d.git?submodules=maybe", "invalid submodules value: \"maybe\""),
        ] {
            assert_eq!(Reference::parse(text), Some(Err(reason.into())), "{text}");
        }
        assert!(Reference::parse("https://h/d.git?mtime=invalid").is_some_and(|parsed| parsed.is_err()));
    }
}
