//! What a host cannot do yet holds up its topic, and nothing else of the session.

use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::HostError;

/// What a host could not do now and may be able to do soon, such as to write to a disk that is full.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotYet(#[source] pub HostError);

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What cannot be done for long is tried rarely: each attempt may keep others from what can be done.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The last of as many attempts as it takes, or as there is time for before the session ends.
pub(super) async fn last<T, F>(ending: &CancellationToken, attempt: impl Fn() -> F) -> Result<T, HostError>
where
    F: Future<Output = Result<T, HostError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.is::<NotYet>() => {
                if time::timeout(pause, ending.cancelled()).await.is_ok() {
                    return Err(error);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}
