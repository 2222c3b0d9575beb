//! Commands for other processors than this one's: run by an emulator that the kernel starts (binfmt_misc).

use std::fs;

/// Where the kernel tells of its handlers (Documentation/admin-guide/binfmt-misc.rst).
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// Whether commands for an architecture, by its name in image specifications, run here: by a handler that was opened when
/// it was registered (flag `F`), since an image does not hold the emulator.
#[must_use]
pub fn runs(architecture: &str) -> bool {
    if architecture == "386" && cfg!(target_arch = "x86_64") {
        return true;
    }
    let name = match architecture {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        other => other,
    };
    let text = fs::read_to_string(format!("{HANDLERS}/qemu-{name}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    text.lines().next() == Some("enabled") && flags.contains('F')
}
