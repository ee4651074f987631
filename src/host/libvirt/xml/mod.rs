//! XML for and from libvirt: a thin layer over quick-xml that writes nested elements, and reads a document into a tree that can be changed
//! and written again: what is not understood stays in it.
//!
//! Contract: whatever text is put in is escaped, so no name or password can change the structure of a document.
//! Characters that XML can't carry at all are refused before a builder starts (see [`refuse_control`]).

use std::io;

use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use crate::host::{ErrorKind, HostError};

/// Attributes of an element, in order.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a str)];

/// A document being written.
pub(super) struct Xml(Writer<Vec<u8>>);

impl Xml {
    /// Writes one document with this root element.
    pub(super) fn document(
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> Result<String, HostError> {
        let mut xml = Self(Writer::new_with_indent(Vec::new(), b' ', 2));
        let written = xml.node(name, attributes, content).and_then(|()| String::from_utf8(xml.0.into_inner()).map_err(io::Error::other));
        written
            .map_err(|source| HostError::with_source(ErrorKind::Failed, format!("cannot write the <{name}> document for libvirt"), source))
    }

    /// An element with children.
    pub(super) fn node(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        self.0.write_event(Event::Start(start(name, attributes)))?;
        content(self)?;
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    /// An element without content.
    pub(super) fn leaf(&mut self, name: &str, attributes: Attributes<'_>) -> io::Result<()> {
        self.0.write_event(Event::Empty(start(name, attributes)))
    }

    /// An element that holds a text or a number.
    pub(super) fn text(&mut self, name: &str, attributes: Attributes<'_>, value: impl ToString) -> io::Result<()> {
        self.0.write_event(Event::Start(start(name, attributes)))?;
        self.0.write_event(Event::Text(BytesText::new(&value.to_string())))?;
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }
}

fn start<'a>(name: &'a str, attributes: Attributes<'a>) -> BytesStart<'a> {
    BytesStart::new(name).with_attributes(attributes.iter().copied())
}

/// Refuses a text that XML 1.0 can't carry or that would be changed by reading it back (control characters).
/// `what` names the text in the error; the text itself is not shown, for it may be a password.
pub(super) fn refuse_control(what: &str, text: &str) -> Result<(), HostError> {
    if text.chars().any(|letter| letter.is_control() || matches!(letter, '\u{FFFE}' | '\u{FFFF}')) {
        return Err(HostError::new(
            ErrorKind::Invalid,
            format!("{what} contains a control character, which libvirt can't store; choose another"),
        ));
    }
    Ok(())
}

/// One element of a document that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Tag.
    pub(super) name: String,
    /// Attributes in the order of the document.
    pub(super) attributes: Vec<(String, String)>,
    /// Text directly inside, without the white space around it.
    pub(super) text: String,
    /// Elements directly inside.
    pub(super) children: Vec<Node>,
}

impl Node {
    /// Reads a whole document.
    pub(super) fn parse(document: &str) -> Result<Self, HostError> {
        let failed = |why: String| HostError::new(ErrorKind::Failed, format!("libvirt sent XML that can't be read: {why}"));
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Node> = vec![Node::default()];
        loop {
            match reader.read_event().map_err(|error| failed(error.to_string()))? {
                Event::Start(tag) => open.push(Self::from_tag(&tag).map_err(failed)?),
                Event::Empty(tag) => {
                    let node = Self::from_tag(&tag).map_err(failed)?;
                    open.last_mut().ok_or_else(|| failed("no element is open".into()))?.children.push(node);
                }
                Event::Text(text) => {
                    let text = text.unescape().map_err(|error| failed(error.to_string()))?;
                    open.last_mut().ok_or_else(|| failed("text outside of the root".into()))?.text.push_str(text.trim());
                }
                Event::CData(text) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    open.last_mut().ok_or_else(|| failed("text outside of the root".into()))?.text.push_str(&text);
                }
                Event::End(_) => {
                    let node = open.pop().ok_or_else(|| failed("more ends than starts".into()))?;
                    open.last_mut().ok_or_else(|| failed("more ends than starts".into()))?.children.push(node);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let mut outer = open.pop().filter(|_| open.is_empty()).ok_or_else(|| failed("it ends too early".into()))?;
        outer.children.pop().ok_or_else(|| failed("it is empty".into()))
    }

    fn from_tag(tag: &BytesStart<'_>) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.unescape_value().map_err(|error| error.to_string())?;
            attributes.push((String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value.into_owned()));
        }
        Ok(Self { name: String::from_utf8_lossy(tag.name().as_ref()).into_owned(), attributes, ..Self::default() })
    }

    /// The same element with all attributes in alphabetical order, for comparing.
    pub(super) fn sorted(mut self) -> Self {
        self.attributes.sort();
        self.children = self.children.into_iter().map(Self::sorted).collect();
        self
    }

    /// The first descendant at this path of tags below the node.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.children.iter().find(|child| child.name == *name))
    }

    /// The text at this path, when there is one.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.find(path).map(|node| node.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The document with this element as its root.
    pub(super) fn document(&self) -> Result<String, HostError> {
        let attributes = self.attributes();
        Xml::document(&self.name, &attributes, |xml| self.write_content(xml))
    }

    fn attributes(&self) -> Vec<(&str, &str)> {
        self.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn write(&self, xml: &mut Xml) -> io::Result<()> {
        let attributes = self.attributes();
        match (self.text.is_empty(), self.children.is_empty()) {
            (true, true) => xml.leaf(&self.name, &attributes),
            (false, true) => xml.text(&self.name, &attributes, &self.text),
            (_, false) => xml.node(&self.name, &attributes, |xml| self.write_content(xml)),
        }
    }

    fn write_content(&self, xml: &mut Xml) -> io::Result<()> {
        if !self.text.is_empty() {
            xml.0.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        self.children.iter().try_for_each(|child| child.write(xml))
    }

    /// An element without content.
    pub(super) fn new(name: &str, attributes: Attributes<'_>) -> Self {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), attributes, ..Self::default() }
    }

    /// Every element with this tag directly inside.
    pub(super) fn children_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Node> {
        self.children.iter_mut().filter(move |child| child.name == name)
    }

    /// The first element with this tag directly inside.
    pub(super) fn child_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// Changes the first element with this tag directly inside; it is made where there is none.
    pub(super) fn with_child<T>(&mut self, name: &str, change: impl FnOnce(&mut Node) -> T) -> T {
        if let Some(child) = self.child_mut(name) {
            return change(child);
        }
        let mut child = Self::new(name, &[]);
        let result = change(&mut child);
        self.children.push(child);
        result
    }

    /// Removes the elements with this tag directly inside.
    pub(super) fn remove(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }

    /// Sets an attribute, where it stands or as the last one.
    pub(super) fn set(&mut self, name: &str, value: impl ToString) {
        let value = value.to_string();
        match self.attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, present)) => *present = value,
            None => self.attributes.push((name.to_owned(), value)),
        }
    }

    /// Removes an attribute.
    pub(super) fn unset(&mut self, name: &str) {
        self.attributes.retain(|(key, _)| key != name);
    }

    /// The value of an attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests;
