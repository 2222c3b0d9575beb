//! Small builds made up by chance: stages, steps of every kind, files, arguments, and single changes of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::scene::Work;

/// The numbers of splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn once_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<'p>(&mut self, from: &[&'p str]) -> &'p str {
        from[self.below(from.len())]
    }
}

/// Commands that give the same each time; `N` is a number of the step's own.
const STEADY: &[&str] = &[
    "true",
    "busybox env | busybox sort > /open/envN",
    "busybox id > /open/idN; busybox pwd >> /open/idN",
    "echo N $A $B $C >> /open/log",
    "busybox rm -rf /open/n* /open/log",
    "busybox rm -rf /open/* /c",
    "busybox mkdir -p /open/mN/x; echo N > /open/mN/x/y; busybox chmod 700 /open/mN",
    "busybox mkdir -p /c; echo $A > /c/f0; busybox mv /open/m* /open/movedN",
    "busybox ln -s log /open/sN; busybox ln /open/log /open/hardN",
    "busybox cat /m /open/log /m/log > /open/bothN; busybox ls -ln /m | busybox cut -c1-10 >> /open/bothN",
    "busybox touch -d @100000 /open/log; busybox chown 5:6 /open/log; busybox chmod 4711 /open/log",
    // It sees everything: what differs below comes out here. Its own file must not be there while it looks.
    "seen=$(busybox find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /m \\) -prune \
     -o -exec busybox stat -c '%n %a %u %g %F' {} + | busybox sort); echo \"$seen\" > /open/seenN",
    "sums=$(busybox find /open /c -type f -exec busybox md5sum {} + | busybox sort); echo \"$sums\" > /open/sumsN",
];
const FICKLE: &[&str] = &[
    "busybox cat /proc/uptime >> /open/log",
    "busybox head -c 9 /dev/urandom > /open/noise",
    "busybox cat /proc/sys/kernel/random/uuid > /open/uuidN",
];
const WORDS: &[&str] = &["one", "two", "three", "", "a b", "x=y", "-", "ü", "$A"];

/// An instruction.
#[derive(Clone, Debug)]
enum Line {
    Text(String),
    /// RUN: its flags, whether the shell is named, and the script.
    Run(String, bool, String),
}

/// What is built.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    lines: Vec<Line>,
    /// Content and mode.
    files: BTreeMap<&'static str, (String, u32)>,
    arguments: BTreeMap<&'static str, String>,
    /// Whether each command gives the same each time.
    pub(crate) steady: bool,
}

impl Recipe {
    pub(crate) fn new(random: &mut Random) -> Self {
        let steady = !random.once_in(3);
        let mut recipe = Self { lines: Vec::new(), files: BTreeMap::new(), arguments: BTreeMap::new(), steady };
        for name in ["f0", "f1", "f2", "d/a", "d/b", "d/e/z"] {
            let text = random.pick(WORDS).repeat(random.below(4));
            recipe.files.insert(name, (text, [0o644, 0o600, 0o755, 0o4711][random.below(4)]));
        }
        recipe.arguments.insert("A", random.pick(&WORDS[..4]).to_owned());
        if !random.once_in(3) {
            recipe.arguments.insert("B", random.pick(&WORDS[..4]).to_owned());
        }
        let stages = 1 + random.below(3);
        // What can be copied from each stage.
        let mut there: Vec<Vec<String>> = Vec::new();
        for stage in 0..stages {
            let of_stage = recipe.stage(random, stage, stage + 1 == stages, &there);
            there.push(of_stage);
        }
        recipe
    }

    fn stage(&mut self, random: &mut Random, stage: usize, last: bool, there: &[Vec<String>]) -> Vec<String> {
        let mut mine = vec!["/open".to_owned()];
        let mut runs = true;
        let from = match random.below(4) {
            0 if last && stage > 0 => {
                runs = false;
                "scratch".to_owned()
            }
            1 | 2 if stage > 0 => {
                let below = if last { stage - 1 } else { random.below(stage) };
                mine.clone_from(&there[below]);
                format!("s{below}")
            }
            _ => "base".to_owned(),
        };
        self.lines.push(Line::Text(format!("FROM {from} AS s{stage}")));
        if random.once_in(2) {
            self.lines.push(Line::Text("ARG A".to_owned()));
        }
        for _ in 0..2 + random.below(4) {
            let number = self.lines.len();
            let line = match random.below(14) {
                0..=2 => copy(random, number),
                3 => {
                    mine.push(format!("/kept/h{number}"));
                    let word = random.pick(WORDS);
                    Line::Text(format!("COPY <<E /kept/h{number}\n{word} $A\nE"))
                }
                4 | 5 if stage > 0 => copy_from(random, number, there),
                6..=8 if runs => self.run(random, stage, number),
                9 => Line::Text(random.pick(&["ARG A", "ARG B=2", "ARG A=1", "ARG C=$B"]).to_owned()),
                10 => Line::Text(format!("ENV {}", random.pick(&["A=env", "C=\"$A $B\"", "D=4", "B=${A:-none}"]))),
                11 => {
                    let place = random.pick(&["/open/wN", "relN", "/w/$B", "/"]).replace('N', &number.to_string());
                    Line::Text(format!("WORKDIR {place}"))
                }
                12 => Line::Text(format!("USER {}", random.pick(&["user", "0", "7:8"]))),
                _ => Line::Text(format!("LABEL l{number}=\"{}\"", random.pick(&["x", "$A"]))),
            };
            self.lines.push(line);
        }
        // What other stages made shall matter often.
        if last && stage > 0 && random.once_in(2) {
            let line = copy_from(random, self.lines.len(), there);
            self.lines.push(line);
        }
        // No file is needed to look up a number.
        if !runs {
            for line in &mut self.lines {
                if matches!(line, Line::Text(text) if text == "USER user") {
                    *line = Line::Text("USER 1000".to_owned());
                }
            }
        }
        mine
    }

