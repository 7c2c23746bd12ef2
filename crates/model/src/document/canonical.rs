//! Canonical bytes: JSON by RFC 8785, so that equal documents are equal bytes everywhere.
//!
//! Keys are sorted by their UTF-16 code units, numbers are written as ECMAScript writes them, and
//! there is no white space.

use std::fmt::Write;

use super::tree::{Key, Tree, Value};

/// Where a key stands twice, the first counts; a document that was accepted has none.
pub fn canonical(tree: &Tree) -> Vec<u8> {
    let mut out = String::new();
    write_value(&mut out, &tree.value);
    out.into_bytes()
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, *number),
        Value::Text(text) => write_text(out, text),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, &item.value);
            }
            out.push(']');
        }
        Value::Object(entries) => write_object(out, entries),
    }
}

fn write_object(out: &mut String, entries: &[(Key, Tree)]) {
    let mut sorted: Vec<(&str, &Tree)> =
        entries.iter().map(|(key, tree)| (key.text.as_str(), tree)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    sorted.dedup_by(|(later, _), (earlier, _)| later == earlier);
    out.push('{');
    for (index, (key, tree)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_text(out, key);
        out.push(':');
        write_value(out, &tree.value);
    }
    out.push('}');
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20), for finite numbers.
fn write_number(out: &mut String, number: f64) {
    if number == 0.0 {
        // Minus zero as well.
        return out.push('0');
    }
    // Rust writes the shortest digits that read back as the same number, as ECMAScript demands.
    let text = format!("{:e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').expect("{:e} writes an exponent");
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = digits.len() as i32;
    // The decimal point stands after this many digits.
    let point = exponent.parse::<i32>().expect("{:e} writes a whole exponent") + 1;
    if number < 0.0 {
        out.push('-');
    }
    let zeros = |n: i32| "0".repeat(n.unsigned_abs() as usize);
    if (count..=21).contains(&point) {
        out.push_str(&digits);
        out.push_str(&zeros(point - count));
    } else if (1..=21).contains(&point) {
        let (whole, fraction) = digits.split_at(point as usize);
        out.push_str(whole);
        out.push('.');
        out.push_str(fraction);
    } else if (-5..=0).contains(&point) {
        out.push_str("0.");
        out.push_str(&zeros(point));
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            out.push('.');
            out.push_str(rest);
        }
        let sign = if point > 0 { '+' } else { '-' };
        write!(out, "e{sign}{}", (point - 1).abs()).expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_ecmascript_writes_them() {
        // The samples of RFC 8785, appendix B, and the corners of the layout.
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (-5e-324, "-5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (9007199254740992.0, "9007199254740992"),
            (-9007199254740992.0, "-9007199254740992"),
            (295147905179352830000.0, "295147905179352830000"),
            (9.999999999999997e22, "9.999999999999997e+22"),
            (1e23, "1e+23"),
            (999999999999999700000.0, "999999999999999700000"),
            (1e21, "1e+21"),
            (9.999999999999997e-7, "9.999999999999997e-7"),
            (0.000001, "0.000001"),
            (333333333.33333329, "333333333.3333333"),
            (1424953923781206.2, "1424953923781206.2"),
            (1.5, "1.5"),
            (-120.0, "-120"),
        ];
        for (number, want) in cases {
            let mut out = String::new();
            write_number(&mut out, number);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn keys_are_sorted_by_utf_16() {
        // The sample of RFC 8785, section 3.2.3.
        let json = serde_json::json!({
            "\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\u{1f600}": "Emoji", "\u{80}": "Control", "\u{f6}": "Latin Small Letter O With Diaeresis"
        });
        let text = String::from_utf8(canonical(&Tree::from(json))).unwrap();
        let keys: Vec<char> = text.split("\":\"").filter_map(|part| part.chars().last()).collect();
        assert_eq!(keys[..6], ['r', '1', '\u{80}', '\u{f6}', '\u{20ac}', '\u{1f600}']);
        assert!(text.starts_with("{\"\\r\":\"Carriage Return\",\"1\":\"One\","), "{text}");
    }
}
