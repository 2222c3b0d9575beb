//! Limits of each process of a step, by the names that Docker's `--ulimit` has for them (setrlimit(2)).

use crate::rootfs::During;
use crate::spec::Limit;

/// Names, and the kernel's numbers on every architecture that this program is built for.
const NAMES: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// Whether there is a limit of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    NAMES.iter().any(|(known, _)| *known == name)
}

/// Sets limits of this process.
pub(crate) fn set(limits: &[Limit]) -> Result<(), String> {
    for limit in limits {
        let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == limit.name) else {
            return Err(format!("there is no limit `{}`", limit.name));
        };
        let value = |value: Option<u64>| value.unwrap_or(u64::MAX);
        sys::process::set_limit(*number, value(limit.soft), value(limit.hard))
            .during(format!("setting the limit {}", limit.name))?;
    }
    Ok(())
}
