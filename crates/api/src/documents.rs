//! Reading documents, writing them, deleting them.
//!
//! The checks of a write, in order: the document is valid; it is written here; its mesh is there; it is still
//! what the caller thinks; the program admits it. The store then writes it only if nobody came in between.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, ETAG};
use http::{HeaderValue, Method, StatusCode, Uri};
use model::document::{self, Address, Document, Violation};
use model::kinds::{self, Kind};
use model::labels::{LabelKey, LabelValue, Labels};
use model::{DocumentKey, MeshName, Origin, Record, Version};
use store::{Draft, Error, Filter, Store};
use tokio::time;
use tracing::error;

use crate::admission::{Admission, Change};
use crate::gate::{Caller, MOST_BODY, StillKnown, body_too_large};
use crate::ownership::{self, Authority, Chosen, Precondition};
use crate::path::{self, Place, Target};
use crate::problem::json;
use crate::query::Query;
use crate::shapes::{InvalidParameter, Page, Problem, Written};
use crate::view::{self, Viewer};
use crate::watch::{Wanted, Watches};

pub(crate) struct Documents {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) authority: Authority,
    pub(crate) viewer: Viewer,
    pub(crate) watches: Watches,
}

/// Sending a body may take this long.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// How often a write without precondition is decided anew because somebody else wrote meanwhile.
const MOST_TRIES: usize = 4;

pub(crate) async fn handle(State(documents): State<Arc<Documents>>, request: Request) -> Response {
    documents.answer(request).await.unwrap_or_else(Problem::into_response)
}

