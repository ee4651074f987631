//! The books in virtual time, without a network.

use cell::proto::message::Key;

use super::*;
use crate::requests::CreateGuest;

const T_CORE: Duration = Duration::from_secs(10);

struct Fixture {
    domain: Domain,
    events: crate::Events,
    now: Duration,
}

fn fixture() -> Fixture {
    let log = EventLog::new();
    let events = log.now();
    Fixture { domain: Domain::new(PoolConfig::default(), true, T_CORE, 1024, log), events, now: Duration::ZERO }
}

impl Fixture {
    fn connect(&mut self, cell: &str) -> Outgoing {
        let remote = "10.0.0.2:4000".parse().unwrap();
        self.domain.take(self.now, HubEvent::Connected { name: cell.into(), kind: ServiceKind::Cell, remote });
        assert_eq!(self.domain.handle_timeout(self.now), None, "the reference Cell could not answer yet");
        self.now = self.domain.next_timeout().unwrap();
        self.domain.handle_timeout(self.now).unwrap()
    }

    fn tell(&mut self, cell: &str, message: Message) {
        self.domain.take(self.now, HubEvent::Message { name: cell.into(), message });
    }

    /// A Cell that took its pool.
    fn ready(&mut self, cell: &str) {
        let (_, pool) = self.connect(cell);
        self.tell(cell, ready().to_session(pool.from));
        assert_eq!(self.domain.cells[cell].state, CellState::Ready);
        self.seen();
    }

    fn pending(&mut self, cell: &str) -> GuestId {
        let request = CreateGuest::blank("manager.one", 1);
        assert!(self.domain.asked(cell, &request.to_message()));
        request.id
    }

