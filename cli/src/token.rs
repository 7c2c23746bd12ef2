//! `tombolo token`: with what zones, sidecars and ingresses join. Prints the token and nothing else.

use std::net::IpAddr;
use std::process::ExitCode;

use api::duration::Span;
use api::shapes::{TokenAnswer, TokenKind, TokenRequest};
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
    let (kind, request) = request(command);
    let body = serde_json::to_string(&request).map_err(std::io::Error::from)?;
    let path = format!("/tokens/{}", kind.as_str());
    let answer: TokenAnswer = client.ask(Method::POST, &path, Some(body)).await?.body;
    out.show(&answer, || format!("{}\n", answer.token))?;
    Ok(ExitCode::SUCCESS)
}

fn request(command: TokenCommand) -> (TokenKind, TokenRequest) {
    let limited = |limits: Limits| TokenRequest {
        uses: limits.uses,
        valid_for: limits.valid_for,
        ..TokenRequest::default()
    };
    match command {
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
    }
}
