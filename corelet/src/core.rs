//! The handle of a running Core.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use cell::model::GuestId;
use cell::net::{Discovery, Listener, ListenerConfig, ListenerHandle};
use cell::proto::hub::{HubConfig, HubEvent};
use cell::proto::message::{Message, MessageId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, Instant};
use tracing::warn;

use crate::answers::{attached_storage, AnswerError, AttachedStorage, DiskImageUpdate, GuestAnswer, StoragePaths};
use crate::config::{AddressPool, CoreConfig};
use crate::domain::{Cell, CellState, Domain, Outgoing};
use crate::error::{RequestError, StartError, WaitError};
use crate::events::{Event, EventLog, Events};
use crate::guest::Guest;
use crate::interface;
use crate::requests::{self, CreateGuest, Media, StopMode};
use crate::sessions::Gone;

/// A running Core. It ends with [`Core::close`]; dropped, it goes without a farewell.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    address: SocketAddrV4,
    domain: Arc<Mutex<Domain>>,
    log: EventLog,
    handle: ListenerHandle,
    listener: JoinHandle<()>,
    books: JoinHandle<()>,
}

impl Core {
    /// Takes a port, joins the discovery group and serves from now on. Needs a tokio runtime with time and I/O.
    pub async fn start(config: CoreConfig) -> Result<Self, StartError> {
        let discovery = match config.discovery {
            false => None,
            true => Some(Discovery {
                group: config.group,
                port: config.group_port,
                domain: config.domain.clone(),
                interface: interface::with_address(config.listen)?,
            }),
        };
        let hub = HubConfig {
            timing: config.timing,
            transport: config.transport.clone(),
            shadow_same_name: config.swallow_same_name,
            ..HubConfig::new(config.name.clone())
        };
        let listening = ListenerConfig { address: config.listen, ports: config.ports.clone(), discovery, hub };
        let (listener, handle, hub_events) = Listener::bind(listening)?;
        let log = EventLog::new();
        let domain = Domain::new(config.pool.clone(), config.announce_pool, config.timeout, config.sessions, log.clone());
        let domain = Arc::new(Mutex::new(domain));
        Ok(Self {
            address: listener.address(),
            listener: tokio::spawn(listener.run()),
            books: tokio::spawn(keep_books(domain.clone(), handle.clone(), hub_events)),
            config,
            domain,
            log,
            handle,
        })
    }

    /// Where Cells connect.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The settings that it runs with.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// Every Cell in the books, also those that left.
    pub fn cells(&self) -> Vec<Cell> {
        self.domain.lock().cells.values().cloned().collect()
    }

    /// One Cell of the books.
    pub fn cell(&self, name: &str) -> Option<Cell> {
        self.domain.lock().cells.get(name).cloned()
    }

    /// One guest of the books.
    pub fn guest(&self, cell: &str, guest: GuestId) -> Option<Guest> {
        self.domain.lock().cells.get(cell).and_then(|cell| cell.guests.get(&guest)).cloned()
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        self.log.now()
    }

    /// What happened since the start and what happens from now on.
    pub fn all_events(&self) -> Events {
        self.log.start()
    }

