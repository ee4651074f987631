//! Packets from anybody on the bridge's segment: only a guest's own MAC is answered, with its own address or a refusal.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};

use cell::host::network::dhcp::answer;
use cell::host::{Assignment, Assignments, News};
use cell::model::address::Mac;
use cell::model::GuestId;
use libfuzzer_sys::fuzz_target;

const OWN: Mac = [0, 0x16, 0x3e, 1, 2, 3];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);

struct Book;

impl Assignments for Book {
    fn find(&self, mac: Mac) -> Option<Assignment> {
        (mac == OWN).then(|| Assignment {
            guest: GuestId::from_bytes([1; 16]),
            hostname: "vm1".into(),
            address: ADDRESS,
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            dns: vec![Ipv4Addr::new(10, 0, 0, 2)],
        })
    }

    fn heard(&self, _: News) {}
}

fuzz_target!(|packet: &[u8]| {
    let Some(answer) = answer(packet, NOBODY, || Some(Ipv4Addr::new(10, 0, 0, 9)), &Book) else { return };
    assert_eq!(packet[28..34], OWN);
    if let Some((reply, to)) = answer.reply {
        let given = Ipv4Addr::new(reply[16], reply[17], reply[18], reply[19]);
        assert!(given == ADDRESS || given.is_unspecified());
        assert_eq!(*to.ip(), Ipv4Addr::BROADCAST);
    }
});
