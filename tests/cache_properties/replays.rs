//! What went wrong in another builder, kaniko, and must not here. A number is that of its issue; `fork` is what followed it
//! (osscontainertools).
//!
//! Each is built by one machine, something is changed or nothing, and another machine that has only the cache builds next.

use std::fs;
use std::path::{Path, PathBuf};

use crate::scene::{Scene, Work, all_cached, difference};
use crate::support::files;

/// A machine's words, with the cache in the registry read and written.
fn cached(work: &Work<'_>, words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).chain(work.fills()).chain(work.reads_registry()).collect()
}

/// Builds on a machine of its own; gives the files.
fn machine(work: &Work<'_>, name: &str, words: &[&str]) -> PathBuf {
    work.tree(name, &cached(work, words))
}

fn text(tree: &Path, file: &str) -> String {
    fs::read_to_string(tree.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The next build, on the machine before and on one that has only the cache, gives this file.
#[track_caller]
fn then(work: &Work<'_>, words: &[&str], file: &str, holds: &str) {
    for name in ["first", "next"] {
        assert_eq!(text(&machine(work, name, words), file).trim(), holds, "{name}");
    }
}

/// A machine that has only the cache runs nothing.
#[track_caller]
fn found(work: &Work<'_>, words: &[&str]) {
    let words = all_cached(&cached(work, words));
    work.build("finder", &words).unwrap_or_else(|why| panic!("{why}"));
}

mod wrong {
    use super::*;

    /// 870, 1262, 1348; garden 3007: the copy was served though what was made in the stage before had changed.
    #[test]
    fn a_copy_of_what_another_stage_made() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("source", "old");
        work.write(
            "Dockerfile",
            "FROM base AS build\nWORKDIR /build\nCOPY . ./\nRUN busybox mkdir out; busybox cp source out/made\n\
             FROM base AS run\nCOPY --from=build /build/out /served\n",
        );
        assert_eq!(text(&machine(&work, "first", &[]), "served/made"), "old");
        work.write("source", "new");
        then(&work, &[], "served/made", "new");
    }

    /// 589: the same with a pattern.
    #[test]
    fn a_copy_of_what_a_pattern_finds_in_another_stage() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("source", "old");
        work.write(
            "Dockerfile",
            "FROM base AS build\nCOPY source /out/a.jar\nFROM base\nCOPY --from=build /out/*.jar /app/\n",
        );
        machine(&work, "first", &[]);
        work.write("source", "new");
        then(&work, &[], "app/a.jar", "new");
    }

    /// 845: three stages in a row.
    #[test]
    fn a_copy_of_a_copy() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("myfile", "old");
        work.write(
            "Dockerfile",
            "FROM base AS one\nCOPY myfile /source\nFROM base AS two\nCOPY --from=one /source /source\n\
             RUN busybox cp /source /made\nFROM base\nCOPY --from=two /made /made\n",
        );
        machine(&work, "first", &[]);
        work.write("myfile", "new");
        then(&work, &[], "made", "new");
    }

    /// 1262: the stage that is copied from is an image, and the image is another under the same name.
    #[test]
    fn a_copy_from_an_image_that_is_another_now() {
        let scene = Scene::new();
        let mut work = scene.work();
        work.write("Dockerfile", "FROM base AS build\nFROM scratch\nCOPY --from=build /date /date\n");
        work.base = work.derived("FROM base\nRUN echo old > /date\n");
        machine(&work, "first", &[]);
        work.base = scene.work().base;
        work.base = work.derived("FROM base\nRUN echo new > /date\n");
        then(&work, &[], "date", "new");
    }

    /// 1833: a stage on a stage whose base image is another.
    #[test]
    fn a_stage_below_on_another_base() {
        let scene = Scene::new();
        let mut work = scene.work();
        let plain = work.base.clone();
        work.write("Dockerfile", "FROM base AS builder\nFROM builder\nRUN busybox cp /release /seen\n");
        work.base = work.derived("FROM base\nRUN echo old > /release\n");
        machine(&work, "first", &[]);
        work.base = plain;
        work.base = work.derived("FROM base\nRUN echo new > /release\n");
        then(&work, &[], "seen", "new");
    }

    /// 690, 739: an ARG that only the command reads.
    #[test]
    fn an_argument_that_a_command_compares() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(
            "Dockerfile",
            "FROM base\nARG testarg='false'\nRUN if [ \"$testarg\" = 'false' ]; then \\\n  echo test1 > /testfile; \\\n\
             else \\\n  echo test2 > /testfile; \\\nfi\n",
        );
        assert_eq!(text(&machine(&work, "first", &[]), "testfile"), "test1\n");
        then(&work, &["--build-arg=testarg=true"], "testfile", "test2");
    }

    /// 728: an ARG that becomes a variable of the same name.
    #[test]
    fn an_argument_that_becomes_a_variable() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(
            "Dockerfile",
            "FROM base AS build\nARG RUNTIME_ENV\nENV RUNTIME_ENV $RUNTIME_ENV\n\
             RUN busybox env | busybox grep RUNTIME_ENV > /printenv.results\n",
        );
        machine(&work, "first", &["--build-arg=RUNTIME_ENV=production"]);
        then(&work, &["--build-arg=RUNTIME_ENV=staging"], "printenv.results", "RUNTIME_ENV=staging");
    }

    /// 1688: an ARG that only a script reads.
    #[test]
    fn an_argument_that_a_script_reads() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("test.sh", "echo ${CONT_IMG_VER} > /test.txt\n");
        work.write(
            "Dockerfile",
            "FROM base\nADD ./test.sh /\nRUN busybox cat /test.sh\nARG CONT_IMG_VER\nRUN busybox sh /test.sh\n",
        );
        machine(&work, "first", &["--build-arg=CONT_IMG_VER=4444"]);
        then(&work, &["--build-arg=CONT_IMG_VER=333"], "test.txt", "333");
    }

    /// Fork 873: parts of the key were joined with a character that may be in them.
    #[test]
    fn two_arguments_that_make_one_text() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("Dockerfile", "FROM base\nARG A\nARG B\nRUN echo \"A=[$A] B=[$B]\" > /out\n");
        machine(&work, "first", &["--build-arg=A=x-B=z", "--build-arg=B=y"]);
        then(&work, &["--build-arg=A=x", "--build-arg=B=z-B=y"], "out", "A=[x] B=[z-B=y]");
    }

    /// Fork 875: one command spelled what another's key was made of.
    #[test]
    fn a_command_that_spells_two() {
        let scene = Scene::new();
        let work = scene.work();
        let two = "RUN echo two > /two\nRUN echo more >> /two\n";
        let one = "RUN echo one > /one # -RUN echo more >> /two\n";
        work.write(
            "Dockerfile",
            format!("FROM base AS one\n{one}FROM base AS two\n{two}FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\n"),
        );
        for name in ["first", "next"] {
            let tree = machine(&work, name, &[]);
            assert_eq!((text(&tree, "one"), text(&tree, "two")), ("one\n".to_owned(), "two\nmore\n".to_owned()));
        }
    }

    /// Fork 911: a file's name could hold what the digest of another was.
    #[test]
    fn folders_whose_names_and_digests_make_one_text() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("Dockerfile", "FROM base\nCOPY d /d/\nRUN busybox ls /d > /seen\n");
        // One folder has `a` and `b`, the other a file whose name is `a`, the digest of what that holds, and `b`.
        work.write("d/a", "");
        work.write("d/b", "");
        machine(&work, "first", &[]);
        let empty = "d41d8cd98f00b204e9800998ecf8427e";
        for digest in [empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] {
            fs::remove_dir_all(work.context.join("d")).unwrap();
            let name = format!("a{digest}b");
            work.write(&format!("d/{name}"), "");
            then(&work, &[], "seen", &name);
        }
    }

    /// Fork 791, 813: variables in COPY, ADD and WORKDIR were not put in.
    #[test]
    fn a_variable_in_a_path() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("foo", "");
        for (step, file) in [("COPY foo /$A/", "A/foo"), ("ADD foo /$A/", "A/foo"), ("WORKDIR /$A/w", "A/w")] {
            work.write("Dockerfile", format!("FROM base\nARG A\n{step}\n"));
            machine(&work, "first", &["--build-arg=A=old"]);
            for name in ["first", "next"] {
                let tree = machine(&work, name, &["--build-arg=A=new"]);
                assert!(tree.join(file.replace('A', "new")).exists() && !tree.join("old").exists(), "{step} {name}");
            }
        }
    }

    /// 2567, 3350, fork 1029: builds for several platforms shared their keys.
    #[test]
    fn another_platform() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("foo", "");
        work.write("Dockerfile", "FROM scratch\nCOPY foo /\nWORKDIR /w\n");
        let [one, other] = ["--platform=linux/amd64", "--platform=linux/arm64"];
        work.build("first", &cached(&work, &[one])).unwrap();
        let refused = work.build("next", &all_cached(&cached(&work, &[other]))).unwrap_err();
        assert!(refused.contains("is not in the cache"), "{refused}");
        // One that names it in the build file.
        work.write(
            "Dockerfile",
            "FROM --platform=$TARGETPLATFORM scratch AS s\nARG TARGETARCH\nCOPY foo /$TARGETARCH\n",
        );
        work.tree("first", &cached(&work, &[one]));
        let tree = work.tree("next", &cached(&work, &[other]));
        assert!(tree.join("arm64").exists() && !tree.join("amd64").exists());
    }

    /// 595, 986, and the flag FF_KANIKO_SCOPED_DOCKERIGNORE of the fork: .dockerignore left what stages hold out of the key.
    #[test]
    fn a_stage_that_dockerignore_would_leave_out() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(".dockerignore", "*\n!source\n");
        work.write("source", "old");
        work.write(
            "Dockerfile",
            "FROM base AS build\nCOPY source /app/made\nFROM base\nCOPY --from=build /app /app\nRUN busybox cat /app/made > /seen\n",
        );
        machine(&work, "first", &[]);
        work.write("source", "new");
        then(&work, &[], "seen", "new");
    }

    /// 2241, 1678, fork 62: a file had another name, and the old one came out.
    #[test]
    fn a_file_of_another_name() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("d/old", "same");
        work.write("Dockerfile", "FROM base\nCOPY d /d/\n");
        machine(&work, "first", &[]);
        fs::rename(work.context.join("d/old"), work.context.join("d/new")).unwrap();
        then(&work, &[], "d/new", "same");
        assert!(!machine(&work, "next", &[]).join("d/old").exists());
    }
}

