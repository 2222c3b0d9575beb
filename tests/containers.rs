//! Plywood's own image in the places that it is made for, each with the rights that it has there: what `doctor` says of it, what
//! is built, and what a step sees.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;
use support::docker::{Docker, build_own_images, own_images};
use support::runc::UserNamespace;
use support::{Place, Registry, all, layers, repository, run, skopeo_inspect};

/// A place: what it is called, what docker is told to make it, and how steps are isolated there; none: not at all.
const PLACES: [(&str, &[&str], Option<&str>); 11] = [
    ("docker's default, root", &[], Some("inplace")),
    ("docker's default, uid 1000", &["--user=1000"], None),
    ("all capabilities dropped", &["--cap-drop=ALL"], None),
    ("read-only root, one volume", &["--read-only"], Some("chroot")),
    ("no seccomp profile, root", &["--security-opt=seccomp=unconfined"], Some("ns-user-bindproc")),
    ("no seccomp profile, uid 1000", &["--security-opt=seccomp=unconfined", "--user=1000"], Some("ns-user-single")),
    (
        "no seccomp profile, all of /proc, root",
        &["--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined"],
        Some("ns-user"),
    ),
    ("no new privileges, root", &["--security-opt=no-new-privileges"], Some("inplace")),
    ("SYS_ADMIN, no seccomp profile", &["--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"], Some("ns-root")),
    ("SYS_ADMIN", &["--cap-add=SYS_ADMIN"], Some("inplace")),
    (
        "Pod Security's restricted",
        &["--user=1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"],
        None,
    ),
];

/// Runs the program in a place, with a folder mounted at /project.
fn plywood(options: &[&str], project: &Place, words: &[&str]) -> Output {
    let mount = format!("--volume={}:/project", project.path().display());
    let fixed = ["run", "--rm", "--network=host", "--entrypoint=/kaniko/plywood", &mount];
    Docker::shared().output(&[&fixed, options, &["plywood:latest"], words].concat())
}

/// What `doctor` said, as lines that depend on the place alone.
fn findings(told: &Output) -> String {
    assert!(told.status.success(), "{}", all(told));
    let found: Vec<Value> =
        serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {}", all(told)));
    let mut text = String::new();
    for finding in found.iter().filter(|finding| finding["about"] != "proxy") {
        let of = |name: &str| finding[name].as_str().unwrap_or_default();
        // How much is free, and on what, is the machine's business.
        let told = if of("about") == "store" { "..." } else { of("told") };
        let word = if finding["works"] == true { "yes" } else { "no" };
        writeln!(text, "    {word} {} {}: {told}", of("about"), of("name")).unwrap();
        if !of("help").is_empty() {
            writeln!(text, "        {}", of("help")).unwrap();
        }
    }
    text
}

