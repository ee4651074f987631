//! What the doctor must not do, and what it says when it can't look.

use std::collections::BTreeSet;

use super::*;
use crate::host::sim::Operation;
use crate::host::{DiskImage, ErrorKind};

/// Every code that the checks give.
pub(super) fn codes_in_source() -> BTreeSet<String> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doctor/checks");
    let mut codes = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for word in text.split('"').skip(1).step_by(2) {
            let (area, kind) = word.split_once('.').unwrap_or_default();
            let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if Area::ALL.iter().any(|known| known.name() == area) && plain(kind) {
                codes.insert(word.to_owned());
            }
        }
    }
    assert!(codes.len() > 50, "{codes:?}");
    codes
}

#[test]
fn every_code_stands_in_the_document() {
    let text = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md")).unwrap();
    for code in codes_in_source() {
        assert!(text.contains(&format!("`{code}`")), "docs/doctor.md does not tell what {code} is");
    }
}

#[tokio::test]
async fn without_libvirt_the_rest_is_looked_at_and_nothing_is_repaired_blindly() {
    let ward = Ward::new().await;
    ward.edit(|books| drop(books.network.resources.remove(&id(ONE))));
    let sources = Sources { libvirt: Err("connection refused".into()), ..ward.sources() };
    let findings = examine(&sources, &ward.platform, &ward.expectation).await;
    let codes: Vec<&str> = findings.found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["host.libvirt", "books.assignment"]);
    let blind: Vec<Area> = findings.blind.iter().map(|blind| blind.area).collect();
    assert_eq!(blind, [Area::Pools, Area::Domains, Area::Filters]);
}

#[tokio::test]
async fn a_home_without_data_is_ready_for_its_first_start() {
    let ward = Ward::new().await;
    let empty = tempfile::tempdir().unwrap();
    let data = empty.path().join("data");
    let sources = Sources { data: &data, ..ward.sources() };
    let findings = examine(&sources, &ward.platform, &ward.expectation).await;
    // Guests of somebody are there, but without books no pool is known to be ours: only their filters tell.
    let expected = ["data.none", "domains.unknown", "domains.unknown", "domains.unknown"];
    assert_eq!(findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), expected);
    assert!(findings.blind.is_empty() && !data.exists());
}

#[tokio::test]
async fn a_lost_data_file_stops_every_comparison() {
    let ward = Ward::new().await;
    fs::write(ward.path("instance.data"), "garbage").unwrap();
    let before = ward.everything();
    let (deeds, findings) = ward.repair().await;
    assert!(deeds.is_empty());
    let codes: Vec<&str> = findings.found.iter().filter(|finding| finding.weight == Weight::Drift).map(|finding| finding.code).collect();
    assert!(
        codes.contains(&"data.damaged") && !codes.iter().any(|code| code.starts_with("disks.") || code.starts_with("domains.")),
        "{codes:?}"
    );
    assert_eq!(ward.everything().0, before.0);
    assert!(findings.blind.iter().any(|blind| blind.area == Area::Disks));
}

#[tokio::test]
async fn what_may_belong_to_an_unreadable_entry_is_left_alone() {
    let ward = Ward::new().await;
    let text = fs::read_to_string(ward.path("instance.data")).unwrap();
    fs::write(ward.path("instance.data"), text.replacen("\"cores\": 1", "\"cores\": \"one\"", 1)).unwrap();
    let before = ward.everything();
    let (deeds, findings) = ward.repair().await;
    assert!(deeds.is_empty(), "{deeds:#?}");
    assert!(findings.found.iter().any(|finding| finding.code == "data.entry"));
    for finding in findings.found.iter().filter(|finding| ["disks", "domains", "books"].contains(&finding.area().name())) {
        assert!(finding.remedy.text().contains("may belong to that"), "{finding:#?}");
    }
    assert_eq!(ward.everything(), before);
}

