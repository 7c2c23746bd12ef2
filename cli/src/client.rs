//! The way to a control plane: TLS that proves who it is, our token, JSON or problems.

use std::error::Error;
use std::fs;
use std::io;
use std::time::Duration;

use api::shapes::Problem;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, Method};
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use tokio::time;

use crate::connection::Target;
use crate::failure::Failure;
use crate::trust;

/// Longer than the longest poll.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    token: String,
}

/// What a watch may take.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// A watch of which nothing is heard for so long is broken: the server says something every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// A document has 512 KiB at most, and its line not much more.
const LONGEST_LINE: usize = 4 * 1024 * 1024;

/// The lines of an answer as they come.
pub(crate) struct Lines<'a> {
    client: &'a Client,
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Lines<'_> {
    /// None when the server ended it.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let line = String::from_utf8(line).map_err(|_| self.foreign())?;
                return Ok(Some(line.trim_end().to_owned()));
            }
            if self.read.len() > LONGEST_LINE {
                return Err(self.foreign());
            }
            let base = &self.client.base;
            let piece = time::timeout(SILENCE, self.response.chunk()).await.map_err(|_| {
                Failure::unreachable(
                    format!("nothing is heard of {base} any more"),
                    "look at what lies in between",
                )
            })?;
            match piece.map_err(|error| self.client.unreachable(&error))? {
                Some(piece) => self.read.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    pub(crate) fn foreign(&self) -> Failure {
        self.client.foreign()
    }
}

/// What came back, if it was no problem.
pub(crate) struct Answer<T> {
    pub(crate) status: u16,
    /// The revision that stands.
    pub(crate) tag: Option<String>,
    pub(crate) body: T,
}

impl Client {
    pub(crate) fn new(Target { address, token_file, ca }: &Target) -> Result<Self, Failure> {
        let base = base(address)?;
        let token = runtime::files::read_token(token_file).map_err(|error| match error {
            runtime::files::TokenFileError::Unreadable { path, source } => Failure::File { path, source },
            error => Failure::usage(error.to_string(), "copy it again from where it was made"),
        })?;
        let file = |source| Failure::File { path: ca.clone(), source };
        let pem = fs::read(ca).map_err(file)?;
        let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| file(io::Error::other(error.to_string())))?;
        let tls = trust::client_config(roots).map_err(|reason| file(io::Error::other(reason)))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .build()
            .map_err(|error| Failure::unreachable(format!("cannot set up TLS: {error}"), "look at --ca"))?;
        Ok(Self { http, base, token })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.ask(Method::GET, path, None).await?.body)
    }

    /// `path` begins with a slash and is percent-encoded already.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer<T>, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let tag = tag(response.headers());
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            let body = serde_json::from_slice(&bytes).map_err(|_| self.foreign())?;
            return Ok(Answer { status: status.as_u16(), tag, body });
        }
        let problem: Problem = serde_json::from_slice(&bytes).map_err(|_| self.foreign())?;
        Err(problem.into())
    }

    /// An answer that goes on and on, line by line.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines<'_>, Failure> {
        let request =
            self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token).timeout(FOR_EVER);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(Lines { client: self, response, read: Vec::new() });
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let problem: Problem = serde_json::from_slice(&bytes).map_err(|_| self.foreign())?;
        Err(problem.into())
    }

    fn foreign(&self) -> Failure {
        Failure::unreachable(
            format!("{} gives answers that are not those of a control plane", self.base),
            "check --address: the API has port 5681 unless told otherwise",
        )
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let base = &self.base;
        if let Some(tls) = cause::<rustls::Error>(error) {
            return match tls {
                rustls::Error::InvalidCertificate(reason) => Failure::unreachable(
                    format!("{base} does not prove to be that control plane: {}", trust::explain(reason)),
                    "check --address, and that --ca is the ca.crt of this very control plane",
                ),
                tls => Failure::unreachable(
                    format!("{base} does not speak TLS as we do: {tls}"),
                    "check --address: the API has port 5681 unless told otherwise",
                ),
            };
        }
        if error.is_timeout() {
            return Failure::unreachable(
                format!("{base} did not answer in time"),
                "check --address, and what lies in between",
            );
        }
        let reason = cause::<io::Error>(error).map_or_else(|| innermost(error), io::Error::to_string);
        Failure::unreachable(
            format!("cannot reach {base}: {reason}"),
            "check --address (or TOMBOLO_ADDRESS), and that the control plane runs",
        )
    }
}

/// `https://host:port` of what a person wrote; the scheme may be left out, and must not be another.
pub(crate) fn base(address: &str) -> Result<String, Failure> {
    let wrong = |what: String| Failure::usage(what, "an address looks like https://127.0.0.1:5681");
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let url =
        Url::parse(&with_scheme).map_err(|error| wrong(format!("'{address}' is no address: {error}")))?;
    if url.scheme() != "https" {
        return Err(wrong(format!("'{address}' does not begin with https://")));
    }
    if url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
        return Err(wrong(format!("'{address}' is more than a host and a port")));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn tag(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(ETAG)?.to_str().ok()?.trim_matches('"').to_owned())
}

/// The cause of an error that is a `T`, however deep; errors of I/O hide theirs.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match hidden {
        Some(hidden) => cause(hidden),
        None => cause(error.source()?),
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A value for a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, want) in [
            ("https://127.0.0.1:5681", "https://127.0.0.1:5681"),
            ("https://127.0.0.1:5681/", "https://127.0.0.1:5681"),
            ("127.0.0.1:5681", "https://127.0.0.1:5681"),
            ("cp.example.org", "https://cp.example.org"),
            ("[::1]:5681", "https://[::1]:5681"),
        ] {
            assert_eq!(base(text).unwrap(), want);
        }
        for bad in
            ["", "http://127.0.0.1:5681", "https://x/y", "https://a@b", "https://x?y", "ftp://x", "x:y"]
        {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}
