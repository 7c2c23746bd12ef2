//! Secrets cannot be printed or written by accident: this does not compile once one of them can be.

use std::fmt::Debug;

use identity::{AdminToken, ControlCa, Credential, PrivateKey, Svid, TokenKey, ZoneCa};
use serde::Serialize;

/// Whether there is one way to choose the marker: with a second one, the type below cannot be inferred.
macro_rules! implements_neither {
    ($($secret:ty),*) => {$(
        const _: fn() = || {
            struct Printable;
            struct Writable;
            trait Marked<M> {
                fn unambiguous() {}
            }
            impl<T> Marked<()> for T {}
            impl<T: Debug> Marked<Printable> for T {}
            impl<T: Serialize> Marked<Writable> for T {}
            let _ = <$secret as Marked<_>>::unambiguous;
        };
    )*};
}

implements_neither!(AdminToken, ControlCa, Credential, PrivateKey, Svid, TokenKey, ZoneCa);
