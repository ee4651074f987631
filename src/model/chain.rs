//! An error with its causes.

use std::error::Error;
use std::fmt;

/// Shows an error and all its causes in one line, outermost first.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_told_once_in_its_order() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        assert_eq!(Chain(&layer("alone", None)).to_string(), "alone");
        let error = layer("can't start", Some(layer("no disk", Some(layer("it is on fire", None)))));
        assert_eq!(Chain(&error).to_string(), "can't start: no disk: it is on fire");
    }
}
