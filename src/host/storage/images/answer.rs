//! What an image server's answer to a download is worth, told by its head alone; and what it says when it is none.
//!
//! Contract §9.2: a disk image comes with 200 (or 206 where a part was asked for), `application/octet-stream`, its length and its `Signature`. A refusal
//! comes with 200 as well, as JSON without a `Signature` (§13.11): nothing is an image that does not look like one (§14 B2).

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use hyper::{Response, StatusCode};
use serde::Deserialize;

use super::connection::Kind;
use super::trouble::Trouble;
use crate::host::{ErrorKind, HostError};

/// Name of the header with the SHA-1 of the whole image.
const SIGNATURE: &str = "signature";

/// More of a refusal is not read, bytes.
const LONGEST_REFUSAL: usize = 64 << 10;

/// An image that is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Names this content: the SHA-1 of the whole disk image in lower-case hex, or what the server says of a media image's version.
    pub(super) signature: String,
    /// Bytes of the whole image, where the server says so; a media image is none without it.
    pub(super) size: Option<u64>,
    /// Where the body begins: what was asked for, or 0 when the server sends everything again.
    pub(super) offset: u64,
    /// Names this version of the file to the server, when it has such a name.
    pub(super) validator: Option<String>,
}

/// What the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the image.
    Image(Head),
    /// It is something else; the body may say what.
    NoImage(String),
    /// It is the image, but not as it was announced or begun.
    Wrong(String),
}

/// Judges an answer to a request for an image of `size` bytes (0 where nobody announced it) from byte `offset` on.
pub(super) fn judge(what: Kind, status: StatusCode, headers: &HeaderMap, size: u64, offset: u64) -> Verdict {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let kind = text(CONTENT_TYPE.as_str()).unwrap_or("nothing said of its type").to_owned();
    let range = match status {
        StatusCode::OK => Some((0, None)),
        StatusCode::PARTIAL_CONTENT => text(CONTENT_RANGE.as_str()).and_then(range),
        _ => None,
    };
    let length = text(CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
    let validator = text(ETAG.as_str()).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED.as_str())).map(str::to_owned);
    let whole = range.and_then(|(begin, whole)| whole.or(length.map(|length| length.saturating_add(begin))));
    let signature = match what {
        Kind::Disk => text(SIGNATURE).filter(|text| is_sha1(text)).map(str::to_ascii_lowercase),
        Kind::Media => whole.map(|whole| format!("{whole} {}", validator.as_deref().unwrap_or_default())),
    };
    let (Some((begin, _)), true, Some(signature)) = (range, kind.starts_with("application/octet-stream"), signature) else {
        return Verdict::NoImage(format!("HTTP {}, {kind}", status.as_u16()));
    };
    if begin != 0 && begin != offset {
        return Verdict::Wrong(format!("byte {offset} was asked for, but byte {begin} came"));
    }
    if let Some(whole) = whole.filter(|whole| size != 0 && *whole != size) {
        return Verdict::Wrong(format!("it has {whole} bytes on the server, but {size} were announced"));
    }
    Verdict::Image(Head { signature, size: whole, offset: begin, validator })
}

fn is_sha1(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// First byte and whole length of `bytes 5-9/10`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, rest) = text.strip_prefix("bytes ")?.split_once('-')?;
    let (_, whole) = rest.split_once('/')?;
    Some((first.parse().ok()?, whole.parse().ok()))
}

/// The answers of the server that are no images.
#[derive(Deserialize)]
struct Refusal {
    error_code: i64,
    #[serde(default)]
    message: String,
}

/// What the server says for itself: the message of its JSON, or a line of what else it is.
pub(super) async fn reason(response: Response<Incoming>) -> Result<Answer, Trouble> {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.len() < LONGEST_REFUSAL {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| Trouble::broken("the image server's answer did not come to its end", error))?;
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    Ok(Answer::read(&text))
}

/// The body of an answer that carries no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `error_code` 0.
    Done,
    /// The server's own message.
    Refused(String),
    /// Not what an image server says; its beginning.
    Foreign(String),
}

impl Answer {
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { error_code: 0, .. }) => Self::Done,
            Ok(Refusal { error_code, message }) if message.is_empty() => Self::Refused(format!("error {error_code}")),
            Ok(Refusal { message, .. }) => Self::Refused(message.chars().filter(|c| !c.is_control()).take(300).collect()),
            Err(_) => {
                // What is no text is of no use to anybody.
                let text = std::str::from_utf8(body).unwrap_or_default();
                let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
                Self::Foreign(line.chars().filter(|c| !c.is_control()).take(120).collect())
            }
        }
    }
}

/// What a server's answer to the request for a whole disk image of `size` bytes comes to, for whoever has one without its connection: the SHA-1 of
/// the image that follows, or why none does.
pub async fn assess(response: Response<Incoming>, size: u64) -> std::result::Result<String, HostError> {
    match judge(Kind::Disk, response.status(), response.headers(), size, 0) {
        Verdict::Image(head) => Ok(head.signature),
        Verdict::Wrong(what) => Err(HostError::new(ErrorKind::Invalid, what)),
        Verdict::NoImage(head) => Err(no_image("that answered", head, response).await.into_error()),
    }
}

