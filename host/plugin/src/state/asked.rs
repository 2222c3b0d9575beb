//! What plugins ask the host for beyond the stage: context files, HTTP, values and programs, each within its grants.

use std::sync::Arc;
use std::time::SystemTime;

use wasmtime::Result;
use wasmtime::component::Resource;

use super::{LARGEST_READ, MOST_PATHS, MOST_REQUESTS, SecretHandle, State};
use crate::bindings::shared::plywood::plugin as api;
use crate::convert;
use crate::grant::Request;
use crate::imports::{ContextError, FileKind, HttpError, HttpRequest};

type ContextResult<T> = std::result::Result<T, api::context_files::ContextError>;

impl State {
    fn context(&self) -> ContextResult<Arc<dyn crate::imports::ContextFiles>> {
        if !self.granted(Request::Context) {
            return Err(api::context_files::ContextError::NotAllowed);
        }
        self.callee.imports.context.clone().ok_or(api::context_files::ContextError::NotFound)
    }
}

fn context_error(error: ContextError) -> api::context_files::ContextError {
    match error {
        ContextError::NotFound => api::context_files::ContextError::NotFound,
        ContextError::TooLarge(size) => api::context_files::ContextError::TooLarge(size),
        ContextError::Io(reason) => api::context_files::ContextError::Io(reason),
    }
}

impl api::context_files::Host for State {
    fn stat(&mut self, path: String) -> Result<ContextResult<api::context_files::FileStat>> {
        let stat = self.context().and_then(|context| context.stat(&path).map_err(context_error));
        Ok(stat.map(|stat| api::context_files::FileStat {
            kind: match stat.kind {
                FileKind::Regular => api::context_files::FileKind::Regular,
                FileKind::Directory => api::context_files::FileKind::Directory,
                FileKind::Symlink => api::context_files::FileKind::Symlink,
            },
            size: stat.size,
            mode: stat.mode,
            digest: None,
        }))
    }

    fn read(&mut self, path: String) -> Result<ContextResult<Vec<u8>>> {
        Ok(self.context().and_then(|context| context.read(&path, LARGEST_READ).map_err(context_error)))
    }

    fn glob(&mut self, pattern: String) -> Result<ContextResult<Vec<String>>> {
        let paths = self.context().and_then(|context| context.glob(&pattern).map_err(context_error));
        Ok(paths.and_then(|paths| match paths.len() {
            length if length > MOST_PATHS => Err(api::context_files::ContextError::TooLarge(length as u64)),
            _ => Ok(paths),
        }))
    }
}

impl api::http_client::Host for State {
    async fn send(
        &mut self,
        request: api::http_client::Request,
    ) -> Result<std::result::Result<api::http_client::Response, api::http_client::HttpError>> {
        Ok(self.send_granted(request).await)
    }
}

impl State {
    async fn send_granted(
        &mut self,
        request: api::http_client::Request,
    ) -> std::result::Result<api::http_client::Response, api::http_client::HttpError> {
        use api::http_client::{HttpError as Wire, Method};
        let host = host_of(&request.url).ok_or_else(|| Wire::InvalidRequest("the URL has no host".into()))?;
        if !self.granted(Request::Host(&host)) {
            return Err(Wire::NotAllowed(host));
        }
        self.requests += 1;
        if self.requests > MOST_REQUESTS || request.body.as_ref().is_some_and(|body| body.len() as u64 > LARGEST_READ) {
            return Err(Wire::TooLarge);
        }
        let client = self.callee.imports.http.clone().ok_or_else(|| Wire::Connect("there is no network".into()))?;
        let request = HttpRequest {
            method: match request.method {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
                Method::Patch => "PATCH",
            },
            url: request.url,
            headers: request.headers.into_iter().map(|header| (header.key, header.value)).collect(),
            body: request.body,
            timeout_ms: request.timeout_ms,
        };
        let response = client.send(request).await.map_err(|error| match error {
            HttpError::InvalidRequest(reason) => Wire::InvalidRequest(reason),
            HttpError::Timeout => Wire::Timeout,
            HttpError::TooLarge => Wire::TooLarge,
            HttpError::Connect(reason) => Wire::Connect(reason),
            HttpError::Protocol(reason) => Wire::Protocol(reason),
        })?;
        Ok(api::http_client::Response {
            status: response.status,
            headers: response.headers.into_iter().map(convert::key_value).collect(),
            body: response.body,
        })
    }
}

/// `host:port` of a URL, the scheme's port filled in. Plain http is for loopback and metadata addresses, which a grant
/// must name like any other.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.is_empty() || authority.contains(['@', '\\']) {
        return None;
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    Some(if has_port { authority.to_lowercase() } else { format!("{}:{port}", authority.to_lowercase()) })
}

impl api::grants::Host for State {
    fn env(&mut self, name: String) -> Result<Option<String>> {
        let granted = self.granted(Request::Env(&name));
        Ok(granted.then(|| self.callee.imports.surroundings.env(&name)).flatten())
    }

    fn read_file(&mut self, name: String) -> Result<std::result::Result<Vec<u8>, String>> {
        if let Err(refusal) = self.allowed(Request::File(&name)) {
            return Ok(Err(refusal.to_string()));
        }
        let path = self.callee.grants.files.get(&name).cloned().unwrap_or_default();
        Ok(self.callee.imports.surroundings.read_file(&path))
    }

    fn write_cache(&mut self, _: String, _: Vec<u8>, _: u32) -> Result<std::result::Result<(), String>> {
        // What a plugin gives is kept by the host already, as long as the plugin says that it is valid.
        Ok(Err("there is no cache across calls".into()))
    }

    fn read_cache(&mut self, _: String) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

impl api::grants::HostSecret for State {
    fn open(&mut self, name: String) -> Result<Option<Resource<SecretHandle>>> {
        if !self.granted(Request::Secret(&name)) {
            return Ok(None);
        }
        match self.callee.imports.surroundings.secret(&name) {
            Some(value) => Ok(Some(self.table.push(SecretHandle(value))?)),
            None => Ok(None),
        }
    }

    fn reveal(&mut self, secret: Resource<SecretHandle>) -> Result<Vec<u8>> {
        Ok(self.table.get(&secret)?.0.clone())
    }

    fn drop(&mut self, secret: Resource<SecretHandle>) -> Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl api::native_helper::Host for State {
    async fn get(
        &mut self,
        helper: String,
        server: String,
    ) -> Result<std::result::Result<api::native_helper::Answer, String>> {
        if let Err(refusal) = self.allowed(Request::NativeHelper(&helper)) {
            return Ok(Err(format!("{refusal}; {}", refusal.help)));
        }
        let Some(native) = self.callee.imports.native_helper.clone() else {
            return Ok(Err("there are no credential programs here".into()));
        };
        let answer = native.get(&helper, &server).await;
        Ok(answer.map(|(username, secret)| api::native_helper::Answer { username, secret }))
    }
}

impl api::clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}
