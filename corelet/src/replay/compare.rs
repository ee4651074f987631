//! Two answers, compared by meaning.

use std::collections::BTreeSet;
use std::fmt;

use cell::proto::message::{Key, Message, MessageId, Params};

use super::Outcome;

/// A difference that is meant to be.
#[derive(Clone, Copy, Debug)]
pub struct Deliberate {
    /// The request whose answer differs.
    pub request: MessageId,
    /// Where.
    what: What,
    /// Why.
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The answer's id.
    Id,
    /// A text that the captured answer lacks.
    MoreText(Key),
    /// What a text says.
    Text(Key),
}

/// Everything that a Cell of ours answers otherwise than the captured reference on purpose.
pub const DELIBERATE: [Deliberate; 5] = [
    Deliberate {
        request: MessageId::SHRINK_DISK_REQUEST,
        what: What::Id,
        reason: "answered by ShrinkDiskResponse; the reference answers by ResizeDiskResponse (contract §6.4)",
    },
    Deliberate {
        request: MessageId::GET_INSTANCE_STATUS_REQUEST,
        what: What::MoreText(Key::Internal),
        reason: "Internal(60) is told; a Core reads it and the reference never sends it (contract §6.2)",
    },
    Deliberate {
        request: MessageId::GET_INSTANCE_STATUS_REQUEST,
        what: What::MoreText(Key::External),
        reason: "External(61) is told; a Core reads it and the reference never sends it (contract §6.2)",
    },
    Deliberate {
        request: MessageId::GET_INSTANCE_STATUS_REQUEST,
        what: What::Text(Key::System),
        reason: "System(42) is the template's; the reference sends a field of old data files, which is empty (contract §14 B9)",
    },
    Deliberate {
        request: MessageId::GET_INSTANCE_STATUS_REQUEST,
        what: What::MoreText(Key::Source),
        reason: "Source(26) is told while media is attached; a Core reads it and the reference never sends it (contract §6.2)",
    },
];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    request: Option<MessageId>,
    reasons: Vec<String>,
    pub(super) differences: Vec<String>,
}

impl Comparison {
    /// There is nothing to compare with.
    pub(super) fn failed(reason: String) -> Self {
        Self { differences: vec![reason], ..Self::default() }
    }

    pub(super) fn outcome(self) -> Outcome {
        match (self.differences.is_empty(), self.reasons.is_empty()) {
            (false, _) => Outcome::Different { differences: self.differences },
            (true, false) => Outcome::Deliberate { reasons: self.reasons },
            (true, true) => Outcome::Equal,
        }
    }

    fn differs(&mut self, what: Option<What>, difference: String) {
        let known = DELIBERATE.iter().find(|known| Some(known.request) == self.request && Some(known.what) == what);
        match known {
            Some(known) => self.reasons.push(known.reason.into()),
            None => self.differences.push(difference),
        }
    }

    fn keys<T>(&mut self, map: &str, captured: &Params<T>, live: &Params<T>) {
        let (captured, live): (BTreeSet<Key>, BTreeSet<Key>) = (captured.keys().copied().collect(), live.keys().copied().collect());
        for key in captured.difference(&live) {
            self.differs(None, format!("{key} is missing in the {map}"));
        }
        for key in live.difference(&captured) {
            let what = (map == TEXTS).then_some(What::MoreText(*key));
            self.differs(what, format!("{key} is new in the {map}"));
        }
    }

    /// Values that do not depend on the host.
    fn values<T: PartialEq + fmt::Debug>(&mut self, map: &str, captured: &Params<T>, live: &Params<T>) {
        for (key, captured) in captured.iter().filter(|(key, _)| !OF_THE_HOST.contains(key)) {
            let Some(live) = live.get(key).filter(|live| *live != captured) else { continue };
            let what = (map == TEXTS).then_some(What::Text(*key));
            self.differs(what, format!("{key} of the {map} is {live:?} instead of {captured:?}"));
        }
    }

    fn lengths<T>(&mut self, map: &str, captured: &Params<Vec<T>>, live: &Params<Vec<T>>) {
        for (key, captured) in captured {
            let Some(live) = live.get(key).filter(|live| live.len() != captured.len()) else { continue };
            self.differs(None, format!("{key} of the {map} has {} values instead of {}", live.len(), captured.len()));
        }
    }
}

/// Ports, MACs, times, secrets, addresses that were seen, and figures: another host has others.
const OF_THE_HOST: [Key; 8] = [Key::Monitor, Key::Hardware, Key::Create, Key::Secret, Key::Address, Key::Available, Key::IO, Key::Usage];

const TEXTS: &str = "texts";

/// Compares the answers to a request.
pub(super) fn answers(request: MessageId, captured: &Message, live: &Message) -> Comparison {
    let mut comparison = Comparison { request: Some(request), ..Comparison::default() };
    if live.id != captured.id {
        comparison.differs(Some(What::Id), format!("answered by {} instead of {}", live.id, captured.id));
    }
    if live.from == 0 {
        comparison.differs(None, "the answer bears no session of the Cell".into());
    }
    match (captured.success, live.success) {
        (true, false) => comparison.differs(None, format!("it failed: {}", live.error)),
        (false, true) => comparison.differs(None, format!("it succeeded; in the capture it failed: {}", captured.error)),
        (false, false) if live.error.is_empty() => comparison.differs(None, "it failed without a reason".into()),
        (false, false) => {}
        (true, true) => contents(&mut comparison, captured, live),
    }
    comparison
}

fn contents(comparison: &mut Comparison, captured: &Message, live: &Message) {
    let lists_guests = captured.id == MessageId::COMPUTE_CELL_READY_EVENT;
    comparison.keys("numbers", &captured.uint_params, &live.uint_params);
    if lists_guests && live.uint_params.get(&Key::Count) == Some(&0) {
        return; // without guests there are no lists
    }
    comparison.keys("flags", &captured.bool_params, &live.bool_params);
    comparison.keys(TEXTS, &captured.string_params, &live.string_params);
    comparison.keys("signed numbers", &captured.int_params, &live.int_params);
    comparison.keys("fractions", &captured.float_params, &live.float_params);
    comparison.keys("lists of numbers", &captured.uint_array_params, &live.uint_array_params);
    comparison.keys("lists of texts", &captured.string_array_params, &live.string_array_params);
    if lists_guests {
        return; // the guests are compared one by one
    }
    comparison.lengths("lists of numbers", &captured.uint_array_params, &live.uint_array_params);
    comparison.lengths("lists of texts", &captured.string_array_params, &live.string_array_params);
    if !comparison.differences.is_empty() {
        return; // the values would only say the same once more
    }
    comparison.values("numbers", &captured.uint_params, &live.uint_params);
    comparison.values("flags", &captured.bool_params, &live.bool_params);
    comparison.values(TEXTS, &captured.string_params, &live.string_params);
    comparison.values("signed numbers", &captured.int_params, &live.int_params);
    comparison.values("lists of numbers", &captured.uint_array_params, &live.uint_array_params);
    if captured.id != MessageId::QUERY_CELL_STORAGE_RESPONSE {
        // where a host keeps its disks is its own affair
        comparison.values("lists of texts", &captured.string_array_params, &live.string_array_params);
    }
}