#[tokio::test(start_paused = true)]
async fn what_a_running_service_is_in_the_middle_of_is_no_drift() {
    let mut ward = Ward::new().await;
    ward.running = true;
    let extra = format!("{}_sys.qcow2", id(9));
    ward.sim.change(|state| {
        state.directories.get_mut(LOCAL).unwrap().insert(extra.clone(), MIB);
    });
    ward.sim.change(|state| state.domains.get_mut(&id(TWO)).unwrap().autostart = false);
    let (sim, look) = (ward.sim.clone(), ward.examine());
    let finish = async {
        sleep(PAUSE / 2).await;
        sim.change(|state| {
            state.directories.get_mut(LOCAL).unwrap().remove(&extra);
        });
    };
    let (findings, ()) = tokio::join!(look, finish);
    let codes: Vec<&str> = findings.found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["domains.autostart"]);
}

#[tokio::test]
async fn a_repair_that_fails_is_told_with_its_reason_and_the_others_go_on() {
    let ward = Ward::new().await;
    ward.sim.undefine_behind(id(ONE));
    ward.sim.change(|state| state.domains.get_mut(&id(TWO)).unwrap().autostart = false);
    ward.sim.fail_next(Operation::Define, ErrorKind::NoSpace);
    let (deeds, left) = ward.repair().await;
    let outcome: Vec<(&str, bool)> = deeds.iter().map(|deed| (deed.finding.code, deed.failure.is_none())).collect();
    assert_eq!(outcome, [("domains.missing", false), ("domains.autostart", true)]);
    assert!(deeds[0].failure.as_ref().unwrap().contains("Define"), "{deeds:#?}");
    assert_eq!(left.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["domains.missing"]);
    assert!(ward.repair().await.1.found.is_empty());
}

#[tokio::test]
async fn of_two_lists_of_disks_the_one_that_the_domain_uses_counts() {
    let ward = Ward::new().await;
    let right = ward.books().instance.instances[1].storage_volumes.clone();
    ward.edit_guest(TWO, |guest| drop(guest.storage_volumes.pop()));
    let findings = ward.examine().await;
    let codes: Vec<&str> = findings.found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["books.volumes", "domains.disks"]);
    assert!(ward.repair().await.1.found.is_empty());
    assert_eq!(ward.books().instance.instances[1].storage_volumes, right);
}

#[tokio::test]
async fn the_domains_mac_goes_into_the_books_and_the_filter() {
    let ward = Ward::new().await;
    let mac = "00:16:3e:99:99:99";
    ward.sim.change(|state| state.domains.get_mut(&id(TWO)).unwrap().config.hardware_address = mac.to_uppercase());
    assert!(ward.repair().await.1.found.is_empty());
    let books = ward.books();
    assert_eq!(books.instance.instances[1].hardware_address, mac);
    assert_eq!(books.network.resources[&id(TWO)].hardware_address, mac);
}

