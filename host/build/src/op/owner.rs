//! `--chown` and the owner of a working directory: names looked up in the image's own files.

/// A user's and a group's number.
pub(crate) type Owner = (u32, u32);

/// Whether the files of the image are needed to understand this.
pub(crate) fn needs_files(spec: &str) -> bool {
    spec.split(':').any(|part| !part.is_empty() && numeric(part).is_none())
}

/// Resolves `user[:group]`. A number alone is the group's as well; a name alone brings the user's own group. A name that
/// is not in the image's files is root's, as in BuildKit, and told.
pub(crate) fn resolve(spec: &str, passwd: &str, group: &str) -> (Owner, Vec<String>) {
    let (user, group_name) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
    let find = |text: &str, name: &str| -> Option<Vec<String>> {
        let rows = text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        rows.into_iter().find(|row| row.first().is_some_and(|first| first == name))
    };
    let number = |row: &[String], at: usize| row.get(at).and_then(|field| field.parse().ok());
    let mut missing = Vec::new();
    let mut miss = |kind: &str, name: &str, file: &str| {
        // Root is root in an image without users, too.
        if !name.is_empty() && name != "root" {
            missing.push(format!("there is no {kind} \"{name}\" in the image's /etc/{file}: root is taken"));
        }
    };
    let (uid, own_gid) = match numeric(user) {
        Some(uid) => (uid, uid),
        None => match find(passwd, user).and_then(|row| Some((number(&row, 2)?, number(&row, 3).unwrap_or(0)))) {
            Some(ids) => ids,
            None => {
                miss("user", user, "passwd");
                (0, 0)
            }
        },
    };
    let gid = match group_name {
        None | Some("") => own_gid,
        Some(name) => match numeric(name).or_else(|| find(group, name).and_then(|row| number(&row, 2))) {
            Some(gid) => gid,
            None => {
                miss("group", name, "group");
                if name == "root" { 0 } else { own_gid }
            }
        },
    };
    ((uid, gid), missing)
}

/// A number as people write it: no sign.
fn numeric(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_resolved() {
        let (passwd, group) = ("www:x:33:34::/:/bin/sh\n", "mail:x:8:\n");
        for (spec, owner) in [
            ("www", (33, 34)),
            ("www:mail", (33, 8)),
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            (":mail", (0, 8)),
            ("root:root", (0, 0)),
            ("5:root", (5, 0)),
        ] {
            assert_eq!(resolve(spec, passwd, group), (owner, Vec::new()), "{spec}");
        }
        for (spec, owner) in [("nobody", (0, 0)), ("5:nogroup", (5, 5)), ("+5", (0, 0))] {
            let (resolved, missing) = resolve(spec, passwd, group);
            assert_eq!((resolved, missing.len()), (owner, 1), "{spec}");
        }
        assert!(needs_files("www") && needs_files("1:mail") && !needs_files("1:2"));
    }
}
