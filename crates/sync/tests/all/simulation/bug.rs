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
    /// The relay tells half of what it has of another zone, and says that it is all.
    RelaysHalf,
    /// Passes on differences of what it was told as a whole set.
    KnowsNoGaps,
    /// Takes an older state of another zone from a relay whose store was put back.
    IsLedBack,
    /// Gives up what it has of a document when it cannot take the next version.
    TakesRefusedOutOfForce,
    /// Forgets what it refused, and so does not say so with the next word.
    ForgetsRefusals,
    /// Says what it refused before, and not what it refuses now.
    KeepsRefusalsToItself,
    /// Takes documents from whoever sends them.
    TakesWhatIsAnothers,
    /// Takes what a peer should have sent before, if ever.
    TakesWhatComesLate,
    /// Lets a peer say how far another one is.
    LetsOthersMoveWorlds,
}

impl Bug {
    /// Each with a shape in which it does harm, and words of how it is noticed.
    pub(super) const PLANTED: [(Self, Shape, &'static [&'static str]); 24] = [
        (Self::AppliesHalfABatch, Shape::ControlPlanes, &["half a batch"]),
        (Self::AcknowledgesBeforeStoring, Shape::ControlPlanes, &["acknowledged ahead"]),
        (Self::TellsBeforeStoring, Shape::ControlPlanes, &["forgot what it told", "the relay never had"]),
        (Self::ForgetsTombstones, Shape::ControlPlanes, &["resurrected"]),
        (Self::KeepsWhatAWholeSetLacks, Shape::ControlPlanes, &["resurrected"]),
        (Self::AcceptsEveryEpoch, Shape::ControlPlanes, &["accepted by itself"]),
        (Self::AcceptsLaterEpochs, Shape::ControlPlanes, &["accepted by itself"]),
        (Self::ChecksNoGeneration, Shape::ControlPlanes, &["held without a reason", "a hash is missing"]),
        (Self::AnswersAnEarlierOpening, Shape::Proxy, &["not what was", "half a batch"]),
        (Self::EchoesBeforeApplying, Shape::Proxy, &["settled ahead"]),
        (Self::TellsOnlyWhatWasWritten, Shape::ControlPlanes, &["documents are lost"]),
        (Self::TellsOnlyOfDeletions, Shape::ControlPlanes, &["resurrected"]),
        (
            Self::TakesLeavingForDeletion,
            Shape::ControlPlanes,
            &["documents are lost", "half a batch", "did not converge"],
        ),
        (Self::GivesNoCredit, Shape::ControlPlanes, &["did not converge"]),
        (
            Self::IgnoresCredit,
            Shape::ControlPlanes,
            &["more of policy was sent", "more of originated was sent"],
        ),
        (Self::RelaysHalf, Shape::ControlPlanes, &["the relay never had"]),
        (Self::KnowsNoGaps, Shape::ControlPlanes, &["the relay never had"]),
        (Self::IsLedBack, Shape::ControlPlanes, &["the relay never had"]),
        (Self::TakesRefusedOutOfForce, Shape::ControlPlanes, &["was accepted last is not in force"]),
        (Self::ForgetsRefusals, Shape::ControlPlanes, &["not what"]),
        (Self::KeepsRefusalsToItself, Shape::ControlPlanes, &["did not converge"]),
        (Self::TakesWhatIsAnothers, Shape::ControlPlanes, &["is invented", "NoCopy"]),
        (Self::TakesWhatComesLate, Shape::ControlPlanes, &["is invented"]),
        (
            Self::LetsOthersMoveWorlds,
            Shape::ControlPlanes,
            &["a world that never was", "the relay never had"],
        ),
    ];
}
