//! Users and groups of an image: passwd(5) and group(5).

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why a `user[:group]` means no one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to find {kind} {name}: no matching entries in the image's /etc/{file} file")]
pub struct Unknown {
    /// `user` or `group`.
    pub kind: &'static str,
    /// What was looked for.
    pub name: String,
    /// Where.
    pub file: &'static str,
}

/// Resolves `user[:group]` by the image's files. A number need not be in them. A group given by name or number replaces
/// the user's supplementary groups.
///
/// # Errors
/// When a name is not there.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, Unknown> {
    let (user, group_spec) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
    };
    let users = rows(passwd);
    let number = user.parse::<u32>().ok();
    let field = |row: &[String], at: usize| row.get(at).and_then(|text| text.parse::<u32>().ok());
    // A name that looks like a number is looked for by name first.
    let row = users
        .iter()
        .find(|row| row.first().is_some_and(|name| name == user))
        .or_else(|| users.iter().find(|row| number.is_some() && field(row, 2) == number));
    let uid = row.and_then(|row| field(row, 2)).or(number);
    let uid = uid.ok_or_else(|| Unknown { kind: "user", name: user.to_owned(), file: "passwd" })?;
    let home = row.and_then(|row| row.get(5)).filter(|home| !home.is_empty()).map_or("/", String::as_str);
    let groups = rows(group);
    let (gid, extra) = match group_spec.filter(|group| !group.is_empty()) {
        Some(name) => (find_group(name, &groups)?, Vec::new()),
        None => {
            let gid = row.and_then(|row| field(row, 3)).unwrap_or(0);
            let name = row.and_then(|row| row.first()).cloned().unwrap_or_default();
            let is_member = |row: &&Vec<String>| {
                !name.is_empty() && row.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
            };
            let others = groups.iter().filter(is_member).filter_map(|row| field(row, 2));
            (gid, others.filter(|other| *other != gid).collect())
        }
    };
    // As initgroups(3) and containerd have it, a process is in its own group as well.
    let groups = std::iter::once(gid).chain(extra).collect();
    Ok(User { uid, gid, groups, home: home.to_owned() })
}

fn find_group(name: &str, groups: &[Vec<String>]) -> Result<u32, Unknown> {
    let by_name = groups.iter().find(|row| row.first().is_some_and(|known| known == name));
    by_name.and_then(|row| row.get(2)?.parse().ok()).or_else(|| name.parse().ok()).ok_or_else(|| Unknown {
        kind: "group",
        name: name.to_owned(),
        file: "group",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n1000:x:5:5::/odd:\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nmail:x:8:www,other\nadm:x:4:root\n";

    fn ids(spec: &str) -> Option<(u32, u32, Vec<u32>, String)> {
        resolve(spec, PASSWD, GROUP).ok().map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        assert_eq!(ids(""), Some((0, 0, vec![0, 4], "/root".into())));
        assert_eq!(ids("www"), Some((33, 33, vec![33, 8], "/var/www".into())));
        assert_eq!(ids("33"), Some((33, 33, vec![33, 8], "/var/www".into())));
        assert_eq!(ids("www:mail"), Some((33, 8, vec![8], "/var/www".into())));
        assert_eq!(ids("7:9"), Some((7, 9, vec![9], "/".into())));
        assert_eq!(ids("1000"), Some((5, 5, vec![5], "/odd".into())));
        assert_eq!(ids("nobody"), None);
        assert_eq!(ids("www:nogroup"), None);
    }
}
