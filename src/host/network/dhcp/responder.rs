//! What is answered to a DHCP packet (RFC 2131), as a function of the packet and the books.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, DhcpOptions, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};

use crate::host::{Assignment, Assignments, News};
use crate::model::address::Mac;

/// Seconds that an address may be used without a renewal (contract §10).
const LEASE: u32 = 12 * 3600;
/// When the client begins to ask its server again, seconds.
const RENEWAL: u32 = LEASE / 2;
/// When it begins to ask any server, seconds.
const REBINDING: u32 = LEASE / 8 * 7;
/// Bytes before the options; the last four are the magic number (RFC 2131 §3).
const HEADER: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Options without a length.
const PAD: u8 = 0;
const END: u8 = 255;
/// A shorter packet is thrown away by old clients (RFC 1542 §2.1).
const LEAST_LENGTH: usize = 300;
/// Longest label of a host name.
const LABEL: usize = 63;

/// What a packet led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub assignment: Assignment,
    /// The packet to send and where to; none when there is nothing to say.
    pub reply: Option<(Vec<u8>, SocketAddrV4)>,
    /// What it means for the guest.
    pub news: Option<News>,
}

/// Reads a packet that came from `from` over the bridge. `None` is silence: no DHCP, not from a guest of ours, or not meant for us. `server` gives the
/// bridge's address; it is asked only when a guest is to be answered.
pub fn answer(packet: &[u8], from: SocketAddrV4, server: impl FnOnce() -> Option<Ipv4Addr>, book: &dyn Assignments) -> Option<Answer> {
    let request = read(packet)?;
    let mac = Mac::try_from(request.chaddr()).ok()?;
    let assignment = book.find(mac)?;
    let server = server()?;
    let exchange = Exchange { request: &request, from, server, assignment: &assignment };
    let (reply, news) = exchange.run()?;
    Some(Answer { reply, news, assignment })
}

/// A request of an Ethernet client on this segment; anything else is none of ours. Relayed ones come from elsewhere by definition.
fn read(packet: &[u8]) -> Option<Message> {
    let message = Message::decode(&mut Decoder::new(&essence(packet)?)).ok()?;
    // The hardware address may only be asked for when its length is in range.
    let ours = message.opcode() == Opcode::BootRequest
        && message.htype() == HType::Eth
        && message.hlen() == 6
        && message.giaddr().is_unspecified();
    ours.then_some(message)
}

