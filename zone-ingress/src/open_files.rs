//! How many files this process may have open, which is how many connections it can carry.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open beside flows: listeners, the session, the state folder, pipes.
const OTHERS: u64 = 512;
/// Of a flow: two sockets.
const PER_FLOW: u64 = 2;

/// Raises the limit to the highest that this process may give itself, and returns how many flows it allows.
pub fn make_room() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    flows(allowed)
}

/// None is no limit.
fn flows(files: Option<u64>) -> usize {
    files.map_or(usize::MAX, |files| {
        usize::try_from(files.saturating_sub(OTHERS) / PER_FLOW).unwrap_or(usize::MAX).max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_takes_two_files_and_others_are_open_beside_them() {
        let cases = [(Some(20_000), 9_744), (Some(1024), 256), (Some(100), 1), (None, usize::MAX)];
        for (files, want) in cases {
            assert_eq!(flows(files), want, "{files:?}");
        }
    }
}