    /// Waits until a Cell took its pool: the one of this name, or the first that comes. Where the pool is not announced, a connected Cell will do.
    pub async fn wait_cell(&self, name: Option<&str>, timeout: Duration) -> Result<Cell, WaitError> {
        let mut events = self.events();
        let deadline = Instant::now() + timeout;
        let mut refusal = None;
        loop {
            if let Some(cell) = self.cells().into_iter().find(|cell| name.is_none_or(|name| name == cell.name) && self.is_usable(cell)) {
                return Ok(cell);
            }
            let news = events.find(deadline - Instant::now(), |recorded| match &recorded.event {
                Event::CellRefused { cell, reason } if name.is_none_or(|name| name == cell) => {
                    Some(Some(WaitError::PoolRefused { cell: cell.clone(), reason: reason.clone() }))
                }
                Event::CellReady { .. } | Event::CellConnected { .. } | Event::CellRecovered { .. } => Some(None),
                _ => None,
            });
            match news.await {
                Ok(news) => refusal = news.or(refusal),
                Err(WaitError::Timeout(_)) => return Err(refusal.unwrap_or_else(|| self.no_cell(name, timeout))),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_usable(&self, cell: &Cell) -> bool {
        match cell.state {
            CellState::Ready => true,
            CellState::Connected => !self.config.announce_pool,
            _ => false,
        }
    }

    fn no_cell(&self, name: Option<&str>, timeout: Duration) -> WaitError {
        let CoreConfig { domain, listen, .. } = &self.config;
        WaitError::NoCell { name: name.map(Into::into), timeout, domain: domain.clone(), listen: *listen }
    }

    /// Sends a message without a session of its own: an event, to which no answer comes.
    pub fn send(&self, cell: &str, message: Message) -> Result<(), RequestError> {
        let id = message.id;
        if !self.cell(cell).is_some_and(|cell| cell.is_connected()) {
            return Err(RequestError::NoSuchCell(cell.into()));
        }
        self.hand_over(cell, id, message)
    }

    /// Sends a request and gives the answer, whatever it says: the first message with the request's session.
    pub async fn exchange(&self, cell: &str, message: Message) -> Result<Message, RequestError> {
        self.exchange_within(cell, message, self.config.timeout).await
    }

    /// As [`Core::exchange`], with a timeout of its own.
    pub async fn exchange_within(&self, cell: &str, mut message: Message, timeout: Duration) -> Result<Message, RequestError> {
        let (session, answer) = self.domain.lock().request(cell, &mut message)?;
        let _open = OpenSession { domain: &self.domain, session };
        if !changes_books(message.id) {
            return self.await_answer(cell, message.id, message, answer, timeout).await;
        }
        let request = message.clone();
        let pending = self.domain.lock().asked(cell, &request);
        let outcome = self.await_answer(cell, message.id, message, answer, timeout).await;
        match &outcome {
            Ok(answer) if answer.success => self.domain.lock().succeeded(cell, &request, answer),
            _ if pending => self.domain.lock().abandoned(cell, &request),
            _ => {}
        }
        outcome
    }

    async fn await_answer(
        &self,
        cell: &str,
        id: MessageId,
        message: Message,
        answer: oneshot::Receiver<Result<Message, Gone>>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.hand_over(cell, id, message)?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(gone))) => Err(RequestError::Gone { cell: cell.into(), id, reason: gone.0 }),
            Ok(Err(_)) => Err(RequestError::Gone { cell: cell.into(), id, reason: "this Core was closed".into() }),
            Err(_) => Err(RequestError::Timeout { cell: cell.into(), id, timeout }),
        }
    }

    /// Sends a request and gives its successful answer.
    pub async fn request(&self, cell: &str, message: Message) -> Result<Message, RequestError> {
        let id = message.id;
        let answer = self.exchange(cell, message).await?;
        match answer.success {
            true => Ok(answer),
            false => Err(RequestError::Refused { cell: cell.into(), id, reason: answer.error }),
        }
    }

    /// Asks for a new guest. The Cell has only accepted it when this returns: [`Event::GuestCreated`] tells that it is ready.
    pub async fn create(&self, cell: &str, guest: &CreateGuest) -> Result<GuestId, RequestError> {
        self.request(cell, guest.to_message()).await.map(|_| guest.id)
    }

    /// Asks for a new guest and waits until it is ready, or could not be made.
    pub async fn create_and_wait(&self, cell: &str, guest: &CreateGuest, timeout: Duration) -> Result<Guest, CreateError> {
        let mut events = self.events();
        let id = self.create(cell, guest).await?;
        let outcome = events.find(timeout, |recorded| match &recorded.event {
            Event::GuestCreated { guest, .. } if *guest == id => Some(Ok(())),
            Event::GuestFailed { guest, reason, .. } if *guest == id => Some(Err(reason.clone())),
            _ => None,
        });
        let outcome = outcome.await.map_err(|source| CreateError::Unfinished { guest: id, source })?;
        outcome.map_err(|reason| CreateError::Failed { guest: id, reason })?;
        self.guest(cell, id).ok_or_else(|| CreateError::Failed { guest: id, reason: "it is gone again".into() })
    }

