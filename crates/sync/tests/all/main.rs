//! Sessions as their users see them: simulated by seeds, over pipes on a paused clock, and over real TLS.

mod simulation;
