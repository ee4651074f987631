use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::host::{Assignment, Assignments, News};
use crate::model::address::Mac;
use crate::model::GuestId;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const OWN: Mac = [0, 0x16, 0x3e, 1, 2, 3];
const STRANGER: Mac = [0x52, 0x54, 0, 1, 2, 3];

#[derive(Default)]
pub(super) struct Book(pub(super) Mutex<Vec<News>>);

pub(super) fn assignment() -> Assignment {
    Assignment {
        guest: GuestId::from_bytes([1; 16]),
        hostname: "vm1".into(),
        address: Ipv4Addr::new(10, 0, 0, 50),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        dns: vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(8, 8, 8, 8)],
    }
}

impl Assignments for Book {
    fn find(&self, mac: Mac) -> Option<Assignment> {
        (mac == OWN).then(assignment)
    }

    fn heard(&self, news: News) {
        self.0.lock().push(news);
    }
}

fn message(mac: Mac, kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_chaddr(&mac).set_xid(0x1234_5678);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn with(mut message: Message, option: DhcpOption) -> Message {
    message.opts_mut().insert(option);
    message
}

fn from(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 68)
}

fn said(message: &Message, source: Ipv4Addr) -> Option<Answer> {
    answer(&message.to_vec().unwrap(), from(source), || Some(SERVER), &Book::default())
}

fn reply(message: &Message, source: Ipv4Addr) -> (Message, SocketAddrV4, Option<News>) {
    let answer = said(message, source).expect("an answer");
    let (bytes, to) = answer.reply.expect("a packet");
    assert!(bytes.len() >= 300);
    (Message::decode(&mut Decoder::new(&bytes)).unwrap(), to, answer.news)
}

fn check_grant(reply: &Message, kind: MessageType) {
    let options = reply.opts();
    assert_eq!(options.msg_type(), Some(kind));
    assert_eq!(reply.yiaddr(), assignment().address);
    assert_eq!((reply.xid(), reply.chaddr(), reply.htype()), (0x1234_5678, OWN.as_slice(), HType::Eth));
    assert_eq!(options.get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(43_200)));
    assert_eq!(options.get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    assert_eq!(options.get(OptionCode::SubnetMask), Some(&DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))));
}

#[test]
fn discover_is_offered_the_assigned_address() {
    let (offer, to, news) = reply(&message(OWN, MessageType::Discover), Ipv4Addr::UNSPECIFIED);
    check_grant(&offer, MessageType::Offer);
    assert_eq!(to, from(Ipv4Addr::BROADCAST));
    assert_eq!(offer.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![assignment().gateway])));
    assert_eq!(offer.opts().get(OptionCode::DomainNameServer), Some(&DhcpOption::DomainNameServer(assignment().dns)));
    assert_eq!(news, None, "an offer is not a lease");
}

#[test]
fn only_what_is_asked_for_is_told() {
    let asked = vec![OptionCode::Hostname, OptionCode::DomainNameServer];
    let discover = with(message(OWN, MessageType::Discover), DhcpOption::ParameterRequestList(asked));
    let client = DhcpOption::ClientIdentifier(vec![1, 2, 3]);
    let (offer, ..) = reply(&with(discover, client.clone()), Ipv4Addr::UNSPECIFIED);
    check_grant(&offer, MessageType::Offer);
    assert_eq!(offer.opts().get(OptionCode::Router), None);
    assert_eq!(offer.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("vm1".into())));
    assert_eq!(offer.opts().get(OptionCode::ClientIdentifier), Some(&client), "RFC 6842");
}

#[test]
fn e12_a_request_without_discover_is_acknowledged() {
    let acknowledged = Some(News::Acknowledged { guest: assignment().guest, address: assignment().address });
    let wanted = DhcpOption::RequestedIpAddress(assignment().address);
    // INIT-REBOOT, and SELECTING after a restart of the service.
    let reboot = with(message(OWN, MessageType::Request), wanted);
    for request in [reboot.clone(), with(reboot, DhcpOption::ServerIdentifier(SERVER))] {
        let (ack, to, news) = reply(&request, Ipv4Addr::UNSPECIFIED);
        check_grant(&ack, MessageType::Ack);
        assert_eq!((to, news), (from(Ipv4Addr::BROADCAST), acknowledged.clone()));
    }
    // RENEWING and REBINDING: the client has the address already and is written to.
    let mut renew = message(OWN, MessageType::Request);
    renew.set_ciaddr(assignment().address);
    let (ack, to, news) = reply(&renew, assignment().address);
    check_grant(&ack, MessageType::Ack);
    assert_eq!((ack.ciaddr(), to, news), (assignment().address, from(assignment().address), acknowledged));
    renew.set_flags(Flags::default().set_broadcast());
    assert_eq!(reply(&renew, assignment().address).1, from(Ipv4Addr::BROADCAST));
}