/// The packet with nothing but the options that are looked at, each of a length that it can have: the decoder asserts the length of some
/// others, and a client must not be able to make it fail.
fn essence(packet: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = packet.split_at_checked(HEADER)?;
    if !header.ends_with(&MAGIC) {
        return None;
    }
    let mut kept = header.to_vec();
    while let [code, tail @ ..] = rest {
        match *code {
            PAD => rest = tail,
            END => break,
            code => {
                let Some((body, tail)) = tail.split_first().and_then(|(length, tail)| tail.split_at_checked(usize::from(*length))) else {
                    break;
                };
                let sound = match OptionCode::from(code) {
                    OptionCode::MessageType => body.len() == 1,
                    OptionCode::RequestedIpAddress | OptionCode::ServerIdentifier => body.len() == 4,
                    OptionCode::ParameterRequestList | OptionCode::ClientIdentifier => !body.is_empty(),
                    _ => false,
                };
                if sound {
                    kept.extend([code, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
                    kept.extend_from_slice(body);
                }
                rest = tail;
            }
        }
    }
    kept.push(END);
    Some(kept)
}

/// Bytes and where they go.
type Packet = (Vec<u8>, SocketAddrV4);
type Said = (Option<Packet>, Option<News>);

/// One packet of one guest.
struct Exchange<'a> {
    request: &'a Message,
    from: SocketAddrV4,
    server: Ipv4Addr,
    assignment: &'a Assignment,
}

impl Exchange<'_> {
    fn run(&self) -> Option<Said> {
        let guest = self.assignment.guest;
        match self.request.opts().msg_type()? {
            MessageType::Discover => Some((self.to_client(&self.grant(MessageType::Offer)), None)),
            MessageType::Request => self.request(),
            MessageType::Inform => self.inform(),
            MessageType::Decline if self.is_for_us() => {
                Some((None, Some(News::Declined { guest, address: self.requested().unwrap_or(self.assignment.address) })))
            }
            // A released address stays the guest's: nobody else can have it.
            _ => None,
        }
    }

    /// SELECTING, INIT-REBOOT, RENEWING and REBINDING differ in what they carry, but the answer is the same: the address is the guest's or it is not.
    fn request(&self) -> Option<Said> {
        if !self.is_for_us() {
            return None;
        }
        let wanted = self.requested()?;
        let Assignment { guest, address, .. } = *self.assignment;
        if wanted == address {
            return Some((self.to_client(&self.grant(MessageType::Ack)), Some(News::Acknowledged { guest, address })));
        }
        let refused = News::Refused { guest, wanted, assigned: address };
        Some((self.broadcast(&self.reply(MessageType::Nak)), Some(refused)))
    }

    /// The guest has an address already and only wants the rest. One that does not send from the address that it names would have us write to
    /// somebody else.
    fn inform(&self) -> Option<Said> {
        let address = self.request.ciaddr();
        if address.is_unspecified() || address != *self.from.ip() {
            return None;
        }
        let mut reply = self.reply(MessageType::Ack);
        self.configure(reply.opts_mut());
        Some((packet(&reply, SocketAddrV4::new(address, self.from.port())), None))
    }

    /// False for a client that has chosen another server.
    fn is_for_us(&self) -> bool {
        match self.request.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => *server == self.server,
            _ => true,
        }
    }

    fn requested(&self) -> Option<Ipv4Addr> {
        match self.request.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => Some(self.request.ciaddr()).filter(|address| !address.is_unspecified()),
        }
    }

    /// A reply without address and options: what a refusal is.
    fn reply(&self, kind: MessageType) -> Message {
        let mut reply = Message::default();
        reply
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::Eth)
            .set_xid(self.request.xid())
            .set_flags(self.request.flags())
            .set_chaddr(self.request.chaddr());
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.server));
        // RFC 6842: a client that names itself is named in the answer.
        if let Some(client) = self.request.opts().get(OptionCode::ClientIdentifier) {
            options.insert(client.clone());
        }
        reply
    }

    /// OFFER or ACK of the guest's address.
    fn grant(&self, kind: MessageType) -> Message {
        let mut reply = self.reply(kind);
        reply.set_yiaddr(self.assignment.address);
        if kind == MessageType::Ack {
            reply.set_ciaddr(self.request.ciaddr());
        }
        let options = reply.opts_mut();
        options.insert(DhcpOption::AddressLeaseTime(LEASE));
        options.insert(DhcpOption::Renewal(RENEWAL));
        options.insert(DhcpOption::Rebinding(REBINDING));
        self.configure(options);
        reply
    }

    /// What goes with an address: what the client asks for, and all of it when it does not say. The mask is always told, for a client
    /// without one would guess.
    fn configure(&self, options: &mut DhcpOptions) {
        let wished = match self.request.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(codes)) => Some(codes),
            _ => None,
        };
        let wants = |code: OptionCode| wished.is_none_or(|codes| codes.contains(&code));
        let Assignment { prefix, gateway, dns, hostname, .. } = self.assignment;
        options.insert(DhcpOption::SubnetMask(mask(*prefix)));
        if wants(OptionCode::Router) {
            options.insert(DhcpOption::Router(vec![*gateway]));
        }
        if wants(OptionCode::DomainNameServer) && !dns.is_empty() {
            options.insert(DhcpOption::DomainNameServer(dns.clone()));
        }
        if wished.is_some_and(|codes| codes.contains(&OptionCode::Hostname)) && is_label(hostname) {
            options.insert(DhcpOption::Hostname(hostname.clone()));
        }
    }

    /// A client that renews has its address and is written to; every other one hears broadcasts only.
    fn to_client(&self, reply: &Message) -> Option<Packet> {
        let address = self.assignment.address;
        if self.request.ciaddr() == address && *self.from.ip() == address && !self.request.flags().broadcast() {
            return packet(reply, SocketAddrV4::new(address, self.from.port()));
        }
        self.broadcast(reply)
    }

    fn broadcast(&self, reply: &Message) -> Option<Packet> {
        packet(reply, SocketAddrV4::new(Ipv4Addr::BROADCAST, self.from.port()))
    }
}

fn packet(reply: &Message, to: SocketAddrV4) -> Option<Packet> {
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() < LEAST_LENGTH {
        bytes.resize(LEAST_LENGTH, 0);
    }
    Some((bytes, to))
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// A host name that every client can take.
fn is_label(name: &str) -> bool {
    (1..=LABEL).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !name.starts_with('-')
}
