//! The hash by which a peer that joins knows the control plane's authority.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The SHA-256 of a certificate's DER; as text 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not the hash of a certificate: it has 64 lower-case hexadecimal digits")]
pub struct InvalidPin(String);

impl Pin {
    pub fn of(certificate: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(hash)
    }
}

impl FromStr for Pin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let hash = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        hash.map(Self).ok_or_else(|| InvalidPin(text.into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Pin {
    type Error = InvalidPin;

    fn try_from(text: String) -> Result<Self, InvalidPin> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> String {
        pin.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_sha_256_in_lower_case() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Pin::of(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(Pin::of(b"abc")));
        for bad in ["", "abc", &text[1..], &text.to_uppercase(), &format!("{text}00")] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }
}
