//! Each drift, put into a healthy node, is found, and nothing else is; what can be repaired is, and a second run finds nothing.

use super::*;
use crate::host::sim::SimLayer;
use crate::model::{PowerState, SecurityPolicy};

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// `--repair` does it.
    Repaired,
    /// It is left to the service or to somebody.
    Stays,
}
use End::{Repaired, Stays};

type Case = (&'static str, &'static str, End, fn(&mut Ward));

const CASES: &[Case] = &[
    // data/
    ("data.leftover", "a write of a data file broke off", Repaired, |ward| fs::write(ward.path("storage.data.tmp"), "{").unwrap()),
    ("data.mode", "everybody may read the passwords", Repaired, |ward| {
        fs::set_permissions(ward.path("instance.data"), fs::Permissions::from_mode(0o644)).unwrap();
    }),
    ("data.damaged", "a data file is cut off, with a good copy beside it", Repaired, |ward| {
        fs::copy(ward.path("network.data"), ward.path("network.data.bak")).unwrap();
        fs::write(ward.path("network.data"), "{\"defa").unwrap();
        fs::set_permissions(ward.path("network.data"), fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("data.missing", "a data file is gone, with a good copy beside it", Repaired, |ward| {
        fs::rename(ward.path("storage.data"), ward.path("storage.data.bak")).unwrap();
    }),
    ("data.value", "a value of a data file is of the wrong type", Repaired, |ward| {
        let text = fs::read_to_string(ward.path("instance.data")).unwrap();
        fs::write(ward.path("instance.data"), text.replace("\"max_guest\": 100", "\"max_guest\": \"many\"")).unwrap();
    }),
    // the books among each other
    ("books.no-volumes", "a guest without its volumes in storage.data", Stays, |ward| {
        ward.edit(|books| {
            let group = books.storage.groups.remove(&id(TWO)).unwrap();
            let pool = books.storage.pools.get_mut(LOCAL_POOL).unwrap();
            pool.volumes.retain(|name, _| group.volumes().all(|volume| volume.name != *name));
        });
    }),
    ("books.stray-volumes", "volumes of a guest that does not exist, whose files are gone", Repaired, |ward| {
        ward.edit(|books| {
            let volume =
                Volume { name: "x_sys.qcow2".into(), path: format!("{LOCAL}/x_sys.qcow2"), pool: LOCAL_POOL.into(), ..Volume::default() };
            books.storage.pools.get_mut(LOCAL_POOL).unwrap().volumes.insert(volume.name.clone(), true);
            books.storage.groups.insert(id(9), VolumeGroup { system: volume, ..VolumeGroup::default() });
        });
    }),
    ("books.pool-list", "a pool's list of volumes has one that no guest has", Repaired, |ward| {
        ward.edit(|books| books.storage.pools.get_mut(LOCAL_POOL).unwrap().volumes.extend([("old_ci.iso".into(), true)]));
    }),
    ("books.current-pool", "new guests go to a pool that does not exist", Stays, |ward| {
        ward.edit(|books| books.storage.current_pool = "gone".into());
    }),
    ("books.assignment", "port and MAC of a guest are missing in network.data", Repaired, |ward| {
        ward.edit(|books| drop(books.network.resources.remove(&id(ONE))));
    }),
    ("books.assignment", "network.data has another port than instance.data", Repaired, |ward| {
        ward.edit(|books| books.network.resources.get_mut(&id(ONE)).unwrap().monitor_port = 5955);
    }),
    ("books.stray-assignment", "network.data has an entry of a guest that does not exist", Repaired, |ward| {
        ward.edit(|books| drop(books.network.resources.insert(id(9), Resource::default())));
    }),
    ("books.port-twice", "two guests have the same monitor port", Stays, |ward| {
        everywhere(ward, TWO, |guest| guest.monitor_port = 5901);
    }),
    ("books.mac-twice", "two guests have the same MAC", Stays, |ward| {
        everywhere(ward, TWO, |guest| guest.hardware_address = "00:16:3e:00:00:01".into());
    }),
    ("books.snapshot-missing", "the current disks are based on a snapshot that is not in the books", Stays, |ward| {
        ward.edit(|books| {
            let group = books.storage.groups.get_mut(&id(TWO)).unwrap();
            group.active_snapshot = "gone".into();
        });
    }),
    ("books.snapshot-marks", "the marks of a snapshot are wrong", Repaired, |ward| {
        ward.edit(|books| books.storage.groups.get_mut(&id(ONE)).unwrap().base_snapshot = String::new());
    }),
    // pools
    ("pools.missing", "a pool was undefined", Repaired, |ward| {
        ward.edit(|books| books.storage.pools.get_mut(LOCAL_POOL).unwrap().id.clear());
        ward.sim.change(|state| drop(state.pools.remove(LOCAL_POOL)));
    }),
    ("pools.inactive", "a pool was stopped", Repaired, |ward| {
        ward.sim.change(|state| state.pools.get_mut(LOCAL_POOL).unwrap().active = false);
    }),
    ("pools.elsewhere", "a pool of libvirt is in another directory", Stays, |ward| {
        ward.sim.change(|state| state.pools.get_mut(LOCAL_POOL).unwrap().target = "/elsewhere".into());
    }),
    ("pools.autostart", "a pool does not start with the host", Repaired, |ward| {
        ward.sim.change(|state| state.pools.get_mut(LOCAL_POOL).unwrap().autostart = false);
    }),
    ("pools.autostart", "a shared pool is mounted with the host", Repaired, |ward| {
        ward.sim.change(|state| state.pools.get_mut("nas").unwrap().autostart = true);
    }),
    ("pools.inactive", "a shared pool is not mounted", Repaired, |ward| {
        ward.sim.change(|state| state.pools.get_mut("nas").unwrap().active = false);
    }),
    ("pools.uuid", "a pool was defined anew", Repaired, |ward| {
        ward.sim.change(|state| state.pools.get_mut(LOCAL_POOL).unwrap().id = id(77));
    }),
    // disks
    ("disks.missing", "the file of a disk is gone", Stays, |ward| remove_image(ward, &sys(TWO))),
    ("disks.missing", "a disk has the name that a change gave it meanwhile", Repaired, |ward| rename_image(ward, &sys(TWO), ".old")),
    ("disks.size", "a disk has grown and the books do not know", Repaired, |ward| {
        ward.sim.change(|state| *image(state, &sys(TWO)) = 128 * MIB);
    }),
    ("disks.backing", "a disk is based on another image than the books say", Stays, |ward| {
        let (disk, below) = (format!("{LOCAL}/{}", sys(TWO)), format!("{LOCAL}/{}_0.qcow2", id(TWO)));
        ward.sim.change(|state| drop(state.layers.insert(disk, SimLayer { backing: Some(below), ..SimLayer::default() })));
    }),
    ("disks.half-merged", "a merge broke off", Repaired, |ward| {
        let base = format!("{LOCAL}/{}_before_sys.qcow2", id(ONE));
        let before = crate::host::sim::SimBefore { path: base.clone(), capacity: 64 * MIB, blocks: Default::default() };
        ward.sim.change(|state| state.layers.entry(base).or_default().before = Some(before));
    }),
    ("disks.snapshot-missing", "the image of a snapshot is gone", Stays, |ward| remove_image(ward, &format!("{}_before_0.qcow2", id(ONE)))),
    ("disks.seed-missing", "a cloud-init image is gone", Stays, |ward| {
        everywhere(ward, TWO, |guest| guest.boot_image = format!("{LOCAL}/{}_ci.iso", id(TWO)));
        ward.edit(|books| books.storage.groups.get_mut(&id(TWO)).unwrap().boot_image = format!("{LOCAL}/{}_ci.iso", id(TWO)));
    }),
    ("disks.unfinished", "an image was being made", Repaired, |ward| add_image(ward, &format!("{}.new", sys(TWO)))),
    ("disks.unfinished", "the reference was shrinking a disk", Repaired, |ward| add_image(ward, &format!("{}_shrink", sys(TWO)))),
    ("disks.unfinished", "an image was being fetched", Repaired, |ward| {
        let part = crate::host::sim::SimPart { image: "i".into(), capacity: MIB };
        ward.sim.change(|state| drop(state.parts.insert(format!("{LOCAL}/{}", sys(TWO)), part)));
    }),
    ("disks.old", "what a disk was before a change", Stays, |ward| add_image(ward, &format!("{}.old", sys(TWO)))),
    ("disks.unknown", "an image of a guest that does not exist", Stays, |ward| add_image(ward, &sys(9))),
    ("disks.unknown", "an image of a snapshot that no book has", Stays, |ward| add_image(ward, &format!("{}_gone_sys.qcow2", id(TWO)))),
    ("disks.unknown", "an image that somebody has put there", Stays, |ward| add_image(ward, "debian.qcow2")),
    ("disks.unlisted", "an image that a running guest uses and no book lists", Stays, |ward| {
        add_image(ward, &format!("{}_sys.7.qcow2", id(TWO)));
        ward.sim.set_power_behind(id(TWO), true);
        ward.sim.change(|state| {
            let live = state.domains.get_mut(&id(TWO)).unwrap().live.as_mut().unwrap();
            live.storage_volumes.push(format!("{}_sys.7.qcow2", id(TWO)));
        });
    }),
    // domains
    ("domains.missing", "a domain was undefined", Repaired, |ward| ward.sim.undefine_behind(id(ONE))),
    ("domains.unknown", "a domain of a guest that the books do not know", Stays, |ward| {
        let guest = GuestConfig { storage_pool: LOCAL_POOL.into(), ..blank(id(9), "group.stranger") };
        ward.sim.change(|state| {
            let mut domain = state.domains[&id(TWO)].clone();
            (domain.config, domain.power) = (guest, PowerState::Stopped);
            state.domains.insert(id(9), domain);
        });
    }),
    ("domains.name", "a domain was renamed", Repaired, |ward| define(ward, TWO, |guest| guest.name = "other".into())),
    ("domains.cores", "a domain has other CPUs", Repaired, |ward| define(ward, TWO, |guest| guest.cores = 8)),
    ("domains.memory", "a domain has other memory", Repaired, |ward| define(ward, TWO, |guest| guest.memory = 512 * MIB)),
    ("domains.disks", "a domain has lost a disk", Stays, |ward| define(ward, TWO, |guest| drop(guest.storage_volumes.pop()))),
    ("domains.mac", "a domain has another MAC", Repaired, |ward| {
        define(ward, TWO, |guest| guest.hardware_address = "00:16:3e:99:99:99".into());
    }),
    ("domains.monitor-port", "a domain has another monitor port", Repaired, |ward| define(ward, TWO, |guest| guest.monitor_port = 5977)),
    ("domains.autostart", "a guest does not start with the host any more", Repaired, |ward| {
        ward.sim.change(|state| state.domains.get_mut(&id(TWO)).unwrap().autostart = false);
    }),
    ("domains.autostart", "libvirt starts a guest of a shared pool", Repaired, |ward| {
        ward.sim.change(|state| state.domains.get_mut(&id(THREE)).unwrap().autostart = true);
    }),
    ("domains.unfinished", "a guest whose disk was never filled", Stays, |ward| ward.edit_guest(TWO, |guest| guest.unfinished = true)),
    ("domains.held", "a guest is held because a disk is full", Stays, |ward| {
        ward.sim.set_power_behind(id(TWO), true);
        ward.sim.hold_behind(id(TWO), &format!("{LOCAL}/{}", sys(TWO)));
    }),
    // filters
    ("filters.missing", "a filter was undefined", Repaired, |ward| {
        ward.sim.change(|state| state.domains.get_mut(&id(ONE)).unwrap().filtered = false);
    }),
    ("filters.different", "a filter was opened", Repaired, |ward| {
        ward.sim.set_filter_behind(id(ONE), Some(SecurityPolicy { accept: true, rules: Vec::new() }));
    }),
    ("filters.stray", "a filter of a guest that does not exist", Repaired, |ward| {
        ward.sim.change(|state| state.stray_filters.extend([id(9)]));
    }),
    // claims
    ("claims.foreign", "another node has claimed a guest", Stays, |ward| {
        ward.share.change(|state| state.claims.get_mut(&id(THREE)).unwrap().owner = "Cell_other".into());
    }),
    ("claims.stray", "this node has claimed a guest that it does not have", Repaired, |ward| {
        let claim = Claim { owner: ward.name(), generation: 4, ..Claim::default() };
        ward.share.change(|state| drop(state.claims.insert(id(9), claim)));
    }),
    ("claims.copy", "the pool describes a guest as it was", Repaired, |ward| {
        ward.share.change(|state| state.guests.get_mut(&id(THREE)).unwrap().config.name = "group.former".into());
    }),
    ("claims.copy", "the pool does not describe a guest", Repaired, |ward| {
        ward.share.change(|state| drop(state.guests.remove(&id(THREE))));
    }),
    // the host
    ("host.kvm", "no KVM although the settings want it", Stays, |ward| {
        ward.platform.kvm = Some("No such file or directory".into());
        ward.expectation.virtualization = Virtualization::Kvm;
    }),
    ("host.emulator", "no QEMU", Stays, |ward| ward.platform.guests = Err("this host offers no kvm guests".into())),
    ("host.bridge", "no bridge", Stays, |ward| ward.platform.bridge = Err("there is no bridge br0".into())),
    ("host.bridge-address", "the bridge has no address", Stays, |ward| {
        ward.platform.bridge.as_mut().unwrap().address = None;
    }),
    ("host.bridge-port", "the bridge has no port", Stays, |ward| ward.platform.bridge_ports = Some(Vec::new())),
    ("host.default-route", "no default route", Stays, |ward| ward.platform.default_route = Ok(None)),
    ("host.multicast", "multicast does not come back", Stays, |ward| ward.platform.multicast = Err("nothing came back".into())),
    ("host.dhcp-port", "another DHCP server", Stays, |ward| ward.platform.dhcp_port = PortState::Taken("dnsmasq, process 7".into())),
    ("host.cloud-init-port", "another program on 25469", Stays, |ward| ward.platform.cloud_init_port = PortState::Taken("x".into())),
    ("host.name", "nothing that could name the node", Stays, |ward| {
        fs::remove_file(ward.path("identity.json")).unwrap();
        ward.share.change(|state| state.claims.clear());
        ward.platform.bridge.as_mut().unwrap().mac = [0; 6];
    }),
    ("host.space", "a full pool", Stays, |ward| ward.platform.spaces[1].free = 5 * MIB),
    ("host.space", "no more files can be made", Stays, |ward| ward.platform.spaces[0].files_free = Some(0)),
    ("host.read-only", "a read-only file system", Stays, |ward| ward.platform.spaces[0].read_only = true),
    ("host.open-files", "few open files", Stays, |ward| ward.platform.open_files = Some(100)),
    ("host.threads", "few threads", Stays, |ward| ward.platform.threads = Some(20)),
    ("host.qemu-img", "no qemu-img", Stays, |ward| ward.platform.qemu_img = Err("qemu-img can't be started".into())),
    ("host.clock", "the clock was set back", Stays, |ward| {
        ward.platform.last_write = Some(ward.platform.now + Duration::from_secs(86_400));
    }),
    ("host.settings", "a setting that can't be used", Stays, |ward| ward.expectation.complaints = vec!["cell.cfg: no".into()]),
];

fn sys(number: u8) -> String {
    format!("{}_sys.qcow2", id(number))
}

fn image<'a>(state: &'a mut crate::host::sim::SimState, name: &str) -> &'a mut u64 {
    state.directories.get_mut(LOCAL).unwrap().get_mut(name).unwrap()
}

fn add_image(ward: &Ward, name: &str) {
    ward.sim.change(|state| {
        state.directories.get_mut(LOCAL).unwrap().insert(name.into(), 64 * MIB);
    });
}

fn remove_image(ward: &Ward, name: &str) {
    ward.sim.change(|state| {
        state.directories.get_mut(LOCAL).unwrap().remove(name);
    });
}

fn rename_image(ward: &Ward, name: &str, ending: &str) {
    remove_image(ward, name);
    add_image(ward, &format!("{name}{ending}"));
}

/// Changes a definition behind everybody's back.
fn define(ward: &Ward, number: u8, change: impl FnOnce(&mut GuestConfig)) {
    ward.sim.change(|state| change(&mut state.domains.get_mut(&id(number)).unwrap().config));
}

/// Changes a guest wherever it is written.
fn everywhere(ward: &Ward, number: u8, change: impl Fn(&mut GuestConfig)) {
    ward.edit_guest(number, &change);
    define(ward, number, &change);
    ward.edit(|books| {
        let guest = books.instance.instances.iter().find(|guest| guest.id == id(number)).unwrap().clone();
        let held = books.network.resources.get_mut(&id(number)).unwrap();
        (held.monitor_port, held.hardware_address) = (guest.monitor_port, guest.hardware_address.clone());
    });
}

fn codes(findings: &Findings) -> Vec<&'static str> {
    findings.found.iter().map(|finding| finding.code).collect()
}

