//! Mistakes of a host, or of its store, that the simulation must find.

use super::peer::Shape;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bug {
    None,
    /// Puts the first half of a batch into force before the rest.
    AppliesHalfABatch,
    /// Says that a batch is stored when it is written, but not durable.
    AcknowledgesBeforeStoring,
    /// Tells others what is written, but not durable.
    TellsBeforeStoring,
    /// Does not take out what left the topic.
    ForgetsTombstones,
    /// Takes a whole set for a difference.
    KeepsWhatAWholeSetLacks,
    /// Takes an authority that came back empty at its word.
    AcceptsEveryEpoch,
    /// Takes a later epoch for one that goes on from here.
    AcceptsLaterEpochs,
    /// An earlier session may go on storing.
    ChecksNoGeneration,
    /// Goes on from where the peer first said that it is, though it opened the topic anew.
    AnswersAnEarlierOpening,
    /// Says that signals are in force before they are.
    EchoesBeforeApplying,
    /// Lets an owner begin a batch, and never gives it more credit.
    GivesNoCredit,
    /// Sends as if there were credit for everything.
    IgnoresCredit,
    /// Tells what was written since, and not what was written before and concerns the other side only now.
    TellsOnlyWhatWasWritten,
    /// Tells what was deleted, and not what concerns the other side no longer.
    TellsOnlyOfDeletions,
    /// What left does not come back but in a later version.
    TakesLeavingForDeletion,
}

impl Bug {
    /// Each with a shape in which it does harm, and words of how it is noticed.
    pub(super) const PLANTED: [(Self, Shape, &'static [&'static str]); 15] = [
        (Self::AppliesHalfABatch, Shape::ControlPlanes, &["half a batch"]),
        (Self::AcknowledgesBeforeStoring, Shape::ControlPlanes, &["acknowledged ahead"]),
        (Self::TellsBeforeStoring, Shape::ControlPlanes, &["forgot what it told"]),
        (Self::ForgetsTombstones, Shape::ControlPlanes, &["resurrected"]),
        (Self::KeepsWhatAWholeSetLacks, Shape::ControlPlanes, &["resurrected"]),
        (Self::AcceptsEveryEpoch, Shape::ControlPlanes, &["accepted by itself"]),
        (Self::AcceptsLaterEpochs, Shape::ControlPlanes, &["accepted by itself"]),
        (Self::ChecksNoGeneration, Shape::ControlPlanes, &["held without a reason", "a hash is missing"]),
        (Self::AnswersAnEarlierOpening, Shape::Proxy, &["not what was", "half a batch"]),
        (Self::EchoesBeforeApplying, Shape::Proxy, &["settled ahead"]),
        (Self::TellsOnlyWhatWasWritten, Shape::ControlPlanes, &["documents are lost"]),
        (Self::TellsOnlyOfDeletions, Shape::ControlPlanes, &["resurrected"]),
        (Self::TakesLeavingForDeletion, Shape::ControlPlanes, &["documents are lost", "half a batch"]),
        (Self::GivesNoCredit, Shape::ControlPlanes, &["did not converge"]),
        (
            Self::IgnoresCredit,
            Shape::ControlPlanes,
            &["more of policy was sent", "more of originated was sent"],
        ),
    ];
}