    fn seen(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_next()).map(|recorded| recorded.event).collect()
    }

    /// Why the last event was ignored.
    fn ignored(&mut self) -> String {
        match self.seen().pop() {
            Some(Event::Ignored { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn ready() -> Message {
    Message::new(MessageId::COMPUTE_CELL_READY_EVENT).succeeded().uint(Key::Count, 0)
}

fn of(id: MessageId, guest: GuestId) -> Message {
    Message::new(id).string(Key::Instance, guest.to_string())
}

fn created(guest: GuestId) -> Message {
    of(MessageId::GUEST_CREATED_EVENT, guest).uint(Key::Monitor, 5901).string(Key::Secret, "s").string(Key::Hardware, "m")
}

#[test]
fn a_cell_that_does_not_answer_its_pool_is_given_up_after_the_timeout() {
    let mut fixture = fixture();
    let (cell, message) = fixture.connect("a");
    assert_eq!((cell.as_str(), message.id), ("a", MessageId::COMPUTE_POOL_READY_EVENT));
    let deadline = fixture.now + T_CORE;
    assert_eq!(fixture.domain.next_timeout(), Some(deadline));
    assert_eq!(fixture.domain.handle_timeout(deadline - Duration::from_millis(1)), None);
    assert_eq!(fixture.domain.cells["a"].state, CellState::Connected);
    assert_eq!(fixture.domain.handle_timeout(deadline), None);
    assert!(matches!(&fixture.domain.cells["a"].state, CellState::Refused(_)));
    assert_eq!(fixture.domain.next_timeout(), None);
    fixture.tell("a", ready().to_session(message.from));
    assert_eq!(fixture.ignored(), format!("nobody waits in session {}", message.from));
}

#[test]
fn what_takes_the_place_of_the_ready_event_is_refused() {
    for (answer, why) in [
        (ready().failed("no such storage"), "no such storage"),
        (Message::new(MessageId::CREATE_GUEST_RESPONSE).succeeded(), "it answered with"),
        (Message::new(MessageId::COMPUTE_CELL_READY_EVENT).succeeded(), "Count(33) is missing"),
    ] {
        let mut fixture = fixture();
        let (_, pool) = fixture.connect("a");
        fixture.tell("a", answer.to_session(pool.from));
        assert!(matches!(&fixture.domain.cells["a"].state, CellState::Refused(reason) if reason.contains(why)), "{why}");
    }
}

#[test]
fn a_lost_cell_is_ready_again_when_it_is_heard() {
    let mut fixture = fixture();
    fixture.ready("a");
    fixture.domain.take(fixture.now, HubEvent::Lost { name: "a".into() });
    assert_eq!(fixture.domain.cells["a"].state, CellState::Lost);
    fixture.domain.take(fixture.now, HubEvent::Recovered { name: "a".into() });
    assert_eq!(fixture.domain.cells["a"].state, CellState::Ready);
}

#[test]
fn a_guest_is_confirmed_once() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    fixture.tell("a", of(MessageId::GUEST_UPDATED_EVENT, guest).succeeded().uint(Key::Progress, 40));
    assert_eq!(fixture.domain.cells["a"].guests[&guest].progress, 40);
    fixture.tell("a", created(guest));
    assert!(fixture.seen().pop().unwrap().is_created(guest));
    fixture.tell("a", created(guest));
    assert_eq!(fixture.ignored(), format!("the guest {guest} was confirmed before"));
}

#[test]
fn events_without_their_parameters_and_about_strangers_are_ignored() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    let mut message = created(guest);
    message.string_params.remove(&Key::Hardware);
    fixture.tell("a", message);
    assert_eq!(fixture.ignored(), "Hardware(66) is missing or has another type");
    assert!(!fixture.domain.cells["a"].guests[&guest].created);
    let stranger = GuestId::random();
    fixture.tell("a", created(stranger));
    assert_eq!(fixture.ignored(), format!("no guest {stranger} of this Cell is in the books"));
    fixture.tell("a", Message::new(MessageId::GUEST_STARTED_EVENT).string(Key::Instance, "x"));
    assert!(fixture.ignored().contains("is not a guest id"));
}

#[test]
fn a_failed_update_takes_the_guest_out_of_the_books() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    fixture.tell("a", of(MessageId::GUEST_UPDATED_EVENT, guest).failed("no space"));
    assert_eq!(fixture.seen(), [Event::GuestFailed { cell: "a".into(), guest, reason: "no space".into() }]);
    assert!(fixture.domain.cells["a"].guests.is_empty());
}

#[test]
fn the_end_of_a_system_reset_must_not_overtake_its_answer() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    fixture.tell("a", created(guest));
    let end = Message::new(MessageId::SYSTEM_RESET_EVENT).string(Key::Guest, guest.to_string()).succeeded();
    fixture.tell("a", end.clone());
    assert!(fixture.ignored().contains("is marked created"));
    let image = requests::ImageSource { id: "i".into(), host: "h".into(), port: 1, size: 1 };
    let request = requests::reset_system(guest, &image);
    fixture.domain.succeeded("a", &request, &Message::new(request.id.response()));
    fixture.tell("a", end);
    assert_eq!(fixture.seen(), [Event::SystemReset { cell: "a".into(), guest, failure: None }]);
    assert!(fixture.domain.cells["a"].guests[&guest].created);
}

#[test]
fn the_name_of_a_deleted_guest_is_still_told() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    fixture.tell("a", of(MessageId::GUEST_DELETED_EVENT, guest));
    let recorded = fixture.events.try_next().unwrap();
    assert_eq!((recorded.name.as_deref(), recorded.event.is_deleted(guest)), (Some("manager.one"), true));
}

#[test]
fn guests_and_media_are_followed() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    for message in [
        of(MessageId::GUEST_STARTED_EVENT, guest),
        of(MessageId::ADDRESS_CHANGED_EVENT, guest).string(Key::Address, "10.0.0.7"),
        of(MessageId::MEDIA_ATTACHED_EVENT, guest).string(Key::Media, "iso"),
    ] {
        fixture.tell("a", message);
    }
    let entry = fixture.domain.cells["a"].guests[&guest].clone();
    assert_eq!((entry.running, entry.address.as_str(), entry.media.as_deref()), (true, "10.0.0.7", Some("iso")));
    fixture.tell("a", of(MessageId::MEDIA_DETACHED_EVENT, guest));
    fixture.tell("a", of(MessageId::GUEST_STOPPED_EVENT, guest));
    let entry = &fixture.domain.cells["a"].guests[&guest];
    assert_eq!((entry.running, entry.media.as_deref()), (false, None));
}