impl Documents {
    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let caller = parts
            .extensions
            .get::<Caller>()
            .ok_or_else(|| Problem::unauthenticated("nobody is known to ask"))?;
        let target = path::parse(parts.uri.path())?;
        if parts.method == Method::GET && Query::has(&parts.uri, "watch") {
            let still_known = parts.extensions.get::<StillKnown>().cloned();
            let still_known =
                still_known.ok_or_else(|| Problem::unauthenticated("nobody is known to ask"))?;
            return self.watch(target, &parts.uri, still_known).await;
        }
        match (&parts.method, target) {
            (&Method::GET | &Method::HEAD, Target::One(place)) => {
                let query = Query::of(&parts.uri, &["zone", "namespace"])?;
                self.get(&place, &chosen(&query)?, &Precondition::of(&parts.headers)?).await
            }
            (&Method::GET | &Method::HEAD, Target::All { kind, mesh }) => {
                let known = ["size", "after", "zone", "namespace", "label", "filter["];
                self.list(kind, mesh, &Query::of(&parts.uri, &known)?).await
            }
            (&Method::PUT, Target::One(place)) => {
                let query = Query::of(&parts.uri, &["zone", "namespace", "dryRun"])?;
                let (chosen, dry_run) = (chosen(&query)?, query.flag("dryRun")?);
                let precondition = Precondition::of(&parts.headers)?;
                let text = read_body(body).await?;
                self.put(&place, &text, &Wish { chosen, precondition, dry_run, caller }).await
            }
            (&Method::DELETE, Target::One(place)) => {
                let query = Query::of(&parts.uri, &["zone", "namespace", "dryRun"])?;
                let (chosen, dry_run) = (chosen(&query)?, query.flag("dryRun")?);
                let precondition = Precondition::of(&parts.headers)?;
                self.delete(&place, &Wish { chosen, precondition, dry_run, caller }).await
            }
            (method, target) => Ok(not_allowed(method, &target)),
        }
    }

    async fn get(
        &self,
        place: &Place,
        chosen: &Chosen,
        precondition: &Precondition,
    ) -> Result<Response, Problem> {
        let record = ownership::find(place, self.candidates(place).await?, chosen, self.store.origin())?;
        if matches!(precondition, Precondition::Differs(_)) && !precondition.holds(Some(&record.version)) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            tag(&mut response, &record.version);
            return Ok(response);
        }
        precondition.expect(place, Some(&record.version))?;
        let mut response = json(StatusCode::OK, &self.viewer.show(&record));
        tag(&mut response, &record.version);
        Ok(response)
    }

    async fn list(&self, kind: &Kind, mesh: Option<MeshName>, query: &Query) -> Result<Response, Problem> {
        let size = match query.one::<usize>("size")? {
            Some(size) if !(1..=1000).contains(&size) => {
                return Err(Problem::invalid_request("?size", "must be 1 to 1000"));
            }
            size => size.unwrap_or(100),
        };
        let after = query
            .one::<DocumentKey>("after")
            .map_err(|_| Problem::invalid_request("?after", "must be the 'next' of the page before"))?;
        let (chosen, wanted) = (chosen(query)?, wanted_labels(query)?);

        let mut filter = Filter::all().kinds([kind.key_name()]);
        if let Some(mesh) = mesh {
            filter = filter.mesh(mesh);
        }
        let listing = self.store.list(filter).await.map_err(failed)?;
        let mut matching = listing.records.iter().filter(|record| {
            after.as_ref().is_none_or(|after| record.key > *after)
                && chosen.covers(&record.key)
                && (wanted.is_empty() || view::labels(record).cover(&wanted))
        });
        let page: Vec<&Record> = matching.by_ref().take(size).collect();
        let more = matching.next().is_some();
        let next = page.last().filter(|_| more).map(|record| record.key.to_string());
        let items: Vec<_> = page.into_iter().map(|record| self.viewer.show(record)).collect();
        Ok(json(StatusCode::OK, &Page { items, next }))
    }

    async fn watch(&self, target: Target, uri: &Uri, still_known: StillKnown) -> Result<Response, Problem> {
        let known: &[&str] = match target {
            Target::One(_) => &["watch", "from", "zone", "namespace"],
            Target::All { .. } => &["watch", "from", "zone", "namespace", "label", "filter["],
        };
        let query = Query::of(uri, known)?;
        if !query.flag("watch")? {
            return Err(Problem::invalid_request("?watch", "must be true, or not there"));
        }
        let (chosen, labels) = (chosen(&query)?, wanted_labels(&query)?);
        let (kind, mesh, name) = match target {
            Target::One(place) => (place.kind, place.mesh.clone(), Some(place.checked_name()?)),
            Target::All { kind, mesh } => (kind, mesh, None),
        };
        let wanted = Wanted { kind, mesh, name, chosen, labels };
        self.watches.open(wanted, query.one("from")?, still_known).await
    }

    async fn put(&self, place: &Place, text: &str, wish: &Wish<'_>) -> Result<Response, Problem> {
        let here = self.store.origin();
        let (document, came_from) = read(place, text, (!wish.dry_run).then_some(here))?;
        let key = self.own_key(
            place,
            document.name.clone(),
            document.namespace.clone().or(wish.chosen.namespace.clone()),
        );
        if wish.dry_run {
            let held = self.store.get(&key).await.map_err(failed)?;
            wish.precondition.expect(place, held.as_ref().map(|held| &held.version))?;
            let missing = self.missing_mesh(&document).await?;
            let warnings = missing.into_iter().map(|mistake| mistake.reason).collect();
            let status = if held.is_some() { StatusCode::OK } else { StatusCode::CREATED };
            return Ok(written(status, held.map(|held| held.version).as_ref(), None, warnings));
        }

        self.check_zone(place, wish)?;
        ownership::may_write(place.kind, here, &self.authority)?;
        if let Some(mistake) = self.missing_mesh(&document).await? {
            return Err(Problem::invalid_document(vec![mistake]));
        }
        let draft = Draft::new(key.clone(), document.canonical());
        for _ in 0..MOST_TRIES {
            let held = self.store.get(&key).await.map_err(failed)?;
            if held.is_none() {
                self.check_copies(place, came_from.as_ref()).await?;
            }
            let expect = wish.precondition.expect(place, held.as_ref().map(|held| &held.version))?;
            let change = Change::Put { draft: &draft, held: held.as_ref(), caller: wish.caller };
            let warnings = self.admission.admit(change).await?;
            match self.store.put(draft.clone(), expect).await {
                Ok(done) => {
                    let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
                    return Ok(written(status, Some(&done.version), Some(&done.version), warnings));
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(too_busy(place))
    }

    async fn delete(&self, place: &Place, wish: &Wish<'_>) -> Result<Response, Problem> {
        let key = self.own_key(place, place.checked_name()?, wish.chosen.namespace.clone());
        self.check_zone(place, wish)?;
        for _ in 0..MOST_TRIES {
            let Some(held) = self.store.get(&key).await.map_err(failed)? else {
                // Either it is somebody else's, or it is not there: find says which.
                let copy =
                    ownership::find(place, self.candidates(place).await?, &wish.chosen, self.store.origin())?;
                return Err(ownership::not_ours(place, &copy.key.origin, &self.authority));
            };
            ownership::may_write(place.kind, self.store.origin(), &self.authority)?;
            let expect = wish.precondition.expect(place, Some(&held.version))?;
            self.check_empty(place, &key).await?;
            if wish.dry_run {
                return Ok(written(StatusCode::OK, Some(&held.version), None, Vec::new()));
            }
            let warnings = self.admission.admit(Change::Delete { held: &held, caller: wish.caller }).await?;
            match self.store.delete(key.clone(), expect).await {
                Ok(done) => return Ok(written(StatusCode::OK, None, Some(&done.version), warnings)),
                Err(Error::Conflict { .. } | Error::Absent { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(too_busy(place))
    }

    /// The key that a document of our own has.
    fn own_key(
        &self,
        place: &Place,
        name: model::ResourceName,
        namespace: Option<model::Name>,
    ) -> DocumentKey {
        let origin = self.store.origin().clone();
        DocumentKey { kind: place.kind.key_name(), mesh: place.mesh.clone(), origin, namespace, name }
    }

    /// Every document that the name may stand for.
    async fn candidates(&self, place: &Place) -> Result<Vec<Record>, Problem> {
        let name = place.checked_name()?;
        let mut filter = Filter::all().kinds([place.kind.key_name()]);
        if let Some(mesh) = &place.mesh {
            filter = filter.mesh(mesh.clone());
        }
        let listing = self.store.list(filter).await.map_err(failed)?;
        Ok(listing.records.into_iter().filter(|record| record.key.name == name).collect())
    }

    /// Who asks for another zone's document to be changed asks the wrong control plane.
    fn check_zone(&self, place: &Place, wish: &Wish<'_>) -> Result<(), Problem> {
        match &wish.chosen.zone {
            Some(zone) if zone != self.store.origin() => {
                Err(ownership::not_ours(place, zone, &self.authority))
            }
            _ => Ok(()),
        }
    }

    /// A new document that is really somebody else's: it came from there, or the global owns its name.
    /// A zone's document does not keep the global from one of its own of the same name.
    async fn check_copies(&self, place: &Place, came_from: Option<&Origin>) -> Result<(), Problem> {
        let here = self.store.origin();
        if let Some(owner) = came_from.filter(|owner| *owner != here) {
            return Err(ownership::not_ours(place, owner, &self.authority));
        }
        let global =
            DocumentKey { origin: Origin::Global, ..self.own_key(place, place.checked_name()?, None) };
        if *here != Origin::Global && self.store.get(&global).await.map_err(failed)?.is_some() {
            return Err(ownership::not_ours(place, &Origin::Global, &self.authority));
        }
        Ok(())
    }

    async fn missing_mesh(&self, document: &Document) -> Result<Option<InvalidParameter>, Problem> {
        let Some(mesh) = &document.mesh else {
            return Ok(None);
        };
        for origin in [self.store.origin().clone(), Origin::Global] {
            let key = DocumentKey {
                kind: MESH.key_name(),
                mesh: None,
                origin,
                namespace: None,
                name: mesh.clone().into(),
            };
            if self.store.get(&key).await.map_err(failed)?.is_some() {
                return Ok(None);
            }
        }
        let reason = match self.authority {
            Authority::Here => format!("the mesh '{mesh}' does not exist: create it first"),
            Authority::Global { .. } => {
                format!("the mesh '{mesh}' is not known in this zone: create it on the global first")
            }
        };
        Ok(Some(InvalidParameter::new("mesh", reason)))
    }

    /// A mesh in which proxies live is not deleted.
    async fn check_empty(&self, place: &Place, key: &DocumentKey) -> Result<(), Problem> {
        if *place.kind != MESH {
            return Ok(());
        }
        let mesh: MeshName = key
            .name
            .as_str()
            .parse()
            .map_err(|_| Problem::invalid_request("name", "is not a mesh's name"))?;
        let filter = Filter::all().kinds([DATAPLANE.key_name()]).mesh(mesh);
        match self.store.list(filter).await.map_err(failed)?.records.len() {
            0 => Ok(()),
            n => Err(Problem::conflict(format!("{} has {n} proxies: delete them first", place.describe()))),
        }
    }
}

const MESH: Kind = <kinds::Mesh as kinds::ResourceSpec>::KIND;
const DATAPLANE: Kind = <kinds::Dataplane as kinds::ResourceSpec>::KIND;

/// What a caller wants beside the document itself.
struct Wish<'a> {
    chosen: Chosen,
    precondition: Precondition,
    dry_run: bool,
    caller: &'a Caller,
}

async fn read_body(body: Body) -> Result<String, Problem> {
    let bytes = match time::timeout(BODY_LIMIT, to_bytes(body, MOST_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length(&error) => return Err(body_too_large()),
        Ok(Err(_)) => return Err(Problem::invalid_request("body", "ended too early")),
        Err(_) => {
            let detail = "the body did not come within 30 s";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "Too slow", detail));
        }
    };
    String::from_utf8(bytes.into()).map_err(|_| Problem::invalid_request("body", "is not UTF-8 text"))
}

fn is_length(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<http_body_util::LengthLimitError>() || error.source().is_some_and(is_length)
}

/// The document, and where it says that it was read from before.
fn read(place: &Place, text: &str, origin: Option<&Origin>) -> Result<(Document, Option<Origin>), Problem> {
    let tree = document::parse_one(text).map_err(|error| {
        Problem::invalid_document(vec![InvalidParameter {
            line: Some(error.line),
            column: Some(error.column),
            ..InvalidParameter::new("body", error.message)
        }])
    })?;
    let address = Address {
        kind: place.kind,
        mesh: place.mesh.clone(),
        name: place.name.clone(),
        origin: origin.cloned(),
    };
    let document = document::read_at(&tree, &address)
        .map_err(|violations| Problem::invalid_document(violations.into_iter().map(mistake).collect()))?;
    let came_from = tree.get("status").and_then(|status| status.text("origin")?.parse().ok());
    Ok((document, came_from))
}

fn mistake(violation: Violation) -> InvalidParameter {
    let Violation { field, reason, line, column } = violation;
    let place = |n: u32| (n > 0).then_some(n);
    InvalidParameter { line: place(line), column: place(column), ..InvalidParameter::new(field, reason) }
}

fn chosen(query: &Query) -> Result<Chosen, Problem> {
    Ok(Chosen { zone: query.one("zone")?, namespace: query.one("namespace")? })
}

/// `?label=key=value`, or `?filter[labels.key]=value` as in Kuma; all of them must fit.
fn wanted_labels(query: &Query) -> Result<Labels, Problem> {
    let mut wanted = Labels::default();
    for (name, value) in query.iter() {
        let (key, value) = match name.strip_prefix("filter[") {
            Some(rest) => {
                let key = rest.strip_suffix(']').and_then(|field| field.strip_prefix("labels."));
                let unknown = || Problem::invalid_request("?filter", "must be filter[labels.<key>]=<value>");
                (key.ok_or_else(unknown)?, value)
            }
            None if name == "label" => value
                .split_once('=')
                .ok_or_else(|| Problem::invalid_request("?label", "must be label=<key>=<value>"))?,
            None => continue,
        };
        let parameter = format!("?{name}");
        let key: LabelKey =
            key.parse().map_err(|error| Problem::invalid_request(&parameter, format!("{error}")))?;
        let value: LabelValue =
            value.parse().map_err(|error| Problem::invalid_request(&parameter, format!("{error}")))?;
        wanted.insert(key, value);
    }
    Ok(wanted)
}

fn written(
    status: StatusCode,
    stands: Option<&Version>,
    revision: Option<&Version>,
    warnings: Vec<String>,
) -> Response {
    let mut response = json(status, &Written { revision: revision.cloned(), warnings });
    if let Some(version) = stands {
        tag(&mut response, version);
    }
    response
}

fn tag(response: &mut Response, version: &Version) {
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
}

fn not_allowed(method: &Method, target: &Target) -> Response {
    let (allowed, what) = match target {
        Target::One(place) => ("GET, PUT, DELETE", place.describe()),
        Target::All { kind, .. } => ("GET", format!("a list of {kind} documents")),
    };
    let mut response =
        Problem::method_not_allowed(format!("{method} is not possible on {what}: use {allowed}"))
            .into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn too_busy(place: &Place) -> Problem {
    Problem::conflict(format!(
        "others are writing {} at this moment: read it again, then try again",
        place.describe()
    ))
}

/// What a failing store means for a caller.
pub(crate) fn failed(error: Error) -> Problem {
    match &error {
        Error::Conflict { .. } => Problem::conflict(error.to_string()),
        Error::Absent { .. } => Problem::not_found(error.to_string()),
        Error::TooLarge { .. } => Problem::too_large(error.to_string()),
        Error::Full { source } => {
            error!(%error, %source, "the store failed");
            Problem::storage_full(error.to_string())
        }
        Error::Unavailable { source } => {
            error!(%error, %source, "the store failed");
            Problem::unavailable(error.to_string())
        }
        Error::Closed => Problem::unavailable(error.to_string()),
        _ => {
            error!(%error, "the store refused what it should not have been asked");
            Problem::internal()
        }
    }
}
