//! Images that are taken out of the chain below a disk while its guest runs.
//!
//! QEMU does it as a block job, and changes the header of the image above when everything is where it belongs: until then the chain is as it was,
//! and both chains show the same. libvirt knows the chain of a running guest and keeps it over its own restarts, so what there is to do
//! is read off its XML.

use virt::domain::Domain;

use crate::host::{Change, ErrorKind, HostError, LiveMerge, Progress, Result};
use crate::model::GuestId;

use super::block::{disk_at, is_at, live, target};
use super::block_job;
use super::connection::Connection;
use super::error::failed;
use super::hypervisor::find_running;
use super::xml::Node;

/// Begins a merge unless it is under way or done.
pub(super) fn begin(connection: &Connection, id: GuestId, merge: &LiveMerge) -> Result<Change> {
    let what = format!("cannot merge images below {} of guest {id}, which is running", merge.disk());
    let domain = find_running(connection, id, &what)?;
    let document = live(&domain, &what)?;
    let (disk, target) = find(&document, merge.disk(), &what)?;
    let below = chain(disk);
    if is_done(&below, merge, &what)? {
        return Ok(Change::Unchanged);
    }
    if under_way(&domain, target, &what)?.is_some() {
        return Ok(Change::Changed);
    }
    let begun = match merge {
        LiveMerge::Up { base, .. } => block_job::begin_pull(&domain, target, base.as_deref()),
        LiveMerge::Down { top, base, .. } => block_job::begin_commit(&domain, target, top, base),
    };
    begun.map_err(|error| failed(&what, &error))?;
    Ok(Change::Changed)
}

/// How far the job on a disk has come.
pub(super) fn progress(connection: &Connection, id: GuestId, path: &str) -> Result<Option<Progress>> {
    let what = format!("cannot see how far the merge below {path} of guest {id} is");
    let domain = find_running(connection, id, &what)?;
    let document = live(&domain, &what)?;
    let (_, target) = find(&document, path, &what)?;
    under_way(&domain, target, &what)
}

fn under_way(domain: &Domain, target: &str, what: &str) -> Result<Option<Progress>> {
    block_job::progress(domain, target).map_err(|error| failed(what, &error))
}

fn find<'a>(document: &'a Node, path: &str, what: &str) -> Result<(&'a Node, &'a str)> {
    let disk = disk_at(document, path);
    let found = disk.and_then(|disk| Some((disk, target(disk)?)));
    found.ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("{what}: it does not use this disk")))
}

/// Layers below the disk's own image, the upper ones first.
fn chain(disk: &Node) -> Vec<&Node> {
    std::iter::successors(below(disk), |layer| below(layer)).collect()
}

fn below(layer: &Node) -> Option<&Node> {
    // The last one is based on an empty element.
    layer.find(&["backingStore"]).filter(|below| below.find(&["source"]).is_some())
}

/// Whether the chain is as it is to become; an error when it is neither that nor what the merge begins with.
fn is_done(below: &[&Node], merge: &LiveMerge, what: &str) -> Result<bool> {
    let done = merge.is_done(below.len(), |path| below.iter().position(|layer| is_at(layer, path)));
    done.ok_or_else(|| HostError::new(ErrorKind::Invalid, format!("{what}: it is based on {}", list(below))))
}

fn list(layers: &[&Node]) -> String {
    let sources = layers.iter().filter_map(|layer| layer.find(&["source"]));
    let names = sources.filter_map(|source| source.attribute("file").or(source.attribute("volume")));
    Some(names.collect::<Vec<_>>().join(", then ")).filter(|names| !names.is_empty()).unwrap_or_else(|| "nothing".into())
}

#[cfg(test)]
mod tests;
