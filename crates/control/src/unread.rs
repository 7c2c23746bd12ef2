//! Documents of one's own that are not understood, or not wholly: they got into the store by another way than the API.
//!
//! They travel like all others. Whoever can read them judges them, and whoever cannot keeps the last good version. The
//! author is told by `GET /status`, by the API beside the document, and by the log.

use std::sync::Arc;

use api::shapes::{Refusal, RefusedDocument};
use api::status::MOST_NAMED;
use model::{DocumentKey, Version, document};
use store::{Filter, Store};
use tracing::error;

/// As found when the store was opened: the API lets none in.
pub struct Unread {
    store: Arc<dyn Store>,
    found: Vec<(DocumentKey, Version, String)>,
}

impl Unread {
    pub async fn find(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let own = store.list(Filter::all().written_by(store.origin().clone())).await?;
        let found = own.records.into_iter().filter_map(|record| {
            let problem = document::problem(&record)?;
            error!(document = %record.key, version = %record.version, problem, "a document is not understood");
            Some((record.key, record.version, problem))
        });
        Ok(Self { found: found.collect(), store })
    }

    /// Those that nobody wrote again or deleted since; at most [`MOST_NAMED`].
    pub async fn left(&self) -> Result<Vec<RefusedDocument>, store::Error> {
        let mut left = Vec::new();
        for (key, version, problem) in &self.found {
            let held = self.store.get(key).await?;
            if held.is_some_and(|held| held.version == *version) && left.len() < MOST_NAMED {
                let refusal = Refusal {
                    reporter: self.store.origin().clone(),
                    revision: Some(version.clone()),
                    reason: problem.clone(),
                    since: 0,
                    in_force: None,
                };
                left.push(RefusedDocument { document: key.to_string(), refusal });
            }
        }
        Ok(left)
    }
}
