//! Whose build it is: which project, which branch, and whether it may be trusted with a scope of its own.
//!
//! A change that somebody proposes brings its own plywood.toml, and settings do not tell which file they come from. So a
//! setting never overrules what the CI's variables say, which the user has granted, and can take trust away only. The
//! setting `main` says what is read besides; the scope that is written is the branch's own, whatever main is called.

/// Variables that are asked for, and what they tell.
pub(crate) const VARIABLES: [(&str, &str); 13] = [
    ("GITLAB_CI", "whether it is GitLab's CI"),
    ("CI_PROJECT_PATH", "the project, on GitLab"),
    ("CI_COMMIT_BRANCH", "the branch, on GitLab"),
    ("CI_DEFAULT_BRANCH", "the main branch, on GitLab"),
    ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "where a merge request comes from, on GitLab"),
    ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "the branch of a merge request, on GitLab"),
    ("GITHUB_ACTIONS", "whether it is GitHub's CI"),
    ("GITHUB_REPOSITORY", "the project, on GitHub"),
    ("GITHUB_EVENT_NAME", "whether it is a pull request, on GitHub"),
    ("GITHUB_REF_TYPE", "whether it is a branch, on GitHub"),
    ("GITHUB_REF_NAME", "the branch, on GitHub"),
    ("GITHUB_HEAD_REF", "the branch of a pull request, on GitHub"),
    (FORK, "whether a pull request comes from a fork, on GitHub"),
];

/// GitHub has no variable for it, so the workflow sets this one.
const FORK: &str = "PLYWOOD_FORK";

/// Whose build it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Empty where there is only one.
    pub(crate) project: String,
    pub(crate) main: String,
    /// The branch whose scope is written, or why none is.
    pub(crate) writes: Result<String, String>,
}

/// A setting or variable, by its name.
type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

impl Origin {
    /// The scope of one of the project's branches. No branch is called `a:b`, so that none is taken for another project's.
    pub(crate) fn scope(&self, branch: &str) -> String {
        match self.project.as_str() {
            "" => branch.to_owned(),
            project => format!("{project}:{branch}"),
        }
    }

