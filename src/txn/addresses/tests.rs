use std::time::Duration;

use tokio::time::Instant;

use super::detect::Detector;
use super::*;
use crate::host::sim::{Operation, SimHost, SimShare};
use crate::host::{Bridge, ErrorKind, Neighbour};
use crate::txn::testing::{about, create_request, pair, start_request, stop_request, Rig, LINK};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

fn pool_changed(mode: &str) -> Message {
    Message::new(MessageId::ADDRESS_POOL_CHANGED_EVENT)
        .string(Key::Address, "net0")
        .string(Key::Gateway, "10.0.0.1")
        .string(Key::Mode, mode)
        .strings(Key::Server, ["10.0.0.2".to_owned()])
}

async fn change_pool(rig: &mut Rig, message: Message) {
    rig.engine.request(LINK, message);
    rig.settle().await;
}

fn request(number: u8) -> Message {
    let id = GuestId::from_bytes([number; 16]);
    create_request(id, &format!("group.guest{number}"))
        .strings(Key::Address, [format!("10.0.0.{number}/24"), String::new()])
        .strings(Key::Module, ["qemu".to_owned(), "cloud-init".to_owned()])
}

/// A guest with an assigned address 10.0.0.<number>, an agent and cloud-init.
async fn with_guest(rig: &mut Rig, number: u8) -> (GuestId, Mac) {
    let answer = rig.ask(request(number)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    rig.take_host_events().await;
    rig.sent();
    let id = GuestId::from_bytes([number; 16]);
    (id, parse_mac(&rig.node.books.guest(id).unwrap().config.hardware_address).unwrap())
}

async fn start(rig: &mut Rig, id: GuestId) {
    assert!(rig.ask(start_request(id)).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    rig.sent();
}

/// The address changes told since the last look; nothing else may have been.
fn told(rig: &Rig) -> Vec<(String, String)> {
    let sent = rig.sent();
    assert!(sent.iter().all(|message| message.id == MessageId::ADDRESS_CHANGED_EVENT && message.from == 0 && message.to == 0), "{sent:?}");
    sent.into_iter().map(|message| (message.string_params[&Key::Instance].clone(), message.string_params[&Key::Address].clone())).collect()
}

fn interfaces(mac: Mac, addresses: &[&str]) -> String {
    let mac = mac.map(|byte| format!("{byte:02X}")).join(":");
    let addresses: Vec<_> =
        addresses.iter().map(|address| serde_json::json!({"ip-address-type": "ipv4", "ip-address": address, "prefix": 24})).collect();
    serde_json::json!({"return": [
        {"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}], "hardware-address": "00:00:00:00:00:00"},
        {"name": "docker0", "hardware-address": "02:42:00:00:00:01", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "172.17.0.1", "prefix": 16}]},
        {"name": "eth0", "hardware-address": mac, "ip-addresses": addresses},
        {"name": "down0"},
    ]})
    .to_string()
}

#[tokio::test(start_paused = true)]
async fn dhcp_serves_the_guests_of_a_dhcp_pool_and_follows_its_changes_at_once() {
    let mut rig = Rig::new().await;
    let (id, mac) = with_guest(&mut rig, 5).await;
    let book = GuestNetwork::new(rig.node.clone());
    let find = |mac| Assignments::find(&book, mac);
    assert_eq!(find(mac), None, "no address pool");
    change_pool(&mut rig, pool_changed("dhcp")).await;
    let expected = Assignment {
        guest: id,
        hostname: "guest5".into(),
        address: Ipv4Addr::new(10, 0, 0, 5),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        dns: vec![Ipv4Addr::new(10, 0, 0, 2)],
    };
    assert_eq!(find(mac), Some(expected.clone()));
    assert_eq!(find([0x52, 0x54, 0, 1, 2, 3]), None);
    change_pool(&mut rig, pool_changed("dhcp").string(Key::Gateway, "10.0.0.254").strings(Key::Server, [])).await;
    assert_eq!(find(mac), Some(Assignment { gateway: Ipv4Addr::new(10, 0, 0, 254), dns: Vec::new(), ..expected }));
    change_pool(&mut rig, pool_changed("cloudinit")).await;
    assert_eq!(find(mac), None, "§14 E12: not in cloud-init mode");
    change_pool(&mut rig, pool_changed("dhcp")).await;
    assert!(find(mac).is_some());
    for bad in ["", "10.0.0.5", "0.0.0.0/24", "10.0.0.5/33", "x/24"] {
        rig.node.books.lock().update(id, |config| config.internal_address = bad.into()).unwrap();
        assert_eq!(find(mac), None, "§14 E12: {bad:?} is offered to nobody");
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_address_is_told_at_once_and_only_once() {
    let mut rig = Rig::new().await;
    let (id, _) = with_guest(&mut rig, 5).await;
    let book = GuestNetwork::new(rig.node.clone());
    let acknowledged = |address| News::Acknowledged { guest: id, address };
    book.heard(acknowledged(OTHER));
    assert_eq!(told(&rig), [], "a stopped guest has no address");
    start(&mut rig, id).await;
    book.heard(acknowledged(OTHER));
    assert_eq!(told(&rig), [(id.to_string(), OTHER.to_string())]);
    book.heard(acknowledged(OTHER));
    assert_eq!(told(&rig), [], "a renewal is no news");
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert_eq!(status.string_params[&Key::Address], OTHER.to_string());
    // §14 D3: it does not survive a stop, and no empty address is told.
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    rig.sent();
    assert_eq!(rig.node.books.guest(id).unwrap().address, None);
    start(&mut rig, id).await;
    book.heard(acknowledged(OTHER));
    assert_eq!(told(&rig).len(), 1, "told again after the next start");
    for news in [
        News::Declined { guest: id, address: OTHER },
        News::Unsent { guest: id, reason: "x".into() },
        News::Refused { guest: id, wanted: OTHER, assigned: OTHER },
    ] {
        book.heard(news);
    }
    assert_eq!(told(&rig), []);
}

#[tokio::test(start_paused = true)]
async fn the_agent_is_asked_every_30_s_and_every_2_min_once_it_answered() {
    let mut rig = Rig::new().await;
    let (id, mac) = with_guest(&mut rig, 5).await;
    start(&mut rig, id).await;
    let mut detector = Detector::new(rig.node.clone());
    let begun = Instant::now();
    let asked = |rig: &Rig| rig.sim.operations();
    detector.look(begun).await;
    assert_eq!(told(&rig), [], "§14 D3: nothing found is not told");
    let before = asked(&rig);
    detector.look(begun + Duration::from_secs(29)).await;
    assert_eq!(asked(&rig), before);
    rig.sim.set_agent_answer(id, "guest-network-get-interfaces", &interfaces(mac, &["169.254.1.1", "10.0.0.7"]));
    detector.look(begun + Duration::from_secs(30)).await;
    assert_eq!(told(&rig), [(id.to_string(), "10.0.0.7".to_owned())]);
    rig.sim.set_agent_answer(id, "guest-network-get-interfaces", &interfaces(mac, &["10.0.0.8"]));
    detector.look(begun + Duration::from_secs(149)).await;
    assert_eq!(told(&rig), []);
    detector.look(begun + Duration::from_secs(150)).await;
    assert_eq!(told(&rig), [(id.to_string(), "10.0.0.8".to_owned())]);
    // The assigned address counts for more than its neighbours on the same interface.
    rig.sim.set_agent_answer(id, "guest-network-get-interfaces", &interfaces(mac, &["10.0.0.8", "10.0.0.5"]));
    detector.look(begun + Duration::from_secs(300)).await;
    assert_eq!(told(&rig), [(id.to_string(), "10.0.0.5".to_owned())]);
    for nonsense in ["", "{}", "{\"return\":7}", "{\"return\":[{\"hardware-address\":7}]}"] {
        rig.sim.set_agent_answer(id, "guest-network-get-interfaces", nonsense);
        detector.look(begun + Duration::from_secs(3000)).await;
        assert_eq!(told(&rig), [], "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn guests_without_an_agent_are_found_by_their_mac() {
    let mut rig = Rig::new().await;
    let (id, mac) = with_guest(&mut rig, 5).await;
    start(&mut rig, id).await;
    let mut detector = Detector::new(rig.node.clone());
    let begun = Instant::now();
    let stranger = Neighbour { address: OTHER, mac: [0x52, 0x54, 0, 1, 2, 3] };
    rig.sim.set_neighbours(vec![stranger]);
    // It has said nothing since the bridge looked: asking for its assigned address makes it known.
    rig.sim.set_quiet_neighbours(vec![Neighbour { address: Ipv4Addr::new(10, 0, 0, 5), mac }]);
    detector.look(begun).await;
    assert_eq!(told(&rig), []);
    detector.look(begun + Duration::from_secs(30)).await;
    assert_eq!(told(&rig), [(id.to_string(), "10.0.0.5".to_owned())]);
    rig.sim.set_neighbours(vec![stranger]);
    rig.sim.fail_next(Operation::Neighbours, ErrorKind::Failed);
    for round in 2..5 {
        detector.look(begun + Duration::from_secs(200 * round)).await;
    }
    assert_eq!(told(&rig), [], "a silent guest keeps its address");
    assert_eq!(rig.node.books.guest(id).unwrap().address, Some(Ipv4Addr::new(10, 0, 0, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_agent_holds_up_nobody_for_long() {
    let mut rig = Rig::new().await;
    let mut guests = Vec::new();
    for number in 1..=12 {
        let (id, mac) = with_guest(&mut rig, number).await;
        start(&mut rig, id).await;
        rig.sim.set_agent_answer(id, "guest-network-get-interfaces", &interfaces(mac, &[&format!("10.0.0.{number}")]));
        guests.push(id);
    }
    rig.sim.hang(guests[0]);
    let begun = Instant::now();
    Detector::new(rig.node.clone()).look(begun).await;
    assert!(begun.elapsed() <= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(told(&rig).len(), 11);
}

fn seed_path(id: GuestId) -> String {
    format!("/images/local0/{id}_ci.iso")
}

#[tokio::test(start_paused = true)]
async fn a_guest_with_cloud_init_has_a_seed_image_until_it_is_deleted() {
    let mut rig = Rig::new().await;
    let empty = rig.sim.state();
    let (id, _) = with_guest(&mut rig, 5).await;
    let config = rig.node.books.guest(id).unwrap().config;
    assert!(config.cloud_init_available && config.qemu_available && !config.initialized);
    assert_eq!((config.data_path.as_str(), config.auth_secret.reveal().len()), ("/opt/data", 10));
    assert_eq!(config.boot_image, seed_path(id));
    assert_eq!(rig.sim.state().domains[&id].config.boot_image, seed_path(id));
    let image = rig.sim.state().files[&seed_path(id)].clone();
    assert!(String::from_utf8_lossy(&image).contains(&format!("http://127.0.0.1:25469/latest/{id}/")));
    for file in ["instance.data", "storage.data"] {
        assert!(rig.files()[file].contains(&format!("\"boot_image\": \"{}\"", seed_path(id))), "{file}");
    }
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    assert_eq!(rig.sim.state(), empty);
}

#[tokio::test(start_paused = true)]
async fn a_create_with_cloud_init_that_fails_at_any_step_leaves_nothing() {
    let steps = {
        let mut rig = Rig::new().await;
        let before = rig.sim.operations();
        assert!(rig.ask(request(1)).await.success);
        rig.sim.operations() - before
    };
    for step in 1..=steps {
        for effect in [crate::host::sim::Effect::None, crate::host::sim::Effect::Done] {
            let mut rig = Rig::new().await;
            let (state, files) = (rig.sim.state(), rig.files());
            rig.sim.fail_at(step, crate::host::sim::Fault { kind: ErrorKind::Unknown, effect });
            assert!(!rig.ask(request(1)).await.success, "step {step} {effect:?}");
            rig.settle().await;
            assert_eq!((rig.sim.state(), rig.files()), (state, files), "step {step} {effect:?}");
            assert_eq!(rig.sent(), []);
            assert!(rig.ask(request(1)).await.success);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bad_cloud_init_parameters_are_refused() {
    let without = |key| {
        let mut message = request(1);
        message.string_params.remove(&key);
        message
    };
    let cases = [
        ("Secret(40)", without(Key::Secret)),
        ("Path(30)", without(Key::Path)),
        ("Secret(40)", request(1).string(Key::Secret, "a\nb")),
        ("Path(30)", request(1).string(Key::Path, "opt/data")),
        ("Path(30)", request(1).string(Key::Path, "/")),
        ("Path(30)", request(1).string(Key::Path, "/a/../b")),
        ("Path(30)", request(1).string(Key::Path, "/a\nb")),
        ("Admin(44)", request(1).string(Key::Admin, "a b")),
        ("Admin(44)", request(1).string(Key::Admin, "-x")),
    ];
    for (expected, request) in cases {
        let mut rig = Rig::new().await;
        let state = rig.sim.state();
        let answer = rig.ask(request).await;
        assert!(!answer.success && answer.error.contains(expected), "{expected}: {}", answer.error);
        assert_eq!(rig.sim.state(), state);
    }
}

fn move_node(sim: &SimHost, address: Ipv4Addr) {
    sim.set_bridge(Bridge { name: "br0".into(), index: 1, mac: [2, 0, 0, 0, 0, 1], address: Some(address) });
}

#[tokio::test(start_paused = true)]
async fn d22_the_seed_image_follows_the_cells_address_and_the_pools_mode() {
    let mut rig = Rig::new().await;
    let (id, _) = with_guest(&mut rig, 5).await;
    let image = |rig: &Rig| String::from_utf8_lossy(&rig.sim.state().files[&seed_path(id)]).into_owned();
    move_node(&rig.sim, Ipv4Addr::new(10, 0, 0, 200));
    start(&mut rig, id).await;
    assert!(image(&rig).contains("http://10.0.0.200:25469/"));
    // Guests that libvirt starts by itself, too.
    move_node(&rig.sim, Ipv4Addr::new(10, 0, 0, 201));
    GuestNetwork::new(rig.node.clone()).serving(Ipv4Addr::new(10, 0, 0, 201)).await;
    assert!(image(&rig).contains("http://10.0.0.201:25469/"));
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    change_pool(&mut rig, pool_changed("cloudinit")).await;
    start(&mut rig, id).await;
    assert!(image(&rig).contains("\"address\": \"10.0.0.5/24\""), "the network comes with the image");
    // An image that can't be renewed does not keep the guest from starting.
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    rig.sim.fail_next(Operation::WriteFile, ErrorKind::NoSpace);
    start(&mut rig, id).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_pool_is_asked_once_for_all_its_seed_images_and_nobody_waits_for_it() {
    let share = SimShare::new();
    let mut rig = pair::with_export("Cell_a", &share).await;
    let (local, _) = with_guest(&mut rig, 99).await;
    assert!(rig.ask(pair::ready_request(pair::POOL)).await.success);
    rig.settle().await;
    for number in 1..=40 {
        with_guest(&mut rig, number).await;
    }
    rig.sim.set_deadline(Duration::from_secs(8));
    share.set_dead(true);
    move_node(&rig.sim, Ipv4Addr::new(10, 0, 0, 201));
    let begun = Instant::now();
    let (network, renewed) = (GuestNetwork::new(rig.node.clone()), || rig.sim.state().files[&seed_path(local)].clone());
    let renewal = network.serving(Ipv4Addr::new(10, 0, 0, 201));
    let early = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        String::from_utf8_lossy(&renewed()).contains("http://10.0.0.201:25469/")
    };
    let ((), early) = tokio::join!(renewal, early);
    assert!(early, "the other pool does not wait");
    assert!(begun.elapsed() < Duration::from_secs(9), "one guest's time, not forty's: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn delivered_user_data_is_written_down() {
    let mut rig = Rig::new().await;
    let (id, _) = with_guest(&mut rig, 5).await;
    let plain = rig.with_guest(6).await;
    let guests = GuestNetwork::new(rig.node.clone());
    let find = |id| Instances::find(&guests, id);
    assert!(find(plain).is_none(), "a guest without cloud-init has no documents");
    assert!(!find(id).unwrap().config.initialized);
    guests.delivered(id).await;
    assert!(find(id).unwrap().config.initialized);
    assert!(rig.files()["instance.data"].contains("\"initialized\": true"));
}
