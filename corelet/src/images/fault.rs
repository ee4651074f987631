//! What can go wrong with an image server.

use std::str::FromStr;

/// What a server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// With the head of its answers.
    pub answer: AnswerFault,
    /// With the body of images.
    pub body: BodyFault,
    /// It sends everything whatever part is asked for.
    pub no_range: bool,
}

/// An answer that is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFault {
    /// As it should be.
    #[default]
    None,
    /// HTTP 200 with a JSON error, as the real server refuses.
    Refuse,
    /// HTTP 200 with a page of HTML.
    Html,
    /// HTTP 404.
    NotFound,
    /// The image as `text/plain`.
    WrongType,
    /// The image without a signature.
    NoSignature,
    /// Half the image, announced as the whole.
    Halved,
    /// No answer at all; the connection stays.
    Silent,
}

/// An image that does not come as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFault {
    /// As it should be.
    #[default]
    None,
    /// One byte in the middle is another.
    Corrupt,
    /// The connection breaks after so many bytes of each answer.
    Break {
        /// Bytes before it breaks.
        after: u64,
    },
    /// Nothing comes after so many bytes; the connection stays.
    Stall {
        /// Bytes before it stalls.
        after: u64,
    },
    /// More comes than there should be, without an announced length.
    Longer,
}

/// After so much of an image, a fault that needs a place strikes.
const PLACE: u64 = 1 << 20;

impl FromStr for Faults {
    type Err = String;

    /// One or more of the faults' names, with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for name in text.split(',') {
            match name {
                "refuse" => faults.answer = AnswerFault::Refuse,
                "html" => faults.answer = AnswerFault::Html,
                "not-found" => faults.answer = AnswerFault::NotFound,
                "wrong-type" => faults.answer = AnswerFault::WrongType,
                "no-signature" => faults.answer = AnswerFault::NoSignature,
                "halved" => faults.answer = AnswerFault::Halved,
                "silent" => faults.answer = AnswerFault::Silent,
                "corrupt" => faults.body = BodyFault::Corrupt,
                "break" => faults.body = BodyFault::Break { after: PLACE },
                "stall" => faults.body = BodyFault::Stall { after: PLACE },
                "longer" => faults.body = BodyFault::Longer,
                "no-range" => faults.no_range = true,
                other => {
                    return Err(format!(
                        "'{other}' is no fault; there are refuse, html, not-found, wrong-type, no-signature, halved, silent, corrupt, break, stall, longer, no-range"
                    ))
                }
            }
        }
        Ok(faults)
    }
}
