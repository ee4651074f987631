//! Transactions that wait for a further message of the Core (contract §6.7: MigrateInstanceRequest names the session of the attachment).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{timeout_at, Instant};

use crate::model::{GuestId, SessionId};
use crate::proto::message::{Message, MessageId};

#[derive(Default)]
struct Open {
    closed: bool,
    waiting: HashMap<u32, Waiter>,
}

struct Waiter {
    expected: MessageId,
    about: Vec<GuestId>,
    sender: oneshot::Sender<Message>,
}

/// All open mailboxes, by session.
#[derive(Default)]
pub struct Mailboxes(Arc<Mutex<Open>>);

impl Mailboxes {
    /// Opens the mailbox of a session for one message about these guests.
    pub fn open(&self, session: SessionId, expected: MessageId, about: &[GuestId]) -> Mailbox {
        let (sender, receiver) = oneshot::channel();
        let mut open = self.0.lock();
        if !open.closed {
            open.waiting.insert(session.0, Waiter { expected, about: about.to_vec(), sender });
        }
        Mailbox { session, receiver, boxes: self.0.clone() }
    }

    /// Hands a message to the transaction that waits for it; gives it back when none does.
    #[allow(clippy::result_large_err)] // not an error: the message goes on its way, and a box would cost every request an allocation
    pub fn deliver(&self, message: Message) -> Result<(), Message> {
        if message.to == 0 {
            return Err(message);
        }
        let mut open = self.0.lock();
        if open.waiting.get(&message.to).is_none_or(|waiter| waiter.expected != message.id) {
            return Err(message);
        }
        match open.waiting.remove(&message.to) {
            Some(waiter) => waiter.sender.send(message),
            None => Err(message),
        }
    }

    /// Whoever waits about one of these guests waits no more: its message will not come.
    pub fn supersede(&self, guests: &[GuestId]) {
        self.0.lock().waiting.retain(|_, waiter| !waiter.about.iter().any(|guest| guests.contains(guest)));
    }

    /// Transactions that wait.
    pub fn count(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// Nobody waits any more, now and in future.
    pub fn close(&self) {
        let mut open = self.0.lock();
        open.closed = true;
        open.waiting.clear();
    }
}

/// One open mailbox; dropping it closes it.
pub struct Mailbox {
    session: SessionId,
    receiver: oneshot::Receiver<Message>,
    boxes: Arc<Mutex<Open>>,
}

impl Mailbox {
    /// The message; none when it has not come until `deadline`, or nobody waits any more.
    pub async fn receive(mut self, deadline: Instant) -> Option<Message> {
        timeout_at(deadline, &mut self.receiver).await.ok()?.ok()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.boxes.lock().waiting.remove(&self.session.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EXPECTED: MessageId = MessageId::MIGRATE_INSTANCE_REQUEST;

    #[tokio::test(start_paused = true)]
    async fn only_the_message_that_is_waited_for_is_delivered_and_only_once() {
        let boxes = Mailboxes::default();
        let mailbox = boxes.open(SessionId(7), EXPECTED, &[]);
        assert!(boxes.deliver(Message::new(EXPECTED)).is_err(), "a new request");
        assert!(boxes.deliver(Message::new(EXPECTED).to_session(8)).is_err(), "nobody's session");
        assert!(boxes.deliver(Message::new(MessageId::GET_GUEST_REQUEST).to_session(7)).is_err(), "another message");
        assert!(boxes.deliver(Message::new(EXPECTED).to_session(7)).is_ok());
        assert!(boxes.deliver(Message::new(EXPECTED).to_session(7)).is_err(), "twice");
        assert_eq!(mailbox.receive(Instant::now()).await, Some(Message::new(EXPECTED).to_session(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline_and_when_all_are_closed() {
        let boxes = Mailboxes::default();
        let begun = Instant::now();
        assert_eq!(boxes.open(SessionId(1), EXPECTED, &[]).receive(begun + Duration::from_secs(60)).await, None);
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
        assert!(boxes.deliver(Message::new(EXPECTED).to_session(1)).is_err(), "its waiter is gone");
        let waiting = boxes.open(SessionId(2), EXPECTED, &[]);
        boxes.close();
        assert_eq!(waiting.receive(begun + Duration::from_secs(600)).await, None);
        assert_eq!(boxes.open(SessionId(3), EXPECTED, &[]).receive(begun + Duration::from_secs(600)).await, None);
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_attempt_with_the_same_guest_supersedes_an_earlier_one() {
        let boxes = Mailboxes::default();
        let guest = |number| GuestId::from_bytes([number; 16]);
        let (first, other) = (boxes.open(SessionId(1), EXPECTED, &[guest(1), guest(2)]), boxes.open(SessionId(2), EXPECTED, &[guest(3)]));
        boxes.supersede(&[guest(2), guest(4)]);
        let begun = Instant::now();
        assert_eq!(first.receive(begun + Duration::from_secs(60)).await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(boxes.deliver(Message::new(EXPECTED).to_session(2)).is_ok());
        assert!(other.receive(begun).await.is_some());
    }
}
