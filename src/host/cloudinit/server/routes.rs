//! The paths of the server and what is answered on each (contract §9.1).

use std::future::Future;
use std::net::Ipv4Addr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, LOCATION};
use hyper::{Method, Request, Response, StatusCode};

use super::owner::is_own;
use super::Client;
use crate::host::cloudinit::{documents, DocumentError};
use crate::host::Instance;
use crate::model::GuestId;

type Answer = Response<Full<Bytes>>;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    MetaData,
    UserData,
    NetworkConfig,
}

impl Document {
    fn named(name: &str) -> Option<Self> {
        match name {
            "meta-data" => Some(Self::MetaData),
            "user-data" => Some(Self::UserData),
            "network-config" => Some(Self::NetworkConfig),
            _ => None,
        }
    }
}

/// The answer, and the guest whose user-data it is.
pub(super) fn answer(client: &Client, request: Request<Incoming>) -> impl Future<Output = (Answer, Option<GuestId>)> + Send {
    let (instances, network, peer) = (client.instances.clone(), client.network.clone(), client.peer);
    async move {
        if request.method() != Method::GET {
            return (refuse_method(), None);
        }
        let path = request.uri().path();
        let Some((id, document)) = route(path) else {
            return match path.strip_suffix('/').filter(|path| route(path).is_some()) {
                Some(path) => (redirect(path), None),
                // vendor-data and whatever else a reader tries: there is none, which is no failure that it would try again after.
                None => (text(StatusCode::OK, String::new()), None),
            };
        };
        let Some(instance) = id.parse().ok().and_then(|id| instances.find(id)) else {
            return (text(StatusCode::INTERNAL_SERVER_ERROR, format!("there is no guest '{id}' with cloud-init on this cell\n")), None);
        };
        let id = instance.config.id;
        let neighbours = network.neighbours().unwrap_or_else(|error| {
            tracing::warn!("the neighbours of the bridge can't be read, guests are told by their addresses: {error}");
            Vec::new()
        });
        if !is_own(&instance, peer, &neighbours) {
            instances.refused(id, peer);
            return (text(StatusCode::FORBIDDEN, format!("{peer} is not the address of this guest\n")), None);
        }
        let delivers = document == Document::UserData && !instance.config.initialized;
        match written(document, instance, peer).await {
            Ok(body) => (text(StatusCode::OK, body), Some(id).filter(|_| delivers)),
            Err(error) => {
                tracing::warn!(guest = %id, "no {document:?} for cloud-init: {error}");
                (text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")), None)
            }
        }
    }
}

/// Id and document of `/<version>/<id>/<document>`; the version does not matter.
fn route(path: &str) -> Option<(&str, Document)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let (version, id, name) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !version.is_empty() && !id.is_empty()).then_some((id, Document::named(name)?))
}

async fn written(document: Document, instance: Instance, peer: Ipv4Addr) -> Result<String, DocumentError> {
    let Instance { config, pool, .. } = instance;
    match document {
        Document::MetaData => documents::meta_data(&config, &pool),
        Document::NetworkConfig => documents::network_config(&config, &pool),
        Document::UserData if config.initialized => Ok(String::new()),
        Document::UserData => {
            tracing::info!(guest = %config.id, "{peer} reads the guest's user-data");
            let name = config.name.clone();
            let hashed = tokio::task::spawn_blocking(move || documents::user_data(&config)).await;
            hashed.unwrap_or_else(|error| Err(DocumentError::Hash { name, reason: error.to_string() }))
        }
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    let typed = !body.is_empty();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if typed {
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}

fn refuse_method() -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, String::new());
    response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
    response
}

fn redirect(path: &str) -> Answer {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, String::new());
    if let Ok(location) = path.parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
