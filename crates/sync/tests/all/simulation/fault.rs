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
    /// The time of day was put back, or ahead: what is kept by it may be anything.
    WallClockBack,
    WallClockAhead,
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
    /// A zone had been told more of another one than the relay knew.
    AheadOfTheRelay,
    /// A receiver could not take a document, or something that was not its sender's to send.
    RefusedDocument,
    /// It was written anew, or deleted.
    RefusalGone,
    /// A side sent what is another's, what comes too late, or what is still to come.
    Lie,
    /// A signal came that nobody had wished for.
    UnaskedSignal,
}

impl Fault {
    const ALL: [Self; 33] = [
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
        Self::WallClockBack,
        Self::WallClockAhead,
        Self::AheadOfTheRelay,
        Self::RefusedDocument,
        Self::RefusalGone,
        Self::Lie,
        Self::UnaskedSignal,
    ];

    /// Those that can happen between two sides of this shape. A proxy takes what its zone says: its parts are known
    /// by name and digest, and have no line.
    pub(super) fn of(shape: Shape) -> impl Iterator<Item = Self> {
        let concerns_lines = |fault: &Self| {
            let of_lines = [Self::NewEpoch, Self::FollowedEpoch, Self::Held, Self::Accepted];
            let of_documents = [
                Self::AheadOfTheRelay,
                Self::RefusedDocument,
                Self::RefusalGone,
                Self::Lie,
                Self::UnaskedSignal,
            ];
            let of_days = [Self::WallClockBack, Self::WallClockAhead];
            of_lines.iter().chain(&of_documents).chain(&of_days).any(|one| one == fault)
        };
        let concerns_parts = |fault: &Self| *fault == Self::UnreadablePart;
        Self::ALL.into_iter().filter(move |fault| match shape {
            Shape::ControlPlanes => !concerns_parts(fault),
            Shape::Proxy => !concerns_lines(fault),
        })
    }
}
