//! Connections, routes and answers.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use hyper::http::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::body::{of_file, text, Body};
use super::fault::{AnswerFault, BodyFault, Faults};
use super::store::ImageInfo;
use super::{upload, Shared};

const PREFIX: &str = "/api/v1/";

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// GET, HEAD, PUT.
    pub method: String,
    /// Path.
    pub path: String,
    /// The part that was asked for.
    pub range: Option<String>,
}

/// Takes connections until it is dropped.
pub(super) async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file handles: the next one may fit again.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(socket, acceptor.clone(), shared.clone()));
    }
}

async fn connection(socket: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    drop(socket.set_nodelay(true));
    match acceptor {
        None => serve(socket, shared).await,
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => serve(stream, shared).await,
            Err(error) => tracing::debug!("no TLS with a client: {error}"),
        },
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// The kinds of images; only disk images are signed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    Media,
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    tracing::info!("{method} {path} {}", range.as_deref().unwrap_or_default());
    shared.seen.lock().push(Seen { method: method.to_string(), path: path.clone(), range: range.clone() });
    let faults = *shared.faults.lock();
    match faults.answer {
        AnswerFault::Refuse => return refusal("the image is not to be had, on demand"),
        AnswerFault::Html => return with_type(StatusCode::OK, "text/html", "<html><body>Please log in</body></html>"),
        AnswerFault::NotFound => return with_type(StatusCode::NOT_FOUND, "text/plain", "404 page not found"),
        AnswerFault::Silent => std::future::pending::<()>().await,
        _ => {}
    }
    let Some((kind, id)) = route(&path) else {
        return with_type(StatusCode::NOT_FOUND, "text/plain", "404 page not found");
    };
    match (method, kind) {
        (Method::PUT, Kind::Disk) => match upload::take(shared, &id, request).await {
            Ok(()) => json_answer(&json!({ "error_code": 0, "message": "", "data": "" })),
            Err(reason) => refusal(&reason),
        },
        (Method::GET | Method::HEAD, _) => {
            let (sharer, image_id) = (shared.clone(), id.clone());
            let opened = tokio::task::spawn_blocking(move || sharer.store.open_image(&image_id)).await;
            match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok((file, info)) => image(kind, request.method(), file, &info, range.as_deref(), faults),
                Err(_) if request.method() == Method::HEAD => with_type(StatusCode::NOT_FOUND, "text/plain", ""),
                Err(error) => refusal(&format!("image '{id}': {error}")),
            }
        }
        _ => with_type(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 method not allowed"),
    }
}

fn route(path: &str) -> Option<(Kind, String)> {
    let (kind, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let id = rest.strip_suffix("/file/")?;
    match kind {
        "disk_images" => Some((Kind::Disk, id.into())),
        "media_images" => Some((Kind::Media, id.into())),
        _ => None,
    }
}

fn image(kind: Kind, method: &Method, file: File, info: &ImageInfo, range: Option<&str>, faults: Faults) -> Response<Body> {
    let size = if faults.answer == AnswerFault::Halved { info.size / 2 } else { info.size };
    let part = range.filter(|_| !faults.no_range).map(|range| parse_range(range, size));
    let (status, begin, end) = match part {
        None => (StatusCode::OK, 0, size),
        Some(Some((begin, end))) => (StatusCode::PARTIAL_CONTENT, begin, end),
        Some(None) => return with_type(StatusCode::RANGE_NOT_SATISFIABLE, "text/plain", "416 invalid range"),
    };
    let wrong_type = faults.answer == AnswerFault::WrongType;
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, if wrong_type { "text/plain" } else { "application/octet-stream" })
        .header("Content-Transfer-Encoding", "binary");
    if !faults.no_range {
        response = response.header(ACCEPT_RANGES, "bytes");
    }
    if faults.body != BodyFault::Longer {
        response = response.header(CONTENT_LENGTH, end - begin);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(CONTENT_RANGE, format!("bytes {begin}-{}/{size}", end.saturating_sub(1)));
    }
    // As the real server: HEAD does not name the signature.
    if kind == Kind::Disk && method == Method::GET && faults.answer != AnswerFault::NoSignature {
        response = response.header("Signature", &info.signature);
    }
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", info.signature)) {
        response = response.header(ETAG, tag);
    }
    let body = if method == Method::HEAD { text("") } else { of_file(file, begin, end, faults.body) };
    response.body(body).unwrap_or_else(|_| refusal("the answer can't be made"))
}

/// First byte and the one after the last of `bytes=5-` or `bytes=5-9`.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (begin, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let begin: u64 = begin.parse().ok()?;
    let end = if end.is_empty() { size } else { end.parse::<u64>().ok()?.saturating_add(1).min(size) };
    (begin < end).then_some((begin, end))
}

/// The real server's way to say no.
fn refusal(message: &str) -> Response<Body> {
    json_answer(&json!({ "error_code": 500, "message": message, "data": {} }))
}

fn json_answer(value: &serde_json::Value) -> Response<Body> {
    with_type(StatusCode::OK, "application/json", value.to_string())
}

fn with_type(status: StatusCode, kind: &'static str, content: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(text(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
