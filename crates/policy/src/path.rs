//! One reading of a request's path, for everything that decides by it.
//!
//! Proxies, frameworks and file systems read some paths in several ways: they merge, climb, cut and decode. A
//! path that could be read as another one than was decided on is refused. Any other is compared in one form, and
//! forwarded as it came.

use std::borrow::Cow;

/// The path means one thing to some readers, and another to others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ambiguous;

/// The form in which a path is compared, of the raw path without its query: what is encoded needlessly is
/// decoded, the rest in upper case (RFC 3986 section 6.2.2), and parameters of segments are left out, so that
/// `/%61dmin;x=y` is `/admin`. Only a path of neither is free of cost.
///
/// It begins with a slash. No segment but the last is empty, none is `.` or `..`, and none hides a slash, a
/// backslash or a control character.
pub fn plain(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    let plain = match path.contains(['%', ';']) {
        true => Cow::Owned(rewritten(path)?),
        false => Cow::Borrowed(path),
    };
    let is_clear = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'?');
    let mut segments = plain.strip_prefix('/').ok_or(Ambiguous)?.split('/').rev();
    let last = segments.next().unwrap_or_default();
    let climbs = |segment: &str| segment == "." || segment == "..";
    if climbs(last) || segments.any(|segment| segment.is_empty() || climbs(segment)) {
        return Err(Ambiguous);
    }
    if plain.bytes().all(is_clear) { Ok(plain) } else { Err(Ambiguous) }
}

fn rewritten(path: &str) -> Result<String, Ambiguous> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path.chars();
    let mut in_parameters = false;
    while let Some(char) = rest.next() {
        match char {
            '/' => in_parameters = false,
            ';' => in_parameters = true,
            _ => {}
        }
        let mut encoded = None;
        if char == '%' {
            let mut digit = || rest.next().and_then(|digit| digit.to_digit(16)).ok_or(Ambiguous);
            let byte = (digit()? * 16 + digit()?) as u8;
            if byte.is_ascii_control() || matches!(byte, b'/' | b'\\') {
                return Err(Ambiguous);
            }
            encoded = Some(byte);
        }
        match encoded {
            _ if in_parameters => {}
            None => plain.push(char),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                plain.push(char::from(byte));
            }
            Some(byte) => plain.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn s19_a_path_that_can_be_read_in_two_ways_is_refused() {
        let paths = [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a/..;x/b",
            "/;/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0ab",
            "/a;%2f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/a#b",
            "/a?b",
            "/a b",
            "/a\u{7f}",
            "/caf\u{e9}",
        ];
        for path in paths {
            assert_eq!(plain(path), Err(Ambiguous), "{path}");
        }
    }

    #[test]
    fn s20_paths_that_mean_the_same_are_compared_as_the_same() {
        let cases = [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/...", "/a/..."),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
            ("/admin;x=y", "/admin"),
            ("/admin;a=b;c/d;e", "/admin/d"),
            ("/%61dmin%7e", "/admin~"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%3bb%25%3f%23", "/a%3Bb%25%3F%23"),
        ];
        for (path, want) in cases {
            assert_eq!(plain(path).as_deref(), Ok(want), "{path}");
        }
    }

    proptest! {
        /// A reader that decodes all, cuts parameters, merges slashes and climbs finds what was compared.
        #[test]
        fn s19_what_is_compared_is_what_others_read(path in "/([a.;/\\\\]|%(2[efEF]|5[cC]|61|3[bB]|c3)){0,12}") {
            if let Ok(compared) = plain(&path) {
                let read = |path: &str| {
                    let cut: Vec<&str> =
                        path.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
                    let mut decoded = cut.join("/").to_lowercase();
                    for (encoded, is) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("%61", "a"), ("\\", "/")] {
                        decoded = decoded.replace(encoded, is);
                    }
                    let mut segments = Vec::new();
                    for segment in decoded.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
                        if segment == ".." { segments.pop(); } else { segments.push(segment.to_owned()); }
                    }
                    segments
                };
                let segments = compared.to_lowercase();
                let segments: Vec<&str> = segments.split('/').filter(|segment| !segment.is_empty()).collect();
                prop_assert_eq!(segments, read(&path));
                prop_assert_eq!(plain(&compared), Ok(Cow::Borrowed(&*compared)), "twice is once");
            }
        }
    }
}
