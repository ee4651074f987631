//! YAML that no text can break out of.
//!
//! Values are written as JSON, which is YAML too: every text is quoted, so nothing is taken for a number, a boolean, a key or a comment
//! (`12:30`, `yes`, `a: b`). What YAML 1.1 readers don't take inside quotes although JSON allows it is escaped.

use serde_json::{Map, Value};

/// A mapping as a YAML document: one line or more for each key. The keys are ours and plain words.
pub(super) fn document(mapping: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (key, value) in mapping {
        // A `Value` has string keys and finite numbers only: writing it can't fail.
        let value = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push_str(key);
        text.push_str(": ");
        for c in value.chars() {
            match c {
                // Between values only: inside a text it is escaped. What belongs to a key stands further right than the key.
                '\n' => text.push_str("\n  "),
                // Line breaks of YAML 1.1, and characters that it calls unprintable.
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                    text.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                _ => text.push(c),
            }
        }
        text.push('\n');
    }
    text
}

/// The mapping that `json!({…})` makes.
pub(super) fn mapping(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(mapping) => mapping,
        _ => Map::new(),
    }
}