#[tokio::test]
async fn a_healthy_node_has_no_finding() {
    let ward = Ward::new().await;
    let before = ward.everything();
    let findings = ward.examine().await;
    assert!(findings.found.is_empty() && findings.blind.is_empty(), "{findings:#?}");
    assert_eq!(ward.repair().await.0.len(), 0);
    assert_eq!(ward.everything(), before);
}

#[tokio::test]
async fn each_injected_drift_is_found_alone_and_repaired_where_that_is_safe() {
    assert!(CASES.len() >= 60);
    let mut failures = Vec::new();
    for case in CASES {
        if let Err(failure) = go_through(case).await {
            failures.push(format!("{} ({}): {failure}", case.0, case.1));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

async fn go_through((code, _, end, inject): &Case) -> Result<(), String> {
    let hold = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
    let mut ward = Ward::new().await;
    inject(&mut ward);
    let before = ward.everything();
    let findings = ward.examine().await;
    hold(codes(&findings) == [*code] && findings.blind.is_empty(), format!("found {findings:?}"))?;
    hold(findings.drifts() == 1, "it counts".into())?;
    hold(ward.everything() == before, "the look has changed something".into())?;
    let (deeds, left) = ward.repair().await;
    match end {
        Repaired => {
            hold(!deeds.is_empty() && deeds.iter().all(|deed| deed.failure.is_none()), format!("done {deeds:?}"))?;
            // What a lost file may have held is for the next start.
            let is_left = left.found.iter().any(|finding| finding.code != "data.rebuild");
            hold(!is_left && left.blind.is_empty(), format!("left {left:?}"))?;
        }
        Stays => {
            hold(deeds.is_empty() && codes(&left) == [*code], format!("done {deeds:?}"))?;
            hold(ward.everything() == before, "the repair has changed something".into())?;
        }
    }
    let after = ward.everything();
    let (again, still) = ward.repair().await;
    hold(again.is_empty() && codes(&still) == codes(&left), format!("done again {again:?}"))?;
    hold(ward.everything() == after, "the second repair has changed something".into())
}

#[test]
fn every_code_of_the_program_is_injected_or_named_as_a_note() {
    let notes = ["data.none", "data.unclean", "data.journal-tail", "data.unknown-key", "data.rebuild", "host.root", "claims.none"];
    // Made by hand elsewhere in these tests.
    let elsewhere = [
        "data.entry",
        "data.journal-damaged",
        "journal.open",
        "books.volumes",
        "domains.unfiltered",
        "disks.unreadable",
        "claims.unreadable",
        "pools.unmounted",
        "host.libvirt",
        "host.identity",
    ];
    for code in super::safety::codes_in_source() {
        let known = CASES.iter().any(|case| case.0 == code) || notes.contains(&code.as_str()) || elsewhere.contains(&code.as_str());
        assert!(known, "no test injects {code}");
    }
}
