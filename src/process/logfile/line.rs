//! An event as one line: `2026-11-20 07:54:53.123  INFO cell::txn [0000002A] message field=value`.
//!
//! The session comes from the innermost span with a field `session` (its `Display` is the bracketed form); the other fields of the spans stand at
//! the end of the line. Text from outside can't break the line, move the cursor or turn the reading direction.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use chrono::Local;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// A longer line is cut: a peer may fill messages, but not the disk.
const LONGEST: usize = 8192;

/// Formats events and hands them to the sinks' queues.
pub struct LineLayer {
    sinks: Vec<NonBlocking>,
}

impl LineLayer {
    /// A layer in front of these queues.
    pub fn new(sinks: Vec<NonBlocking>) -> Self {
        Self { sinks }
    }
}

/// What a span adds to the lines inside it.
#[derive(Default)]
struct SpanText {
    session: Option<String>,
    fields: String,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut text = SpanText::default();
        attributes.record(&mut text);
        span.extensions_mut().replace(text);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(text) = extensions.get_mut::<SpanText>() {
            values.record(text);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = format!("{} ", Local::now().format("%Y-%m-%d %H:%M:%S%.3f"));
        let meta = event.metadata();
        let _ = write!(line, "{:>5} {}", meta.level(), meta.target());
        let mut session = None;
        let mut around = String::new();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(text) = span.extensions().get::<SpanText>() {
                session = session.or_else(|| text.session.clone());
                around.push_str(&text.fields);
            }
        }
        if let Some(session) = session {
            line.push(' ');
            line.push_str(&session);
        }
        let mut own = EventText::default();
        event.record(&mut own);
        for part in [&own.message, &own.fields, &around] {
            line.push_str(part);
        }
        cut(&mut line, LONGEST);
        line.push('\n');
        for sink in &self.sinks {
            // The queue never fails; it drops and counts.
            let _ = sink.clone().write_all(line.as_bytes());
        }
    }
}

/// The message and the fields of an event, each with a blank before it.
#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push(' ');
            push_escaped(&mut self.message, value);
        } else {
            push_field(&mut self.fields, field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Visit for SpanText {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "session" {
            let mut session = String::new();
            push_escaped(&mut session, value);
            self.session = Some(session);
        } else {
            push_field(&mut self.fields, field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn push_field(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push('=');
    push_escaped(out, value);
}

/// Appends the text with control characters and those that turn the reading direction written as escapes.
pub fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

fn cut(line: &mut String, longest: usize) {
    if line.len() > longest {
        let end = (0..=longest).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        let lost = line.len() - end;
        line.truncate(end);
        let _ = write!(line, "… ({lost} more bytes)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_breaks_a_line() {
        let mut out = String::new();
        push_escaped(&mut out, "a\nb\r\t\u{1b}[2J\u{202e}x\u{0}é 中");
        assert_eq!(out, "a\\nb\\r\\t\\u{1b}[2J\\u{202e}x\\u{0}é 中");
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let mut line = "中".repeat(10);
        cut(&mut line, 10);
        assert_eq!(line, "中中中… (21 more bytes)");
        let mut short = "abc".to_owned();
        cut(&mut short, 3);
        assert_eq!(short, "abc");
    }
}