    fn run(&self, random: &mut Random, stage: usize, number: usize) -> Line {
        let mut flags = String::new();
        match random.below(6) {
            0 => flags += "--mount=type=bind,source=f0,target=/m ",
            1 => flags += "--mount=type=bind,source=d,target=/m,rw ",
            2 if stage > 0 => {
                write!(flags, "--mount=type=bind,from=s{},source=/open,target=/m ", random.below(stage)).unwrap();
            }
            3 => flags += "--network=none --mount=type=tmpfs,target=/t ",
            _ => {}
        }
        let fickle = !self.steady && random.once_in(2);
        let mut script = random.pick(if fickle { FICKLE } else { STEADY }).replace('N', &number.to_string());
        if random.once_in(3) {
            script = format!("{script}; {}", random.pick(STEADY).replace('N', &format!("{number}-2")));
        }
        if random.once_in(3) {
            script = format!("{script}; echo $A > /open/a{number}");
        }
        Line::Run(flags, random.once_in(2), format!("exec 2>/dev/null; : {number}; {script}; true"))
    }

    /// The Dockerfile.
    pub(crate) fn text(&self) -> String {
        let line = |line: &Line| match line {
            Line::Text(text) => format!("{text}\n"),
            Line::Run(flags, false, script) => format!("RUN {flags}{script}\n"),
            Line::Run(flags, true, script) => {
                let words = serde_json::to_string(&["/bin/busybox", "sh", "-c", script]).unwrap();
                format!("RUN {flags}{words}\n")
            }
        };
        self.lines.iter().map(line).collect()
    }

    /// Writes the context.
    pub(crate) fn lay(&self, work: &Work<'_>) {
        work.write("Dockerfile", self.text());
        for (name, (text, mode)) in &self.files {
            work.write(name, text);
            work.mode(name, *mode);
        }
        let link = work.context.join("link");
        if !link.is_symlink() {
            std::os::unix::fs::symlink("d/a", link).unwrap();
        }
    }

    /// Words of the command line.
    pub(crate) fn words(&self) -> Vec<String> {
        self.arguments.iter().map(|(name, value)| format!("--build-arg={name}={value}")).collect()
    }

    /// Changes one thing; says what.
    pub(crate) fn change(&mut self, random: &mut Random) -> String {
        let names: Vec<&str> = self.files.keys().copied().collect();
        let name = random.pick(&names);
        match random.below(8) {
            0 | 1 => {
                let (text, _) = self.files.get_mut(name).unwrap();
                text.push('!');
                return format!("what {name} holds");
            }
            2 => {
                let (_, mode) = self.files.get_mut(name).unwrap();
                *mode ^= 0o111;
                return format!("the mode of {name}");
            }
            3 | 4 => {
                self.arguments.get_mut("A").unwrap().push('2');
                return "the argument A".to_owned();
            }
            _ => {}
        }
        let runs: Vec<&mut Line> = self.lines.iter_mut().filter(|line| matches!(line, Line::Run(..))).collect();
        let many = runs.len();
        let Some(Line::Run(_, _, script)) =
            (many > 0).then(|| random.below(many)).and_then(|n| runs.into_iter().nth(n))
        else {
            let (text, _) = self.files.get_mut(name).unwrap();
            text.push('?');
            return format!("what {name} holds");
        };
        // A command that does the same in other words leaves what follows as it is.
        let more = random.pick(&["; echo more > /open/more", "; :", "; busybox chmod 750 /open/m*"]);
        script.insert_str(script.len() - "; true".len(), more);
        format!("a command: {script}")
    }
}

fn copy(random: &mut Random, number: usize) -> Line {
    let mut flags = String::new();
    for flag in ["--chmod=640", "--chmod=u=rwX,go=rX", "--chown=3:4", "--link", "--exclude=**/b"] {
        if random.once_in(6) && !(flag.starts_with("--chmod") && flags.contains("--chmod")) {
            flags = format!("{flags}{flag} ");
        }
    }
    let verb = random.pick(&["COPY", "COPY", "ADD"]);
    let source = random.pick(&["f0", "f*", "d", "d/e", "d/", "link", ".", ".", "f0 d f2"]);
    let destination = random.pick(&["/c/", "/open/", "./", "/c/$A/", "/open/nN/", "/c/N"]);
    // Several files need a folder.
    let slash = if destination == "/c/N" { "/" } else { "" };
    Line::Text(format!("{verb} {flags}{source} {}{slash}", destination.replace('N', &number.to_string())))
}

fn copy_from(random: &mut Random, number: usize, there: &[Vec<String>]) -> Line {
    let from = random.below(there.len());
    let what: Vec<&str> = there[from].iter().map(String::as_str).collect();
    let flags = random.pick(&["", "", "--link ", "--chown=9:9 ", "--chmod=700 ", "--parents "]);
    let source = random.pick(&what);
    Line::Text(format!("COPY --from=s{from} {flags}{source} /open/n{number}/"))
}