#[tokio::test]
async fn an_image_that_cannot_be_read_and_a_damaged_name_are_told() {
    let ward = Ward::new().await;
    ward.sim.fail_next(Operation::InspectDisk, ErrorKind::Failed);
    let findings = ward.examine().await;
    assert_eq!(findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["disks.unreadable"]);
    fs::write(ward.path("identity.json"), r#"{"name": "../x"}"#).unwrap();
    let findings = ward.examine().await;
    assert_eq!(findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["host.identity"]);
    assert_eq!(findings.blind.iter().map(|blind| blind.area).collect::<Vec<_>>(), [Area::Claims]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_file_server_is_one_finding() {
    let ward = Ward::new().await;
    ward.share.set_dead(true);
    let findings = ward.examine().await;
    assert_eq!(findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["pools.unmounted"]);
}

#[tokio::test]
async fn files_of_other_nodes_guests_on_a_shared_pool_are_theirs() {
    let ward = Ward::new().await;
    let guest = id(8);
    let config = GuestConfig { storage_pool: "nas".into(), ..blank(guest, "group.theirs") };
    ward.share.change(|state| {
        state.volumes.insert(format!("{guest}_sys.qcow2"), MIB);
        state.volumes.insert(format!("{guest}_sys.qcow2.new"), MIB);
        state.guests.insert(guest, SharedGuest { config, volumes: VolumeGroup::default() });
        state.claims.insert(guest, Claim { owner: "Cell_other".into(), generation: 1, ..Claim::default() });
    });
    let findings = ward.examine().await;
    assert!(findings.found.is_empty(), "{findings:#?}");
    ward.share.change(|state| drop(state.guests.remove(&guest)));
    let left = ward.examine().await.found;
    let codes: Vec<&str> = left.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["disks.unknown"], "nobody describes it any more; what is unfinished may be in another node's hands");
}

#[tokio::test]
async fn images_that_others_are_based_on_are_never_offered_for_removal() {
    let ward = Ward::new().await;
    let (below, disk) = (format!("{LOCAL}/{}_lost_sys.qcow2", id(TWO)), format!("{LOCAL}/{}_sys.qcow2", id(TWO)));
    ward.sim.change(|state| {
        state.directories.get_mut(LOCAL).unwrap().insert(below.rsplit('/').next().unwrap().into(), 64 * MIB);
        state.layers.entry(disk).or_default().backing = Some(below.clone());
    });
    let findings = ward.examine().await;
    let codes: Vec<&str> = findings.found.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["disks.backing", "disks.unlisted"]);
    assert!(findings.found.iter().all(|finding| !finding.remedy.text().contains("rm ")), "{findings:#?}");
    let image: DiskImage = ward.host.disks.inspect(&below).await.unwrap();
    assert_eq!(image.capacity, 64 * MIB);
}

#[tokio::test]
async fn what_libvirt_does_not_tell_is_not_taken_for_good() {
    for (operation, area) in [
        (Operation::Held, Area::Domains),
        (Operation::FilterState, Area::Filters),
        (Operation::Pools, Area::Pools),
        (Operation::Definitions, Area::Domains),
    ] {
        let ward = Ward::new().await;
        ward.sim.fail_next(operation, ErrorKind::Unknown);
        let findings = ward.examine().await;
        assert!(findings.found.is_empty(), "{operation:?}: {findings:#?}");
        assert_eq!(findings.blind.iter().map(|blind| blind.area).collect::<Vec<_>>(), [area], "{operation:?}");
    }
}

#[tokio::test]
async fn a_claim_that_cannot_be_read_is_told() {
    let ward = Ward::new().await;
    ward.sim.fail_next(Operation::Claim, ErrorKind::Invalid);
    let findings = ward.examine().await;
    assert_eq!(findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["claims.unreadable"]);
}

/// What a crash has left half done is the service's to end; to a comparison it would look like drifts of all kinds.
#[tokio::test]
async fn open_records_of_the_journal_are_told_and_stop_every_comparison() {
    let ward = Ward::new().await;
    let (bytes, codes) =
        (ward.path("journal.data"), |findings: &Findings| findings.found.iter().map(|finding| finding.code).collect::<Vec<_>>());
    let line = |number: u64| {
        let intent = r#"{"what":"CreateGuestRequest","guests":[],"course":"back","steps":[{"about":"volume x","data":{"step":"?"}}]}"#;
        let json = format!(r#"{{"v":1,"n":{number},"entry":{{"begin":{{"since":"2026-01-02 03:04:05","intent":{intent}}}}}}}"#);
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
    };
    fs::write(&bytes, line(1)).unwrap();
    fs::set_permissions(&bytes, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(ward.path("storage.data.tmp"), "{").unwrap();
    let before = fs::read(&bytes).unwrap();
    let (deeds, findings) = ward.repair().await;
    assert_eq!(deeds.len(), 1, "only what has nothing to do with it: {deeds:?}");
    assert_eq!(codes(&findings), ["journal.open"]);
    assert!(findings.found[0].what.contains("volume x") && findings.found[0].remedy.text().contains("takes it back"));
    assert!(findings.blind.iter().any(|blind| blind.area == Area::Disks && blind.reason.contains("start the service once")));
    assert_eq!(fs::read(&bytes).unwrap(), before);

    fs::write(&bytes, format!("garbage\n{}half a li", line(2))).unwrap();
    let findings = ward.examine().await;
    assert_eq!(codes(&findings), ["data.journal-damaged", "data.journal-tail", "journal.open"]);
}
