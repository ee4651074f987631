//! Claims and descriptions of guests on shared pools.

use crate::doctor::finding::{Area, Findings, Remedy, Repair};
use crate::doctor::scene::{label, Scene};
use crate::host::SharedGuest;
use crate::model::{Claim, GuestConfig, GuestId, Pool};

/// Compares them with the books.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    let name = match &scene.name {
        Ok(Some(name)) => name,
        // Before the first start there is nothing that could be claimed.
        Ok(None) => return,
        Err(reason) => return findings.blind(Area::Claims, reason.clone()),
    };
    for pool in scene.shared_pools() {
        for guest in scene.guests().filter(|guest| guest.storage_pool == pool.name && !guest.unfinished) {
            ours(scene, pool, guest, name, findings);
        }
        let claims = scene.claims.iter().filter(|((directory, id), _)| *directory == pool.target && scene.guest(*id).is_none());
        for ((_, id), claim) in claims.filter_map(|(key, claim)| Some((key, claim.as_ref().ok()?))) {
            stray(scene, pool, *id, claim, name, findings);
        }
    }
}

fn ours(scene: &Scene, pool: &Pool, guest: &GuestConfig, name: &str, findings: &mut Findings) {
    match scene.claims.get(&(pool.target.clone(), guest.id)) {
        Some(Err(reason)) => {
            let remedy = Remedy::Manual(format!("when no node runs the guest: rm '{}/{}.claim'", pool.target, guest.id));
            return findings.drift("claims.unreadable", label(guest), reason.clone(), "it can't be started", remedy);
        }
        Some(Ok(claim)) if !claim.owner.is_empty() && claim.owner != name => {
            let runs = scene.runs(guest.id);
            let what = format!("its claim says that it is {}'s{}", claim.owner, if runs { ", and it runs here" } else { "" });
            let why = if runs { "it may run twice, which destroys its disks" } else { "it can't be started here" };
            let remedy = if runs && !scene.running {
                Remedy::Manual(format!("end it now: virsh destroy {}", guest.id))
            } else {
                Remedy::Service("the service leaves it alone; the Core takes it from these books when it next speaks of it".into())
            };
            return findings.drift("claims.foreign", label(guest), what, why, remedy);
        }
        Some(Ok(claim)) if claim.owner == name => {}
        _ => {
            let remedy = Remedy::Service("the service claims it before it is started or changed".into());
            findings.note("claims.none", label(guest), "no node has claimed it", "the reference Cell made it, or let go of it", remedy);
        }
    }
    let Some(volumes) = scene.books.storage.groups.get(&guest.id) else { return };
    let wanted = SharedGuest { config: guest.clone(), volumes: volumes.clone() };
    let present = scene.copies.get(&guest.id);
    if present == Some(&wanted) {
        return;
    }
    let what = match present {
        None => "its pool does not describe it",
        Some(_) => "its pool describes it differently than the books",
    };
    let repair = Repair::SaveShared { directory: pool.target.clone(), guest: Box::new(wanted) };
    let why = "a node that takes it over would take what is written there";
    findings.drift("claims.copy", label(guest), what, why, Remedy::automatic("write it down anew", repair));
}

fn stray(scene: &Scene, pool: &Pool, id: GuestId, claim: &Claim, name: &str, findings: &mut Findings) {
    if claim.owner != name {
        return;
    }
    let remedy = if scene.domain(id).is_some() {
        Remedy::Manual("libvirt has a domain of it: see what that is first".into())
    } else {
        let repair = Repair::LetGo { directory: pool.target.clone(), id };
        findings.if_nobodys(Remedy::automatic("let go of it", repair))
    };
    let what = format!("this node has claimed it on the pool {}, but the books do not know it", pool.name);
    findings.drift("claims.stray", format!("guest {id}"), what, "no other node can start it", remedy);
}
