//! BuildKit's rules that concern the file and what FROM names; their texts are interface and stay as they are.

/// A rule.
pub struct Rule {
    /// What `check=skip=` calls it.
    pub name: &'static str,
    /// In the address of its page; one rule has none.
    pub slug: Option<&'static str>,
    /// What it says in general.
    pub description: &'static str,
}

const fn rule(name: &'static str, slug: &'static str, description: &'static str) -> Rule {
    Rule { name, slug: Some(slug), description }
}

pub(super) const STAGE_CASING: Rule = rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase");
pub(super) const AS_CASING: Rule =
    rule("FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword");
pub(super) const EMPTY_CONTINUATION: Rule = rule(
    "NoEmptyContinuation",
    "no-empty-continuation",
    "Empty continuation lines will become errors in a future release",
);
pub(super) const CASING: Rule = rule(
    "ConsistentInstructionCasing",
    "consistent-instruction-casing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
);
pub(super) const DUPLICATE_NAME: Rule =
    rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique");
pub(super) const RESERVED_NAME: Rule =
    rule("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names");
pub(super) const DESCRIPTION: Rule = rule(
    EXPERIMENTAL,
    "invalid-definition-description",
    "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not \
     intended to be a description comment, add an empty line or comment between the instruction and the comment.",
);
/// The one rule that is off unless it is asked for.
pub(super) const EXPERIMENTAL: &str = "InvalidDefinitionDescription";

/// A variable in FROM that nothing declares.
pub const UNDEFINED_FROM_ARG: Rule =
    rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs");
/// A base that is no image unless an argument is given.
pub const INVALID_DEFAULT_ARG: Rule = rule(
    "InvalidDefaultArgInFrom",
    "invalid-default-arg-in-from",
    "Default value for global ARG results in an empty or invalid base image name",
);
/// The target's platform, which would be taken anyway.
pub const REDUNDANT_PLATFORM: Rule = rule(
    "RedundantTargetPlatform",
    "redundant-target-platform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
);
/// A platform that no build can choose.
pub const FROM_PLATFORM_CONSTANT: Rule = rule(
    "FromPlatformFlagConstDisallowed",
    "from-platform-flag-const-disallowed",
    "FROM --platform flag should not use a constant value",
);
/// An image for another platform than was asked for.
pub const INVALID_BASE_PLATFORM: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    slug: None,
    description: "Base image platform does not match expected target platform",
};
/// A source that the ignore file keeps out of the context.
pub const COPY_IGNORED: Rule =
    rule("CopyIgnoredFile", "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore");
