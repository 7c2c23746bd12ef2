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
    // It is kept for as long as the document is.
    out.shrink_to_fit();
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
    let (digits, point) = shortest_digits(number.abs());
    let count = digits.len() as i32;
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

/// The shortest digits that read back as the same number, of several the closest, then the even: as
/// ECMAScript demands and serde_json writes, while `{:e}` rounds halves up. And after how many of them
/// the decimal point stands.
fn shortest_digits(number: f64) -> (String, i32) {
    let text = serde_json::Number::from_f64(number).expect("trees hold finite numbers").to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().expect("an exponent is a whole number");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let point = whole.len() as i32 + exponent - (all.len() - digits.len()) as i32;
    (digits.trim_end_matches('0').to_owned(), point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_ecmascript_writes_them() {
        // The samples of RFC 8785, appendix B, and two plain ones.
        let cases: [(u64, &str); 26] = [
            (0x0000000000000000, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
            (0x43143ff3c1cb0959, "1424953923781206.2"),
            (0x3ff8000000000000, "1.5"),
            (0xc05e000000000000, "-120"),
        ];
        for (number, want) in cases {
            let mut out = String::new();
            write_number(&mut out, f64::from_bits(number));
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
