//! Where a request stands in a trace: the header `traceparent` of W3C Trace Context.

use std::fmt;

/// A trace, the span of it that called, and whether it is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// Not zero.
    pub trace: u128,
    /// Not zero.
    pub span: u64,
    pub sampled: bool,
}

impl TraceContext {
    /// Reads the header's value. A later version may say more after the flags; version 0 may not.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let version = hex(&head[..2])?;
        let rest_is_fine = rest.is_empty() || (version != 0 && rest[0] == b'-');
        let trace = hex(&head[3..35])?;
        let span = u64::try_from(hex(&head[36..52])?).ok()?;
        let flags = hex(&head[53..55])?;
        let valid = dashes && version != 0xff && rest_is_fine && trace != 0 && span != 0;
        valid.then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// A new span of the same trace.
    pub fn child(self) -> Self {
        Self { span: rand::random::<u64>().max(1), ..self }
    }

    /// The first span of a new trace, which is recorded with this probability.
    pub fn root(sampling: f64) -> Self {
        let trace = rand::random::<u128>().max(1);
        Self { trace, span: rand::random::<u64>().max(1), sampled: rand::random::<f64>() < sampling }
    }
}

/// The header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower case only, as the specification has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_the_specification_allows_is_continued() {
        let cases = [
            ("as in the specification", VALID.to_owned(), true),
            ("not sampled", VALID.replace("-01", "-00"), true),
            ("flags of later days", VALID.replace("-01", "-ff"), true),
            ("a later version", VALID.replacen("00", "cc", 1), true),
            ("a later version that says more", VALID.replacen("00", "cc", 1) + "-what", true),
            ("a later version that runs on", VALID.replacen("00", "cc", 1) + ".what", false),
            ("this version, which says no more", VALID.to_owned() + "-what", false),
            ("the version that is none", VALID.replacen("00", "ff", 1), false),
            ("upper case", VALID.to_uppercase(), false),
            ("no trace", VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), false),
            ("no span", VALID.replace("b7ad6b7169203331", &"0".repeat(16)), false),
            ("too short", VALID[..54].to_owned(), false),
            ("other dashes", VALID.replace('-', "_"), false),
            ("signs", VALID.replace("b7ad", "+7ad"), false),
            ("nothing", String::new(), false),
        ];
        for (why, text, valid) in cases {
            assert_eq!(TraceContext::parse(text.as_bytes()).is_some(), valid, "{why}: {text}");
        }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let read = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(read.to_string(), VALID);
        let child = read.child();
        assert_eq!((child.trace, child.sampled), (read.trace, true));
        assert_ne!(child.span, read.span);
        assert_eq!(TraceContext::parse(child.to_string().as_bytes()), Some(child));
    }

    #[test]
    fn sampling_decides_at_the_root() {
        assert!(!(0..100).any(|_| TraceContext::root(0.0).sampled));
        assert!((0..100).all(|_| TraceContext::root(1.0).sampled));
    }
}
