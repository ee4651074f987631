//! libvirtd that goes and comes back, QEMU that hangs.

use std::collections::HashSet;

use cell::host::libvirt::{Libvirt, LibvirtConfig};
use cell::host::{Change, ErrorKind, HostEvent, Hypervisor, Storage};
use cell::model::PowerState;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::lab::{power, wait_for, Daemon, Lab, DISK, POOL};

/// A process that does not run until this is dropped; without it a test that fails would wait for its stuck calls for ever.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn after_a_restart_of_libvirtd_everything_works_again_and_guests_run_on() {
    let mut lab = Lab::new().await;
    let (guest, other) = (lab.running().await, lab.running().await);
    let qemu = lab.qemu(&guest);
    lab.libvirt.sample(guest.id).await.unwrap();

    let daemon = Daemon::find();
    daemon.stop().await;
    lab.expect(|event| matches!(event, HostEvent::Disconnected(_))).await;
    let error = lab.libvirt.domains().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    // One of the two ends while nobody watches: only the list can tell.
    kill(lab.qemu(&other), Signal::SIGKILL).unwrap();
    daemon.start();
    let HostEvent::Connected(domains) = lab.expect(|event| matches!(event, HostEvent::Connected(_))).await else { unreachable!() };
    let state = |id| domains.iter().find(|domain| domain.id == id).unwrap().power;
    assert_eq!(state(guest.id), PowerState::Running);
    if state(other.id) == PowerState::Running {
        // libvirtd listed it before it noticed, and sends no event when it does.
        lab.expect(|event| *event == power(other.id, PowerState::Stopped)).await;
    }
    assert_eq!(lab.qemu(&guest), qemu);
    lab.libvirt.sample(guest.id).await.unwrap();
    let third = lab.running().await;
    lab.libvirt.create_volume(POOL, "later.qcow2", DISK).await.unwrap();
    lab.libvirt.delete_volume(POOL, "later.qcow2").await.unwrap();
    lab.told(&["destroy", &third.name]);
    lab.expect(|event| *event == power(third.id, PowerState::Stopped)).await;
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_guest_that_hangs_holds_up_only_itself_and_can_be_ended() {
    let mut lab = Lab::new().await;
    let mut hanging = Vec::new();
    for _ in 0..6 {
        hanging.push(lab.running().await);
    }
    let healthy = lab.running().await;
    let stopped: Vec<_> = hanging.iter().map(|guest| Stopped::new(lab.qemu(guest))).collect();
    // More calls than libvirtd works on for one connection, all stuck.
    let stuck = futures_util::future::join_all(hanging.iter().map(|guest| lab.libvirt.sample(guest.id))).await;
    for result in stuck {
        assert_eq!(result.unwrap_err().kind, ErrorKind::Unknown);
    }
    let error = lab.libvirt.shutdown(hanging[0].id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("force"), "{error}");

    lab.libvirt.sample(healthy.id).await.unwrap();
    lab.libvirt.reset(healthy.id).await.unwrap();
    let new = lab.running().await;
    assert_eq!(lab.libvirt.domain(hanging[0].id).await.unwrap().power, PowerState::Running);
    assert!(lab.libvirt.domains().await.unwrap().iter().any(|domain| domain.id == hanging[0].id && domain.power == PowerState::Running));
    lab.libvirt.destroy(new.id).await.unwrap();

    let ended = futures_util::future::join_all(hanging.iter().map(|guest| lab.libvirt.destroy(guest.id))).await;
    assert!(ended.into_iter().all(|result| result.unwrap() == Change::Changed));
    drop(stopped);
    let mut left: HashSet<_> = hanging.iter().map(|guest| guest.id).collect();
    while !left.is_empty() {
        let HostEvent::Power { id, .. } = lab.expect(|event| matches!(event, HostEvent::Power { power: PowerState::Stopped, .. })).await
        else {
            unreachable!()
        };
        left.remove(&id);
    }
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_hanging_guest_is_killed_without_being_woken() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    let pid = lab.qemu(&guest);
    let _stopped = Stopped::new(pid);
    assert_eq!(lab.libvirt.sample(guest.id).await.unwrap_err().kind, ErrorKind::Unknown);
    lab.libvirt.destroy(guest.id).await.unwrap();
    wait_for(|| kill(pid, None).is_err()).await;
    lab.expect(|event| *event == power(guest.id, PowerState::Stopped)).await;
    lab.libvirt.start(guest.id).await.unwrap();
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_libvirtd_that_hangs_makes_calls_unknown_and_is_used_again_when_it_goes_on() {
    let lab = Lab::new().await;
    let stopped = Stopped::new(Daemon::find().pid());
    let error = lab.libvirt.domains().await.unwrap_err();
    drop(stopped);
    assert_eq!(error.kind, ErrorKind::Unknown, "{error}");
    lab.libvirt.domains().await.unwrap();
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt's client library only, but stands with the tests of the real libvirt"]
async fn a_first_connection_that_fails_names_the_uri_and_what_to_do() {
    let config = LibvirtConfig { uri: "qemu+unix:///system?socket=/nowhere/libvirt-sock".into(), ..LibvirtConfig::default() };
    let error = Libvirt::connect(config).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("/nowhere/libvirt-sock") && text.contains("libvirtd"), "{text}");
    assert!(error.source.is_some());
}
