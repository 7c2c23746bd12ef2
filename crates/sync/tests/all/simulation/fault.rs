//! What goes wrong, and what comes of it: each has to happen within the seeds, or nothing is proven of it.

use super::peer::Shape;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Fault {
    RepeatedFrame,
    ReorderedFrames,
    BrokenLink,
    /// One direction carries nothing more, and nobody is told.
    HalfDeadLink,
    /// A side does not read for a while.
    SlowReader,
    /// A side reads, and writes nothing for a while.
    SlowWriter,
    /// An owner had to wait until it got more credit for a batch.
    WaitedForCredit,
    /// The host of a side takes seconds for what it usually does at once.
    SlowHost,
    /// What is written is durable much later.
    SlowDisk,
    /// A side stood still, or its clock was put forward.
    ClockJump,
    /// A program was killed: what it wrote is there, what it meant to write is not.
    Kill,
    /// Nothing is left of what was not durable, and the peer is not told.
    PowerCut,
    LostStore,
    /// An older copy of a store was put back.
    PutBackStore,
    /// The upper side still has a session when the lower one begins the next.
    SecondSession,
    /// What an earlier session meant to store came too late.
    Fenced,
    Stale,
    Silent,
    ReopenedTopic,
    /// A document that was written before begins to concern the other side.
    EnteredLate,
    /// One no longer does, and is not deleted.
    LeftTheView,
    /// A proxy cannot read one of its parts any more, drops it, and opens the topic anew.
    UnreadablePart,
    /// An owner noticed that its store was put back, and began an epoch.
    NewEpoch,
    /// A copy followed into a new epoch by itself, since that goes on from where it was.
    FollowedEpoch,
    /// A copy kept what it had.
    Held,
    /// Somebody accepted another history.
    Accepted,
}

impl Fault {
    const ALL: [Self; 26] = [
        Self::RepeatedFrame,
        Self::ReorderedFrames,
        Self::BrokenLink,
        Self::HalfDeadLink,
        Self::SlowReader,
        Self::SlowWriter,
        Self::WaitedForCredit,
        Self::SlowHost,
        Self::SlowDisk,
        Self::ClockJump,
        Self::Kill,
        Self::PowerCut,
        Self::LostStore,
        Self::PutBackStore,
        Self::SecondSession,
        Self::Fenced,
        Self::Stale,
        Self::Silent,
        Self::ReopenedTopic,
        Self::EnteredLate,
        Self::LeftTheView,
        Self::UnreadablePart,
        Self::NewEpoch,
        Self::FollowedEpoch,
        Self::Held,
        Self::Accepted,
    ];

    /// Those that can happen between two sides of this shape. A proxy takes what its zone says: its parts are known
    /// by name and digest, and have no line.
    pub(super) fn of(shape: Shape) -> impl Iterator<Item = Self> {
        let concerns_lines = |fault: &Self| {
            matches!(fault, Self::NewEpoch | Self::FollowedEpoch | Self::Held | Self::Accepted)
        };
        let concerns_parts = |fault: &Self| *fault == Self::UnreadablePart;
        Self::ALL.into_iter().filter(move |fault| match shape {
            Shape::ControlPlanes => !concerns_parts(fault),
            Shape::Proxy => !concerns_lines(fault),
        })
    }
}
