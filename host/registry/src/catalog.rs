//! What is in a repository, and taking it away (distribution-spec 1.1, "Content discovery" and "Content management").

use http::{Method, Response, StatusCode, header};
use oci::Reference;
use serde::Deserialize;

use crate::auth::Access;
use crate::client::Client;
use crate::error::Error;
use crate::transport::{Call, scope};

/// A page of tags may not be larger.
const LARGEST_PAGE: usize = 8 << 20;
/// A repository has no more pages than this.
const PAGES: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// Where the next page is (RFC 8288): the target of `<...>; rel="next"`.
fn next(response: &Response) -> Option<String> {
    let link = response.headers().get(header::LINK)?.to_str().ok()?;
    let mut links = link.split(',').filter_map(|link| link.trim().strip_prefix('<')?.split_once('>'));
    let (target, _) = links.find(|(_, parameters)| parameters.replace('"', "").contains("rel=next"))?;
    Some(target.to_owned())
}

impl Client {
    /// The tags of a repository.
    ///
    /// # Errors
    /// When there is none, or the registry does not say.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        let mut call = Call {
            registry: reference.registry(),
            method: Method::GET,
            path: format!("{}/tags/list?n=1000", reference.repository()),
            accept: &[],
            headers: Vec::new(),
            scopes: scope(reference.repository(), Access::Pull),
            what: format!("list the tags of {}", reference.repository()),
        };
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let response = self.call(&call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Error::NotFound(reference.name())),
                _ => return Err(self.failure(&call, response, None).await),
            }
            let following = next(&response);
            let bytes = http::read(response, LARGEST_PAGE).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|error| {
                Error::Malformed(format!("the list of tags of {}", reference.name()), error.to_string())
            })?;
            tags.extend(page.tags.unwrap_or_default());
            match following {
                Some(path) => call.path = path,
                None => return Ok(tags),
            }
        }
        Err(Error::Malformed(reference.name(), format!("its list of tags has more than {PAGES} pages")))
    }

    /// Takes away the manifest that a reference names, and with it every tag that names the same.
    ///
    /// # Errors
    /// When it is not there, or the registry does not let it go.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<(), Error> {
        // By the registry itself: a mirror may be behind.
        let digest = self.digest_at(reference).await?;
        let call = Call {
            registry: reference.registry(),
            method: Method::DELETE,
            path: format!("{}/manifests/{digest}", reference.repository()),
            accept: &[],
            headers: Vec::new(),
            scopes: scope(reference.repository(), Access::Delete),
            what: format!("delete {reference}"),
        };
        let response = self.call(&call).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::NOT_FOUND => Err(Error::NotFound(reference.to_string())),
            _ => Err(self.failure(&call, response, None).await),
        }
    }
}
