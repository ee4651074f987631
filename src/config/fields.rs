//! A JSON object read key by key, so that every complaint can name its key.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ConfigError;

/// No settings file of ours is larger; a huge one is a mistake.
const LARGEST: u64 = 1 << 20;

/// The keys of one file that are not read yet.
pub(super) struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
    known: Vec<&'static str>,
    warnings: Vec<String>,
}

impl Fields {
    /// The file's object; none when there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ConfigError::Io { path: path.to_owned(), what: "read", source }),
        };
        let syntax = |reason| ConfigError::Syntax { path: path.to_owned(), reason };
        let text = text.trim_start_matches('\u{feff}');
        if text.trim().is_empty() {
            return Err(syntax("is empty; it has to hold a JSON object".into()));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Some(Self { path: path.to_owned(), map, known: Vec::new(), warnings: Vec::new() })),
            Ok(other) => Err(syntax(format!("holds {} where a JSON object such as {{\"key\": value}} belongs", kind(&other)))),
            Err(error) => Err(syntax(format!("is not valid JSON: {error}"))),
        }
    }

    /// The text under the key; none where it is absent or null.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.error(key, format!("is {} and has to be a text such as \"{example}\"", kind(&other)))),
        }
    }

    /// The whole number under the key; none where it is absent or null.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let wanted = format!("has to be a whole number from {} to {}", range.start(), range.end());
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                Some(value) if range.contains(&value) => Ok(Some(value)),
                _ => Err(self.error(key, format!("is {number} and {wanted}"))),
            },
            Some(other) => Err(self.error(key, format!("is {} and {wanted}", kind(&other)))),
        }
    }

    /// An error about the key.
    pub(super) fn error(&self, key: &'static str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Key { path: self.path.clone(), key, reason: reason.into() }
    }

    /// Something strange that does not keep the service from working.
    pub(super) fn warn(&mut self, key: &str, what: &str) {
        self.warnings.push(format!("{}: \"{key}\" {what}", self.path.display()));
    }

    /// Everything strange, with the keys that nobody asked for.
    pub(super) fn finish(mut self) -> Vec<String> {
        let unknown: Vec<String> = std::mem::take(&mut self.map).into_iter().map(|(key, _)| key).collect();
        for key in unknown {
            let hint = match self.similar(&key) {
                Some(known) => format!("; \"{known}\" may be meant"),
                None => format!("; known keys: {}", self.known.join(", ")),
            };
            self.warn(&key.escape_debug().to_string(), &format!("is not a known setting and is ignored{hint}"));
        }
        self.warnings
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn similar(&self, key: &str) -> Option<&'static str> {
        let key = key.to_lowercase();
        let likeness = |known: &str| strsim::jaro_winkler(&key, known);
        let best = self.known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(best) > 0.85).then_some(best)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if path.metadata()?.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    std::fs::read_to_string(path)
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text \"{}\"", text.chars().take(40).flat_map(char::escape_debug).collect::<String>()),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
