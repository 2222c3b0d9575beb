//! What plugins ask the host for beyond the stage: context files, HTTP, values and programs, each within its grants.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use wasmtime::Result;
use wasmtime::component::Resource;

use super::{LARGEST_READ, MOST_PATHS, MOST_REQUESTS, SecretHandle, State};
use crate::bindings::shared::plywood::plugin as api;
use crate::convert;
use crate::grant::Request;
use crate::imports::{FileKind, HelperError, HttpError, HttpRequest, ReadError};

type ReadResult<T> = std::result::Result<T, api::types::ReadError>;

impl State {
    fn context(&self) -> ReadResult<Arc<dyn crate::imports::ContextFiles>> {
        if !self.granted(Request::Context) {
            return Err(api::types::ReadError::NotAllowed);
        }
        self.callee.imports.context.clone().ok_or(api::types::ReadError::NotFound)
    }
}

fn read_error(error: ReadError) -> api::types::ReadError {
    match error {
        ReadError::NotFound => api::types::ReadError::NotFound,
        ReadError::TooLarge(size) => api::types::ReadError::TooLarge(size),
        ReadError::Io(reason) => api::types::ReadError::Io(reason),
    }
}

impl api::context_files::Host for State {
    fn stat(&mut self, path: String) -> Result<ReadResult<api::context_files::FileStat>> {
        let stat = self.context().and_then(|context| context.stat(&path).map_err(read_error));
        Ok(stat.map(|stat| api::context_files::FileStat {
            kind: match stat.kind {
                FileKind::Regular => api::context_files::FileKind::Regular,
                FileKind::Directory => api::context_files::FileKind::Directory,
                FileKind::Symlink => api::context_files::FileKind::Symlink,
            },
            size: stat.size,
            mode: stat.mode,
        }))
    }

    fn read(&mut self, path: String) -> Result<ReadResult<Vec<u8>>> {
        Ok(self.context().and_then(|context| context.read(&path, LARGEST_READ).map_err(read_error)))
    }

    fn glob(&mut self, pattern: String) -> Result<ReadResult<Vec<String>>> {
        let paths = self.context().and_then(|context| context.glob(&pattern).map_err(read_error));
        Ok(paths.and_then(|paths| match paths.len() {
            length if length > MOST_PATHS => Err(api::types::ReadError::TooLarge(length as u64)),
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
        if self.requests > MOST_REQUESTS {
            return Err(Wire::TooMany);
        }
        if request.body.as_ref().is_some_and(|body| body.len() as u64 > LARGEST_READ) {
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

/// `host:port` of a URL, the scheme's port filled in; none where nothing may be sent there.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?.to_lowercase();
    if authority.is_empty() || authority.contains(['@', '\\']) {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
    {
        Some((host, port)) => (host, Some(port)),
        None => (authority.as_str(), None),
    };
    let usual = match scheme {
        "https" => 443,
        "http" if is_near(host) => 80,
        _ => return None,
    };
    Some(format!("{host}:{}", port.unwrap_or(usual)))
}

/// Whether what is sent to a host stays on this machine or on the one below it: loopback, and where clouds tell a
/// machine who it is.
fn is_near(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || bare == "fd00:ec2::254",
        Err(_) => matches!(host, "localhost" | "metadata.google.internal"),
    }
}

impl api::environment::Host for State {
    fn get(&mut self, name: String) -> Result<Option<String>> {
        let granted = self.granted(Request::Env(&name));
        Ok(granted.then(|| self.callee.imports.surroundings.env(&name)).flatten())
    }
}

impl api::files::Host for State {
    fn read(&mut self, name: String) -> Result<ReadResult<Vec<u8>>> {
        if !self.granted(Request::File(&name)) {
            return Ok(Err(api::types::ReadError::NotAllowed));
        }
        let path = self.callee.grants.files.get(&name).cloned().unwrap_or_default();
        Ok(self.callee.imports.surroundings.read_file(&path, LARGEST_READ).map_err(read_error))
    }
}

impl api::secrets::Host for State {}

impl api::secrets::HostSecret for State {
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
        let value = self.table.get(&secret)?.0.clone();
        self.reveals(&value);
        Ok(value)
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
    ) -> Result<std::result::Result<api::native_helper::Answer, api::native_helper::HelperError>> {
        use api::native_helper::HelperError as Wire;
        if let Err(refusal) = self.allowed(Request::NativeHelper(&helper)) {
            return Ok(Err(Wire::NotAllowed(format!("{refusal}; {}", refusal.help))));
        }
        let Some(native) = self.callee.imports.native_helper.clone() else {
            return Ok(Err(Wire::NotInstalled));
        };
        Ok(match native.get(&helper, &server).await {
            Ok((username, secret)) => {
                self.reveals(secret.as_bytes());
                Ok(api::native_helper::Answer { username, secret })
            }
            Err(HelperError::NotInstalled) => Err(Wire::NotInstalled),
            Err(HelperError::NoCredentials) => Err(Wire::NoCredentials),
            Err(HelperError::Timeout) => Err(Wire::Timeout),
            Err(HelperError::Failed(reason)) => Err(Wire::Failed(self.without_secrets(reason))),
        })
    }
}

impl api::clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn what_is_not_encrypted_stays_near() {
        for (url, host) in [
            ("https://A.example/x", Some("a.example:443")),
            ("https://a.example:8443", Some("a.example:8443")),
            ("http://a.example/", None),
            ("http://169.254.169.254/latest", Some("169.254.169.254:80")),
            ("http://metadata.google.internal/", Some("metadata.google.internal:80")),
            ("http://127.0.0.1:81/", Some("127.0.0.1:81")),
            ("http://[::1]:81/", Some("[::1]:81")),
            ("http://[fd00:ec2::254]/", Some("[fd00:ec2::254]:80")),
            ("http://127.0.0.1.evil.example/", None),
            ("https://user@a.example/", None),
            ("ftp://a.example/", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
