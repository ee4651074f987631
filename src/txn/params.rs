//! Typed access to a request's parameters; each miss names the message, the parameter and what would be right.

use crate::model::GuestId;
use crate::proto::message::{Key, Message};

use super::Failure;

/// Reads parameters of one request.
#[derive(Clone, Copy)]
pub struct Params<'a>(pub &'a Message);

impl<'a> Params<'a> {
    /// A failure that blames one parameter.
    pub fn bad(self, key: Key, problem: impl Into<String>) -> Failure {
        Failure::Parameter { message: self.0.id, key, problem: problem.into() }
    }

    fn missing(self, key: Key, wanted: &str) -> Failure {
        let elsewhere = self.found_as(key).map_or_else(
            || format!("is missing: {wanted} is expected"),
            |found| format!("stands among the {found}, but {wanted} is expected"),
        );
        self.bad(key, elsewhere)
    }

    fn found_as(self, key: Key) -> Option<&'static str> {
        let message = self.0;
        let maps = [
            (message.bool_params.contains_key(&key), "booleans"),
            (message.string_params.contains_key(&key), "texts"),
            (message.uint_params.contains_key(&key), "unsigned numbers"),
            (message.int_params.contains_key(&key), "signed numbers"),
            (message.float_params.contains_key(&key), "fractions"),
            (message.uint_array_params.contains_key(&key), "lists of numbers"),
            (message.string_array_params.contains_key(&key), "lists of texts"),
        ];
        maps.into_iter().find_map(|(found, name)| found.then_some(name))
    }

    /// A text.
    pub fn string(self, key: Key) -> Result<&'a str, Failure> {
        self.optional_string(key).ok_or_else(|| self.missing(key, "a text"))
    }

    /// A text that may be absent.
    pub fn optional_string(self, key: Key) -> Option<&'a str> {
        self.0.string_params.get(&key).map(String::as_str)
    }

    /// An unsigned number.
    pub fn uint(self, key: Key) -> Result<u64, Failure> {
        self.optional_uint(key).ok_or_else(|| self.missing(key, "an unsigned number"))
    }

    /// An unsigned number that may be absent.
    pub fn optional_uint(self, key: Key) -> Option<u64> {
        self.0.uint_params.get(&key).copied()
    }

    /// A signed number.
    pub fn int(self, key: Key) -> Result<i64, Failure> {
        self.0.int_params.get(&key).copied().ok_or_else(|| self.missing(key, "a signed number"))
    }

    /// A boolean.
    pub fn bool(self, key: Key) -> Result<bool, Failure> {
        self.0.bool_params.get(&key).copied().ok_or_else(|| self.missing(key, "a boolean"))
    }

    /// A list of numbers of any length.
    pub fn uints(self, key: Key) -> Result<&'a [u64], Failure> {
        self.optional_uints(key).ok_or_else(|| self.missing(key, "a list of numbers"))
    }

    /// A list of numbers that may be absent.
    pub fn optional_uints(self, key: Key) -> Option<&'a [u64]> {
        self.0.uint_array_params.get(&key).map(Vec::as_slice)
    }

    /// A list of exactly `N` numbers.
    pub fn exact_uints<const N: usize>(self, key: Key) -> Result<[u64; N], Failure> {
        let list = self.uints(key)?;
        <[u64; N]>::try_from(list).map_err(|_| self.bad(key, format!("has {} values, {N} are expected", list.len())))
    }

    /// A list of texts that may be absent.
    pub fn optional_strings(self, key: Key) -> Option<&'a [String]> {
        self.0.string_array_params.get(&key).map(Vec::as_slice)
    }

    /// A list of texts.
    pub fn strings(self, key: Key) -> Result<&'a [String], Failure> {
        self.optional_strings(key).ok_or_else(|| self.missing(key, "a list of texts"))
    }

    /// A guest id.
    pub fn guest(self, key: Key) -> Result<GuestId, Failure> {
        self.string(key)?.parse().map_err(|error| self.bad(key, format!("is wrong: {error}")))
    }
}
