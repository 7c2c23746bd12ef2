//! Routes that only some programs have, in the same form everywhere: zones, proxies, tokens.
//!
//! A program merges what it can answer into [`crate::ApiConfig::extra`]; they stand behind the same gate as
//! the documents, and their errors are problems as well.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use http::{StatusCode, Uri};
use model::{MeshName, Origin, ResourceName, ZoneName};

use crate::gate::Caller;
use crate::problem::json;
use crate::query::Query;
use crate::shapes::{
    AcceptRequest, Hold, InspectDataplane, InvalidParameter, Page, Problem, RevokeAnswer, RevokeRequest,
    TokenAnswer, TokenKind, TokenRequest, ZoneOverview,
};

/// How the zones are: the global's to answer.
pub trait Zones: Send + Sync + 'static {
    /// All zones, by name.
    fn overview(&self) -> BoxFuture<'_, Result<Vec<ZoneOverview>, Problem>>;
}

/// `GET /zones/_overview` (no zone's name begins with `_`).
pub fn zones(zones: Arc<dyn Zones>) -> Router {
    Router::new().route("/zones/_overview", get(overview)).with_state(zones)
}

async fn overview(State(zones): State<Arc<dyn Zones>>, uri: Uri) -> Response {
    let answer = async {
        Query::of(&uri, &[])?;
        Ok(Page { items: zones.overview().await?, next: None })
    };
    respond(answer.await)
}

/// Origins whose history is not the one that is held of them.
pub trait Holds: Send + Sync + 'static {
    /// By origin.
    fn holds(&self) -> Vec<Hold>;

    /// Takes over the history of this epoch as soon as the origin sends it again. Answers what was held.
    fn accept(&self, origin: Origin, epoch: u64) -> BoxFuture<'_, Result<Hold, Problem>>;
}

/// `GET /holds`, and `POST /holds/{origin}` with an [`AcceptRequest`]
pub fn holds(holds: Arc<dyn Holds>) -> Router {
    Router::new().route("/holds", get(all_holds)).route("/holds/{origin}", post(accept)).with_state(holds)
}

async fn all_holds(State(holds): State<Arc<dyn Holds>>, uri: Uri) -> Response {
    respond(Query::of(&uri, &[]).map(|_| Page { items: holds.holds(), next: None }))
}

async fn accept(
    State(holds): State<Arc<dyn Holds>>,
    Path(origin): Path<String>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let answer = async {
        Query::of(&uri, &[])?;
        let origin =
            origin.parse().map_err(|error| Problem::invalid_request("origin", format!("{error}")))?;
        let AcceptRequest { epoch } = serde_json::from_slice(&body).map_err(|error| in_body(&error))?;
        holds.accept(origin, epoch).await
    };
    respond(answer.await)
}

/// What a proxy was told and what it runs: its zone's to answer, or the global's by asking the zone.
pub trait Inspector: Send + Sync + 'static {
    /// `zone` is where to look; a zone itself needs none.
    fn dataplane(
        &self,
        mesh: MeshName,
        name: ResourceName,
        zone: Option<ZoneName>,
    ) -> BoxFuture<'_, Result<InspectDataplane, Problem>>;
}

/// `GET /meshes/{mesh}/dataplanes/{name}/_config?zone=`
pub fn inspect(inspector: Arc<dyn Inspector>) -> Router {
    Router::new().route("/meshes/{mesh}/dataplanes/{name}/_config", get(config)).with_state(inspector)
}

async fn config(
    State(inspector): State<Arc<dyn Inspector>>,
    Path((mesh, name)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let answer = async {
        let mesh = mesh.parse().map_err(|error| Problem::invalid_request("mesh", format!("{error}")))?;
        let name = name.parse().map_err(|error| Problem::invalid_request("name", format!("{error}")))?;
        let zone = Query::of(&uri, &["zone"])?.one("zone")?;
        inspector.dataplane(mesh, name, zone).await
    };
    respond(answer.await)
}

/// Issues tokens.
pub trait Tokens: Send + Sync + 'static {
    /// Which kinds are issued here.
    fn kinds(&self) -> &[TokenKind];

    /// The request is of one of [`Tokens::kinds`] and has what its kind needs.
    fn issue(
        &self,
        kind: TokenKind,
        request: TokenRequest,
        caller: Caller,
    ) -> BoxFuture<'_, Result<TokenAnswer, Problem>>;

    /// Nobody joins by the token any more, and whoever joined by it is turned away. Again: nothing changes.
    fn revoke(&self, request: RevokeRequest, caller: Caller) -> BoxFuture<'_, Result<RevokeAnswer, Problem>>;
}

/// `POST /tokens/{zone|dataplane|ingress}` with a [`TokenRequest`], and `POST /tokens/revoke` with a
/// [`RevokeRequest`]
pub fn tokens(tokens: Arc<dyn Tokens>) -> Router {
    Router::new()
        .route("/tokens/{kind}", post(token))
        .route("/tokens/revoke", post(revoke))
        .with_state(tokens)
}

