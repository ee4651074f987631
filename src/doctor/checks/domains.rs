//! Domains of libvirt and guests of the books.

use std::sync::Arc;

use crate::doctor::finding::{Area, Findings, Remedy, Repair};
use crate::doctor::scene::{label, Scene};
use crate::host::{DefinedDomain, DiskSource, DomainEdit, HeldGuest};
use crate::model::{GuestConfig, PoolMode, PowerState};

use super::books::change;

/// What the names of guests' filters begin with (contract §11.2).
const FILTER: &str = "nano-nwfilter-";

/// Names of the volumes of a domain; of a disk that is a file, the file's name.
pub(super) fn volume_names(domain: &DefinedDomain) -> Vec<String> {
    let name = |disk: &DiskSource| match disk {
        DiskSource::Volume { volume, .. } => volume.clone(),
        DiskSource::File(path) => path.rsplit_once('/').map_or(path.clone(), |(_, name)| name.to_owned()),
    };
    domain.definition.disks.iter().map(name).collect()
}

/// Compares them.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    let domains = match &scene.domains {
        Ok(domains) => domains,
        Err(reason) => return findings.blind(Area::Domains, reason.clone()),
    };
    for guest in scene.guests() {
        if guest.unfinished {
            unfinished(scene, guest, findings);
            continue;
        }
        match scene.domain(guest.id) {
            None => lost(scene, guest, findings),
            Some(domain) => compare(scene, guest, domain, findings),
        }
    }
    for domain in domains.iter().filter(|domain| scene.guest(domain.id).is_none() && is_of_nano(scene, domain)) {
        let (subject, name) = (format!("domain {} ({})", domain.name, domain.id), &domain.name);
        let why = "it looks like a guest of this node, but the Core does not know it";
        let ending = if domain.power == PowerState::Running { "; it runs" } else { "" };
        let remedy = Remedy::Manual(format!("enter it again from a backup of data/, or if nobody needs it: virsh undefine '{name}'"));
        let remedy = findings.if_nobodys(remedy);
        findings.drift("domains.unknown", subject, format!("the books have no such guest{ending}"), why, remedy);
    }
    match &scene.held {
        Ok(held) => held.iter().for_each(|held| tell_held(scene, held, findings)),
        Err(reason) => findings.blind(Area::Domains, reason.clone()),
    }
}

fn is_of_nano(scene: &Scene, domain: &DefinedDomain) -> bool {
    let pools = &scene.books.storage.pools;
    let ours = |disk: &DiskSource| match disk {
        DiskSource::Volume { pool, .. } => pools.contains_key(pool),
        DiskSource::File(path) => pools.values().any(|pool| path.starts_with(&format!("{}/", pool.target.trim_end_matches('/')))),
    };
    domain.definition.filters.iter().any(|filter| filter.starts_with(FILTER)) || domain.definition.disks.iter().any(ours)
}

fn unfinished(scene: &Scene, guest: &GuestConfig, findings: &mut Findings) {
    if !scene.running {
        let remedy = Remedy::Service("the next start removes it".into());
        findings.drift("domains.unfinished", label(guest), "its system disk was never filled", "the service ended meanwhile", remedy);
    }
}

fn lost(scene: &Scene, guest: &Arc<GuestConfig>, findings: &mut Findings) {
    let target = scene.books.storage.pools.get(&guest.storage_pool).map(|pool| pool.target.trim_end_matches('/').to_owned());
    let disks = |volume: &String| target.as_ref().and_then(|target| scene.has_file(&format!("{target}/{volume}"))) == Some(true);
    let taken = scene.domains.iter().flatten().any(|domain| domain.name == guest.name);
    let (why, remedy) = if let Some(owner) = scene.other_owner(guest) {
        (
            "the guest is another node's now",
            Remedy::Manual(format!("nothing, if it is to run on {owner}: the Core takes it from these books")),
        )
    } else if taken {
        let text = format!("another domain has the name '{}': rename or remove that one first", guest.name);
        ("somebody has undefined it", Remedy::Manual(text))
    } else if guest.storage_volumes.is_empty() || !guest.storage_volumes.iter().all(disks) {
        ("somebody has undefined it", Remedy::Manual("its disks are not there either: delete the guest through the Core".into()))
    } else {
        ("somebody has undefined it", Remedy::automatic("define it again from the books", Repair::Define(guest.clone())))
    };
    findings.drift("domains.missing", label(guest), "libvirt has no domain of it", why, remedy);
}

fn compare(scene: &Scene, guest: &Arc<GuestConfig>, domain: &DefinedDomain, findings: &mut Findings) {
    let definition = &domain.definition;
    let (id, stopped) = (guest.id, domain.power != PowerState::Running);
    if domain.name != guest.name {
        let remedy = if stopped {
            Remedy::automatic(format!("rename it to '{}'", guest.name), Repair::Reconfigure(id, DomainEdit::Name(guest.name.clone())))
        } else {
            Remedy::Manual("it can't be renamed while it runs: stop the guest and run this again".into())
        };
        let what = format!("libvirt calls it '{}'", domain.name);
        findings.drift("domains.name", label(guest), what, "somebody has renamed it there, or a rename broke off", remedy);
    }
    if definition.cores != guest.cores {
        let remedy =
            Remedy::automatic("set the books' number, from its next start on", Repair::Reconfigure(id, DomainEdit::Cores(guest.cores)));
        let what = format!("it has {} virtual CPUs, the books say {}", definition.cores, guest.cores);
        findings.drift("domains.cores", label(guest), what, "the Core reckons with the books' number", remedy);
    }
    // libvirt counts in KiB.
    if definition.memory >> 10 != guest.memory >> 10 {
        let remedy =
            Remedy::automatic("set the books' size, from its next start on", Repair::Reconfigure(id, DomainEdit::Memory(guest.memory)));
        let what = format!("it has {} bytes of memory, the books say {}", definition.memory, guest.memory);
        findings.drift("domains.memory", label(guest), what, "the Core reckons with the books' size", remedy);
    }
    if volume_names(domain) != guest.storage_volumes {
        let what = format!("its disks are {}, the books say {}", volume_names(domain).join(", "), guest.storage_volumes.join(", "));
        let why = "its next start uses disks that the books do not know";
        let remedy = Remedy::Manual(
            "find out which are right (`qemu-img info`), then `virsh edit` or correct the data files while the service is stopped".into(),
        );
        findings.drift("domains.disks", label(guest), what, why, remedy);
    }
    interface(scene, guest, domain, findings);
    monitor(scene, guest, domain, findings);
    autostart(scene, guest, domain, findings);
}

