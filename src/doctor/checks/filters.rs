//! Filters of guests.

use crate::doctor::finding::{Area, Findings, Remedy, Repair};
use crate::doctor::scene::{label, Scene};
use crate::host::FilterState;

/// Looks at those of the guests, and at those that are left of others.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    let filters = match &scene.filters {
        Ok(filters) => filters,
        Err(reason) => return findings.blind(Area::Filters, reason.clone()),
    };
    for guest in scene.guests() {
        // With the domain goes the filter; both are defined together.
        if guest.unfinished || scene.domain(guest.id).is_none() {
            continue;
        }
        let (code, what, why) = match scene.filter_states.get(&guest.id) {
            Some(Ok(FilterState::Missing)) => ("filters.missing", "libvirt has no filter of it", "the guest can't be started"),
            Some(Ok(FilterState::Different)) => (
                "filters.different",
                "its filter has other rules than the books",
                "the reference Cell made it, or somebody has changed it; its security rules do not hold",
            ),
            Some(Err(reason)) => {
                findings.blind(Area::Filters, reason.clone());
                continue;
            }
            Some(Ok(FilterState::Right)) | None => continue,
        };
        let remedy = Remedy::automatic("make it as the books say", Repair::UpdateFilter(guest.clone()));
        findings.drift(code, label(guest), what, why, remedy);
    }
    for filter in filters.iter().filter(|filter| scene.guest(filter.guest).is_none() && scene.domain(filter.guest).is_none()) {
        let remedy = findings.if_nobodys(Remedy::automatic("remove it", Repair::RemoveFilter(filter.guest)));
        let why = "it was left when the guest was deleted";
        findings.drift("filters.stray", format!("filter {}", filter.name), "there is no such guest", why, remedy);
    }
}
