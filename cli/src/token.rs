//! `tombolo token`: with what zones, sidecars and ingresses join. What makes one prints it and nothing else.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use api::duration::Span;
use api::shapes::{RevokeAnswer, RevokeRequest, TokenAnswer, TokenKind, TokenRequest};
use clap::{Args, Subcommand};
use http::Method;
use model::{MeshName, ResourceName, WorkloadName, ZoneName};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Out;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// For a zone that joins the global (asked of the global)
    Zone {
        #[arg(long)]
        zone: ZoneName,
        #[command(flatten)]
        limits: Limits,
    },
    /// For a sidecar that joins a zone (asked of the zone)
    Dataplane {
        #[arg(short, long, default_value = "default")]
        mesh: MeshName,
        /// What its SPIFFE id ends in.
        #[arg(long)]
        workload: WorkloadName,
        #[command(flatten)]
        places: Places,
        #[command(flatten)]
        limits: Limits,
    },
    /// For an ingress that joins a zone (asked of the zone)
    Ingress {
        #[command(flatten)]
        places: Places,
        #[command(flatten)]
        limits: Limits,
    },
    /// Let a token count no more, and turn away whoever joined by it (asked of who issued it)
    Revoke {
        /// A file with the token, or its name (`jti`), as the control plane logs it.
        #[arg(value_name = "JTI_OR_FILE")]
        token: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Only a proxy of this name may use it; may be given several times.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<ResourceName>,
    /// An address at which it may be reached, beside the one it comes from; may be given several times.
    #[arg(long = "proxy-address", value_name = "IP")]
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// How often it can be used.
    #[arg(long)]
    uses: Option<u32>,
    /// How long it can be used, such as 30m or 24h.
    #[arg(long, value_name = "TIME")]
    valid_for: Option<Span>,
}

pub(crate) async fn run(
    command: TokenCommand,
    client: Client,
    out: &mut Out<'_>,
) -> Result<ExitCode, Failure> {
    let (kind, request) = match command {
        TokenCommand::Revoke { token } => return revoke(&token, client, out).await,
        TokenCommand::Zone { zone, limits } => {
            (TokenKind::Zone, TokenRequest { zone: Some(zone), ..limited(limits) })
        }
        TokenCommand::Dataplane { mesh, workload, places: Places { names, addresses }, limits } => {
            let request = TokenRequest {
                mesh: Some(mesh),
                workload: Some(workload),
                names,
                addresses,
                ..limited(limits)
            };
            (TokenKind::Dataplane, request)
        }
        TokenCommand::Ingress { places: Places { names, addresses }, limits } => {
            (TokenKind::Ingress, TokenRequest { names, addresses, ..limited(limits) })
        }
    };
    let body = serde_json::to_string(&request).map_err(std::io::Error::from)?;
    let path = format!("/tokens/{}", kind.as_str());
    let answer: TokenAnswer = client.ask(Method::POST, &path, Some(body)).await?.body;
    out.show(&answer, || format!("{}\n", answer.token))?;
    Ok(ExitCode::SUCCESS)
}

fn limited(Limits { uses, valid_for }: Limits) -> TokenRequest {
    TokenRequest { uses, valid_for, ..TokenRequest::default() }
}

async fn revoke(token: &str, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let path = Path::new(token);
    let request = if path.exists() {
        let read = fs::read_to_string(path);
        let read = read.map_err(|source| Failure::File { path: path.to_owned(), source })?;
        RevokeRequest::Token(read.trim().to_owned())
    } else {
        RevokeRequest::Jti(token.to_owned())
    };
    let body = serde_json::to_string(&request).map_err(std::io::Error::from)?;
    let answer: RevokeAnswer = client.ask(Method::POST, "/tokens/revoke", Some(body)).await?.body;
    out.show(&answer, || told(&answer))?;
    Ok(ExitCode::SUCCESS)
}

fn told(RevokeAnswer { jti, disconnected, away }: &RevokeAnswer) -> String {
    let mut text = match disconnected.as_slice() {
        [] => format!("token {jti} is revoked; nobody was connected by it\n"),
        peers => format!("token {jti} is revoked; turned away: {}\n", peers.join(", ")),
    };
    if !away.is_empty() {
        text += &format!("joined by it, and turned away when they come: {}\n", away.join(", "));
    }
    text
}
