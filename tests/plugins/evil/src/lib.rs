//! An instruction that breaks in the way that its argument says: `EVIL trap`, `EVIL loop`...

use std::hint::black_box;

use plywood_sdk::instruction::{
    self, Arguments, ConfigChange, Guest, Included, Instruction, KeyValue, KeywordSpec, Lowered, Lowering, MkdirOp,
    Mount, MountKind, Op, PluginError, PluginInfo, RunOp, Stage,
};

struct Evil;

impl Guest for Evil {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "evil".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Breaks on demand".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn keywords() -> Vec<KeywordSpec> {
        vec![KeywordSpec {
            keyword: "EVIL".into(),
            flags: Vec::new(),
            doc: "Breaks in the way that is asked for".into(),
            allows_heredoc: false,
            allows_exec_form: false,
            deviation: None,
        }]
    }

    fn lower(_: &Stage, instruction: Instruction) -> Result<Lowering, PluginError> {
        let Arguments::Text(how) = instruction.arguments else {
            return Err(PluginError::Unsupported);
        };
        let ops = match how.trim() {
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("plugin says boom"),
            "loop" => loop {
                black_box(());
            },
            "memory" => eat(),
            "recursion" => vec![label(&descend(0).to_string())],
            "frames" => vec![label(&descend_in_steps(0).to_string())],
            "huge" => return Ok(lowering(Vec::new(), "x".repeat(HUGE))),
            "many" => vec![label("many"); 10_001],
            "nul" => vec![run("a\0b", None)],
            "badmount" => vec![run("true", Some("relative"))],
            "nulpath" => vec![mkdir("/a\0b")],
            "nulenv" => vec![Op::Config(ConfigChange::SetEnv(pair("A", "a\0b")))],
            "include" => return Ok(Lowering::Source(include("EVIL include\n"))),
            "wordless" => return Err(PluginError::Invalid(Vec::new())),
            "internal" => return Err(PluginError::Internal("I have lost my way".into())),
            "fine" => vec![label("fine")],
            _ => return Err(PluginError::Unsupported),
        };
        Ok(lowering(ops, "EVIL".into()))
    }
}

/// As much text as fits into the memory that a plugin may have.
const HUGE: usize = 56 << 20;

fn lowering(ops: Vec<Op>, created_by: String) -> Lowering {
    Lowering::Ops(Lowered::new(ops, created_by))
}

fn include(text: &str) -> Included {
    Included { name: "more".into(), text: text.into(), escape: '\\', diagnostics: Vec::new() }
}

fn mkdir(path: &str) -> Op {
    Op::Mkdir(MkdirOp { path: path.into(), owner: None, mode: 0o755 })
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn label(value: &str) -> Op {
    Op::Config(ConfigChange::SetLabel(pair("evil", value)))
}

fn run(command: &str, target: Option<&str>) -> Op {
    let mount = |target: &str| Mount { target: Some(target.into()), kind: MountKind::Tmpfs(None) };
    Op::Run(RunOp { mounts: target.map(mount).into_iter().collect(), ..RunOp::new(vec![command.into()]) })
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Without end, and on the native stack alone: nothing of it is in linear memory.
#[allow(unconditional_recursion, reason = "that is what it is for")]
#[inline(never)]
fn descend(depth: u64) -> u64 {
    black_box(descend(depth + 1)) + depth
}

/// Without end, with frames so large that linear memory's stack is full first.
#[allow(unconditional_recursion, reason = "that is what it is for")]
#[inline(never)]
fn descend_in_steps(depth: u64) -> u64 {
    let frame = black_box([depth; 1024]);
    descend_in_steps(depth + 1) + frame[usize::from(depth == 0)]
}

instruction::export!(Evil with_types_in instruction);
