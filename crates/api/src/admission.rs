//! What a program has to say about a change before it is written.

use futures::future::BoxFuture;
use model::Record;
use store::Draft;

use crate::gate::Caller;
use crate::shapes::Problem;

/// Checks that only the program can make: it knows connected zones, counts of proxies, owners of trust
/// domains. Asked last, after everything else was found right, and never for a dry run.
pub trait Admission: Send + Sync + 'static {
    /// Lets a change happen, with warnings for its author, or refuses it. If somebody else writes the same
    /// document meanwhile it is asked again.
    fn admit<'a>(&'a self, change: Change<'a>) -> BoxFuture<'a, Result<Vec<String>, Problem>>;
}

/// What is about to happen.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Put { draft: &'a Draft, held: Option<&'a Record>, caller: &'a Caller },
    Delete { held: &'a Record, caller: &'a Caller },
}

/// Admits everything.
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit<'a>(&'a self, _change: Change<'a>) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