#[test]
fn a_wrong_address_is_refused_to_our_own_guest_only() {
    let wanted = Ipv4Addr::new(10, 0, 0, 51);
    let request = |mac| with(message(mac, MessageType::Request), DhcpOption::RequestedIpAddress(wanted));
    let (nak, to, news) = reply(&request(OWN), Ipv4Addr::UNSPECIFIED);
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
    assert_eq!((nak.yiaddr(), nak.opts().get(OptionCode::AddressLeaseTime)), (Ipv4Addr::UNSPECIFIED, None));
    assert_eq!(to, from(Ipv4Addr::BROADCAST));
    assert_eq!(news, Some(News::Refused { guest: assignment().guest, wanted, assigned: assignment().address }));
    assert_eq!(said(&request(STRANGER), Ipv4Addr::UNSPECIFIED), None);
}

#[test]
fn e12_strangers_and_other_servers_clients_meet_silence() {
    for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform, MessageType::Decline, MessageType::Release] {
        let mut stranger = with(message(STRANGER, kind), DhcpOption::RequestedIpAddress(assignment().address));
        assert_eq!(said(&stranger, Ipv4Addr::UNSPECIFIED), None, "{kind:?}");
        stranger.set_ciaddr(assignment().address);
        assert_eq!(said(&stranger, assignment().address), None, "{kind:?}");
    }
    let elsewhere = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 200));
    let request = with(message(OWN, MessageType::Request), DhcpOption::RequestedIpAddress(assignment().address));
    assert_eq!(said(&with(request, elsewhere), Ipv4Addr::UNSPECIFIED), None, "it chose another server");
    let mut relayed = message(OWN, MessageType::Discover);
    relayed.set_giaddr(Ipv4Addr::new(10, 9, 0, 1));
    assert_eq!(said(&relayed, Ipv4Addr::new(10, 9, 0, 1)), None, "it is not on our segment");
    let discover = message(OWN, MessageType::Discover).to_vec().unwrap();
    assert_eq!(
        answer(&discover, from(Ipv4Addr::UNSPECIFIED), || None, &Book::default()),
        None,
        "a bridge without an address serves nobody"
    );
    assert_eq!(said(&message(OWN, MessageType::Request), Ipv4Addr::UNSPECIFIED), None, "a request for nothing");
}

#[test]
fn inform_gets_the_options_and_no_lease() {
    let mut inform = message(OWN, MessageType::Inform);
    inform.set_ciaddr(Ipv4Addr::new(10, 0, 0, 77));
    let (ack, to, news) = reply(&inform, Ipv4Addr::new(10, 0, 0, 77));
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((ack.yiaddr(), ack.opts().get(OptionCode::AddressLeaseTime)), (Ipv4Addr::UNSPECIFIED, None));
    assert!(ack.opts().get(OptionCode::DomainNameServer).is_some());
    assert_eq!((to, news), (from(Ipv4Addr::new(10, 0, 0, 77)), None));
    assert_eq!(said(&inform, Ipv4Addr::new(10, 0, 0, 78)), None, "nobody else is written to on its word");
}

#[test]
fn release_changes_nothing_and_decline_is_told() {
    let mut release = message(OWN, MessageType::Release);
    release.set_ciaddr(assignment().address);
    assert_eq!(said(&release, assignment().address), None);
    let declined = with(message(OWN, MessageType::Decline), DhcpOption::RequestedIpAddress(assignment().address));
    let answer = said(&declined, Ipv4Addr::UNSPECIFIED).unwrap();
    assert_eq!(answer.reply, None);
    assert_eq!(answer.news, Some(News::Declined { guest: assignment().guest, address: assignment().address }));
}

proptest! {
    /// Neither noise nor a damaged packet harms, and strangers are never answered whatever they send.
    #[test]
    fn c16_malformed_packets_do_no_harm(
        noise in proptest::collection::vec(any::<u8>(), 0..600),
        damage in proptest::collection::vec((0_usize..400, any::<u8>()), 0..12),
        length in 0_usize..400,
    ) {
        let ask = |packet: &[u8]| answer(packet, from(Ipv4Addr::UNSPECIFIED), || Some(SERVER), &Book::default());
        let _ = ask(&noise);
        for mac in [OWN, STRANGER] {
            let mut packet = with(message(mac, MessageType::Request), DhcpOption::RequestedIpAddress(assignment().address)).to_vec().unwrap();
            packet.resize(400, 0);
            for (at, byte) in &damage {
                packet[*at] = *byte;
            }
            packet.truncate(length);
            let answered = ask(&packet);
            if packet.get(28..34) != Some(OWN.as_slice()) {
                prop_assert_eq!(answered, None);
            }
        }
    }

    /// An option may say anything, also of a length that it does not have.
    #[test]
    fn options_of_any_form_do_no_harm(code in any::<u8>(), announced in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut packet = message(OWN, MessageType::Discover).to_vec().unwrap();
        packet.pop();
        packet.extend([code, announced]);
        packet.extend(body);
        packet.push(255);
        let _ = answer(&packet, from(Ipv4Addr::UNSPECIFIED), || Some(SERVER), &Book::default());
    }
}
