//! Media images in guests' drives: fetched to a file of this host, kept in mind across restarts, forgotten when the guest stops (contract §7.10,
//! §9.3, §13.10, §14 D2, E10).
//!
//! Contract: the Core is answered in time, however large the image is. A small one is in the drive by then; for a larger one the answer says
//! that it is coming, once some of it has come, and MediaAttachedEvent says that it is there: the Core goes by events here (contract §6.5).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedRwLockReadGuard;
use tokio::time::{sleep_until, Instant};

use super::node::jobs::{Job, JobGuard};
use super::{Context, Failure, Node};
use crate::host::{ImageLocation, Transfer};
use crate::model::{GuestId, Media, PowerState, LOCAL_POOL};
use crate::proto::message::{Key, Message, MessageId};

/// How long before the deadline an image that is still coming is told to be so; what follows needs the rest.
const MARGIN: Duration = Duration::from_secs(3);

/// How long a guest may be busy with something else when its image came late.
const PATIENCE: Duration = Duration::from_secs(30);

/// An image that is here.
pub(super) struct Fetched {
    pub(super) media: Media,
    /// The Core was told that it is coming.
    acknowledged: bool,
    /// Until it is in a drive, nobody removes it.
    _kept: OwnedRwLockReadGuard<()>,
}

impl Fetched {
    /// Takes the guest's turn to do something with the image.
    pub(super) async fn job(&self, context: &Context, id: GuestId, job: Job) -> Result<JobGuard, Failure> {
        let deadline = if self.acknowledged { Instant::now() + PATIENCE } else { context.deadline() };
        context.node.jobs.acquire(id, job, deadline).await
    }

    /// [`Failure::Expired`] when the Core was told that it failed.
    pub(super) fn check(&self, context: &Context) -> Result<(), Failure> {
        if self.acknowledged {
            return Ok(());
        }
        context.check()
    }

    /// Answers, unless that was done before.
    pub(super) fn respond(&self, context: &Context) -> Result<(), Failure> {
        if self.acknowledged {
            return Ok(());
        }
        context.respond(context.success())
    }

    /// True when the Core waits for an event instead of the answer.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }
}

/// Fetches an image for a guest. Its job is free meanwhile: it can be used and stopped while a large image comes.
pub(super) async fn fetch(context: &Context, id: GuestId, image: &ImageLocation) -> Result<Fetched, Failure> {
    let node = &context.node;
    let directory = directory(node).ok_or_else(|| Failure::refused(format!("the pool {LOCAL_POOL} for media images is missing")))?;
    let kept = node.media_files.clone().read_owned().await;
    let running = node.transfers.begin(id);
    let transfer = Transfer::new(running.token().clone());
    let fetching = node.host.images.fetch_media(image, &directory, &transfer);
    tokio::pin!(fetching);
    let in_time = tokio::select! {
        biased;
        file = &mut fetching => Some(file),
        () = sleep_until(context.deadline() - MARGIN) => None,
    };
    let (file, acknowledged) = match in_time {
        Some(file) => (file, false),
        None if transfer.done() == 0 => {
            return Err(Failure::refused(format!("nothing of media image {} came from {}:{} in time", image.id, image.host, image.port)));
        }
        None => {
            tracing::info!(guest = %id, "media image {} is large; {} percent of it are here", image.id, transfer.percent());
            context.respond(context.success())?;
            (fetching.await, true)
        }
    };
    match (file, running.stopped()) {
        (Ok(file), _) => Ok(Fetched { media: Media { id: image.id.clone(), file }, acknowledged, _kept: kept }),
        (Err(_), Some(reason)) => Err(Failure::refused(format!("stopped: {reason}"))),
        (Err(error), None) => Err(error.into()),
    }
}

/// Beside the volumes of this host, hidden from libvirt, which takes no notice of it then.
fn directory(node: &Node) -> Option<String> {
    let books = node.books.lock();
    books.storage.pools.get(LOCAL_POOL).map(|pool| format!("{}/.media", pool.target.trim_end_matches('/')))
}

/// The event that says that media are in a guest's drive.
pub(super) fn attached(id: GuestId, media: &Media) -> Message {
    Message::new(MessageId::MEDIA_ATTACHED_EVENT).string(Key::Instance, id.to_string()).string(Key::Media, &media.id)
}

/// Removes images that are in no drive; those that are on their way keep all of them for now.
pub(super) async fn tidy(node: &Node) {
    let Some(directory) = directory(node) else { return };
    let Ok(_alone) = node.media_files.try_write() else { return };
    let used: Vec<String> = {
        let books = node.books.lock();
        books.guests.values().filter_map(|guest| Some(guest.config.media.as_ref()?.file.clone())).collect()
    };
    if let Err(error) = node.host.images.discard_media(&directory, &used).await {
        tracing::warn!("{}", Failure::Host(error));
    }
}

/// Compares the books with the drives: media may have been taken out, and guests stopped, while nobody watched.
pub(super) async fn compare(node: &Arc<Node>) {
    let noted: Vec<(GuestId, PowerState, String)> = {
        let books = node.books.lock();
        let media = books.guests.iter().filter_map(|(id, guest)| Some((*id, guest.power, guest.config.media.as_ref()?.file.clone())));
        media.collect()
    };
    join_all(noted.into_iter().map(|(id, power, file)| async move {
        let gone = match power {
            PowerState::Running => match node.host.hypervisor.media(id).await {
                Ok(present) => present.as_deref() != Some(file.as_str()),
                Err(error) => {
                    tracing::warn!(guest = %id, "the media in the guest's drive are taken as they were: {}", Failure::Host(error));
                    false
                }
            },
            PowerState::Stopped | PowerState::Lost => true,
        };
        if gone && node.jobs.current(id).is_none() {
            tracing::info!(guest = %id, "the media of the guest are not in its drive any more");
            node.drop_media(id, 0);
        }
    }))
    .await;
    tidy(node).await;
}