mod broken {
    use super::*;

    /// Building again gives this image, and so does a machine that has only the cache.
    fn stays(work: &Work<'_>) {
        let first = work.timeless("first", &cached(work, &[])).unwrap();
        let fresh = work.timeless("fresh", &["--no-cache".to_owned()]).unwrap();
        let next = work.timeless("next", &all_cached(&cached(work, &[]))).unwrap();
        for image in [fresh, next] {
            let difference = difference(&first, &image);
            assert!(difference.is_none(), "{}", difference.unwrap());
        }
    }

    /// 704: what had been removed came back.
    #[test]
    fn what_was_removed_stays_away() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(
            "Dockerfile",
            "FROM base\nRUN busybox mkdir -p /some/dir && echo first > /some/dir/first.txt\nRUN busybox rm /some/dir/first.txt\n",
        );
        stays(&work);
        assert!(!machine(&work, "next", &[]).join("some/dir/first.txt").exists());
    }

    /// Fork 774: a copy between stages carried the marks of what had been removed, and removed it where it was to stay.
    #[test]
    fn a_copy_does_not_carry_removals() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(
            "Dockerfile",
            "FROM base AS below\nRUN busybox mkdir /dir && echo 1 > /dir/kept\n\
             FROM below AS sibling\nRUN busybox rm -rf /dir && busybox mkdir /dir && echo 2 > /dir/more\n\
             FROM below\nCOPY --from=sibling /dir/ /dir/\n",
        );
        stays(&work);
        let tree = machine(&work, "next", &[]);
        assert_eq!((text(&tree, "dir/kept"), text(&tree, "dir/more")), ("1\n".to_owned(), "2\n".to_owned()));
    }

    /// 1636, 2135: the marks of what had been removed were files to the next command.
    #[test]
    fn a_command_sees_no_marks() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("late", "1");
        work.write(
            "Dockerfile",
            "FROM base\nRUN busybox mkdir /srv && echo > /srv/01_hello\nRUN busybox rm /srv/01_hello\n\
             COPY late /\nRUN busybox chmod -R 755 /srv && busybox ls -a /srv > /seen\n",
        );
        machine(&work, "first", &[]);
        work.write("late", "2");
        then(&work, &[], "seen", ".\n..");
        stays(&work);
    }

    /// 1162, 1138: after a change layers held what those below held, and the image could not be unpacked.
    #[test]
    fn a_layer_holds_what_its_step_made() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("large", "0123456789".repeat(10_000));
        work.write("source", "1");
        work.write(
            "Dockerfile",
            "FROM base\nCOPY large /large\nRUN echo 1 > /one\nCOPY source /source\nRUN busybox cp /source /two\n",
        );
        work.build("first", &cached(&work, &[])).unwrap();
        for (number, name) in [(2, "first"), (3, "next")] {
            work.write("source", number.to_string());
            let image = work.build(name, &cached(&work, &[])).unwrap();
            let layers = crate::support::layers(&image);
            let mine: Vec<Vec<String>> = layers[layers.len() - 4..]
                .iter()
                .map(|layer| {
                    let mut archive = tar::Archive::new(&layer[..]);
                    let path = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
                        entry.unwrap().path().unwrap().display().to_string()
                    };
                    archive.entries().unwrap().map(path).collect()
                })
                .collect();
            assert_eq!(mine, [["large"], ["one"], ["source"], ["two"]], "{name}");
        }
    }

    /// 1637: a file that was made, removed and made again in three layers was gone.
    #[test]
    fn what_was_made_again_is_there() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("Dockerfile", "FROM base\nRUN echo 1 > /test\nRUN busybox rm /test\nRUN echo 1 > /test\n");
        stays(&work);
        assert_eq!(text(&machine(&work, "next", &[]), "test"), "1\n");
    }
}

