//! What the demo asks control planes over their public API, as a person would with the command line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use api::shapes::{Progress, RevisionState, TokenAnswer, TokenKind, TokenRequest, Written};
use identity::{ServerRole, api_client_config};
use model::Version;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

/// One control plane's API, with its administrator's token.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl ApiClient {
    /// `data_dir` is the data folder of the control plane, with its `ca.crt` and `admin.token`.
    pub fn new(address: std::net::SocketAddr, data_dir: &Path, role: ServerRole) -> anyhow::Result<Self> {
        let ca = std::fs::read_to_string(data_dir.join("ca.crt")).context("reading ca.crt")?;
        let token =
            runtime::files::read_token(&data_dir.join("admin.token")).context("reading admin.token")?;
        let tls = api_client_config(&ca, Some(role))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self { http, base: format!("https://{address}"), token })
    }

    /// The same API, spoken to with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// What there is, as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.request(Method::GET, path).send().await?;
        Ok(checked(response).await.with_context(|| format!("GET {path}"))?.json().await?)
    }

    /// Writes a document; `path` as in `/meshes/default/meshtrafficpermissions/shop`.
    pub async fn put(&self, path: &str, yaml: &str) -> anyhow::Result<Version> {
        let response = self.request(Method::PUT, path).body(yaml.to_owned()).send().await?;
        written(response).await.with_context(|| format!("PUT {path}"))
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Version> {
        let response = self.request(Method::DELETE, path).send().await?;
        written(response).await.with_context(|| format!("DELETE {path}"))
    }

    pub async fn token(&self, kind: TokenKind, request: &TokenRequest) -> anyhow::Result<String> {
        let response =
            self.request(Method::POST, &format!("/tokens/{}", kind.as_str())).json(request).send().await?;
        let answer: TokenAnswer = checked(response).await?.json().await?;
        Ok(answer.token)
    }

    /// Who runs a revision, as soon as everyone does or when `wait` ends.
    pub async fn revision(&self, version: &Version, wait: Duration) -> anyhow::Result<RevisionState> {
        let path = format!("/revisions/{version}?wait={}ms", wait.as_millis());
        let response = self.request(Method::GET, &path).send().await?;
        Ok(checked(response).await?.json().await?)
    }

    /// Waits until every proxy runs a revision; an error names who does not.
    pub async fn applied(&self, version: &Version, limit: Duration) -> anyhow::Result<()> {
        let state = self.revision(version, limit).await?;
        if state.state == Progress::Applied {
            return Ok(());
        }
        bail!("{version} is {:?} after {limit:?}: {:?} {:?}", state.state, state.zones, state.late)
    }
}

async fn written(response: Response) -> anyhow::Result<Version> {
    let written: Written = checked(response).await?.json().await?;
    written.revision.context("the answer has no revision")
}

async fn checked(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return Ok(response);
    }
    bail!("{status}: {}", response.text().await.unwrap_or_default())
}