#[test]
fn what_is_no_cell_is_not_served() {
    let mut fixture = fixture();
    let remote = "10.0.0.9:1".parse().unwrap();
    let event = HubEvent::Connected { name: "Image".into(), kind: ServiceKind::ImageServer, remote };
    fixture.domain.take(fixture.now, event);
    assert_eq!(fixture.domain.next_timeout(), None, "no pool for it");
    assert!(fixture.ignored().contains("only Cells are served"));
    assert!(fixture.domain.cells.is_empty());
}

#[test]
fn a_guest_that_was_refused_is_out_of_the_books_again_but_never_another_one() {
    let mut fixture = fixture();
    fixture.ready("a");
    let request = CreateGuest::blank("manager.one", 1).to_message();
    assert!(fixture.domain.asked("a", &request));
    assert!(!fixture.domain.asked("a", &request), "the same id again");
    fixture.domain.abandoned("a", &request);
    assert!(fixture.domain.cells["a"].guests.is_empty());
    assert!(!fixture.domain.asked("a", &requests::query_storage("a")), "no guest in there");
}

#[test]
fn the_books_follow_successful_changes() {
    let mut fixture = fixture();
    fixture.ready("a");
    let guest = fixture.pending("a");
    let to = |id| Message::new(id).string(Key::Guest, guest.to_string());
    for request in [
        to(MessageId::MODIFY_GUEST_NAME_REQUEST).string(Key::Name, "manager.two"),
        to(MessageId::MODIFY_CORE_REQUEST).uint(Key::Core, 4),
        to(MessageId::MODIFY_MEMORY_REQUEST).uint(Key::Memory, 7),
        to(MessageId::MODIFY_PRIORITY_REQUEST).uint(Key::Priority, 2),
        to(MessageId::MODIFY_AUTO_START_REQUEST).bool(Key::Enable, true),
        to(MessageId::MODIFY_DISK_THRESHOLD_REQUEST).uints(Key::Limit, [1, 2, 3, 4]),
        to(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST).uints(Key::Limit, [5, 6]),
        to(MessageId::RESIZE_DISK_REQUEST).uint(Key::Disk, 0).uint(Key::Size, 9),
        to(MessageId::RESIZE_DISK_REQUEST).uint(Key::Disk, u64::MAX).uint(Key::Size, 1),
        to(MessageId::RESET_SECRET_REQUEST),
    ] {
        let answer = Message::new(request.id.response()).succeeded().string(Key::Secret, "new");
        fixture.domain.succeeded("a", &request, &answer);
    }
    let entry = &fixture.domain.cells["a"].guests[&guest];
    assert_eq!((entry.name.as_str(), entry.cores, entry.memory, entry.priority), ("manager.two", 4, 7, 2));
    assert_eq!((entry.auto_start, entry.limits, entry.disks.as_slice()), (true, [1, 2, 3, 4, 5, 6], [9].as_slice()));
    assert_eq!(entry.monitor_secret, "new");
}

#[test]
fn a_cell_that_left_at_once_is_not_told_of_its_pool() {
    let mut fixture = fixture();
    let remote = "10.0.0.2:4000".parse().unwrap();
    fixture.domain.take(fixture.now, HubEvent::Connected { name: "a".into(), kind: ServiceKind::Cell, remote });
    let due = fixture.domain.next_timeout().unwrap();
    fixture.domain.take(fixture.now, HubEvent::Disconnected { name: "a".into(), graceful: true, reason: "bye".into() });
    assert_eq!(fixture.domain.handle_timeout(due), None);
    assert_eq!(fixture.domain.next_timeout(), None);
}
