use serde_json::{json, Value};

use super::*;

/// One of each, as a record holds it. An upgrade finds such steps in the journal of the version before it, so that it has to read these.
const STEPS: &str = include_str!("../../../../tests/vectors/journal/steps.jsonl");

fn read(data: Value) -> Result<Step, Failure> {
    Step::read(&journal::Step::new("a step".into(), &data).unwrap())
}

/// As serde lists them.
fn names() -> Vec<String> {
    let unknown = read(json!({ "step": "?" })).err().unwrap().to_string();
    let list = unknown.split_once("expected one of ").unwrap().1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_step_is_read_as_it_was_written() {
    let mut seen = Vec::new();
    for line in STEPS.lines() {
        let data: Value = serde_json::from_str(line).unwrap();
        let written = read(data.clone()).unwrap_or_else(|failure| panic!("{line}: {failure}")).written().unwrap();
        assert_eq!(written.data::<Value>().unwrap(), data);
        assert!(!written.about.is_empty());
        seen.push(data["step"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, names(), "one line for each step, in their order");
}

#[test]
fn what_is_no_step_is_refused_with_its_name() {
    for data in [json!(null), json!([]), json!({}), json!({ "step": "volume" }), json!({ "step": "entry", "guest": "../etc" })] {
        let refused = read(data).err().unwrap().to_string();
        assert!(refused.contains("'a step' is of another version"), "{refused}");
    }
}
