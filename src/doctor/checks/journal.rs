//! Transactions that have begun and not ended, as the journal knows them.

use crate::doctor::finding::{Area, Findings, Remedy};
use crate::doctor::scene::Scene;
use crate::store::journal::{Course, OpenRecord};

/// Looks at them; false when what is half done would be taken for something else in what is compared.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) -> bool {
    let records = match &scene.journal {
        Ok(records) => records,
        Err(reason) => {
            findings.blind(Area::Journal, reason.clone());
            return false;
        }
    };
    for record in records {
        tell(record, scene.running, findings);
    }
    scene.running || records.is_empty()
}

fn tell(record: &OpenRecord, running: bool, findings: &mut Findings) {
    let guests: Vec<String> = record.intent.guests.iter().map(ToString::to_string).collect();
    let subject = match guests.as_slice() {
        [] => record.intent.what.clone(),
        guests => format!("{} of guest {}", record.intent.what, guests.join(", ")),
    };
    let steps: Vec<&str> = record.intent.steps.iter().map(|step| step.about.as_str()).collect();
    let what = format!("it began at {} and has not ended: {}", record.since, steps.join(", "));
    if running {
        let remedy = Remedy::Service("it ends, or is tried again before the next change".into());
        findings.note("journal.open", subject, what, "it is under way, or could not be ended so far: log/cell.log says which", remedy);
        return;
    }
    let remedy = Remedy::Service(match record.intent.course {
        Course::Back => "the next start takes it back".into(),
        Course::Forward => "the next start completes it".into(),
    });
    findings.drift("journal.open", subject, what, "the service ended in the middle, or something stood in the way of the clean-up", remedy);
}