mod missed {
    use super::*;

    /// 899: after a copy that was found, keys were written that nobody looked up.
    #[test]
    fn a_command_after_a_copy() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("foo.txt", "meow");
        work.write(
            "Dockerfile",
            "FROM base\nCOPY foo.txt bar.txt\nRUN echo update > /updated\nRUN echo more > /more\n",
        );
        machine(&work, "first", &[]);
        found(&work, &[]);
        // What stands on a copy that was found is written under the key that is looked up next time.
        work.write("Dockerfile", "FROM base\nCOPY foo.txt bar.txt\nRUN echo new > /updated\nRUN echo more > /more\n");
        machine(&work, "next", &[]);
        found(&work, &[]);
    }

    /// 410: keys that were looked up and keys that were written were not the same; WORKDIR was suspected.
    #[test]
    fn commands_among_all_that_configures() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("conf", "1");
        work.write(
            "Dockerfile",
            "FROM base\nENV SHINY=/open/shiny\nWORKDIR $SHINY\nRUN echo 1 > one\nEXPOSE 80\nUSER user\nADD conf ./\n\
             LABEL a=b\nVOLUME /open/data\nRUN busybox sed -i s/1/2/ one || :\nCMD [\"x\"]\nWORKDIR sub\nUSER root\nRUN echo 3 > three\n",
        );
        machine(&work, "first", &[]);
        found(&work, &[]);
    }

    /// 1910: an ARG with a default made another key each time.
    #[test]
    fn an_argument_with_a_default() {
        let scene = Scene::new();
        let work = scene.work();
        let many: String =
            (0..20).map(|number| format!("ARG N{number}={number}\nENV E{number}=$N{number}\n")).collect();
        work.write(
            "Dockerfile",
            format!("FROM base AS build\nARG TEST=123\n{many}RUN echo > /f\nCOPY Dockerfile /d\n"),
        );
        machine(&work, "first", &[]);
        (0..3).for_each(|_| found(&work, &[]));
    }

    /// 1008: an argument that is another in each build made a miss of everything, whoever asked for it.
    #[test]
    fn an_argument_of_the_build_that_few_ask_for() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("a", "1");
        let steps = "FROM base\nRUN echo 1 > /one\nCOPY a /\nARG SHA\nLABEL sha=$SHA\nCOPY a /b\nWORKDIR /w\n";
        work.write("Dockerfile", steps);
        machine(&work, "first", &["--build-arg=SHA=1", "--build-arg=TIME=1"]);
        found(&work, &["--build-arg=SHA=2", "--build-arg=TIME=2"]);
        // A command after it may read it.
        work.write("Dockerfile", format!("{steps}RUN echo $SHA > /sha\n"));
        machine(&work, "first", &["--build-arg=SHA=1"]);
        then(&work, &["--build-arg=SHA=2"], "sha", "2");
    }

    /// 871, 594: files that .dockerignore leaves out made misses.
    #[test]
    fn a_file_that_dockerignore_leaves_out() {
        let scene = Scene::new();
        let work = scene.work();
        work.write(".dockerignore", "files/a.txt\n");
        work.write("files/a.txt", "hi");
        work.write("files/b.txt", "bye");
        work.write("Dockerfile", "FROM base\nCOPY files files\n");
        machine(&work, "first", &[]);
        work.write("files/a.txt", "ho");
        found(&work, &[]);
    }

    /// 3088: a label of the command line made misses in later stages.
    #[test]
    fn a_label_of_the_command_line() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("Dockerfile", "FROM base AS one\nRUN echo 1 > /one\nFROM one AS two\nRUN echo 2 > /two\n");
        machine(&work, "first", &["--label=some=1"]);
        found(&work, &["--label=some=6"]);
    }

    /// 521, 525, fork pulls 1 and 2: when the base image was made, and its labels, were part of the key.
    #[test]
    fn a_base_image_made_again() {
        let scene = Scene::new();
        let mut work = scene.work();
        let plain = work.base.clone();
        work.write(
            "Dockerfile",
            "FROM base AS one\nRUN echo 1 > /one\nFROM base\nCOPY --from=one /one /\nRUN echo 2 > /two\n",
        );
        work.base = work.derived("FROM base\nLABEL made=1\n");
        machine(&work, "first", &[]);
        let first = work.base.clone();
        work.base = plain;
        work.base = work.derived("FROM base\nLABEL made=2\n");
        assert!(difference(&first, &work.base).is_some());
        found(&work, &[]);
    }

    /// Fork 703: after one miss nothing more was looked up in that stage.
    #[test]
    fn what_stands_behind_a_miss() {
        let scene = Scene::new();
        let work = scene.work();
        work.write("lost", "2");
        // A copy done again is what it was; what stands behind a command done again stands on other times.
        work.write("Dockerfile", "FROM base\nRUN echo 1 > /one\nCOPY lost /two\nRUN echo 3 > /three\n");
        machine(&work, "first", &[]);
        // All entries of the second step are lost; it has one by what it stands on, and one by what that holds.
        let of_step = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("COPY lost");
        let lost: Vec<PathBuf> = files(&work.cache_folder().join("entries")).into_iter().filter(of_step).collect();
        assert!(!lost.is_empty());
        lost.iter().for_each(|entry| fs::remove_file(entry).unwrap());
        let log = work.log("next", &work.reads_folder()).unwrap();
        assert_eq!(log.matches(" CACHED").count(), 3, "the base image and two steps:\n{log}");
        assert_eq!(log.lines().filter(|line| line.contains(" DONE ")).count(), 1, "{log}");
    }
}
