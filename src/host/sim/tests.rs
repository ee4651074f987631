use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::host::{Change, DomainStatus, ErrorKind, HostError, Hypervisor, Network, Storage};
use crate::model::GuestConfig;

const GIB: u64 = 1 << 30;

fn guest(number: u8) -> GuestConfig {
    let id = GuestId::from_bytes([number; 16]);
    serde_json::from_value(json!({
        "name": format!("m.g{number}"), "id": id, "cores": 2, "memory": GIB, "disks": [GIB], "monitor_port": 5900 + u16::from(number),
        "storage_pool": "local0", "storage_volumes": [format!("{id}_sys.qcow2")],
    }))
    .unwrap()
}

/// A host with pool `local0` and guests 1..=`count`, defined and with their volumes.
async fn host_with(count: u8) -> SimHost {
    let sim = SimHost::new();
    sim.ensure_local_pool("local0", "/images/local0").await.unwrap();
    for number in 1..=count {
        create(&sim, number).await.unwrap();
    }
    sim
}

async fn create(sim: &SimHost, number: u8) -> crate::host::Result<()> {
    let guest = guest(number);
    sim.create_volume("local0", &guest.storage_volumes[0], GIB).await?;
    sim.define(&guest).await
}

fn kind<T: std::fmt::Debug>(result: Result<T, HostError>) -> ErrorKind {
    result.unwrap_err().kind
}

fn id(number: u8) -> GuestId {
    guest(number).id
}

#[tokio::test]
async fn a_guest_lives_as_under_libvirt() {
    let sim = host_with(0).await;
    let empty = sim.state();
    create(&sim, 1).await.unwrap();
    sim.define(&guest(1)).await.unwrap();
    assert_eq!(sim.start(id(1)).await.unwrap(), Change::Changed);
    assert_eq!(sim.start(id(1)).await.unwrap(), Change::Unchanged);
    let status = DomainStatus { id: id(1), name: "m.g1".into(), power: PowerState::Running, autostart: false };
    assert_eq!(sim.domain(id(1)).await.unwrap(), status);
    assert_eq!(sim.domains().await.unwrap(), [status]);
    assert_eq!(sim.set_autostart(id(1), true).await.unwrap(), Change::Changed);
    assert_eq!(sim.set_autostart(id(1), true).await.unwrap(), Change::Unchanged);
    sim.reboot(id(1)).await.unwrap();
    sim.reset(id(1)).await.unwrap();
    assert_eq!(kind(sim.undefine(id(1)).await), ErrorKind::Busy);
    assert_eq!(sim.destroy(id(1)).await.unwrap(), Change::Changed);
    assert_eq!(sim.destroy(id(1)).await.unwrap(), Change::Unchanged);
    assert_eq!(sim.undefine(id(1)).await.unwrap(), Change::Changed);
    assert_eq!(sim.undefine(id(1)).await.unwrap(), Change::Unchanged);
    assert_ne!(sim.state(), empty);
    let volume = &guest(1).storage_volumes[0];
    assert_eq!(sim.delete_volume("local0", volume).await.unwrap(), Change::Changed);
    assert_eq!(sim.delete_volume("local0", volume).await.unwrap(), Change::Unchanged);
    assert_eq!(sim.state(), empty);
}

