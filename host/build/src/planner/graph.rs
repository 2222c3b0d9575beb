//! From lowered stages to the graph of vertices that the target needs.

use std::collections::BTreeMap;

use plan::graph::{CopyStep, Graph, Origin, RunStep, Vertex, VertexId, VertexOp};
use plan::op::{CopyOp, CopySource};

use super::{Base, BaseImage, Planner, Ref, StepOp};

/// Makes vertices, each stage's and each image's once.
pub(super) struct GraphBuilder<'b> {
    planner: &'b Planner,
    pub(super) graph: Graph,
    done: BTreeMap<usize, (Option<VertexId>, Vec<VertexId>)>,
    images: BTreeMap<(oci::Digest, String), VertexId>,
}

impl<'b> GraphBuilder<'b> {
    pub(super) fn new(planner: &'b Planner) -> Self {
        Self { planner, graph: Graph::default(), done: BTreeMap::new(), images: BTreeMap::new() }
    }

    /// The vertex that a stage without a base image or stage starts with.
    pub(super) fn bottom(&mut self, index: usize) -> Option<VertexId> {
        let mut at = self.stage(index).0?;
        while let Some(below) = self.graph[at].parent {
            at = below;
        }
        Some(at)
    }

    /// The top vertex of a stage, and the vertices of its steps.
    pub(super) fn stage(&mut self, index: usize) -> (Option<VertexId>, Vec<VertexId>) {
        if let Some(done) = self.done.get(&index) {
            return done.clone();
        }
        let Some(plan) = self.planner.stages[index].get().cloned() else {
            unreachable!("a needed stage has been planned")
        };
        let name = self.planner.file.stages[index].name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let name = match self.planner.several_platforms {
            true => format!("{} {name}", plan.platform),
            false => name,
        };
        let total = plan.steps.len() + 1;
        let mut top = match &plan.base {
            Base::Scratch => None,
            Base::Context(context) => Some(self.context(context, index, &plan.platform, &name, total)),
            Base::Stage(below) => self.stage(*below).0,
            Base::Image(image) => Some(self.image(image, Some((index, &name, total)))),
        };
        let mut vertices = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            let op = match &step.op {
                StepOp::Run(run, refs) => {
                    let mount_origins = refs.iter().map(|r| r.as_ref().map(|r| self.origin(r))).collect();
                    VertexOp::Run(RunStep { mount_origins, ..run.clone() })
                }
                StepOp::Copy(copy, refs) => {
                    let origins = refs.iter().map(|r| r.as_ref().map(|r| self.origin(r))).collect();
                    VertexOp::Copy(CopyStep { origins, ..copy.clone() })
                }
                StepOp::Mkdir(mkdir) => VertexOp::Mkdir(mkdir.clone()),
            };
            let vertex = Vertex {
                name: format!("[{name} {}/{total}] {}", number + 2, step.text),
                stage_name: self.planner.file.stages[index].name.clone(),
                stage_index: index,
                index: number + usize::from(matches!(plan.base, Base::Context(_))),
                platform: plan.platform.clone(),
                instruction: Some(step.instruction.clone()),
                hints: step.hints.clone(),
                parent: top,
                op,
                base: plan.base_reference.clone(),
            };
            let id = self.graph.push(vertex);
            vertices.push(id);
            top = Some(id);
        }
        self.done.insert(index, (top, vertices.clone()));
        (top, vertices)
    }

    /// All files of a context, as the layer that a stage starts with.
    fn context(
        &mut self,
        context: &str,
        index: usize,
        platform: &oci::Platform,
        stage: &str,
        total: usize,
    ) -> VertexId {
        let sources = vec![CopySource::Stage { origin: context.to_owned(), patterns: vec!["/".into()] }];
        let op = CopyOp {
            sources,
            destination: "/".into(),
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            link: false,
            parents: false,
        };
        let origins = vec![Some(Origin::Context(Some(context.to_owned())))];
        self.graph.push(Vertex {
            name: format!("[{stage} 1/{total}] FROM {context}"),
            stage_name: self.planner.file.stages[index].name.clone(),
            stage_index: index,
            index: 0,
            platform: platform.clone(),
            instruction: None,
            hints: Vec::new(),
            parent: None,
            op: VertexOp::Copy(CopyStep { op, destination: "/".into(), origins }),
            base: None,
        })
    }

    fn image(&mut self, image: &BaseImage, stage: Option<(usize, &str, usize)>) -> VertexId {
        let slot = (image.source.digest, image.source.name.clone());
        if let Some(known) = self.images.get(&slot) {
            return *known;
        }
        let name = match stage {
            Some((_, stage, total)) => format!("[{stage} 1/{total}] FROM {}", image.source.name),
            None => format!("[from {}]", image.source.name),
        };
        let id = self.graph.push(Vertex {
            name,
            stage_name: stage.and_then(|(index, _, _)| self.planner.file.stages[index].name.clone()),
            stage_index: stage.map_or(0, |(index, _, _)| index),
            index: 0,
            platform: image.source.platform.clone(),
            instruction: None,
            hints: Vec::new(),
            parent: None,
            op: VertexOp::Image(image.source.clone()),
            base: None,
        });
        self.images.insert(slot, id);
        id
    }

    fn origin(&mut self, from: &Ref) -> Origin {
        match from {
            Ref::Stage(index) => match self.stage(*index).0 {
                Some(vertex) => Origin::Vertex(vertex),
                None => Origin::Scratch,
            },
            Ref::Image(image) => Origin::Vertex(self.image(image, None)),
            Ref::Context(name) => Origin::Context(name.clone()),
            Ref::Scratch => Origin::Scratch,
        }
    }
}
