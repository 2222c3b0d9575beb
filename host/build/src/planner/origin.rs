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
        // A stage that a named context takes the place of is found with that context in it.
        if let Some(stage) = planner.shared.stage(name, self.view.stage) {
            return Ok(Ref::Stage(stage));
        }
        if let Some(named) = planner.resolver.named(name, platform).await.map_err(failed)? {
            return Ok(match named {
                Named::Context(name) => Ref::Context(Some(name)),
                Named::Image(image) => Ref::Image(image),
            });
        }
        let all = planner.shared.stage_names.len();
        if let Some(stage) = planner.shared.stage(name, all) {
            let what = if stage == self.view.stage { "itself" } else { "a stage that is defined below it" };
            let message = format!("a stage cannot copy from {what}: \"{name}\"");
            return Err(Error::at("StageOrder", message, span));
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
