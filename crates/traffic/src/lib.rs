//! What bytes pass, in the order they pass it.