/// The failure of a download whose answer was no image.
pub(super) async fn no_image(server: &str, head: String, response: Response<Incoming>) -> Trouble {
    let text = match reason(response).await {
        Ok(Answer::Refused(message)) => format!("the image server {server} refuses: {message}"),
        Ok(Answer::Done) => format!("the image server {server} sent no image ({head})"),
        Ok(Answer::Foreign(body)) if body.is_empty() => format!("the image server {server} sent no image ({head})"),
        Ok(Answer::Foreign(body)) => format!("the image server {server} sent no image ({head}) but: {body}"),
        Err(trouble) => return trouble,
    };
    Trouble::last(ErrorKind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    const SHA1: &str = "A9993E364706816ABA3E25717850C26C9CD0D89D";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn good() -> HeaderMap {
        headers(&[
            ("content-type", "application/octet-stream"),
            ("content-length", "100"),
            ("signature", SHA1),
            ("last-modified", "Fri, 20 Nov 2026 06:51:33 GMT"),
        ])
    }

    #[test]
    fn an_image_is_taken_with_its_signature_in_lower_case() {
        let Verdict::Image(head) = judge(Kind::Disk, StatusCode::OK, &good(), 100, 0) else { panic!() };
        assert_eq!((head.signature, head.offset), (SHA1.to_lowercase(), 0));
        assert_eq!(head.validator.as_deref(), Some("Fri, 20 Nov 2026 06:51:33 GMT"));
    }

    /// §14 B2: status, type, signature and length are all looked at.
    #[test]
    fn b2_what_does_not_look_like_an_image_is_none() {
        let without = |name: &'static str| {
            let mut headers = good();
            headers.remove(name);
            headers
        };
        let with = |name: &'static str, value: &'static str| {
            let mut headers = good();
            headers.insert(name, HeaderValue::from_static(value));
            headers
        };
        assert!(matches!(judge(Kind::Disk, StatusCode::NOT_FOUND, &good(), 100, 0), Verdict::NoImage(text) if text.contains("404")));
        assert!(matches!(judge(Kind::Disk, StatusCode::OK, &without("signature"), 100, 0), Verdict::NoImage(_)));
        assert!(matches!(judge(Kind::Disk, StatusCode::OK, &with("signature", "deadbeef"), 100, 0), Verdict::NoImage(_)));
        assert!(
            matches!(judge(Kind::Disk, StatusCode::OK, &with("content-type", "text/html"), 100, 0), Verdict::NoImage(text) if text.contains("html"))
        );
        assert!(
            matches!(judge(Kind::Disk, StatusCode::OK, &good(), 99, 0), Verdict::Wrong(text) if text.contains("100") && text.contains("99"))
        );
        assert!(matches!(judge(Kind::Disk, StatusCode::OK, &without("content-length"), 99, 0), Verdict::Image(_)), "the body is counted");
    }

    #[test]
    fn a_part_has_to_be_the_one_that_was_asked_for() {
        let part = |range: &'static str| {
            let mut headers = good();
            headers.insert("content-range", HeaderValue::from_static(range));
            headers.insert("content-length", HeaderValue::from_static("60"));
            headers
        };
        assert!(
            matches!(judge(Kind::Disk, StatusCode::PARTIAL_CONTENT, &part("bytes 40-99/100"), 100, 40), Verdict::Image(head) if head.offset == 40)
        );
        assert!(matches!(judge(Kind::Disk, StatusCode::PARTIAL_CONTENT, &part("bytes 41-99/100"), 100, 40), Verdict::Wrong(_)));
        assert!(matches!(judge(Kind::Disk, StatusCode::PARTIAL_CONTENT, &part("bytes 40-99/120"), 100, 40), Verdict::Wrong(_)));
        assert!(matches!(judge(Kind::Disk, StatusCode::PARTIAL_CONTENT, &part("lines 40-99/100"), 100, 40), Verdict::NoImage(_)));
        assert!(
            matches!(judge(Kind::Disk, StatusCode::OK, &good(), 100, 40), Verdict::Image(head) if head.offset == 0),
            "everything again"
        );
    }

    #[test]
    fn refusals_are_read_whatever_they_are() {
        assert_eq!(Answer::read(br#"{"error_code":0,"message":"","data":""}"#), Answer::Done);
        assert_eq!(Answer::read(br#"{"error_code":500,"message":"no such image","data":{}}"#), Answer::Refused("no such image".into()));
        assert_eq!(Answer::read(br#"{"error_code":7}"#), Answer::Refused("error 7".into()));
        assert_eq!(Answer::read(b"<html>\n <h1>Busy</h1>\x1b"), Answer::Foreign("<html> <h1>Busy</h1>".into()));
        assert_eq!(Answer::read(b"\xff"), Answer::Foreign(String::new()));
    }
}