async fn revoke(
    State(tokens): State<Arc<dyn Tokens>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let answer = async {
        Query::of(&uri, &[])?;
        let request: RevokeRequest = serde_json::from_slice(&body).map_err(|error| in_body(&error))?;
        tokens.revoke(request, caller).await
    };
    respond(answer.await)
}

async fn token(
    State(tokens): State<Arc<dyn Tokens>>,
    Path(kind): Path<String>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let answer = async {
        Query::of(&uri, &[])?;
        let kind = token_kind(&kind, tokens.kinds())?;
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        let request: TokenRequest = serde_json::from_slice(body).map_err(|error| in_body(&error))?;
        check(kind, &request)?;
        tokens.issue(kind, request, caller).await
    };
    respond(answer.await)
}

fn token_kind(text: &str, issued: &[TokenKind]) -> Result<TokenKind, Problem> {
    let kinds = [TokenKind::Zone, TokenKind::Dataplane, TokenKind::Ingress];
    let Some(kind) = kinds.into_iter().find(|kind| kind.as_str() == text) else {
        return Err(Problem::not_found(format!(
            "'{text}' is no kind of token: use zone, dataplane or ingress"
        )));
    };
    if issued.contains(&kind) {
        return Ok(kind);
    }
    let place = if kind == TokenKind::Zone { "the global control plane" } else { "the zone's control plane" };
    Err(Problem::written_elsewhere(format!("{text} tokens are issued by {place}: ask it there")))
}

/// What each kind of token must have, and what would mean nothing in it; all at once.
fn check(kind: TokenKind, request: &TokenRequest) -> Result<(), Problem> {
    let TokenRequest { mesh, zone, workload, names, addresses, uses, valid_for } = request;
    let needed = |given: bool, wanted: bool, field: &'static str| match (given, wanted) {
        (false, true) => {
            Some(InvalidParameter::new(field, format!("must be given for a {} token", kind.as_str())))
        }
        (true, false) => {
            Some(InvalidParameter::new(field, format!("has no meaning in a {} token", kind.as_str())))
        }
        _ => None,
    };
    let is = |wanted: TokenKind| kind == wanted;
    let mistakes: Vec<InvalidParameter> = [
        // A zone issues for itself: naming it is allowed, and checked by the issuer.
        if is(TokenKind::Zone) { needed(zone.is_some(), true, "zone") } else { None },
        if is(TokenKind::Dataplane) { None } else { needed(mesh.is_some(), false, "mesh") },
        needed(workload.is_some(), is(TokenKind::Dataplane), "workload"),
        if is(TokenKind::Zone) { needed(!names.is_empty(), false, "names") } else { None },
        if is(TokenKind::Zone) { needed(!addresses.is_empty(), false, "addresses") } else { None },
        (*uses == Some(0)).then(|| InvalidParameter::new("uses", "must be greater than zero")),
        valid_for
            .is_some_and(|span| span.0.is_zero())
            .then(|| InvalidParameter::new("valid_for", "must be greater than zero")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if mistakes.is_empty() { Ok(()) } else { Err(Problem::invalid_document(mistakes)) }
}

fn in_body(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let reason = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let place = |n: usize| u32::try_from(n).ok().filter(|n| *n > 0);
    let mistake = InvalidParameter {
        line: place(error.line()),
        column: place(error.column()),
        ..InvalidParameter::new("body", reason)
    };
    Problem::invalid_document(vec![mistake])
}

pub(crate) fn respond(answer: Result<impl serde::Serialize, Problem>) -> Response {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_request_has_what_its_kind_needs_and_nothing_that_means_nothing() {
        let cases = [
            (TokenKind::Zone, r#"{"zone":"east"}"#, &[][..]),
            (TokenKind::Zone, r#"{"mesh":"default","workload":"web"}"#, &["zone", "mesh", "workload"][..]),
            (TokenKind::Dataplane, r#"{"mesh":"default","workload":"web","names":["web-1"],"uses":1}"#, &[]),
            (TokenKind::Dataplane, r#"{"uses":0,"valid_for":"0s"}"#, &["workload", "uses", "valid_for"]),
            (TokenKind::Ingress, r#"{"names":["ingress-1"],"addresses":["10.0.0.1"]}"#, &[]),
            (TokenKind::Ingress, r#"{"workload":"web"}"#, &["workload"]),
        ];
        for (kind, body, want) in cases {
            let found = match check(kind, &serde_json::from_str(body).unwrap()) {
                Ok(()) => Vec::new(),
                Err(problem) => problem.invalid_parameters,
            };
            let fields: Vec<_> = found.iter().map(|mistake| mistake.field.as_str()).collect();
            assert_eq!(fields, want, "{kind:?} {body}");
        }
    }

    #[test]
    fn a_kind_that_is_issued_elsewhere_says_where() {
        let issued = [TokenKind::Zone];
        assert_eq!(token_kind("zone", &issued).unwrap(), TokenKind::Zone);
        let problem = token_kind("dataplane", &issued).unwrap_err();
        assert_eq!((problem.status, problem.detail.contains("the zone's control plane")), (403, true));
        assert_eq!(token_kind("root", &issued).unwrap_err().status, 404);
    }
}
