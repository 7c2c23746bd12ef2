//! `GET /revisions/{r}?wait=5s`: who runs a revision, told as soon as everyone does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use http::{StatusCode, Uri};
use model::Version;

use crate::duration::Span;
use crate::problem::json;
use crate::query::Query;
use crate::shapes::{Problem, RevisionState};

/// Longer waits are asked for again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Knows how far a revision has come.
pub trait Proof: Send + Sync + 'static {
    /// Answers as soon as the revision is applied or refused, and with what it knows when `wait` ends.
    fn revision(
        &self,
        version: Version,
        wait: Duration,
    ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>>;
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoSuchRevision {
    /// We are its origin and never wrote it, or nobody knows its origin.
    NotHere,
    /// Of an epoch that is not the origin's any more.
    Gone,
}

pub(crate) fn routes(proof: Arc<dyn Proof>) -> Router {
    Router::new().route("/revisions/{revision}", get(revision)).with_state(proof)
}

async fn revision(State(proof): State<Arc<dyn Proof>>, Path(text): Path<String>, uri: Uri) -> Response {
    answer(proof.as_ref(), &text, &uri).await.unwrap_or_else(Problem::into_response)
}

async fn answer(proof: &dyn Proof, text: &str, uri: &Uri) -> Result<Response, Problem> {
    let version: Version =
        text.parse().map_err(|error| Problem::invalid_request("revision", format!("{error}")))?;
    let query = Query::of(uri, &["wait"])?;
    let wait = query.one::<Span>("wait")?.map_or(Duration::ZERO, |span| span.0);
    if wait > LONGEST_WAIT {
        return Err(Problem::invalid_request("?wait", "must be at most 60s: ask again to wait longer"));
    }
    match proof.revision(version.clone(), wait).await {
        Ok(state) => Ok(json(StatusCode::OK, &state)),
        Err(NoSuchRevision::NotHere) => {
            Err(Problem::not_found(format!("no write had the revision {version}")))
        }
        Err(NoSuchRevision::Gone) => Err(Problem::gone(format!(
            "{version} belongs to an epoch that has ended: {} has begun a new one",
            version.origin
        ))),
    }
}
