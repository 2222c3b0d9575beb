//! `--chown` and the owner of a working directory: names looked up in the image's own files.

/// A user's and a group's number.
pub(crate) type Owner = (u32, u32);

/// Whether the files of the image are needed to understand this.
pub(crate) fn needs_files(spec: &str) -> bool {
    spec.split(':').any(|part| !part.is_empty() && part.parse::<u32>().is_err())
}

/// Resolves `user[:group]`. A number alone is the group's as well; a name alone brings the user's own group.
///
/// # Errors
/// In words, when a name is not in the image's files.
pub(crate) fn resolve(spec: &str, passwd: &str, group: &str) -> Result<Owner, String> {
    let (user, group_name) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
    let find = |text: &str, name: &str| -> Option<Vec<String>> {
        let rows = text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        rows.into_iter().find(|row| row.first().is_some_and(|first| first == name))
    };
    let number = |row: &[String], at: usize| row.get(at).and_then(|field| field.parse().ok());
    let missing = |kind: &str, name: &str, file: &str| {
        format!("invalid {kind} \"{name}\": no such {kind} in the image's /etc/{file}")
    };
    let (uid, own_gid) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        // Root is root in an image without users, too.
        Err(_) if user.is_empty() || user == "root" && find(passwd, user).is_none() => (0, 0),
        Err(_) => {
            let row = find(passwd, user).ok_or_else(|| missing("user", user, "passwd"))?;
            let uid = number(&row, 2).ok_or_else(|| missing("user", user, "passwd"))?;
            (uid, number(&row, 3).unwrap_or(0))
        }
    };
    let gid = match group_name {
        None | Some("") => own_gid,
        Some(name) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let row = find(group, name).ok_or_else(|| missing("group", name, "group"))?;
                number(&row, 2).ok_or_else(|| missing("group", name, "group"))?
            }
        },
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_resolved() {
        let (passwd, group) = ("www:x:33:34::/:/bin/sh\n", "mail:x:8:\n");
        for (spec, owner) in [
            ("www", Ok((33, 34))),
            ("www:mail", Ok((33, 8))),
            ("5", Ok((5, 5))),
            ("5:6", Ok((5, 6))),
            (":mail", Ok((0, 8))),
        ] {
            assert_eq!(resolve(spec, passwd, group), owner, "{spec}");
        }
        assert!(resolve("nobody", passwd, group).is_err());
        assert!(resolve("5:nogroup", passwd, group).is_err());
        assert!(needs_files("www") && needs_files("1:mail") && !needs_files("1:2"));
    }
}