fn interface(scene: &Scene, guest: &Arc<GuestConfig>, domain: &DefinedDomain, findings: &mut Findings) {
    let id = guest.id;
    let macs = &domain.definition.macs;
    if !macs.iter().any(|mac| mac.eq_ignore_ascii_case(&guest.hardware_address)) {
        let taken = |mac: &str| scene.guests().any(|other| other.id != id && other.hardware_address.eq_ignore_ascii_case(mac));
        let remedy = match macs.as_slice() {
            [mac] if !taken(mac) => {
                let mac = mac.to_lowercase();
                Remedy::books("take the domain's, which the guest knows itself by", move |books| {
                    change(books, id, |guest| guest.hardware_address.clone_from(&mac));
                    if let Some(held) = books.network.resources.get_mut(&id) {
                        held.hardware_address.clone_from(&mac);
                    }
                })
            }
            _ => Remedy::Manual("give its one interface the MAC of the books (`virsh edit`)".into()),
        };
        let what = format!("its interfaces have the MACs {}, the books say {}", macs.join(", "), guest.hardware_address);
        findings.drift("domains.mac", label(guest), what, "its filter and its address go by the books' MAC", remedy);
    }
    if !domain.definition.filters.iter().any(|filter| *filter == format!("{FILTER}{id}")) {
        let remedy = Remedy::Manual(format!("add <filterref filter='{FILTER}{id}'/> to its interface (`virsh edit`)"));
        findings.drift(
            "domains.unfiltered",
            label(guest),
            "its interface does not use its filter",
            "its security rules do nothing",
            remedy,
        );
    }
}

fn monitor(scene: &Scene, guest: &Arc<GuestConfig>, domain: &DefinedDomain, findings: &mut Findings) {
    let id = guest.id;
    let present = domain.definition.monitor_port;
    if present == Some(guest.monitor_port) {
        return;
    }
    let taken = |port: u16| scene.guests().any(|other| other.id != id && other.monitor_port == port);
    let (what, remedy) = match present {
        Some(port) if !taken(port) => (
            format!("its monitor has port {port}, the books say {}", guest.monitor_port),
            Remedy::books("take the domain's", move |books| {
                change(books, id, |guest| guest.monitor_port = port);
                if let Some(held) = books.network.resources.get_mut(&id) {
                    held.monitor_port = port;
                }
            }),
        ),
        Some(port) => (
            format!("its monitor has port {port}, which is another guest's; the books say {}", guest.monitor_port),
            Remedy::Manual(format!("give its monitor the port {} (`virsh edit`)", guest.monitor_port)),
        ),
        None => (
            format!("it has no monitor with a fixed port, the books say {}", guest.monitor_port),
            Remedy::Manual(format!("give its monitor the port {} (`virsh edit`)", guest.monitor_port)),
        ),
    };
    findings.drift("domains.monitor-port", label(guest), what, "the Core shows its screen at the books' port", remedy);
}

fn autostart(scene: &Scene, guest: &Arc<GuestConfig>, domain: &DefinedDomain, findings: &mut Findings) {
    let shared = scene.books.storage.pools.get(&guest.storage_pool).is_some_and(|pool| pool.mode == PoolMode::Nfs);
    // The service itself starts guests of shared pools, once their claims are known.
    let wanted = guest.auto_start && !shared;
    if domain.autostart == wanted {
        return;
    }
    let (what, text) = match wanted {
        true => ("libvirt does not start it with the host", "mark it for autostart"),
        false => ("libvirt starts it with the host", "take the mark away"),
    };
    let why = match (shared, wanted) {
        (true, _) => "a guest of a shared pool may be another node's by then",
        (_, true) => "it stays down after the host was restarted",
        (_, false) => "the Core wants it to stay down",
    };
    findings.drift("domains.autostart", label(guest), what, why, Remedy::automatic(text, Repair::SetAutostart(guest.id, wanted)));
}

fn tell_held(scene: &Scene, held: &HeldGuest, findings: &mut Findings) {
    let disks: Vec<&str> = held.disks.iter().map(|disk| disk.path.as_str()).collect();
    let on = if disks.is_empty() { "a disk".to_owned() } else { disks.join(", ") };
    let full = held.disks.is_empty() || held.disks.iter().any(|disk| disk.full);
    let why = if full { "there is no space left for it" } else { "the device reports an error: see the kernel's log" };
    let remedy = if scene.running {
        Remedy::Service("free space; the service lets it go on by itself".into())
    } else {
        Remedy::Manual(format!("free space, then: virsh resume {}", held.id))
    };
    findings.drift("domains.held", scene.label(held.id), format!("QEMU holds it, for {on} could not be written"), why, remedy);
}