    /// Starts a guest; [`Event::GuestStarted`] follows.
    pub async fn start_guest(&self, cell: &str, guest: GuestId) -> Result<(), RequestError> {
        self.request(cell, requests::start_guest(guest, None)).await.map(drop)
    }

    /// Starts a guest with a media image in its drive.
    pub async fn start_with_media(&self, cell: &str, guest: GuestId, media: &Media) -> Result<(), RequestError> {
        self.request(cell, requests::start_guest(guest, Some(media))).await.map(drop)
    }

    /// Stops, reboots or resets a guest; [`Event::GuestStopped`] follows when it has stopped.
    pub async fn stop_guest(&self, cell: &str, guest: GuestId, mode: StopMode) -> Result<(), RequestError> {
        self.request(cell, requests::stop_guest(guest, mode)).await.map(drop)
    }

    /// Deletes a stopped guest; [`Event::GuestDeleted`] follows.
    pub async fn delete_guest(&self, cell: &str, guest: GuestId) -> Result<(), RequestError> {
        self.request(cell, requests::delete_guest(guest)).await.map(drop)
    }

    /// What a guest is.
    pub async fn get_guest(&self, cell: &str, guest: GuestId) -> Result<GuestAnswer, RequestError> {
        self.read(cell, requests::get_guest(guest), GuestAnswer::from_config).await
    }

    /// What a guest is and uses.
    pub async fn get_status(&self, cell: &str, guest: GuestId) -> Result<GuestAnswer, RequestError> {
        self.read(cell, requests::get_status(guest), GuestAnswer::from_status).await
    }

    /// Where a Cell keeps its disks.
    pub async fn query_storage(&self, cell: &str) -> Result<StoragePaths, RequestError> {
        self.read(cell, requests::query_storage(cell), StoragePaths::from_message).await
    }

    /// Changes where a Cell keeps its disks.
    pub async fn modify_storage(&self, cell: &str, path: &str) -> Result<(), RequestError> {
        self.request(cell, requests::modify_storage(cell, path)).await.map(drop)
    }

    /// The shared storage of a Cell.
    pub async fn get_cell(&self, cell: &str) -> Result<Vec<AttachedStorage>, RequestError> {
        self.read(cell, requests::get_cell(cell), attached_storage).await
    }

    /// Tells a Cell that its address pool changed.
    pub fn address_pool_changed(&self, cell: &str, pool: &AddressPool) -> Result<(), RequestError> {
        self.send(cell, requests::address_pool_changed(pool))
    }

    /// Asks for a new system disk; [`Event::SystemReset`] tells the end.
    pub async fn reset_system(&self, cell: &str, guest: GuestId, image: &requests::ImageSource) -> Result<(), RequestError> {
        self.request(cell, requests::reset_system(guest, image)).await.map(drop)
    }

