//! `rebuild`: a file that is there from the moment when something of the books was found lost until the guests that were in it have been entered again.
//!
//! Contract: it is on the disk before anything is set aside, removed or replaced. What was lost shows only once, in the state of the files; the start that
//! sees it may end before it gets to entering guests, and so may the next one. A mark that is there stays as it is. Nobody else reads it (contract §8: the
//! reference knows its own three files), and removing it by hand only says that nothing is missing any more.

use super::files::{Files, Former};
use super::StoreError;

pub(super) const NAME: &str = "rebuild";

/// Sets the mark. Durable on return.
pub(super) fn mark(files: &Files, lost: &str, time: &str) -> Result<(), StoreError> {
    if is_marked(files)? {
        return Ok(());
    }
    let content = format!("{lost} was damaged or gone at {time}: guests that were in it are still to be entered again\n");
    files.replace(&[(NAME, content.as_bytes())], Former::Drop)
}

pub(super) fn is_marked(files: &Files) -> Result<bool, StoreError> {
    Ok(files.read(NAME)?.is_some())
}

/// All is entered again, and written. Durable on return.
pub(super) fn clear(files: &Files) -> Result<(), StoreError> {
    if is_marked(files)? {
        files.remove(NAME)?;
    }
    Ok(())
}
