//! A cache policy for CI: each branch keeps its own entries and may use main's, and what is not trusted keeps none.

use plywood_sdk::cache_policy::{
    self, Decision, Diagnostic, Guest, KeyEdit, Need, PluginError, PluginInfo, Severity, Step, Verdict, environment,
    settings,
};

mod origin;

use origin::Origin;

struct BranchScopes;

impl Guest for BranchScopes {
    fn info() -> PluginInfo {
        let needs = origin::VARIABLES.iter().map(|(name, reason)| Need {
            kind: "env".into(),
            name: (*name).into(),
            reason: (*reason).into(),
        });
        PluginInfo {
            name: "branch-scopes".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A branch reads its own cache and main's, and writes its own; a fork writes none".into(),
            homepage: None,
            needs: needs.collect(),
        }
    }

    fn decide(_: Step) -> Result<Verdict, PluginError> {
        let origin = Origin::find(&settings::get, &environment::get).map_err(wrong)?;
        Ok(verdict(&origin))
    }
}

fn wrong(message: String) -> PluginError {
    PluginError::Invalid(vec![Diagnostic {
        severity: Severity::Error,
        code: "InvalidSetting".into(),
        message,
        span: None,
        help: None,
        description: None,
        url: None,
        fixes: Vec::new(),
    }])
}

fn verdict(origin: &Origin) -> Verdict {
    let main = origin.scope(&origin.main);
    let (edit, reason) = match &origin.writes {
        Ok(branch) if *branch == origin.main => {
            let reason = format!("reads and writes {main}");
            (KeyEdit { read_scopes: vec![main.clone()], write_scope: Some(main), ..KeyEdit::default() }, reason)
        }
        Ok(branch) => {
            let own = origin.scope(branch);
            let reason = format!("reads {own} and {main}, writes {own}");
            (KeyEdit { read_scopes: vec![own.clone(), main], write_scope: Some(own), ..KeyEdit::default() }, reason)
        }
        // Not even the branch's own scope is read: a fork may call its branch as others call theirs.
        Err(why) => {
            let reason = format!("reads {main}, writes nothing: {why}");
            (KeyEdit { read_scopes: vec![main], write_scope: None, ..KeyEdit::default() }, reason)
        }
    };
    Verdict { decision: Decision::Keyed(edit), reason: Some(reason), diagnostics: Vec::new() }
}

cache_policy::export!(BranchScopes with_types_in cache_policy);

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(project: &str, writes: Result<&str, &str>) -> (Vec<String>, Option<String>, String) {
        let origin =
            Origin { project: project.into(), main: "main".into(), writes: writes.map(Into::into).map_err(Into::into) };
        let verdict = verdict(&origin);
        let Decision::Keyed(edit) = verdict.decision else { panic!("an edit") };
        assert!(edit.drop.is_empty() && edit.add.is_empty() && edit.max_age.is_none());
        (edit.read_scopes, edit.write_scope, verdict.reason.expect("a reason"))
    }

    #[test]
    fn a_branch_reads_main_and_writes_its_own() {
        let (read, write, reason) = scopes("a/b", Ok("x"));
        assert_eq!((read, write.as_deref()), (vec!["a/b:x".to_owned(), "a/b:main".to_owned()], Some("a/b:x")));
        assert_eq!(reason, "reads a/b:x and a/b:main, writes a/b:x");
    }

    #[test]
    fn main_has_one_scope() {
        let (read, write, _) = scopes("", Ok("main"));
        assert_eq!((read, write.as_deref()), (vec!["main".to_owned()], Some("main")));
    }

    #[test]
    fn a_stranger_writes_nothing() {
        let (read, write, reason) = scopes("", Err("it is a fork"));
        assert_eq!((read, write), (vec!["main".to_owned()], None));
        assert_eq!(reason, "reads main, writes nothing: it is a fork");
    }
}