    /// Asks for an image of a guest's system disk and waits until it is on the image server; gives its size in bytes. `progress` hears percents. As
    /// the real Core it gives up when nothing is told for its timeout (contract §6.4).
    pub async fn create_disk_image(
        &self,
        cell: &str,
        guest: GuestId,
        image: &requests::ImageSource,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, RequestError> {
        let mut message = requests::create_disk_image(guest, image);
        let id = message.id;
        let (session, mut messages) = self.domain.lock().listen(cell, &mut message)?;
        let _open = OpenSession { domain: &self.domain, session };
        self.hand_over(cell, id, message)?;
        loop {
            let timeout = self.config.timeout;
            let told = tokio::time::timeout(timeout, messages.recv()).await.map_err(|_| RequestError::Timeout {
                cell: cell.into(),
                id,
                timeout,
            })?;
            let told = told.ok_or_else(|| RequestError::Gone { cell: cell.into(), id, reason: "its connection ended".into() })?;
            if !told.success {
                return Err(RequestError::Refused { cell: cell.into(), id, reason: told.error });
            }
            if told.id == MessageId::DISK_IMAGE_UPDATED_EVENT {
                let update = DiskImageUpdate::from_message(&told);
                match update.map_err(|source| RequestError::Answer { cell: cell.into(), id, source })? {
                    DiskImageUpdate::Finished { size } => return Ok(size),
                    DiskImageUpdate::Progress { percent } => progress(percent),
                }
            }
        }
    }

    /// Says "closed" to a Cell.
    pub fn disconnect(&self, cell: &str) -> Result<(), RequestError> {
        let id = MessageId::CONNECTION_CLOSED_EVENT;
        self.handle.disconnect(cell).map_err(|error| RequestError::NotSent { cell: cell.into(), id, reason: error.to_string() })
    }

    /// Says "closed" to every Cell and ends, within 3 s.
    pub async fn close(self) {
        self.handle.close();
        let _ = self.listener.await; // a panic in there was reported where it happened
        let _ = self.books.await;
    }

    /// Ends without a farewell, as a Core that crashed.
    pub fn kill(self) {
        self.listener.abort();
        self.books.abort();
    }

    async fn read<T>(
        &self,
        cell: &str,
        message: Message,
        read: impl FnOnce(&Message) -> Result<T, AnswerError>,
    ) -> Result<T, RequestError> {
        let id = message.id;
        let answer = self.request(cell, message).await?;
        read(&answer).map_err(|source| RequestError::Answer { cell: cell.into(), id, source })
    }

    fn hand_over(&self, cell: &str, id: MessageId, message: Message) -> Result<(), RequestError> {
        self.handle.send(cell, message).map_err(|error| RequestError::NotSent { cell: cell.into(), id, reason: error.to_string() })
    }
}

/// Questions leave the books as they are.
fn changes_books(id: MessageId) -> bool {
    !matches!(id, MessageId::GET_GUEST_REQUEST | MessageId::GET_INSTANCE_STATUS_REQUEST)
}

/// Frees the session also when its caller gives up.
struct OpenSession<'a> {
    domain: &'a Mutex<Domain>,
    session: u32,
}

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        self.domain.lock().forget(self.session);
    }
}

/// Why a guest was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The Cell did not accept it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The Cell accepted it, and failed.
    #[error("guest {guest} could not be created: {reason}")]
    Failed {
        /// Which one.
        guest: GuestId,
        /// Why.
        reason: String,
    },
    /// The Cell accepted it, and was not done in time.
    #[error("guest {guest} was accepted, but its creation was not confirmed")]
    Unfinished {
        /// Which one.
        guest: GuestId,
        /// How the waiting ended.
        #[source]
        source: WaitError,
    },
}

/// Moves the hub's events into the books and the books' messages to the hub.
async fn keep_books(domain: Arc<Mutex<Domain>>, handle: ListenerHandle, mut events: mpsc::Receiver<HubEvent>) {
    let epoch = Instant::now();
    loop {
        let deadline = domain.lock().next_timeout().map_or_else(|| Instant::now() + Duration::from_secs(3600), |at| epoch + at);
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                let mut domain = domain.lock();
                domain.take(epoch.elapsed(), event);
                while let Ok(event) = events.try_recv() {
                    domain.take(epoch.elapsed(), event);
                }
            }
            () = sleep_until(deadline) => {}
        }
        while let Some((cell, message)) = due(&domain, epoch.elapsed()) {
            let id = message.id;
            if let Err(error) = handle.send(&cell, message) {
                warn!("{id} to {cell} is lost: {error}");
            }
        }
    }
}

fn due(domain: &Mutex<Domain>, now: Duration) -> Option<Outgoing> {
    domain.lock().handle_timeout(now)
}
