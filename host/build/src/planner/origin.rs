//! What names in FROM and `--from` mean: a named context, a stage above, or an image, in this order.

use std::sync::Arc;

use oci::Platform;
use plan::{Diagnostic, Span};

use super::lower::Lowerer;
use super::{Base, BaseImage, Named, Planner, Ref};
use crate::error::Error;

impl Planner {
    /// What FROM names: a named context, a stage above, or an image.
    pub(super) async fn base(
        self: &Arc<Self>,
        index: usize,
        name: &str,
        platform: &Platform,
        explicit: bool,
        span: &Span,
    ) -> Result<Base, Error> {
        let failed = |source| Error::Base { source, span: Some(span.clone()) };
        let above = &self.shared.stage_names[..index];
        if let Some(stage) = above.iter().rposition(|known| known.as_deref() == Some(name)) {
            return Ok(Base::Stage(stage));
        }
        if let Some(named) = self.resolver.named(name, platform).await.map_err(failed)? {
            return Ok(named.into());
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Err(error) = name.parse::<oci::Reference>() {
            let mut diagnostic = Diagnostic::error(
                "InvalidBase",
                format!("failed to parse stage name \"{name}\": {error}"),
                Some(span.clone()),
            );
            if above.iter().any(|known| known.as_deref() == Some(&name.to_lowercase())) {
                diagnostic = diagnostic.with_help("names of stages must be given in lowercase in FROM");
            }
            return Err(diagnostic.into());
        }
        self.image(name, platform, explicit).await.map(Base::Image).map_err(failed)
    }
}

impl Planner {
    /// Refuses to take something from a stage that is not there, or not above the stage `at`.
    pub(super) fn check_origin(&self, name: &str, at: usize, span: &Span) -> Result<(), Error> {
        match self.shared.find(name, at) {
            Some(Err(stage)) => {
                let what = if stage == at { "itself" } else { "a stage that is defined below it" };
                let message = format!("a stage cannot copy from {what}: \"{name}\"");
                Err(Error::at("StageOrder", message, span))
            }
            // A number is a stage and never an image.
            None if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) => {
                let message = format!("invalid stage index {name}: this file has {} stages", self.stages.len());
                Err(Error::at("NoStage", message, span))
            }
            _ => Ok(()),
        }
    }
}

impl std::convert::From<Named> for Base {
    fn from(named: Named) -> Self {
        match named {
            Named::Image(image) => Self::Image(image),
            Named::Context(name) => Self::Context(name),
        }
    }
}

impl Lowerer<'_> {
    /// What `--from` names: a named context, a stage above, or an image.
    pub(super) async fn origin(&self, name: &str, span: &Span) -> Result<Ref, Error> {
        let (planner, platform) = (self.planner, &self.view.platform);
        let failed = |source| Error::Base { source, span: Some(span.clone()) };
        let stage = planner.shared.find(name, self.view.stage);
        // A stage that a named context takes the place of is found with that context in it.
        if let Some(Ok(stage)) = stage {
            return Ok(Ref::Stage(stage));
        }
        if let Some(named) = planner.resolver.named(name, platform).await.map_err(failed)? {
            return Ok(match named {
                Named::Context(name) => Ref::Context(Some(name)),
                Named::Image(image) => Ref::Image(image),
            });
        }
        planner.check_origin(name, self.view.stage, span)?;
        if name == "scratch" {
            return Ok(Ref::Scratch);
        }
        if let Err(error) = name.parse::<oci::Reference>() {
            let names = planner.shared.stage_names.iter().flatten().map(String::as_str);
            let diagnostic = Diagnostic::error("InvalidFrom", error.to_string(), Some(span.clone()));
            return Err(match plan::diagnostic::nearest(name, names) {
                Some(near) => diagnostic.with_help(format!("did you mean the stage {near}?")).into(),
                None => diagnostic.into(),
            });
        }
        let image: Arc<BaseImage> = planner.image(name, platform, false).await.map_err(failed)?;
        Ok(Ref::Image(image))
    }
}
