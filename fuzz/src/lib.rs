//! What several targets make out of the fuzzer's bytes.

use arbitrary::{Result, Unstructured};

/// Mostly one of `known`; sometimes any text, or a long one.
pub fn text(u: &mut Unstructured<'_>, known: &[&str]) -> Result<String> {
    Ok(match u.arbitrary::<u8>()? {
        255 => u.arbitrary::<&str>()?.to_owned(),
        254 => "x".repeat(usize::from(u.arbitrary::<u16>()?)),
        number => known[usize::from(number) % known.len()].to_owned(),
    })
}
