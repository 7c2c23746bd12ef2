//! A disk that refuses what a peer said delays that, and nothing else of the session.

use std::time::Duration;

use store::Store;
use sync::link::HostError;
use tokio::time;

/// Between attempts, beside the word that the store can be written again: what fails may be something else.
const PAUSE: Duration = Duration::from_secs(1);

/// Does what needs the store to be written, for as long as the disk alone keeps it from that. Whoever waits for a
/// whole session must not wait for this: of a topic it holds up that topic.
pub async fn once_writable<T, F>(store: &dyn Store, attempt: impl Fn() -> F) -> Result<T, HostError>
where
    F: Future<Output = Result<T, HostError>>,
{
    let mut writable = store.writable();
    loop {
        match attempt().await {
            Err(error) if is_of_the_disk(&error) => {
                time::sleep(PAUSE).await;
                writable.wait_for(|writable| *writable).await.map_err(|_| error)?;
            }
            answer => return answer,
        }
    }
}

fn is_of_the_disk(error: &HostError) -> bool {
    matches!(error.downcast_ref(), Some(store::Error::Full { .. } | store::Error::Unavailable { .. }))
}
