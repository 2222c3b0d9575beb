//! The instructions and their flags: what the host checks, and what the language's documentation is made from.

use plywood_sdk::instruction::{FlagSpec, KeywordSpec};

fn value(name: &str, doc: &str) -> FlagSpec {
    FlagSpec { name: name.into(), takes_value: true, repeatable: false, doc: doc.into(), deviation: None }
}

fn values(name: &str, doc: &str) -> FlagSpec {
    FlagSpec { repeatable: true, ..value(name, doc) }
}

fn switch(name: &str, doc: &str) -> FlagSpec {
    FlagSpec { takes_value: false, ..value(name, doc) }
}

fn other_than_in_buildkit(flag: FlagSpec, how: &str) -> FlagSpec {
    FlagSpec { deviation: Some(how.into()), ..flag }
}

/// An instruction whose arguments are text alone.
fn plain(keyword: &str, doc: &str) -> KeywordSpec {
    KeywordSpec {
        keyword: keyword.into(),
        flags: Vec::new(),
        doc: doc.into(),
        allows_heredoc: false,
        allows_exec_form: false,
        deviation: None,
    }
}

/// An instruction that takes a JSON list as well.
fn listed(keyword: &str, doc: &str) -> KeywordSpec {
    KeywordSpec { allows_exec_form: true, ..plain(keyword, doc) }
}

pub(crate) fn all() -> Vec<KeywordSpec> {
    let copy_flags = || {
        vec![
            other_than_in_buildkit(
                value("chown", "owner of what is copied: user[:group], by name or number; 0:0 from the context"),
                "a name that the image does not know is root there without a word, here with a warning",
            ),
            value("chmod", "permission bits of what is copied: octal, or chmod's symbolic form"),
            other_than_in_buildkit(
                switch("link", "copy without looking at the layers below"),
                "names in --chown are looked up in the stage; there they are an error",
            ),
            values("exclude", "leave out what matches this pattern"),
        ]
    };
    let mut add = KeywordSpec {
        allows_heredoc: true,
        ..listed("ADD", "Copies files, local archives unpacked, files from the web, and git repositories")
    };
    add.flags = copy_flags();
    add.flags.extend([
        value(
            "checksum",
            "what the file on the web must be (sha256:...), or the commit of a repository or its beginning",
        ),
        switch("keep-git-dir", "keep the .git folder of a repository"),
        switch(
            "unpack",
            "whether archives are unpacked: local ones are unless this says false, remote ones are if it says true",
        ),
    ]);
    let mut copy = KeywordSpec { allows_heredoc: true, ..listed("COPY", "Copies files") };
    copy.flags = copy_flags();
    copy.flags.extend([
        value("from", "a stage, a named context or an image to copy from, instead of the build context"),
        switch("parents", "keep the sources' parent folders"),
    ]);
    let mut run = KeywordSpec { allows_heredoc: true, ..listed("RUN", "Runs a command; what it changes is a layer") };
    run.flags = vec![
        values(
            "mount",
            "what is mounted while it runs: type=bind, cache, tmpfs, secret or ssh, each with BuildKit's options",
        ),
        other_than_in_buildkit(
            value("network", "which network it sees: default, none, or host, which wants `--allow network.host`"),
            "`default` is this machine's network",
        ),
        value("security", "how it is confined: sandbox, or insecure, which wants `--allow security.insecure`"),
        other_than_in_buildkit(values("device", "a device of the machine's (CDI)"), "not supported: an error"),
    ];
    run.deviation = Some("`1 << 2` in a command is taken for a here-document only where its end is there".into());
    let mut onbuild = plain("ONBUILD", "Keeps an instruction for images built on this one");
    onbuild.deviation = Some("unknown instructions and flags in it are errors at once".into());
    let mut healthcheck = plain("HEALTHCHECK", "How to tell that a container is well");
    healthcheck.flags = vec![
        value("interval", "time between two checks (30s)"),
        value("timeout", "time for one check (30s)"),
        value("start-period", "time in which failures do not count (0s)"),
        value("start-interval", "time between two checks in the start period (5s)"),
        value("retries", "failures in a row that make the container unhealthy (3)"),
    ];
    vec![
        add,
        plain("ARG", "Declares a build argument"),
        listed("CMD", "What a container runs, or its arguments to the entry point"),
        copy,
        listed("ENTRYPOINT", "What a container runs"),
        plain("ENV", "Sets environment variables"),
        plain("EXPOSE", "Names the ports that a container serves"),
        healthcheck,
        plain("LABEL", "Adds text to the image, by name"),
        plain("MAINTAINER", "Names the author; deprecated, a label does it"),
        onbuild,
        run,
        listed("SHELL", "The shell of shell forms"),
        plain("STOPSIGNAL", "The signal that ends a container"),
        plain("USER", "As whom commands run"),
        listed("VOLUME", "Marks folders whose content is kept apart"),
        plain("WORKDIR", "Where commands run; made if it is not there"),
    ]
}
