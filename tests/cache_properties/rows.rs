//! Single changes of what a step is made of, and of what it is not made of.

/// One change.
pub(crate) enum Change {
    /// In the Dockerfile: this becomes that.
    Text(&'static str, &'static str),
    /// Of a file: what it holds. It is made where it is not.
    Content(&'static str, &'static str),
    Mode(&'static str, u32),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    Capability(&'static str),
    Owner(&'static str),
    /// Of a file: when it was written.
    Time(&'static str),
    /// Of a file: when anything of it was changed.
    Touched(&'static str),
    /// Of the command line, parted by blanks.
    Words(&'static str, &'static str),
    /// Of the base image: its last instruction.
    Base(&'static str, &'static str),
    /// All of the context, to another folder.
    Moved,
}
use Change::{Base, Capability, Content, Link, Mode, Moved, Owner, Remove, Rename, Text, Time, Touched, Words};

pub(crate) type Row = (&'static str, &'static str, Change);

/// A command that tells all that it is given.
macro_rules! look {
    ($($flags:literal)?) => {
        concat!(
            "FROM base\nARG A\nRUN ", $($flags, " ",)? "exec > /open/seen 2>&1; busybox env | busybox sort; busybox id; ",
            "busybox pwd; ulimit -n; busybox grep Cap /proc/self/status; busybox cat /proc/net/dev | busybox cut -d: -f1; ",
            "busybox cat /etc/hosts; busybox df /dev/shm | busybox awk 'NR==2{print $2}'; ",
            "busybox find /m -exec busybox stat -c '%n %a %u %g %F' {} + | busybox sort; busybox cat /m /m/a /m/x; :\n"
        )
    };
}

/// Inputs that a build shows.
pub(crate) const INPUTS: &[Row] = &[
    ("what a file holds", "FROM base\nCOPY a /\n", Content("a", "2")),
    ("what a file in a folder holds", "FROM base\nCOPY folder /f/\n", Content("folder/deep/z", "2")),
    ("what a file holds that a pattern finds", "FROM base\nCOPY a* /f/\n", Content("a", "2")),
    ("the mode of a file", "FROM base\nCOPY a /\n", Mode("a", 0o600)),
    ("that a file sets the user", "FROM base\nCOPY a /\n", Mode("a", 0o4644)),
    ("the mode of a folder in a folder", "FROM base\nCOPY folder /f/\n", Mode("folder/deep", 0o700)),
    ("the target of a link", "FROM base\nCOPY folder /f/\n", Link("folder/link", "y")),
    ("that a link becomes a file", "FROM base\nCOPY folder /f/\n", Content("folder/link", "x")),
    ("what a link leads to", "FROM base\nCOPY link /f\n", Content("a", "2")),
    ("where a link leads", "FROM base\nCOPY link /f\n", Link("link", "folder/x")),
    ("a file's name", "FROM base\nCOPY folder /f/\n", Rename("folder/x", "folder/w")),
    ("a file's name that a pattern finds", "FROM base\nCOPY a* /f/\n", Rename("a", "a1")),
    ("a file more", "FROM base\nCOPY folder /f/\n", Content("folder/v", "")),
    ("a file more that a pattern finds", "FROM base\nCOPY a* /f/\n", Content("a1", "")),
    ("a file less", "FROM base\nCOPY folder /f/\n", Remove("folder/y")),
    ("a capability of a file", "FROM base\nCOPY a /\n", Capability("a")),
    ("a file that was ignored", "FROM base\nCOPY . /f/\n", Content(".dockerignore", "none\n")),
    ("an argument in a source", "FROM base\nARG A\nCOPY folder/$A /f\n", Words("--build-arg=A=x", "--build-arg=A=y")),
    ("an argument in a destination", "FROM base\nARG A\nCOPY a /$A\n", Words("--build-arg=A=1", "--build-arg=A=2")),
    ("a default in a destination", "FROM base\nARG A=1\nCOPY a /$A\n", Text("A=1", "A=2")),
    (
        "an argument in --chmod",
        "FROM base\nARG A\nCOPY --chmod=$A a /\n",
        Words("--build-arg=A=600", "--build-arg=A=640"),
    ),
    ("a variable in a destination", "FROM base\nENV E=1\nCOPY a /$E\n", Text("E=1", "E=2")),
    ("--chmod", "FROM base\nCOPY --chmod=600 a /\n", Text("600", "640")),
    ("--chown", "FROM base\nCOPY --chown=1:2 a /\n", Text("1:2", "1:3")),
    ("the number of a name", "FROM base\nCOPY --chown=user a /\n", Base("", "RUN echo user:x:7:7::: > /etc/passwd")),
    (
        "the same below a linked copy",
        "FROM base\nCOPY --link --chown=user a /\n",
        Base("", "RUN echo user:x:7:7::: > /etc/passwd"),
    ),
    ("--exclude", "FROM base\nCOPY --exclude=x folder /f/\n", Text("=x", "=y")),
    ("--parents", "FROM base\nCOPY --parents folder/deep/z /f/\n", Text("--parents ", "")),
    ("--link", "FROM base\nRUN busybox ln -s open /f\nCOPY --link a /f/\n", Text("--link ", "")),
    (
        "the mode of a folder that --parents makes",
        "FROM base\nCOPY --parents folder/deep/z /f/\n",
        Mode("folder/deep", 0o700),
    ),
    (
        "the same of a stage",
        "FROM base AS made\nRUN busybox mkdir /d; busybox chmod 700 /d; echo > /d/a\nFROM base\nCOPY --from=made --parents /d/a /f/\n",
        Text("700", "750"),
    ),
    ("that ADD unpacks", "FROM base\nADD ball.tar /f/\n", Text("ADD", "COPY")),
    ("the folder that a copy is relative to", "FROM base\nWORKDIR /w\nCOPY a .\n", Text("/w", "/v")),
    ("what a here-document holds", "FROM base\nCOPY <<E /f\n1\nE\n", Text("\n1\n", "\n2\n")),
    (
        "an argument in a here-document",
        "FROM base\nARG A\nCOPY <<E /f\n$A\nE\n",
        Words("--build-arg=A=1", "--build-arg=A=2"),
    ),
    ("that a here-document is not expanded", "FROM base\nARG A=1\nCOPY <<E /f\n$A\nE\n", Text("<<E", "<<'E'")),
    ("a here-document's name", "FROM base\nCOPY <<E /f/\n1\nE\n", Text("E", "F")),
    ("the path of WORKDIR", "FROM base\nWORKDIR /w\n", Text("/w", "/v")),
    ("an argument in WORKDIR", "FROM base\nARG A\nWORKDIR /$A\n", Words("--build-arg=A=1", "--build-arg=A=2")),
    ("a command", "FROM base\nRUN echo 1 > /f\n", Text("1", "2")),
    ("a blank in a command", "FROM base\nRUN echo '1 2' > /f\n", Text("1 2", "1  2")),
    (
        "where the words of a command part",
        "FROM base\nRUN [\"busybox\", \"touch\", \"/a b\"]\n",
        Text("a b", "a\", \"b"),
    ),
    ("the command that a here-document is", "FROM base\nRUN <<E\necho 1 > /f\nE\n", Text("1", "2")),
    ("a here-document that a command reads", "FROM base\nRUN busybox cat <<E > /f\n1\nE\n", Text("\n1\n", "\n2\n")),
    ("a step before", "FROM base\nRUN echo 1 > /f\nRUN busybox cp /f /g\n", Text("1", "2")),
    ("a copy before", "FROM base\nCOPY a /f\nRUN busybox cp /f /g\n", Content("a", "2")),
    ("the owner of a copy before", "FROM base\nCOPY a /f\nRUN busybox cp -p /f /g\n", Text("COPY", "COPY --chown=5")),
    (
        "the layers of the base image",
        "FROM base\nRUN busybox cp /etc/made /g || :\n",
        Base("", "RUN echo 1 > /etc/made"),
    ),
    ("a variable of the base image", look!(), Base("", "ENV MADE=1")),
    ("SHELL", "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN echo $- > /f\n", Text("-c", "-uc")),
    (
        "the SHELL of the base image",
        "FROM base\nRUN echo $- > /f\n",
        Base("", "SHELL [\"/bin/busybox\", \"sh\", \"-uc\"]"),
    ),
    ("USER", "FROM base\nUSER 1\nRUN busybox id > /open/f\n", Text("USER 1", "USER 2")),
    ("the group of USER", "FROM base\nUSER 1:1\nRUN busybox id > /open/f\n", Text("1:1", "1:2")),
    ("the USER of the base image", look!(), Base("", "USER 1000")),
    ("an ARG that is declared", look!(), Words("--build-arg=A=1", "--build-arg=A=2")),
    ("an ARG that is declared, and set or not", look!(), Words("", "--build-arg=A=")),
    ("the default of an ARG", "FROM base\nARG B=1\nRUN busybox env > /f\n", Text("B=1", "B=2")),
    ("an ARG of all stages", "ARG G=1\nFROM base\nARG G\nRUN echo $G > /f\n", Text("G=1", "G=2")),
    ("ENV", "FROM base\nENV E=1\nRUN busybox env > /f\n", Text("E=1", "E=2")),
    ("the name of a variable", "FROM base\nENV E=1\nRUN busybox env > /f\n", Text("E=1", "D=1")),
    (
        "an ARG in ENV",
        "FROM base\nARG A\nENV E=$A\nRUN busybox env > /f\n",
        Words("--build-arg=A=1", "--build-arg=A=2"),
    ),
    ("--network", look!("--network=none"), Text("none", "default")),
    ("the network of the command line", look!(), Words("--network=default", "--network=none")),
    ("--security", look!("--security=sandbox"), Text("sandbox", "insecure")),
    ("a name for /etc/hosts", look!(), Words("--add-host=h:10.0.0.1", "--add-host=g:10.0.0.1")),
    ("an address for /etc/hosts", look!(), Words("--add-host=h:10.0.0.1", "--add-host=h:10.0.0.2")),
    ("--ulimit", look!(), Words("--ulimit=nofile=100", "--ulimit=nofile=200")),
    ("--shm-size", look!(), Words("--shm-size=1m", "--shm-size=2m")),
    ("where something is mounted", look!("--mount=type=bind,source=folder,target=/m"), Text("target=/m", "target=/n")),
    (
        "a mount more",
        look!("--mount=type=bind,source=folder,target=/m"),
        Text(" exec", " --mount=type=tmpfs,target=/m/deep exec"),
    ),
    (
        "the order of mounts",
        look!("--mount=type=bind,source=a,target=/m --mount=type=bind,source=folder/x,target=/m"),
        Text("=a,target=/m --mount=type=bind,source=folder/x", "=folder/x,target=/m --mount=type=bind,source=a"),
    ),
    (
        "what is mounted",
        look!("--mount=type=bind,source=folder,target=/m"),
        Text("source=folder", "source=folder/deep"),
    ),
    ("what a file holds that is mounted", look!("--mount=type=bind,source=a,target=/m"), Content("a", "2")),
    (
        "what a file holds in a folder that is mounted",
        look!("--mount=type=bind,source=folder,target=/m"),
        Content("folder/x", "2"),
    ),
    ("the mode of a file that is mounted", look!("--mount=type=bind,source=a,target=/m"), Mode("a", 0o600)),
    (
        "whether a mount is written to",
        "FROM base\nRUN --mount=type=bind,source=folder,target=/m,rw busybox touch /m/n && echo 1 > /f || :\n",
        Text(",rw", ""),
    ),
    (
        "how much a tmpfs holds",
        "FROM base\nRUN --mount=type=tmpfs,target=/m,size=65536 busybox df /m | busybox awk 'NR==2{print $2}' > /f\n",
        Text("65536", "131072"),
    ),
    ("the owner of a mounted cache", look!("--mount=type=cache,target=/m,uid=1"), Text("uid=1", "uid=2")),
    ("the mode of a mounted cache", look!("--mount=type=cache,target=/m,mode=700"), Text("700", "750")),
    (
        "the stage that begins a mounted cache",
        "FROM base AS made\nRUN echo 1 > /open/a\nFROM base\nRUN --mount=type=cache,from=made,source=/open,target=/m,id=begun-1 busybox cp /m/a /f\n",
        Text("echo 1", "echo 2"),
    ),
    ("the id of a secret", look!("--mount=type=secret,id=one,target=/m"), Text("id=one", "id=two")),
    ("the target of a secret", look!("--mount=type=secret,id=one,target=/m"), Text("target=/m", "target=/n")),
    ("the mode of a secret", look!("--mount=type=secret,id=one,target=/m,mode=400"), Text("400", "444")),
    ("the owner of a secret", look!("--mount=type=secret,id=one,target=/m,uid=1"), Text("uid=1", "uid=2")),
    ("the group of a secret", look!("--mount=type=secret,id=one,target=/m,gid=1"), Text("gid=1", "gid=2")),
    ("the variable of a secret", look!("--mount=type=secret,id=one,env=S"), Text("env=S", "env=T")),
    (
        "what is copied from a stage",
        "FROM base AS made\nRUN echo 1 > /f\nFROM base\nCOPY --from=made /f /g\n",
        Text("echo 1", "echo 2"),
    ),
    (
        "the mode of what is copied from a stage",
        "FROM base AS made\nRUN echo 1 > /f; busybox chmod 600 /f\nFROM base\nCOPY --from=made /f /g\n",
        Text("600", "640"),
    ),
    (
        "the owner of what is copied from a stage",
        "FROM base AS made\nRUN echo 1 > /f; busybox chown 1 /f\nFROM base\nCOPY --from=made /f /g\n",
        Text("chown 1", "chown 2"),
    ),
    (
        "the stage that is copied from",
        "FROM base AS one\nRUN echo 1 > /f\nFROM base AS two\nRUN echo 2 > /f\nFROM base\nCOPY --from=one /f /g\n",
        Text("from=one", "from=two"),
    ),
    (
        "a step below a linked copy, for a command above",
        "FROM base\nCOPY a /a\nCOPY --link b /b\nRUN busybox cp /a /f\n",
        Content("a", "2"),
    ),
    (
        "a step below a linked copy, for a copy of the stage",
        "FROM base AS made\nCOPY a /a\nCOPY --link b /b\nFROM base\nCOPY --from=made /a /f\n",
        Content("a", "2"),
    ),
    (
        "a step below a linked copy, for a mount of the stage",
        "FROM base AS made\nCOPY a /a\nCOPY --link b /b\nFROM base\nRUN --mount=from=made,target=/m busybox cp /m/a /f\n",
        Content("a", "2"),
    ),
    (
        "the base image below a linked copy, for a copy of the stage",
        "FROM base AS made\nCOPY --link b /b\nFROM scratch\nCOPY --from=made /etc /f\n",
        Base("", "RUN echo 1 > /etc/made"),
    ),
    (
        "what is mounted from a stage",
        "FROM base AS made\nRUN echo 1 > /f\nFROM base\nRUN --mount=from=made,target=/m busybox cp /m/f /g\n",
        Text("echo 1", "echo 2"),
    ),
    (
        "the mode of a folder that is mounted from a stage",
        "FROM base AS made\nRUN busybox mkdir /d; busybox chmod 700 /d\nFROM base\nRUN --mount=from=made,source=/d,target=/m busybox stat -c %a /m > /g\n",
        Text("700", "750"),
    ),
    (
        "the owner of a folder that is mounted from a stage",
        "FROM base AS made\nRUN busybox mkdir /d; busybox chown 1 /d\nFROM base\nRUN --mount=from=made,source=/d,target=/m busybox stat -c %u /m > /g\n",
        Text("chown 1", "chown 2"),
    ),
    (
        "that a mounted link is one",
        "FROM base AS made\nRUN busybox mkdir /d; echo 1 > /d/a; busybox ln /d/a /d/b\nFROM base\nRUN --mount=from=made,source=/d,target=/m busybox stat -c %h /m/a > /g\n",
        Text("ln /d", "cp /d"),
    ),
    ("the platform", "FROM scratch\nCOPY a /\n", Words("--platform=linux/amd64", "--platform=linux/arm64")),
    (
        "an argument that the platform gives",
        "FROM base\nARG TARGETARCH\nCOPY a /$TARGETARCH\n",
        Words("--platform=linux/amd64", "--platform=linux/arm64"),
    ),
    (
        "a named context",
        "FROM base\nCOPY --from=named x /f\n",
        Words("--build-context=named=context/folder", "--build-context=named=other"),
    ),
];

/// Inputs whose change makes no difference to the builds of this test.
pub(crate) const UNSEEN: &[Row] = &[
    (
        "a link in a folder whose file is the same",
        "FROM base\nCOPY a /b\nCOPY link /f\n",
        Text("COPY a /b\n", "COPY a /c\n"),
    ),
    ("the id of a mounted cache", "FROM base\nRUN --mount=type=cache,target=/m,id=1 echo > /f\n", Text("id=1", "id=2")),
    (
        "that a mounted cache is only read",
        "FROM base\nRUN --mount=type=cache,target=/m,ro echo > /f\n",
        Text(",ro", ""),
    ),
    ("the id of an agent", "FROM base\nRUN --mount=type=ssh,id=1 echo > /f\n", Text("id=1", "id=2")),
    (
        "SOURCE_DATE_EPOCH that a command reads",
        "FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /f\n",
        Words("", "--build-arg=SOURCE_DATE_EPOCH=2000"),
    ),
    ("words that are the same to the shell", "FROM base\nRUN echo  1 > /f\n", Text("echo  1", "echo 1")),
];

/// What is no input of any step.
pub(crate) const OTHERS: &[Row] = &[
    ("when a file was written", "FROM base\nCOPY a /\n", Time("a")),
    ("when a file in a folder was written", "FROM base\nCOPY folder /f/\n", Time("folder/x")),
    ("when a folder was written", "FROM base\nCOPY folder /f/\n", Time("folder/deep")),
    (
        "when a mounted file was written",
        "FROM base\nRUN --mount=type=bind,source=folder,target=/m busybox cp -r /m /f\n",
        Time("folder/x"),
    ),
    ("when a file was changed", "FROM base\nCOPY folder /f/\n", Touched("folder/x")),
    ("who owns a file", "FROM base\nCOPY a /\n", Owner("a")),
    ("who owns a file in a folder", "FROM base\nCOPY folder /f/\n", Owner("folder/x")),
    (
        "who owns a mounted file",
        "FROM base\nRUN --mount=type=bind,source=folder,target=/m busybox stat -c %u /m /m/x > /f\n",
        Owner("folder/x"),
    ),
    ("a file that is not copied", "FROM base\nCOPY a /\nCOPY folder /f/\n", Content("b", "2")),
    (
        "a file that is not mounted",
        "FROM base\nRUN --mount=type=bind,source=a,target=/m busybox cp /m /f\n",
        Content("b", "2"),
    ),
    ("a file that .dockerignore leaves out", "FROM base\nCOPY . /f/\n", Content("ignored", "2")),
    ("a file more that .dockerignore leaves out", "FROM base\nCOPY . /f/\n", Content("deep/ignored.tmp", "2")),
    ("a file that is excluded", "FROM base\nCOPY --exclude=x folder /f/\n", Content("folder/x", "2")),
    (
        "the folder of the context",
        "FROM base\nCOPY . /f/\nRUN --mount=type=bind,target=/m busybox cat /m/a > /f/made\n",
        Moved,
    ),
    (
        "an ARG declared after the step",
        "FROM base\nRUN echo > /f\nARG A\n",
        Words("--build-arg=A=1", "--build-arg=A=2"),
    ),
    (
        "an ARG declared in another stage",
        "FROM base AS one\nARG A\nFROM base\nRUN echo > /f\n",
        Words("--build-arg=A=1", "--build-arg=A=2"),
    ),
    ("an ARG declared nowhere", "FROM base\nRUN echo > /f\nCOPY a /\n", Words("--build-arg=N=1", "--build-arg=N=2")),
    ("an ARG before FROM that no stage asks for", "ARG G=1\nFROM base\nRUN echo $G > /f\n", Text("G=1", "G=2")),
    (
        "an ARG that a copy does not name",
        "FROM base\nARG A\nCOPY a /\nWORKDIR /w\n",
        Words("--build-arg=A=1", "--build-arg=A=2"),
    ),
    ("a variable that a copy does not name", "FROM base\nENV E=1\nCOPY a /\nWORKDIR /w\n", Text("E=1", "E=2")),
    ("the USER before a copy", "FROM base\nUSER 1\nCOPY a /\n", Text("USER 1", "USER 2")),
    (
        "the SHELL before a command that needs none",
        "FROM base\nSHELL [\"/1\"]\nRUN [\"busybox\", \"touch\", \"/f\"]\n",
        Text("/1", "/2"),
    ),
    (
        "the WORKDIR before an absolute copy",
        "FROM base\nWORKDIR /w\nRUN echo > /f\n",
        Text("FROM base\n", "FROM base\nWORKDIR /\n"),
    ),
    (
        "a proxy that nothing declares",
        "FROM base\nRUN echo > /f\n",
        Words("--build-arg=HTTP_PROXY=http://a:1", "--build-arg=HTTP_PROXY=http://b:1"),
    ),
    ("a LABEL", "FROM base\nLABEL a=1\nRUN echo > /f\nCOPY a /\n", Text("a=1", "a=2")),
    ("a label of the command line", "FROM base\nRUN echo > /f\n", Words("--label=a=1", "--label=a=2")),
    (
        "what the image runs",
        "FROM base\nCMD [\"1\"]\nENTRYPOINT [\"1\"]\nEXPOSE 1\nSTOPSIGNAL 1\nVOLUME /1\nRUN echo > /f\n",
        Text("1", "2"),
    ),
    ("a LABEL of the base image", "FROM base\nRUN echo > /f\nCOPY a /\n", Base("LABEL made=1", "LABEL made=2")),
    ("when the base image was made", "FROM base\nRUN echo > /f\nCOPY a /\n", Base("ENV X=1", "ENV X=1")),
    ("what the base image runs", "FROM base\nRUN echo > /f\n", Base("CMD [\"1\"]", "CMD [\"2\"]")),
    (
        "the value of a secret",
        "FROM base\nRUN --mount=type=secret,id=s busybox touch /f\n",
        Words("--secret=id=s,src=secret-1", "--secret=id=s,src=secret-2"),
    ),
    (
        "the value of a secret variable",
        "FROM base\nRUN --mount=type=secret,id=s,env=S busybox touch /f\n",
        Words("--secret=id=s,src=secret-1", "--secret=id=s,src=secret-2"),
    ),
    ("comments", "FROM base\nRUN echo > /f\nCOPY a /\n", Text("RUN", "# comment\nRUN")),
    ("a comment inside a command", "FROM base\nRUN echo \\\n  > /f\n", Text("\n  >", "\n# comment\n  >")),
    ("blank lines", "FROM base\nRUN echo > /f\nCOPY a /\n", Text("\nCOPY", "\n\n\nCOPY")),
    ("indentation", "FROM base\nRUN echo > /f\nCOPY a /\n", Text("COPY a", "  \tCOPY   a  ")),
    ("the case of a keyword", "FROM base\nRUN echo > /f\nCOPY a /\n", Text("COPY", "copy")),
    ("how a copy is written", "FROM base\nCOPY a /\n", Text("a /", "[\"a\", \"/\"]")),
    ("the name of a stage", "FROM base AS one\nRUN echo > /f\nCOPY a /\n", Text("one", "two")),
    ("the name of a stage below", "FROM base AS one\nRUN echo > /f\nFROM one\nRUN echo > /g\n", Text("one", "two")),
    ("a stage more", "FROM base\nRUN echo > /f\n", Text("FROM", "FROM base AS more\nRUN echo more\nFROM")),
    (
        "a step of a stage that the target does not need",
        "FROM base AS one\nRUN echo 1\nFROM base\nRUN echo > /f\n",
        Text("echo 1", "echo 2"),
    ),
    (
        "a step after the target",
        "FROM base AS t\nRUN echo > /f\nFROM t\nRUN echo 1\n",
        Words("--target=t", "--target=t --label=l=1"),
    ),
    ("a step behind", "FROM base AS t\nRUN echo > /f\nFROM t AS u\nRUN echo 1\nFROM t\n", Text("echo 1", "echo 2")),
    ("a step below a linked copy", "FROM scratch\nCOPY a /b\nFROM scratch\nCOPY --link a /\n", Text("a /b", "a /c")),
    ("a value that is the default", "FROM base\nARG A=1\nRUN echo $A > /f\n", Words("", "--build-arg=A=1")),
    ("how the image goes out", "FROM base\nRUN echo > /f\n", Words("--compression=gzip", "--compression=zstd")),
    (
        "SOURCE_DATE_EPOCH for a command",
        "FROM base\nRUN echo > /f\n",
        Words("--build-arg=SOURCE_DATE_EPOCH=1", "--build-arg=SOURCE_DATE_EPOCH=2"),
    ),
];
