//! Compares what the books say with what there is, and says of each difference what it is, why it matters and how it is repaired: `cell doctor`.
//!
//! Contract: everything is gathered first (`scene`) and compared then, by plain functions (`checks`). Looking changes nothing and works beside
//! a running service; what that is in the middle of is looked at twice, and only what is so both times is told. A repair is idempotent, and none
//! ever removes an image that might hold data (`repair`). What can't be looked at is said, never taken for good.

mod checks;
mod finding;
mod repair;
mod scene;

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::sleep;

use crate::host::platform::Platform;
use crate::model::Virtualization;
use checks::host::Wanted;
use scene::Scene;

pub use finding::{Area, Blind, Books, Finding, Findings, Remedy, Repair, Weight};
pub use repair::Deed;
pub use scene::{Libvirt, Sources};

/// Between two looks at what a running service may be in the middle of: longer than any change that it makes without saying so in the books.
const PAUSE: Duration = Duration::from_secs(3);

/// How often repairs may bring to light what was hidden before.
const ROUNDS: usize = 4;

/// What the machine is to be.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// As in the settings.
    pub virtualization: Virtualization,
    /// The settings name a Core.
    pub core_named: bool,
    /// What is wrong with the settings, a line each.
    pub complaints: Vec<String>,
}

/// Nothing but what is wrong with the settings, where nothing else can be looked at.
pub fn complain(complaints: &[String]) -> Findings {
    let mut findings = Findings::default();
    checks::host::settings(complaints, &mut findings);
    for area in Area::ALL {
        findings.blind(area, "the settings can't be used");
    }
    findings
}

/// Looks at everything.
pub async fn examine(sources: &Sources<'_>, platform: &Platform, expectation: &Expectation) -> Findings {
    let first = look(sources, platform, expectation).await;
    if !sources.running || first.found.is_empty() {
        return first;
    }
    sleep(PAUSE).await;
    let mut second = look(sources, platform, expectation).await;
    second.found.retain(|finding| first.found.iter().any(|before| before.is_same(finding)));
    second
}

/// Repairs what can be, and what comes to light by that; gives what was done and what is left. The service must not run.
pub async fn repair(sources: &Sources<'_>, platform: &Platform, expectation: &Expectation) -> (Vec<Deed>, Findings) {
    let mut deeds: Vec<Deed> = Vec::new();
    let mut left = examine(sources, platform, expectation).await;
    for _ in 0..ROUNDS {
        let fresh: Vec<Finding> =
            left.found.iter().filter(|found| !deeds.iter().any(|deed| deed.finding.is_same(found))).cloned().collect();
        let done = repair::repair(sources, &fresh).await;
        if done.is_empty() {
            break;
        }
        deeds.extend(done);
        left = examine(sources, platform, expectation).await;
    }
    (deeds, left)
}

async fn look(sources: &Sources<'_>, platform: &Platform, expectation: &Expectation) -> Findings {
    let scene = Scene::gather(sources).await;
    let mut findings = Findings::default();
    let wanted = Wanted {
        bridge: sources.bridge,
        virtualization: expectation.virtualization,
        libvirt: sources.libvirt.as_ref().err().map(String::as_str),
        core_named: expectation.core_named,
        name: &scene.name,
    };
    checks::host::settings(&expectation.complaints, &mut findings);
    checks::host::check(platform, &wanted, &mut findings);
    let reliable = checks::data::check(&scene, sources.data, &mut findings);
    let settled = checks::journal::check(&scene, &mut findings);
    if reliable && settled {
        compare(&scene, &mut findings);
    } else {
        let reason = match reliable {
            true => "the journal has changes that had not ended; start the service once, which ends them, and look again",
            false => "data/ can't be relied on, so there is nothing to compare with",
        };
        for area in [Area::Books, Area::Pools, Area::Disks, Area::Domains, Area::Filters, Area::Claims] {
            findings.blind(area, reason);
        }
    }
    findings.found.sort_by_key(Finding::area);
    findings.blind.sort_by_key(|blind| blind.area);
    findings
}

fn compare(scene: &Scene, findings: &mut Findings) {
    checks::books::check(scene, findings);
    checks::pools::check(scene, findings);
    checks::disks::check(scene, findings);
    checks::leftovers::check(scene, findings);
    checks::domains::check(scene, findings);
    checks::filters::check(scene, findings);
    checks::claims::check(scene, findings);
}