#[tokio::test]
async fn errors_are_those_of_libvirt() {
    let sim = host_with(1).await;
    for result in
        [sim.start(id(9)).await, sim.destroy(id(9)).await, sim.set_autostart(id(9), true).await, sim.update_filter(&guest(9)).await]
    {
        assert_eq!(kind(result), ErrorKind::NotFound);
    }
    for result in [sim.shutdown(id(9)).await, sim.reboot(id(9)).await, sim.reset(id(9)).await] {
        assert_eq!(kind(result), ErrorKind::NotFound);
    }
    for result in [sim.shutdown(id(1)).await, sim.reboot(id(1)).await, sim.reset(id(1)).await] {
        assert_eq!(kind(result), ErrorKind::Busy);
    }
    assert_eq!(kind(sim.domain(id(9)).await), ErrorKind::NotFound);
    assert_eq!(kind(sim.sample(id(1)).await), ErrorKind::Busy);
    assert_eq!(kind(sim.define(&GuestConfig { cores: 9, ..guest(1) }).await), ErrorKind::Exists);
    assert_eq!(kind(sim.define(&GuestConfig { name: "m.g1".into(), ..guest(2) }).await), ErrorKind::Exists);
    assert_eq!(kind(sim.define(&GuestConfig { cores: 0, ..guest(2) }).await), ErrorKind::Invalid);
    assert_eq!(kind(sim.create_volume("local0", &guest(1).storage_volumes[0], GIB).await), ErrorKind::Exists);
    assert_eq!(kind(sim.create_volume("nowhere", "a", GIB).await), ErrorKind::NotFound);
    assert_eq!(kind(sim.create_volume("local0", "../a", GIB).await), ErrorKind::Invalid);
    assert_eq!(kind(sim.ensure_local_pool("local0", "/elsewhere").await), ErrorKind::Exists);
    assert_eq!(kind(sim.ensure_local_pool("p", "relative").await), ErrorKind::Invalid);
    sim.delete_volume("local0", &guest(1).storage_volumes[0]).await.unwrap();
    assert_eq!(kind(sim.start(id(1)).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn files_outlive_their_pool() {
    let sim = host_with(1).await;
    let before = sim.pool("local0").await.unwrap();
    assert_eq!(before.volumes.len(), 1);
    assert_eq!(sim.remove_pool("local0").await.unwrap(), Change::Changed);
    assert_eq!(sim.remove_pool("local0").await.unwrap(), Change::Unchanged);
    assert_eq!(kind(sim.pool("local0").await), ErrorKind::NotFound);
    let after = sim.ensure_local_pool("local0", "/images/local0").await.unwrap();
    assert_eq!(after.volumes, before.volumes);
    sim.delete_volume("local0", &guest(1).storage_volumes[0]).await.unwrap();
    sim.remove_pool("local0").await.unwrap();
    assert!(sim.state().directories.is_empty());
}

#[tokio::test]
async fn a_full_disk_takes_no_volume() {
    let sim = host_with(0).await;
    sim.set_disk_size(2 * VOLUME_OVERHEAD);
    create(&sim, 1).await.unwrap();
    create(&sim, 2).await.unwrap();
    assert_eq!(kind(create(&sim, 3).await), ErrorKind::NoSpace);
    sim.set_unreadable("/bad");
    let space = sim.space(&["/images".into(), "/bad/a".into()]).await;
    assert_eq!((space.free, space.total, space.unreadable.len()), (0, 2 * VOLUME_OVERHEAD, 1));
    assert_eq!(sim.space(&["/bad".into()]).await.total, 0);
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_happens() {
    let sim = host_with(1).await;
    let mut events = sim.take_events().unwrap();
    assert!(sim.take_events().is_none());
    let list = |running: bool| {
        let power = if running { PowerState::Running } else { PowerState::Stopped };
        HostEvent::Connected(vec![DomainStatus { id: id(1), name: "m.g1".into(), power, autostart: false }])
    };
    let power = |power| HostEvent::Power { id: id(1), power };
    assert_eq!(events.recv().await, Some(list(false)));
    sim.set_power_behind(id(1), true);
    assert_eq!(events.recv().await, Some(power(PowerState::Running)));
    sim.disconnect("libvirtd went away");
    sim.set_power_behind(id(1), false);
    assert_eq!(kind(sim.domains().await), ErrorKind::Unavailable);
    assert_eq!(kind(sim.pool("local0").await), ErrorKind::Unavailable);
    assert_eq!(sim.bridge().unwrap().name, "br0");
    assert_eq!(events.recv().await, Some(HostEvent::Disconnected("libvirtd went away".into())));
    sim.connect();
    assert_eq!(events.recv().await, Some(list(false)));
    create(&sim, 2).await.unwrap();
    assert_eq!(events.recv().await, Some(HostEvent::Defined(id(2))));
    sim.set_power_behind(id(1), true);
    sim.undefine_behind(id(1));
    assert_eq!(events.recv().await, Some(power(PowerState::Running)));
    assert_eq!(events.recv().await, Some(power(PowerState::Stopped)));
    assert_eq!(events.recv().await, Some(HostEvent::Undefined(id(1))));
    assert!(events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_guest_shuts_down_in_its_own_time() {
    let sim = host_with(1).await;
    sim.start(id(1)).await.unwrap();
    let mut events = sim.take_events().unwrap();
    events.recv().await.unwrap();
    sim.set_shutdown_time(Some(Duration::from_secs(5)));
    let asked = Instant::now();
    sim.shutdown(id(1)).await.unwrap();
    assert_eq!(sim.domain(id(1)).await.unwrap().power, PowerState::Running);
    assert_eq!(events.recv().await, Some(HostEvent::Power { id: id(1), power: PowerState::Stopped }));
    assert_eq!(asked.elapsed().as_secs(), 5);

    // One that was killed and started anew meanwhile is not taken down by the old request.
    sim.start(id(1)).await.unwrap();
    sim.shutdown(id(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.destroy(id(1)).await.unwrap();
    sim.start(id(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(sim.domain(id(1)).await.unwrap().power, PowerState::Running);

    sim.set_shutdown_time(None);
    sim.shutdown(id(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(sim.domain(id(1)).await.unwrap().power, PowerState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_guest_holds_up_only_itself() {
    let sim = host_with(2).await;
    sim.hang(id(1));
    sim.set_latency(Operation::Start, Duration::from_millis(300));
    let begun = Instant::now();
    sim.start(id(2)).await.unwrap();
    assert_eq!(begun.elapsed().as_millis(), 300);
    assert_eq!(sim.domain(id(1)).await.unwrap().power, PowerState::Stopped);
    assert_eq!(begun.elapsed().as_millis(), 300);
    assert_eq!(kind(sim.start(id(1)).await), ErrorKind::Unknown);
    assert_eq!(begun.elapsed().as_millis(), 10_300);

    let waiting = tokio::spawn({
        let sim = sim.clone();
        async move { sim.start(id(1)).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished());
    sim.release(id(1));
    assert_eq!(waiting.await.unwrap().unwrap(), Change::Changed);
    assert_eq!(begun.elapsed().as_millis(), 13_300);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_during_an_operation_leaves_it_unknown() {
    let sim = host_with(1).await;
    sim.set_latency(Operation::Start, Duration::from_secs(2));
    let start = tokio::spawn({
        let sim = sim.clone();
        async move { sim.start(id(1)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.disconnect("gone");
    assert_eq!(kind(start.await.unwrap()), ErrorKind::Unknown);
}

#[tokio::test]
async fn planned_faults_come_when_asked_for() {
    let sim = host_with(1).await;
    let before = sim.state();
    sim.fail_next(Operation::Start, ErrorKind::Failed);
    sim.fail_next(Operation::Start, Fault { kind: ErrorKind::Unknown, effect: Effect::Done });
    sim.fail_next(Operation::Bridge, ErrorKind::NotFound);
    sim.domain(id(1)).await.unwrap();
    assert_eq!(kind(sim.start(id(1)).await), ErrorKind::Failed);
    assert_eq!(sim.state(), before);
    assert_eq!(kind(sim.start(id(1)).await), ErrorKind::Unknown);
    assert_ne!(sim.state(), before);
    assert_eq!(kind(sim.bridge()), ErrorKind::NotFound);
    assert_eq!(sim.destroy(id(1)).await.unwrap(), Change::Changed);
    assert_eq!(sim.state(), before);
    sim.fail_at(1, ErrorKind::Failed);
    sim.clear_faults();
    sim.domains().await.unwrap();
}

#[tokio::test]
async fn every_step_can_be_made_to_fail() {
    let sim = host_with(0).await;
    let begun = sim.operations();
    create(&sim, 1).await.unwrap();
    sim.start(id(1)).await.unwrap();
    let steps = sim.operations() - begun;
    assert_eq!(steps, 3);
    for step in 1..=steps {
        let sim = host_with(0).await;
        sim.fail_at(step, ErrorKind::Failed);
        let mut done = 0;
        done += u64::from(create(&sim, 1).await.is_ok());
        done += u64::from(sim.start(id(1)).await.is_ok());
        assert!(done < 2, "step {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn figures_grow_with_time() {
    let sim = host_with(1).await;
    sim.start(id(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let sample = sim.sample(id(1)).await.unwrap();
    assert_eq!((sample.cpus, sample.cpu_time_ns), (2, 2_000_000_000));
    assert_eq!((sample.memory_available, sample.disk_available), (GIB / 2, GIB - VOLUME_OVERHEAD));
    assert_eq!((sample.disk_read, sample.net_sent), (10_000 << 10, 10_000 << 10));
}

#[tokio::test]
async fn a_slow_listener_gets_the_whole_list() {
    let sim = host_with(1).await;
    let mut events = sim.take_events().unwrap();
    for round in 0..EVENT_QUEUE {
        sim.set_power_behind(id(1), round % 2 == 0);
    }
    while events.try_recv().is_ok() {}
    sim.set_power_behind(id(1), true);
    assert!(matches!(events.try_recv(), Ok(HostEvent::Connected(list)) if list[0].power == PowerState::Running));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Start(u8),
    Destroy(u8),
    Undefine(u8),
    Behind(u8, bool),
    Vanish(u8),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u8..4).prop_map(Step::Create),
        (1_u8..4).prop_map(Step::Start),
        (1_u8..4).prop_map(Step::Destroy),
        (1_u8..4).prop_map(Step::Undefine),
        ((1_u8..4), any::<bool>()).prop_map(|(n, on)| Step::Behind(n, on)),
        (1_u8..4).prop_map(Step::Vanish),
        Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whoever follows the events alone knows the power of every domain.
    #[test]
    fn events_and_state_agree(steps in proptest::collection::vec(step(), 0..40)) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
            let sim = host_with(0).await;
            let mut events = sim.take_events().unwrap();
            for step in steps {
                match step {
                    Step::Create(n) => drop(create(&sim, n).await),
                    Step::Start(n) => drop(sim.start(id(n)).await),
                    Step::Destroy(n) => drop(sim.destroy(id(n)).await),
                    Step::Undefine(n) => drop(sim.undefine(id(n)).await),
                    Step::Behind(n, on) => sim.set_power_behind(id(n), on),
                    Step::Vanish(n) => sim.undefine_behind(id(n)),
                    Step::Reconnect => {
                        sim.disconnect("test");
                        sim.connect();
                    }
                }
            }
            let mut known = std::collections::BTreeMap::new();
            while let Ok(event) = events.try_recv() {
                match event {
                    HostEvent::Connected(list) => known = list.into_iter().map(|domain| (domain.id, domain.power)).collect(),
                    HostEvent::Disconnected(_) | HostEvent::Held(_) => {}
                    HostEvent::Power { id, power } => drop(known.insert(id, power)),
                    HostEvent::Undefined(id) => drop(known.remove(&id)),
                    HostEvent::Defined(id) => drop(known.entry(id).or_insert(PowerState::Stopped)),
                }
            }
            let state: std::collections::BTreeMap<_, _> = sim.state().domains.into_iter().map(|(id, domain)| (id, domain.power)).collect();
            assert_eq!(known, state);
        });
    }
}
