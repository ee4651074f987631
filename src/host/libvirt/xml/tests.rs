use super::*;

#[test]
fn hostile_text_stays_text() {
    let evil = r#"a'/></name><x y="&lt;">]]>"#;
    let document = Xml::document("root", &[("key", evil)], |xml| xml.text("name", &[], evil)).unwrap();
    let node = Node::parse(&document).unwrap();
    assert_eq!(node.attribute("key"), Some(evil));
    assert_eq!(node.text_at(&["name"]), Some(evil));
    assert_eq!(node.children.len(), 1);
}

#[test]
fn control_characters_are_refused_without_showing_the_text() {
    let error = refuse_control("the monitor password", "se\u{0}cret").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(!error.to_string().contains("cret"));
    assert!(refuse_control("the name", "group.größe ~!@#$%^&*()_[]-=+").is_ok());
}

#[test]
fn a_tree_is_written_as_it_was_read() {
    let document = "<a x='1&#38;2' xmlns:q='urn:q'><b>t &lt; u</b><c/><c y='\"'><q:d>e</q:d></c></a>";
    let node = Node::parse(document).unwrap();
    assert_eq!(Node::parse(&node.document().unwrap()).unwrap(), node);
    assert_eq!(node.children.len(), 3);
}

#[test]
fn elements_are_changed_made_and_removed() {
    let mut node = Node::parse("<a><b x='1' y='2'/><c>old</c></a>").unwrap();
    node.with_child("b", |b| {
        b.set("x", 3);
        b.unset("y");
        b.set("z", "new");
    });
    node.with_child("d", |d| d.text = "made".into());
    node.remove("c");
    assert_eq!(node, Node::parse("<a><b x='3' z='new'/><d>made</d></a>").unwrap());
}

#[test]
fn a_cut_document_is_an_error() {
    assert!(Node::parse("<a><b>").is_err());
    assert!(Node::parse("").is_err());
    assert_eq!(Node::parse("<?xml version='1.0'?>\n<a>\n <b c='1'/> t </a>").unwrap().text, "t");
}
