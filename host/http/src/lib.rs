//! The one HTTP client: certificates, proxies, time limits, retries, and URLs fit for a log.
//!
//! Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`); roots are the machine's, `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` included, and what the user adds.

pub mod bucket;
mod error;
pub mod object;
pub mod retry;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use bytes::Bytes;
pub use error::Error;
pub use reqwest::{Body, Method, Response, StatusCode, Url, header};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

/// Time to reach a server.
const CONNECT: Duration = Duration::from_secs(15);
/// Time without a single byte.
const IDLE: Duration = Duration::from_secs(60);

/// What the user may choose.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Files with further roots, PEM.
    pub extra_roots: Vec<PathBuf>,
}

/// A client; clones share its connections. It is set up by its first request: reading the machine's certificates takes
/// longer than a build that needs no network.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Arc<Settings>,
    ready: Arc<OnceLock<Result<Ready, String>>>,
}

/// The two ways to look at a server's certificate.
#[derive(Debug)]
struct Ready {
    verified: reqwest::Client,
    unverified: reqwest::Client,
    /// Verified, and redirects are the caller's business.
    direct: reqwest::Client,
}

/// One request, made anew for each try.
#[derive(Debug)]
pub struct Request {
    /// GET, ...
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// In order.
    pub headers: header::HeaderMap,
    /// None: empty.
    pub body: Option<Body>,
    /// Whether the server's certificate must be good.
    pub verify: bool,
    /// Whether redirects are answers, for a caller who must look at each host first.
    pub direct: bool,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: header::HeaderMap::new(), body: None, verify: true, direct: false }
    }

    /// The same with a header. Text that cannot be a header's value is left out.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = header::HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }
}

impl Ready {
    fn new(settings: &Settings) -> Result<Self, String> {
        sys::names::keep_to_files_and_dns();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = || {
            rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())
        };
        let mut roots = rustls::RootCertStore::empty();
        // A machine without a bundle can still talk plain HTTP; what goes wrong then is told when it does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in &settings.extra_roots {
            let failed = |reason: String| format!("certificates in {}: {reason}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in read {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
        }
        let verified = config()?.with_root_certificates(roots).with_no_client_auth();
        let unverified = config()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider.clone())))
            .with_no_client_auth();
        let builder = |tls: rustls::ClientConfig| {
            reqwest::Client::builder()
                .user_agent(concat!("plywood/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .read_timeout(IDLE)
                .tls_backend_preconfigured(tls)
        };
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| error.to_string());
        Ok(Self {
            direct: build(builder(verified.clone()).redirect(reqwest::redirect::Policy::none()))?,
            verified: build(builder(verified))?,
            unverified: build(builder(unverified))?,
        })
    }
}

impl Client {
    /// A client with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ready: Arc::default() }
    }

    /// Sends a request once. Any status is an answer.
    ///
    /// # Errors
    /// When there is no answer, or a file with roots cannot be read.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let ready = self.ready.get_or_init(|| Ready::new(&self.settings));
        let ready = ready.as_ref().map_err(|reason| Error::Setup(reason.clone()))?;
        let client = match (request.direct, request.verify) {
            (true, _) => &ready.direct,
            (false, true) => &ready.verified,
            (false, false) => &ready.unverified,
        };
        let url = redact(&request.url);
        let mut builder = client.request(request.method, request.url).headers(request.headers);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        builder.send().await.map_err(|error| Error::exchange(url, error))
    }
}

/// The next piece of a body.
///
/// # Errors
/// When the connection breaks.
pub async fn chunk(response: &mut Response) -> Result<Option<Bytes>, Error> {
    let url = redact(response.url());
    response.chunk().await.map_err(|error| Error::exchange(url, error))
}

/// A whole body, which must not be longer than `limit` bytes.
///
/// # Errors
/// When it is, or the connection breaks.
pub async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(bytes) = chunk(&mut response).await? {
        if body.len() + bytes.len() > limit {
            return Err(Error::TooLarge { url: redact(response.url()), limit });
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// A body that is sent as its pieces come.
pub fn stream<S>(pieces: S) -> Body
where
    S: futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    Body::wrap_stream(pieces)
}

/// A URL without what may be secret: user, password, query.
#[must_use]
pub fn redact(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only for URLs without a host, which have none of it.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.to_string()
}

/// Takes any certificate: for registries that the user has called insecure.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_reach_a_log() {
        let url = Url::parse("https://user:password@r.example/v2/?token=secret").expect("a URL");
        assert_eq!(redact(&url), "https://r.example/v2/?...");
    }
}
