//! The capture: one JSON object a line, as the messages files of the test vectors.

use std::collections::BTreeMap;

use cell::proto::message::{Key, Message, MessageId};
use serde::Deserialize;

/// A line of the file; its other fields do not matter here.
#[derive(Deserialize)]
struct Record {
    t: f64,
    from: Side,
    message: Message,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Cell,
    Core,
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the capture is no record of a message")]
pub struct CaptureError {
    line: usize,
    #[source]
    source: serde_json::Error,
}

/// One message of the Core and what the Cell sent upon it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Seconds since the start of the capture.
    pub t: f64,
    /// What the Core sent.
    pub request: Message,
    /// The first message with its session.
    pub answer: Option<Message>,
    /// Further messages with its session: how an upload goes on.
    pub updates: Vec<Message>,
    /// The events about the same guest that followed.
    pub events: Vec<Message>,
}

/// Reads a capture.
pub fn parse(text: &str) -> Result<Vec<Step>, CaptureError> {
    let mut steps: Vec<Step> = Vec::new();
    let mut waiting: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let record: Record = serde_json::from_str(line).map_err(|source| CaptureError { line: index + 1, source })?;
        let Record { t, from, message } = record;
        if is_housekeeping(message.id) {
            continue;
        }
        match from {
            Side::Core => {
                waiting.insert(message.from, steps.len());
                steps.push(Step { t, request: message, answer: None, updates: Vec::new(), events: Vec::new() });
            }
            Side::Cell if message.to != 0 => {
                let Some(step) = waiting.get(&message.to).and_then(|index| steps.get_mut(*index)) else { continue };
                match step.answer {
                    None => step.answer = Some(message),
                    Some(_) => step.updates.push(message),
                }
            }
            Side::Cell => {
                let guest = guest_of(&message);
                let step = steps.iter_mut().rev().find(|step| guest.is_some() && guest_of(&step.request) == guest);
                if let Some(step) = step {
                    step.events.push(message);
                }
            }
        }
    }
    Ok(steps)
}

fn is_housekeeping(id: MessageId) -> bool {
    matches!(
        id,
        MessageId::CONNECTION_KEEP_ALIVE_EVENT
            | MessageId::CONNECTION_OPENED_EVENT
            | MessageId::CONNECTION_CLOSED_EVENT
            | MessageId::CELL_STATUS_REPORT_EVENT
    )
}

/// The guest that a message is about: it stands under one of two keys.
fn guest_of(message: &Message) -> Option<&String> {
    message.string_params.get(&Key::Instance).or_else(|| message.string_params.get(&Key::Guest))
}