/// tests/doctor.txt holds what is expected; PLYWOOD_UPDATE=1 writes it anew, to be read before it is committed.
#[test]
fn doctor_says_what_each_place_allows() {
    let _docker = Docker::shared();
    let project = Place::new();
    let mut text = String::new();
    for (name, options, mode) in PLACES {
        let told = findings(&plywood(options, &project, &["doctor", "--json"]));
        writeln!(text, "{name}: docker run {}\n{told}", options.join(" ")).unwrap();
        let works = mode.unwrap_or("none");
        assert!(told.contains(&format!("yes isolation {works}: ")), "{name}: {told}");
    }
    let mut pod = UserNamespace::new(&own_images().join("plywood-image.tar"));
    for (name, unmasked, more) in [
        ("a pod with hostUsers: false", false, vec![]),
        ("the same with procMount: Unmasked", true, vec![]),
        ("the same with SYS_ADMIN", true, vec!["CAP_SYS_ADMIN"]),
    ] {
        (pod.unmasked, pod.more) = (unmasked, more);
        let told = findings(&pod.run(&["/kaniko/plywood", "doctor", "--json"], &[], &[]));
        writeln!(text, "{name}\n{told}").unwrap();
    }
    let file = repository("tests/doctor.txt");
    if std::env::var_os("PLYWOOD_UPDATE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap();
    let differs = text.lines().zip(expected.lines()).find(|(now, then)| now != then);
    assert_eq!(text, expected, "tests/doctor.txt differs, first in {differs:?}; see it, then PLYWOOD_UPDATE=1");
}

/// Two stages that alternate, everything that a step can be given, and what one step leaves the next must not see.
const STEPS: &str = "FROM base AS other\n\
    SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
    RUN busybox mkdir -p /made/deep /etc; echo 1 > /made/deep/one; echo leaked >> /etc/hosts || :; echo leaked >> /etc/resolv.conf || :\n\
    FROM base\n\
    SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
    RUN busybox mkdir -p /a /b /etc; echo 1 > /a/one; echo 2 > /a/two; busybox ln -s one /a/link; busybox chown 7:8 /a/two; busybox chmod 640 /a/two; busybox ln /a/one /a/same\n\
    RUN [ ! -e /made ] && ! busybox grep -q leaked /etc/hosts /etc/resolv.conf\n\
    COPY given /a/given\n\
    RUN busybox rm /a/one; busybox mv /a/two /b/two; busybox rm /a/given; busybox mkdir /a/new; echo 3 > /a/new/three\n\
    COPY --from=other /made /made\n\
    RUN --mount=type=secret,id=word --mount=type=bind,from=other,target=/x --mount=type=bind,target=/context --mount=type=tmpfs,target=/b \
    busybox cat /run/secrets/word > /word; busybox cat /x/made/deep/one /context/given > /read; echo 1 > /b/gone; [ -e /b/two ] || echo covered > /seen\n\
    RUN --mount=type=cache,target=/cache echo more >> /cache/log; busybox cp /cache/log /log\n\
    RUN busybox id -u > /who; [ -c /dev/null ] && echo device > /device; echo 1 > /dev/shm/x; echo 1 > /dev/null; busybox setsid busybox sleep 7654321 > /dev/null 2>&1 &\n\
    WORKDIR /w/x\n\
    USER 7:8\n\
    RUN busybox id -u > who 2> /dev/null || busybox id -u\n";

#[test]
fn each_place_builds_what_the_machine_builds() {
    let _docker = Docker::shared();
    let project = Place::new();
    project.busybox_base();
    project.write("c/Dockerfile", STEPS);
    project.write("c/given", "given\n");
    project.write("secret", "hidden-word\n");
    // Also those who are not root here write what they build.
    fs::set_permissions(project.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let words = |isolation: &str| {
        let words = "build --progress=plain --build-context base=oci-layout://base-layout:1 --secret id=word,src=secret \
             --build-arg SOURCE_DATE_EPOCH=1700000000";
        let output = format!("-o type=oci,tar=false,dest=out-{isolation},rewrite-timestamp=true c");
        format!("{words} {output}")
    };
    let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let machine = run(project.plywood().args(split(&words("machine"))).current_dir(project.path()));
    let expected = layers(&project.join("out-machine"));
    let mut seen = Vec::new();
    for (name, options, mode) in PLACES.iter().chain(&[("chroot", &[][..], Some("chroot"))]) {
        let Some(mode) = mode else { continue };
        let name = name.replace([' ', '\'', ','], "-");
        let mut text = words(&name);
        if name == "chroot" {
            text += " --isolation=chroot";
        }
        let words = split(&text);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let built = plywood(&[options, &["--workdir=/project"][..]].concat(), &project, &words);
        assert!(built.status.success(), "{name}: {}", all(&built));
        assert!(all(&built).contains(&format!("commands run in {mode}: ")), "{name}: {}", all(&built));
        // The last step is another user's, which is not to be had with one.
        let compared = expected.len() - usize::from(*mode == "ns-user-single");
        for (number, (own, other)) in
            expected[..compared].iter().zip(&layers(&project.join(format!("out-{name}")))).enumerate()
        {
            assert_eq!(support::entries(own), support::entries(other), "{name}: layer {number}");
        }
        if compared == expected.len() {
            assert_eq!(String::from_utf8_lossy(&built.stdout), machine, "{name}");
        }
        seen.push(*mode);
    }
    for mode in ["ns-root", "ns-user", "ns-user-bindproc", "ns-user-single", "chroot", "inplace"] {
        assert!(seen.contains(&mode), "no place had {mode}");
    }
}

#[test]
fn where_nothing_runs_the_rest_is_built() {
    let _docker = Docker::shared();
    let project = Place::new();
    project.busybox_base();
    project.write("run/Dockerfile", "FROM base\nRUN [\"/bin/busybox\", \"true\"]\n");
    project.write(
        "copy/Dockerfile",
        "FROM base\nWORKDIR /w\nCOPY --chown=7:8 Dockerfile /w/\nADD --chmod=600 Dockerfile /x\n",
    );
    let base = "base=oci-layout://base-layout:1";
    for (name, options, _) in PLACES.iter().filter(|(_, _, mode)| mode.is_none()) {
        let build = |context: &str| {
            let options = [options, &["--workdir=/project"][..]].concat();
            plywood(&options, &project, &["build", "--progress=plain", "--build-context", base, context])
        };
        let built = build("copy");
        assert!(built.status.success(), "{name}: {}", all(&built));
        let refused = build("run");
        let told = all(&refused);
        assert!(
            !refused.status.success() && told.contains("Dockerfile:2: commands cannot be run here: "),
            "{name}: {told}"
        );
        assert!(told.contains("ns-user: ") && told.contains("chroot: "), "{name}: {told}");
    }
}

/// A step in place learns nothing of what the builder has in memory, and leaves its files, its network and its image alone where
/// it does not ask for them.
#[test]
fn in_place_the_container_stays_what_it_was() {
    let _docker = Docker::shared();
    let project = Place::new();
    project.busybox_base();
    let dockerfile = "FROM base AS one\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
        RUN busybox cat /proc/*/environ 2> /dev/null | busybox grep -c mark-of-the-builder > /seen; [ $(busybox cat /seen) = 0 ]\n\
        RUN busybox rm -rf /usr /opt; busybox mkdir -p /opt/x; echo leaked >> /etc/hosts; echo 1 > /own/changed; echo 2 > /new\n\
        RUN busybox setsid busybox sleep 7654321 > /dev/null 2>&1 & echo started\n\
        FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
        RUN [ ! -e /new ] && [ ! -e /opt/x ] && ! busybox grep leaked /etc/hosts; echo 3 > /other\n\
        COPY --from=one /new /copied\n";
    project.write("c/Dockerfile", dockerfile);
    let build = "/kaniko/plywood build --progress=plain --build-context base=oci-layout://base-layout:1";
    let script = format!(
        "set -e; mkdir /own; echo mine > /own/file; cp /etc/hosts /own/hosts; export MARK=mark-of-the-builder\n\
         find / -xdev -path /kaniko -prune -o -path /.plywood -prune -o -print | sort > /project/before\n\
         {build} c; {build} --no-cache c\n\
         {build} --no-cache --build-arg A=1 c > /project/log 2>&1 & {build} --no-cache --build-arg B=2 c; wait\n\
         find / -xdev -path /kaniko -prune -o -path /.plywood -prune -o -print | sort > /project/after\n\
         cmp /own/hosts /etc/hosts; ps | grep '[7]654321' && exit 3; cat /own/file; echo everything-is-there\n"
    );
    project.write("script", script);
    let mount = format!("--volume={}:/project", project.path().display());
    let words = ["run", "--rm", "--network=host", "--workdir=/project", "--entrypoint=/busybox/sh", &mount];
    let ran = Docker::shared().output(&[&words[..], &["plywood:debug", "script"]].concat());
    let told = all(&ran);
    let ended = String::from_utf8_lossy(&ran.stdout).ends_with("mine\neverything-is-there\n");
    assert!(ran.status.success() && ended, "{told}");
    let lines = |name: &str| fs::read_to_string(project.join(name)).unwrap();
    assert_eq!(lines("before"), lines("after").replace("/own/changed\n", ""));
    assert!(lines("log").contains("sha256:"), "the build beside it: {}", lines("log"));
}

#[test]
fn in_place_nothing_that_must_stay_is_in_the_way() {
    let _docker = Docker::shared();
    let project = Place::new();
    project.busybox_base();
    let base = "base=oci-layout://base-layout:1";
    let build = |dockerfile: &str, options: &[&str], more: &[&str]| {
        project.write("c/Dockerfile", format!("FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n{dockerfile}"));
        let words = [&["build", "--progress=plain", "--build-context", base][..], more, &["c"]].concat();
        plywood(&[options, &["--workdir=/project"][..]].concat(), &project, &words)
    };
    // The folder that the context is in, and one that is mounted.
    for dockerfile in ["WORKDIR /project/c\nRUN echo > file\n", "COPY Dockerfile /mounted/file\nRUN busybox true\n"] {
        let mount = ["--tmpfs=/mounted"];
        let told = all(&build(dockerfile, &mount, &["--isolation=inplace"]));
        assert!(told.contains("in place, the image cannot have its own /"), "{told}");
        assert!(told.contains("--isolation=chroot"), "{told}");
        // Where it was not asked for, it steps aside.
        let built = build(dockerfile, &mount, &[]);
        let told = all(&built);
        assert!(built.status.success() && told.contains("in a directory of its own instead (chroot)"), "{told}");
    }
    let told = all(&build("RUN --mount=type=tmpfs,target=/project/c/x busybox true\n", &[], &["--isolation=inplace"]));
    assert!(told.contains("in place, the image cannot have its own /project/c/x"), "{told}");
    assert_eq!(fs::read_dir(project.join("c")).unwrap().count(), 1, "nothing was written to the context");
    // Nor where the image has no such folder, and the command makes it.
    let told = all(&build("RUN busybox touch /project/c/made\n", &[], &[]));
    assert!(told.contains("has changed /project/c, which is the build context"), "{told}");
    fs::remove_file(project.join("c/made")).unwrap();
    // What the container has of its own is no image's to replace.
    project.write("script", "mkdir -p /own; echo mine > /own/file; ln -s own /link; exec /kaniko/plywood \"$@\"; ");
    for dockerfile in ["COPY Dockerfile /own/file\nRUN busybox true\n", "COPY Dockerfile /link/x\nRUN busybox true\n"] {
        project.write("c/Dockerfile", format!("FROM base\n{dockerfile}"));
        let mount = format!("--volume={}:/project", project.path().display());
        let words =
            ["run", "--rm", "--workdir=/project", "--entrypoint=/busybox/sh", &mount, "plywood:debug", "script"];
        let build = ["build", "--isolation=inplace", "--build-context", base, "c"];
        let refused = Docker::shared().output(&[&words[..], &build].concat());
        assert!(!refused.status.success() && all(&refused).contains("cannot have its own /"), "{}", all(&refused));
    }
}

/// Neither what a step's mounts cover for a while, nor what it changes the mode of, nor who may write to the root.
#[test]
fn in_place_what_is_the_containers_own_is_in_no_layer() {
    let _docker = Docker::shared();
    let project = Place::new();
    project.busybox_base();
    project.write("secret", "hidden-word\n");
    project.write("c/root/file", "1");
    let dockerfile = "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
        RUN --mount=type=secret,id=word,target=/root/.netrc echo hi > /made\n\
        RUN busybox chmod -R a+rX /root; busybox chmod 700 /tmp; echo > /root/new\n\
        RUN --mount=type=tmpfs,target=/root echo > /root/lost\n\
        RUN busybox chown 7 /; busybox chmod 755 /tmp\n\
        USER 7\nRUN busybox mv /.plywood /moved 2> /dev/null && exit 3; busybox id -u\n";
    project.write("c/Dockerfile", dockerfile);
    let build = "/kaniko/plywood build --progress=plain --build-context base=oci-layout://base-layout:1 --secret id=word,src=secret";
    let script = format!(
        "set -e; echo password > /root/.netrc; echo token > /root/token; chmod 600 /root/token\n\
         {build} --no-cache --cache-to type=local,dest=/kept -o type=oci,tar=false,dest=out c\n\
         cat /root/.netrc /root/token; stat -c %a /tmp; ls /kept/entries > /dev/null\n"
    );
    project.write("script", script);
    let mount = format!("--volume={}:/project", project.path().display());
    let words = ["run", "--rm", "--network=host", "--workdir=/project", "--entrypoint=/busybox/sh", &mount];
    let ran = Docker::shared().output(&[&words[..], &["plywood:debug", "script"]].concat());
    let told = all(&ran);
    assert!(ran.status.success(), "{told}");
    assert!(String::from_utf8_lossy(&ran.stdout).ends_with("password\ntoken\n1777\n"), "{told}");
    for entry in layers(&project.join("out")).iter().flat_map(|layer| support::entries(layer)) {
        for own in ["netrc", "token", "password", "kept", "lost", "hidden-word"] {
            assert!(!entry.contains(own), "{entry}");
        }
    }
}

/// Lines that pipelines were written with for kaniko: with another name of the image, and nothing else.
#[test]
fn lines_of_kanikos_run_in_its_place() {
    let docker = Docker::shared();
    let (project, registry) = (Place::new(), Registry::open());
    project.busybox_base();
    let base = format!("docker://{}/base:1", registry.host);
    project.ok(&["copy", &format!("oci-layout://{}:1", project.join("base-layout").display()), &base]);
    let dockerfile = format!(
        "FROM {0}/base:1 AS build\nARG WORD=none\nCOPY source /source\nRUN [\"/bin/busybox\", \"cp\", \"/source\", \"/made\"]\n\
         FROM {0}/base:1\nWORKDIR /app\nCOPY --from=build /made /app/made\nRUN [\"/bin/busybox\", \"touch\", \"/app/done\"]\n",
        registry.host
    );
    project.write("workspace/Dockerfile", dockerfile);
    project.write("workspace/source", "text\n");
    let folder = project.join("workspace");
    let (at_workspace, at_builds) =
        (format!("--volume={}:/workspace", folder.display()), format!("--volume={}:/builds/app", folder.display()));
    let gitlab = "/kaniko/executor --context \"${CI_PROJECT_DIR}\" --dockerfile \"${CI_PROJECT_DIR}/Dockerfile\" \
                  --destination \"${CI_REGISTRY_IMAGE}:${CI_COMMIT_TAG}\" --cache=true";
    let variables =
        ["CI_PROJECT_DIR=/builds/app", "CI_COMMIT_TAG=1", &format!("CI_REGISTRY_IMAGE={}/gitlab/app", registry.host)]
            .map(|variable| format!("--env={variable}"));
    let of_gitlab = [
        &[&at_builds[..], "--entrypoint="][..],
        &variables.each_ref().map(String::as_str),
        &["plywood:debug", "sh", "-c", gitlab],
    ]
    .concat();
    let line = |text: &str| text.replace("NAME", &format!("{}/NAME", registry.host));
    let lines = [
        (
            "circleci",
            "--dockerfile=Dockerfile --context=dir:///workspace --destination=NAME --cache=true --cache-ttl=24h",
        ),
        ("travis", "-f Dockerfile -c /workspace -d NAME --cache --snapshotMode=redo --use-new-run"),
        ("cloudbuild", "--destination=NAME --cache=true --cache-ttl=6h"),
        ("plain", "--context /workspace --destination NAME --cache=true"),
    ]
    .map(|(name, text)| (name, line(text).replace("NAME", &format!("{name}/app:1"))));
    let twice = |name: &str, words: &[&str]| {
        let run = || {
            let ran = docker.output(&[&["run", "--rm", "--network=host"][..], words].concat());
            assert!(ran.status.success(), "{name}: {}", all(&ran));
            all(&ran)
        };
        let first = run();
        assert!(first.contains("commands run in inplace: ") && first.contains(" DONE "), "{name}: {first}");
        let digest = || skopeo_inspect(&format!("docker://{}/{name}/app:1", registry.host))["Digest"].clone();
        let (before, second) = (digest(), run());
        assert!(!second.contains(" DONE ") && second.contains("CACHED"), "{name}: {second}");
        assert_eq!(digest(), before, "{name}");
        assert!(support::skopeo_tags(&format!("{}/{name}/app/cache", registry.host)).len() >= 3, "{name}");
    };
    twice("gitlab", &of_gitlab);
    for (name, text) in &lines {
        let words: Vec<&str> = text.split(' ').collect();
        twice(name, &[&[&at_workspace[..], "plywood:latest"][..], &words].concat());
    }
}

/// Compilers, package managers and interpreters, in every way that runs commands without the machine's root.
#[test]
fn examples_are_built_in_containers() {
    let docker = Docker::shared();
    let base = support::debian_base();
    let layout = base.trim_start_matches("debian-base=oci-layout://").trim_end_matches(":latest");
    let (layout, examples) = (format!("--volume={layout}:/base"), repository("examples"));
    let examples = format!("--volume={}:/examples", examples.display());
    // The machine's own authorities as well: packages may come through a proxy of its own.
    let certificates = "--volume=/etc/ssl/certs/ca-certificates.crt:/kaniko/ssl/certs/machine.crt";
    let index = support::python_index();
    let index = if index.is_empty() { "NOTHING=".into() } else { format!("PIP_INDEX_URL={index}") };
    for (options, mode, names) in [
        (&[][..], "inplace", &["go-multistage", "flask"][..]),
        (&["--security-opt=seccomp=unconfined"], "ns-user-bindproc", &["go-multistage"]),
        (&["--security-opt=seccomp=unconfined", "--user=1000"], "ns-user-single", &["flask"]),
        (&[], "chroot", &["flask"]),
    ] {
        for example in names {
            let fixed =
                ["run", "--rm", "--network=host", "--entrypoint=/kaniko/plywood", &layout, &examples, certificates];
            let isolation = format!("--isolation={mode}");
            let context = format!("/examples/{example}");
            let words =
                ["plywood:latest", "build", "--progress=plain", "--ca-inject", "--build-arg", &index, &isolation];
            let base = ["--build-context=debian-base=oci-layout:///base:latest", &context];
            let built = docker.output(&[&fixed[..], options, &words, &base].concat());
            assert!(built.status.success(), "{example}, {mode}: {}", all(&built));
        }
    }
}

#[test]
fn the_image_is_small_and_each_time_the_same() {
    let _docker = Docker::shared();
    let archive = own_images().join("plywood-image.tar");
    assert!(fs::metadata(&archive).unwrap().len() < 40 << 20);
    let first = skopeo_inspect(&format!("docker-archive:{}", archive.display()))["Digest"].clone();
    build_own_images();
    let second = skopeo_inspect(&format!("docker-archive:{}", archive.display()))["Digest"].clone();
    assert_eq!(first, second);
    // Names are looked up, and nothing of the machine's is needed for that.
    let told = plywood(&["--add-host=registry.test:127.0.0.1"], &Place::new(), &["doctor", "registry.test:1"]);
    assert!(all(&told).contains("refused"), "{}", all(&told));
}
