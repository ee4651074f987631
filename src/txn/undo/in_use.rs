//! Images that must not be touched, for a guest has been started on them.
//!
//! Contract: guests with libvirt's mark are not started while their disks are half-way ([`super::autostart`]). Somebody may have started one by hand, or an earlier
//! version of the service may have left the mark. Nothing is renamed or cut under a running guest: it would write on into a file that has no name any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::act::{runs, there};
use super::step::Step;
use crate::model::{GuestId, Volume};
use crate::txn::{Failure, Node};

/// Refuses while a guest runs on images that these steps would change. Nothing is asked for steps without images.
pub(super) async fn check(node: &Arc<Node>, guests: &[GuestId], steps: &[Step]) -> Result<(), Failure> {
    if !steps.iter().any(|step| matches!(step, Step::Aside { .. } | Step::Merge { .. } | Step::Size { .. } | Step::Install { .. })) {
        return Ok(());
    }
    for guest in guests {
        if !runs(node, *guest).await? {
            continue;
        }
        let used = chains(node, *guest).await?;
        for step in steps {
            if let Some(path) = half_way(node, step).await?.filter(|path| used.contains(*path)) {
                return Err(Failure::refused(format!(
                    "guest {guest} was started on {path}, which a change that broke off has left half-way. That change is ended when the guest \
                     has stopped, and what the guest has written since it was started is lost then: copy what is needed out of it before"
                )));
            }
        }
    }
    Ok(())
}

/// The image that would get another content, if the step was begun.
async fn half_way<'a>(node: &Node, step: &'a Step) -> Result<Option<&'a str>, Failure> {
    let disks = &node.host.disks;
    Ok(match step {
        Step::Aside { path, aside, .. } => there(disks.inspect(aside).await)?.map(|_| path.as_str()),
        Step::Merge { path } => there(disks.inspect(path).await)?.filter(|image| image.half_merged).map(|_| path.as_str()),
        Step::Size { path, capacity } => {
            there(disks.inspect(path).await)?.filter(|image| image.capacity != *capacity).map(|_| path.as_str())
        }
        // Whether there is an image to be put in its place is not asked: it is done in a moment when the guest has stopped.
        Step::Install { disk } => Some(disk),
        _ => None,
    })
}

/// All images that the guest's disks consist of now.
async fn chains(node: &Node, guest: GuestId) -> Result<BTreeSet<String>, Failure> {
    let group = node.books.lock().storage.groups.get(&guest).cloned().unwrap_or_default();
    let mut used = BTreeSet::new();
    for file in group.volumes().map(Volume::file) {
        let mut next = Some(file.to_owned());
        while let Some(path) = next.take().filter(|path| !used.contains(path)) {
            next = there(node.host.disks.inspect(&path).await)?.and_then(|image| image.backing);
            used.insert(path);
        }
    }
    Ok(used)
}