    /// Finds it out; an error is about a setting.
    pub(crate) fn find(setting: Lookup<'_>, variable: Lookup<'_>) -> Result<Self, String> {
        let setting = |name: &str| setting(name).filter(|value| !value.is_empty());
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let ci = match setting("ci").as_deref() {
            None => Ci::found(&variable),
            Some("gitlab") => Ci::GitLab,
            Some("github") => Ci::GitHub,
            Some("none") => Ci::None,
            Some(other) => {
                return Err(format!("the setting `ci` is `{other}`, which is none of gitlab, github and none"));
            }
        };
        let project = match ci {
            Ci::GitLab => variable("CI_PROJECT_PATH").ok_or_else(|| is_missing("CI_PROJECT_PATH")),
            Ci::GitHub => variable("GITHUB_REPOSITORY").ok_or_else(|| is_missing("GITHUB_REPOSITORY")),
            Ci::None => Ok(setting("project").unwrap_or_default()),
        };
        let branch = match ci {
            Ci::GitLab => on_gitlab(&variable),
            Ci::GitHub => on_github(&variable),
            Ci::None => elsewhere(&setting, &variable),
        };
        let default = || variable("CI_DEFAULT_BRANCH").filter(|_| ci == Ci::GitLab);
        let main = setting("main").or_else(default).unwrap_or_else(|| "main".into());
        let distrusted = distrusted(&setting, &variable)?;
        let writes = match (distrusted, &project) {
            (Some(why), _) => Err(why),
            (None, Err(why)) => Err(why.clone()),
            (None, Ok(_)) => branch,
        };
        Ok(Self { project: project.unwrap_or_default(), main, writes })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ci {
    GitLab,
    GitHub,
    None,
}

impl Ci {
    fn found(variable: Lookup<'_>) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| value == "true");
        // A variable that is not granted leaves a line in the log: no more are asked for than must be.
        if is_set("GITLAB_CI") {
            return Self::GitLab;
        }
        if is_set("GITHUB_ACTIONS") { Self::GitHub } else { Self::None }
    }
}

/// A variable that is not granted and one that is not set look the same.
fn is_missing(name: &str) -> String {
    format!("${name} is not set, or not granted")
}

fn need(variable: Lookup<'_>, name: &str) -> Result<String, String> {
    variable(name).ok_or_else(|| is_missing(name))
}

fn on_gitlab(variable: Lookup<'_>) -> Result<String, String> {
    let Some(source) = variable("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH") else {
        // Not set for merge requests, so that one whose source is not granted is not taken for a branch.
        return variable("CI_COMMIT_BRANCH").ok_or_else(|| {
            format!("the branch is not known: {} (it is not, for a tag)", is_missing("CI_COMMIT_BRANCH"))
        });
    };
    match need(variable, "CI_PROJECT_PATH")? == source {
        true => need(variable, "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"),
        false => Err(format!("the merge request comes from the fork {source}")),
    }
}

fn on_github(variable: Lookup<'_>) -> Result<String, String> {
    match need(variable, "GITHUB_EVENT_NAME")?.as_str() {
        "push" | "schedule" | "workflow_dispatch" => match need(variable, "GITHUB_REF_TYPE")?.as_str() {
            "branch" => need(variable, "GITHUB_REF_NAME"),
            other => Err(format!("a {other} is no branch")),
        },
        "pull_request" => match variable(FORK).as_deref() {
            Some("false") => need(variable, "GITHUB_HEAD_REF"),
            Some("true") => Err("the pull request comes from a fork".into()),
            _ => Err(format!("the pull request may come from a fork, ${FORK} does not say")),
        },
        // These run with main's rights and build whatever they check out.
        event => Err(format!("an event of the kind {event} does not say whose code is built")),
    }
}

fn elsewhere(setting: Lookup<'_>, variable: Lookup<'_>) -> Result<String, String> {
    let named = setting("branch-variable").map(|name| need(variable, &name));
    let branch = named.or_else(|| setting("branch").map(Ok));
    let unknown = |why: String| format!("the branch is not known: {why}");
    branch.unwrap_or_else(|| Err("no variable and no setting says it".into())).map_err(unknown)
}

/// Why the settings want nothing to be written, if they do.
fn distrusted(setting: Lookup<'_>, variable: Lookup<'_>) -> Result<Option<String>, String> {
    match setting("fork").as_deref() {
        None | Some("false") => {}
        Some("true") => return Ok(Some("it is a fork, says the setting `fork`".into())),
        Some(other) => return Err(format!("the setting `fork` is `{other}`, which is neither true nor false")),
    }
    let Some(name) = setting("fork-variable") else { return Ok(None) };
    let values = setting("fork-values").unwrap_or_else(|| "true yes 1".into());
    let value = variable(&name).unwrap_or_default();
    let why = match is_fork(&value, &values) {
        true if value.is_empty() => Some(format!("it may be a fork: {}", is_missing(&name))),
        true => Some(format!("it is a fork, since ${name} is {value}")),
        false => None,
    };
    Ok(why)
}

/// Whether a value is among those of forks, or, where the list says with `!` which are none, not among these.
fn is_fork(value: &str, values: &str) -> bool {
    let words = || values.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let mut trusted = words().filter_map(|word| word.strip_prefix('!')).peekable();
    let only_trusted = trusted.peek().is_some();
    words().any(|word| word == value) || only_trusted && !trusted.any(|word| word == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NAME=value name=value`: what is in upper case is a variable.
    fn find(text: &str) -> Result<Origin, String> {
        let get = |upper: bool| {
            move |name: &str| {
                let mut pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| *key == name && key.starts_with(char::is_uppercase) == upper).map(|p| p.1.into())
            }
        };
        Origin::find(&get(false), &get(true))
    }

    #[track_caller]
    fn writes(text: &str, scope: &str) {
        let origin = find(text).expect("settings are right");
        let branch = origin.writes.as_ref().unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(origin.scope(branch), scope, "{text}");
    }

    #[track_caller]
    fn reads_only(text: &str, main: &str, why: &str) {
        let origin = find(text).expect("settings are right");
        assert_eq!(origin.scope(&origin.main), main, "{text}");
        let reason = origin.writes.expect_err(text);
        assert!(reason.contains(why), "{text}: {reason}");
    }

    const GITLAB: &str = "GITLAB_CI=true CI_PROJECT_PATH=a/b CI_DEFAULT_BRANCH=trunk";
    const GITHUB: &str = "GITHUB_ACTIONS=true GITHUB_REPOSITORY=a/b";

    #[test]
    fn gitlab() {
        writes(&format!("{GITLAB} CI_COMMIT_BRANCH=x/y"), "a/b:x/y");
        let request = "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=trunk CI_MERGE_REQUEST_SOURCE_PROJECT_PATH";
        writes(&format!("{GITLAB} {request}=a/b"), "a/b:trunk");
        reads_only(&format!("{GITLAB} {request}=evil/b"), "a/b:trunk", "the fork evil/b");
        // Its source is not granted; or it is a tag.
        reads_only(&format!("{GITLAB} CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=trunk"), "a/b:trunk", "$CI_COMMIT_BRANCH");
        // A pipeline of a fork's own, on the same runner.
        writes("GITLAB_CI=true CI_PROJECT_PATH=evil/b CI_COMMIT_BRANCH=trunk", "evil/b:trunk");
        reads_only("ci=gitlab CI_COMMIT_BRANCH=x", "main", "$CI_PROJECT_PATH");
        writes(&format!("{GITLAB} CI_COMMIT_BRANCH=x main=release"), "a/b:x");
    }

    #[test]
    fn github() {
        let branch = "GITHUB_REF_TYPE=branch GITHUB_REF_NAME=main";
        writes(&format!("{GITHUB} {branch} GITHUB_EVENT_NAME=push"), "a/b:main");
        let tag = "GITHUB_REF_TYPE=tag GITHUB_REF_NAME=main";
        reads_only(&format!("{GITHUB} {tag} GITHUB_EVENT_NAME=push"), "a/b:main", "a tag is no branch");
        let request = format!("{GITHUB} GITHUB_EVENT_NAME=pull_request GITHUB_HEAD_REF=x");
        writes(&format!("{request} PLYWOOD_FORK=false"), "a/b:x");
        reads_only(&format!("{request} PLYWOOD_FORK=true"), "a/b:main", "from a fork");
        reads_only(&request, "a/b:main", "may come from a fork");
        let target = format!("{GITHUB} {branch} GITHUB_EVENT_NAME=pull_request_target PLYWOOD_FORK=false");
        reads_only(&target, "a/b:main", "pull_request_target");
        reads_only(&format!("{GITHUB} {branch}"), "a/b:main", "$GITHUB_EVENT_NAME");
    }

    #[test]
    fn elsewhere() {
        writes("branch=x", "x");
        writes("branch=x project=p", "p:x");
        writes("branch-variable=BRANCH BRANCH=y branch=x", "y");
        reads_only("", "main", "the branch is not known");
        // The variable is the user's word, and the project's is not taken in its place.
        reads_only("branch-variable=BRANCH branch=main main=trunk", "trunk", "$BRANCH is not set");
    }

    #[test]
    fn no_setting_overrules_the_ci() {
        let request = "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME=x CI_MERGE_REQUEST_SOURCE_PROJECT_PATH=evil/b";
        for settings in ["fork=false", "branch=trunk", "fork-variable=GITLAB_CI fork-values=no", "project=c"] {
            reads_only(&format!("{GITLAB} {request} {settings}"), "a/b:trunk", "the fork evil/b");
        }
        writes(&format!("{GITLAB} CI_COMMIT_BRANCH=x branch=trunk branch-variable=CI_DEFAULT_BRANCH"), "a/b:x");
    }

    #[test]
    fn settings_can_take_trust_away() {
        reads_only("branch=main fork=true", "main", "`fork`");
        reads_only(&format!("{GITLAB} CI_COMMIT_BRANCH=x fork=true"), "a/b:trunk", "`fork`");
        let with =
            |value: &str, values: &str| format!("branch=x fork-variable=OWNER OWNER={value} fork-values={values}");
        reads_only(&with("evil", "evil,worse"), "main", "$OWNER is evil");
        writes(&with("good", "evil,worse"), "x");
        writes(&with("good", "!good,!better"), "x");
        reads_only(&with("evil", "!good"), "main", "$OWNER is evil");
        reads_only(&with("", "!good"), "main", "may be a fork");
        reads_only("branch=x fork-variable=FORK FORK=1", "main", "$FORK is 1");
        writes("branch=x fork-variable=FORK FORK=0", "x");
    }

    #[test]
    fn a_wrong_setting_is_an_error() {
        for wrong in ["fork=maybe", "ci=jenkins"] {
            assert!(find(wrong).is_err(), "{wrong}");
        }
    }
}
