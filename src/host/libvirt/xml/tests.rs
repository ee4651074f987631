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
fn a_cut_document_is_an_error() {
    assert!(Node::parse("<a><b>").is_err());
    assert!(Node::parse("").is_err());
    assert_eq!(Node::parse("<?xml version='1.0'?>\n<a>\n <b c='1'/> t </a>").unwrap().text, "t");
}
