//! Taking an uploaded disk image: part `checksum`, then part `image`.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use futures_util::TryStreamExt;
use http_body_util::BodyStream;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::Request;
use multer::{Field, Multipart};
use tokio::sync::mpsc;

use super::store::hash;
use super::Shared;

/// Pieces that may wait for the disk.
const AHEAD: usize = 4;

/// Stores the image; what is wrong with it as a text.
pub(super) async fn take(shared: &Arc<Shared>, id: &str, request: Request<Incoming>) -> Result<(), String> {
    let path = shared.store.path(id).ok_or_else(|| format!("'{id}' is no id of an image"))?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let boundary = multer::parse_boundary(kind).map_err(|error| error.to_string())?;
    let body = BodyStream::new(request.into_body()).try_filter_map(|frame| async move { Ok(frame.into_data().ok()) });
    let mut parts = Multipart::new(body, boundary);
    let mut checksum = None;
    loop {
        let part = parts.next_field().await.map_err(|error| error.to_string())?.ok_or("no more part available")?;
        match part.name() {
            Some("checksum") => checksum = Some(part.text().await.map_err(|error| error.to_string())?),
            Some("image") => {
                let expected = checksum.ok_or("the checksum has to come before the image")?;
                let beside = path.with_extension("part");
                let stored = store(part, File::create(&beside).map_err(|error| error.to_string())?).await;
                let hash = stored.and_then(|()| File::open(&beside).and_then(|file| hash(&file)).map_err(|error| error.to_string()));
                let kept = hash.and_then(|hash| match hash == expected {
                    true => std::fs::rename(&beside, &path).map_err(|error| error.to_string()),
                    false => Err(format!("checksum is '{hash}', but '{expected}' expected")),
                });
                return kept.inspect_err(|_| drop(std::fs::remove_file(&beside)));
            }
            _ => {}
        }
    }
}

async fn store(mut part: Field<'_>, mut file: File) -> Result<(), String> {
    let (pieces, mut receiver) = mpsc::channel::<bytes::Bytes>(AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = receiver.blocking_recv() {
            file.write_all(&piece)?;
        }
        file.sync_all()
    });
    while let Some(piece) = part.chunk().await.map_err(|error| error.to_string())? {
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    writing.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
