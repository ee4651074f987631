//! The body of an image: a part of a file, read ahead on a thread for blocking work.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::fault::BodyFault;

/// Bytes in one piece.
const PIECE: u64 = 128 << 10;

/// Pieces read ahead.
const AHEAD: usize = 4;

/// What answers carry.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A short body.
pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// The bytes of a file from `begin` to before `end`.
pub(super) fn of_file(file: File, begin: u64, end: u64, fault: BodyFault) -> Body {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    // Detached: it ends with the file, or when nobody takes its pieces any more.
    drop(tokio::task::spawn_blocking(move || read(&file, begin, end, fault, &pieces)));
    let stream = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    BodyExt::boxed(StreamBody::new(stream))
}

type Piece = io::Result<Frame<Bytes>>;

fn read(file: &File, begin: u64, end: u64, fault: BodyFault, pieces: &mpsc::Sender<Piece>) {
    let mut offset = begin;
    // The other side hangs up when it has enough or too little; both is its business.
    let send = |bytes: Vec<u8>| pieces.blocking_send(Ok(Frame::data(bytes.into()))).is_ok();
    while offset < end {
        let limit = match fault {
            BodyFault::Break { after } | BodyFault::Stall { after } => after.saturating_sub(offset - begin),
            _ => u64::MAX,
        };
        if limit == 0 {
            break;
        }
        let length = PIECE.min(end - offset).min(limit);
        let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
        if let Err(error) = file.read_exact_at(&mut piece, offset) {
            drop(pieces.blocking_send(Err(error)));
            return;
        }
        let middle = begin + (end - begin) / 2;
        if fault == BodyFault::Corrupt && (offset..offset + length).contains(&middle) {
            if let Some(byte) = usize::try_from(middle - offset).ok().and_then(|at| piece.get_mut(at)) {
                *byte = !*byte;
            }
        }
        offset += length;
        if !send(piece) {
            return;
        }
    }
    match fault {
        BodyFault::Break { .. } if offset < end => drop(pieces.blocking_send(Err(io::ErrorKind::BrokenPipe.into()))),
        BodyFault::Stall { .. } if offset < end => {
            // Until the other side has had enough.
            while !pieces.is_closed() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        BodyFault::Longer => drop(send(vec![0; 4096])),
        _ => {}
    }
}
