//! Changing single settings of a file that people keep: everything else of it stays as it is, byte for byte.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::value::RawValue;

use super::ConfigError;

/// A new file's mode: settings are nobody else's business, and no secrets.
const MODE: u32 = 0o640;

/// Sets texts in a settings file, or removes settings: a value that is there is replaced in its place, a new one is put behind the last. The file is
/// replaced as a whole or not at all; one that is missing is made.
///
/// # Errors
/// The file is no JSON object, or can't be read or written; it is as it was then.
pub fn set_texts(path: &Path, settings: &[(&str, &str)]) -> Result<(), ConfigError> {
    // A link is followed: what it leads to is changed, not replaced by a file.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let failed = |what| move |source| ConfigError::Io { path: path.to_owned(), what, source };
    let (mut text, mode) = match std::fs::read_to_string(path) {
        Ok(text) => (text, path.metadata().map_err(failed("read"))?.permissions().mode()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => ("{\n}\n".to_owned(), MODE),
        Err(error) => return Err(failed("read")(error)),
    };
    for (key, value) in settings {
        text = with_text(&text, key, value).map_err(|reason| ConfigError::Syntax { path: path.to_owned(), reason })?;
    }
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("."))).map_err(failed("written"))?;
    file.write_all(text.as_bytes()).map_err(failed("written"))?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed("written"))?;
    file.as_file().sync_all().map_err(failed("written"))?;
    file.persist(path).map_err(|error| failed("written")(error.error))?;
    Ok(())
}

/// The text of a JSON object with one setting changed.
fn with_text(text: &str, key: &str, value: &str) -> Result<String, String> {
    // What stands before the object (a byte order mark) stays.
    let body = text.trim_start_matches('\u{feff}');
    let start = text.len() - body.len();
    let values: BTreeMap<String, &RawValue> = serde_json::from_str(body).map_err(|error| format!("is not a JSON object: {error}"))?;
    let spans: BTreeMap<&String, Range<usize>> = values.iter().filter_map(|(key, raw)| Some((key, span(text, raw.get())?))).collect();
    let value = serde_json::Value::from(value).to_string();
    let mut out = text.to_owned();
    if let Some(present) = spans.get(&key.to_owned()) {
        out.replace_range(present.clone(), &value);
        return Ok(out);
    }
    let entry = format!("{}: {value}", serde_json::Value::from(key));
    let open = start + body.find('{').ok_or("is not a JSON object")? + 1;
    match spans.values().map(|span| span.end).max() {
        // As the first one is set off from the brace, so is the new one from its neighbour.
        Some(last) => out.insert_str(last, &format!(",{}{entry}", indent(text.get(open..).unwrap_or_default()))),
        None => {
            let close = text.rfind('}').ok_or("is not a JSON object")?;
            out.replace_range(open..close, &format!("\n {entry}\n"));
        }
    }
    Ok(out)
}

/// Where a piece of the text lies in it.
fn span(text: &str, piece: &str) -> Option<Range<usize>> {
    let from = (piece.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(from..from + piece.len())
}

/// The blanks that come first.
fn indent(text: &str) -> &str {
    let length = text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(text.len());
    text.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_replaced_in_its_place_and_the_rest_stays() {
        let text = "{\n\t\"bridge\" : \"br0\",\n\t\"core_name\": null,   \"mine\": [1,\n 2 ]\n}\n\n";
        let changed = with_text(text, "core_name", "Core_1").unwrap();
        assert_eq!(changed, "{\n\t\"bridge\" : \"br0\",\n\t\"core_name\": \"Core_1\",   \"mine\": [1,\n 2 ]\n}\n\n");
    }

    #[test]
    fn a_new_one_is_put_last_with_the_indent_of_the_first() {
        assert_eq!(
            with_text("{\n  \"a\": {\"core_name\": 1}\n}\n", "core_name", "x").unwrap(),
            "{\n  \"a\": {\"core_name\": 1},\n  \"core_name\": \"x\"\n}\n"
        );
        assert_eq!(with_text("{\"a\":1}", "b", "x").unwrap(), "{\"a\":1,\"b\": \"x\"}");
        assert_eq!(with_text("\u{feff}{ }\n", "b", "x").unwrap(), "\u{feff}{\n \"b\": \"x\"\n}\n");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "{\"a\":1", "null", "{\"a\":1}}"] {
            assert!(with_text(text, "b", "x").is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_file_keeps_its_mode_its_links_and_is_made_when_missing() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, link) = (scratch.path().join("cell.cfg"), scratch.path().join("link.cfg"));
        set_texts(&path, &[("core_name", "a\"b\\"), ("core_address", "10.0.0.1:5600")]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\n \"core_name\": \"a\\\"b\\\\\",\n \"core_address\": \"10.0.0.1:5600\"\n}\n"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        set_texts(&link, &[("core_name", "c")]).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(crate::config::load_cell(&path).unwrap().settings.core_name.as_deref(), Some("c"));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2, "nothing is left beside");
    }

    proptest! {
        #[test]
        fn every_text_reads_back_and_nothing_else_changes(before in proptest::collection::btree_map("[a-z]{1,4}", any::<Option<String>>(), 0..5), key in "[a-z]{1,4}", value in any::<String>(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&before) } else { serde_json::to_string(&before) }.unwrap();
            let after: BTreeMap<String, Option<String>> = serde_json::from_str(&with_text(&text, &key, &value).unwrap()).unwrap();
            let mut wanted = before;
            wanted.insert(key, Some(value));
            prop_assert_eq!(after, wanted);
        }
    }
}
