//! The files of `data/` by themselves.

use std::path::Path;

use crate::doctor::finding::{Area, Findings, Remedy, Repair};
use crate::doctor::scene::Scene;
use crate::store::{journal, Notice};

/// Looks at them; false when what they say is not to be relied on, so that nothing can be compared with it.
pub(in crate::doctor) fn check(scene: &Scene, directory: &Path, findings: &mut Findings) -> bool {
    let files = match &scene.data {
        Ok(files) => files,
        Err(reason) => {
            findings.blind(Area::Data, reason.clone());
            return false;
        }
    };
    if !files.present {
        let remedy = Remedy::Service("the first start makes it".into());
        findings.note("data.none", directory.display(), "it is not there", "no service has ever been started here", remedy);
    }
    for name in &files.leftovers {
        // A running service is about to rename it.
        if !scene.running {
            let (text, repair) = (format!("remove data/{name}"), Repair::RemoveLeftover(directory.join(name)));
            let why = "a write was interrupted; the file that it was to replace is whole";
            findings.drift("data.leftover", format!("data/{name}"), "it was left by a write", why, Remedy::automatic(text, repair));
        }
    }
    for name in &files.open {
        let (text, repair) = ("give it the mode 0600", Repair::Restrict(directory.join(name)));
        let why = "it holds passwords of guests";
        findings.drift("data.mode", format!("data/{name}"), "others than its owner may read it", why, Remedy::automatic(text, repair));
    }
    if files.unclean && !scene.running {
        let remedy = Remedy::Service("the next start takes back what was left half done".into());
        findings.note("data.unclean", "the last run", "it did not end in order", "a crash, a SIGKILL or a power cut", remedy);
    }
    if scene.lost && !scene.notices.iter().any(Notice::is_loss) {
        let remedy = Remedy::Service("the next start enters again what libvirt and the pools show, and tells what it can't".into());
        let why = "a data file was damaged or gone; until then the books may lack guests that are there";
        findings.note("data.rebuild", "guests that were lost", "they are not all in the books again yet", why, remedy);
    }
    // What seems to be nobody's may be a guest's that has yet to come back.
    findings.partial |= scene.lost;
    let mut sound = true;
    for notice in &scene.notices {
        sound &= tell(notice, findings);
    }
    sound
}

/// False for a file whose content is lost.
fn tell(notice: &Notice, findings: &mut Findings) -> bool {
    let data = |name: &str| format!("data/{name}");
    let reopen = |text: &str| Remedy::automatic(text, Repair::Reopen);
    match notice {
        Notice::Entry { file, entry, key, reason } => {
            findings.partial = true;
            let what = if key.is_empty() { reason.clone() } else { format!("{key}: {reason}") };
            let why = "the entry is kept as it stands, and the service does not use it";
            let remedy = Remedy::Manual("stop the service, correct the entry in the file, start again".into());
            findings.drift("data.entry", format!("data/{} {entry}", file.name()), what, why, remedy);
        }
        Notice::UnknownKey { file, key } => {
            let why = "a newer version or somebody by hand has added it; it is kept";
            let remedy = Remedy::Manual("nothing has to be done".into());
            findings.note("data.unknown-key", data(file.name()), format!("the key '{key}' is not known"), why, remedy);
        }
        Notice::Reset { file, key, reason, .. } => {
            let remedy = reopen("keep a copy of the file beside it and take the key's default");
            findings.drift("data.value", data(file.name()), format!("{key}: {reason}"), "the value can't be used", remedy);
        }
        Notice::Damaged { file, reason, recovered: true, .. } => {
            let remedy = reopen("set it aside and put its last good copy in its place");
            findings.drift(
                "data.damaged",
                data(file),
                reason.clone(),
                "the last good copy is whole; the latest change may be missing",
                remedy,
            );
        }
        Notice::Damaged { file, reason, recovered: false, .. } => {
            let why = "there is no good copy of it, so a start would begin without its content";
            let remedy = Remedy::Manual(format!("restore data/{file} from a backup before the service is started"));
            findings.drift("data.damaged", data(file), reason.clone(), why, remedy);
            return file.ends_with(".bak");
        }
        Notice::JournalTail { bytes } => {
            let remedy = Remedy::Service("the next start cuts it off".into());
            let what = format!("it ends in {bytes} bytes that were not completely written");
            findings.note("data.journal-tail", data(journal::NAME), what, "what they announce had not begun", remedy);
        }
        Notice::JournalDamaged { lines, .. } => {
            let remedy = Remedy::Service("the next start uses the other lines, and keeps the file aside".into());
            let why = "changes that had not ended may be in them; compare again when the service has been started";
            findings.drift("data.journal-damaged", data(journal::NAME), format!("{lines} lines of it can't be read"), why, remedy);
        }
        Notice::Missing { file } => {
            let remedy = reopen("put its last good copy in its place");
            findings.drift(
                "data.missing",
                data(file.name()),
                "it is not there",
                format!("its last good copy {}.bak is", file.name()),
                remedy,
            );
        }
    }
    true
}
