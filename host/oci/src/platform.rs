//! What an image runs on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant, in Go's words (`linux/arm64`, `linux/arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7` of `arm/v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows' build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Windows' features.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform (`os/architecture[/variant]`, as in linux/amd64 or linux/arm/v7)")]
pub struct PlatformError(String);

impl Platform {
    /// The machine that this program runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// A platform in normal form: `x86_64` is `amd64`, `arm64/v8` has no variant, `arm` alone is `v7`.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (os, given) = (os.to_lowercase(), architecture.to_lowercase());
        let mut variant = variant.map(str::to_lowercase).filter(|v| !v.is_empty());
        let architecture = match given.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "i386" | "i486" | "i586" | "i686" | "x86" => "386",
            "aarch64" => "arm64",
            "armhf" => "arm",
            "armel" => {
                variant = Some("v6".into());
                "arm"
            }
            "powerpc64le" => "ppc64le",
            other => other,
        }
        .to_owned();
        if let Some(v) = &mut variant
            && v.starts_with(|c: char| c.is_ascii_digit())
        {
            v.insert(0, 'v');
        }
        match (architecture.as_str(), variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) => variant = None,
            ("arm", None) => variant = Some("v7".into()),
            _ => {}
        }
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        Self { os, architecture, variant, os_version: None, os_features: Vec::new() }
    }

    /// How well an image made for `image` runs here: none when not at all, else lower is better.
    #[must_use]
    pub fn rank(&self, image: &Self) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        let level = |platform: &Self| -> Option<u32> {
            platform.variant.as_deref().map_or(Some(0), |v| v.strip_prefix('v').and_then(|n| n.parse().ok()))
        };
        if self.variant == image.variant {
            return Some(0);
        }
        let (own, theirs) = (level(self)?, level(image)?);
        (theirs < own).then(|| own - theirs)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError(text.to_owned());
        let parts: Vec<&str> = text.trim().split('/').collect();
        let legal = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(legal) {
            return Err(error());
        }
        let host = Self::host();
        match parts[..] {
            // A lone word is an operating system where it is one, else an architecture.
            [one] if matches!(one, "linux" | "windows" | "darwin" | "freebsd") => {
                Ok(Self::new(one, &host.architecture, host.variant.as_deref()))
            }
            [one] => Ok(Self::new(&host.os, one, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        Self {
            os_version: platform.os_version().clone(),
            os_features: platform.os_features().clone().unwrap_or_default(),
            ..Self::new(&platform.os().to_string(), &platform.architecture().to_string(), platform.variant().as_deref())
        }
    }
}

impl From<&Platform> for oci_spec::image::Platform {
    fn from(platform: &Platform) -> Self {
        let mut out = Self::default();
        out.set_os(platform.os.as_str().into());
        out.set_architecture(platform.architecture.as_str().into());
        out.set_variant(platform.variant.clone());
        out.set_os_version(platform.os_version.clone());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().map(|p| p.to_string()), Ok(normal.to_owned()), "{text}");
        }
        for text in ["", "linux/", "a/b/c/d", "linux/a md"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_older_variant_will_do() {
        let v7 = Platform::new("linux", "arm", Some("v7"));
        assert_eq!(v7.rank(&v7), Some(0));
        assert_eq!(v7.rank(&Platform::new("linux", "arm", Some("v6"))), Some(1));
        assert_eq!(Platform::new("linux", "arm", Some("v6")).rank(&v7), None);
        assert_eq!(v7.rank(&Platform::host()), None);
    }
}
