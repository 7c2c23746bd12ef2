//! REST over a store: documents in, problems out.
//!
//! A request passes the [`gate`] (TLS, token, limits), then goes to a document, a revision or one of the
//! [`routes`] that only its program has. `shapes` are the JSON that server and command line share.
//!
//! | path | |
//! |---|---|
//! | `/meshes/{mesh}/{plural}/{name}`, `/{plural}/{name}` | GET, PUT, DELETE one document |
//! | `/meshes/{mesh}/{plural}`, `/{plural}` | GET those of a mesh, or of all |
//! | the same with `?watch=true` | GET what stands and every change, one JSON object a line: [`watch`] |
//! | `/revisions/{revision}?wait=5s` | GET who runs it |
//! | `/status` | GET how the mesh is: [`status`] |
//!
//! Lists take `?size=1..1000&after=`, and `?label=key=value` (or `?filter[labels.key]=value`), which may stand
//! several times. `?zone=` (`global` for the global's own) and `?namespace=` choose among documents of one
//! name; without them a control plane's own comes first. `?dryRun=true` validates and asks no owner.

pub mod shapes;

mod server;

pub mod gate;

mod path;
mod query;

pub mod admission;
mod documents;
mod ownership;
mod view;
pub mod watch;

pub mod revisions;

pub mod routes;
pub mod status;

pub mod duration;
pub mod problem;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::{Router, middleware};
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use admission::{Admission, AdmitAll, Change};
pub use gate::{AdminToken, Auth, Caller};
pub use ownership::Authority;
pub use revisions::{NoSuchRevision, Proof};
pub use shapes::Problem;
pub use view::{Ages, Reports};

/// What a control plane's API is made of.
pub struct ApiConfig {
    pub store: Arc<dyn Store>,
    /// Who writes what is the global's to write.
    pub authority: Authority,
    pub proof: Arc<dyn Proof>,
    pub auth: Arc<dyn Auth>,
    pub admission: Arc<dyn Admission>,
    /// How the origins of copies are heard.
    pub ages: Arc<dyn Ages>,
    /// What was said about documents; `()` where nobody says anything.
    pub reports: Arc<dyn Reports>,
    /// Names under which browsers may reach this API, beside `localhost` and plain addresses.
    pub hosts: BTreeSet<String>,
    /// The program's own routes, which must not have a fallback: [`routes`] has those that programs share.
    pub extra: Router,
}

/// Serves until `stop` is cancelled, then lets running requests finish, for five seconds at most. Whatever
/// comes over a connection, the others are served on.
///
/// `tls` should offer the protocols `h2` and `http/1.1`.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    config: ApiConfig,
    stop: CancellationToken,
) {
    server::serve(listener, tls, router_until(config, stop.clone()), server::LIMITS, stop).await;
}

/// All routes behind the gate; requests need no connection, so tests may call it directly.
pub fn router(config: ApiConfig) -> Router {
    router_until(config, CancellationToken::new())
}

/// Answers that go on and on end with `stop`.
fn router_until(config: ApiConfig, stop: CancellationToken) -> Router {
    let ApiConfig { store, authority, proof, auth, admission, ages, reports, hosts, extra } = config;
    let viewer = view::Viewer { own: store.origin().clone(), ages, reports };
    let watches = watch::Watches::new(store.clone(), viewer.clone(), stop);
    let documents = Arc::new(documents::Documents { store, admission, authority, viewer, watches });
    let gate = Arc::new(gate::Gate { auth, hosts });
    Router::new()
        .fallback(documents::handle)
        .with_state(documents)
        .merge(revisions::routes(proof))
        .merge(extra)
        .layer(middleware::from_fn_with_state(gate, gate::pass))
}
