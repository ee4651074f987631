use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn plain(directory: &Path) -> ImageServer {
    let config = ImageServerConfig { directory: directory.to_owned(), listen: "127.0.0.1:0".parse().unwrap(), tls: false };
    ImageServer::start(config).await.unwrap()
}

/// Sends a request as it stands and gives the whole answer.
async fn ask(server: &ImageServer, request: &str) -> String {
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).to_lowercase()
}

fn get(method: &str, path: &str, more: &str) -> String {
    format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn images_are_served_as_the_real_server_does() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("one"), "abc").unwrap();
    let server = plain(directory.path()).await;
    let signature = "signature: a9993e364706816aba3e25717850c26c9cd0d89d";
    let whole = ask(&server, &get("GET", "disk_images/one/file/", "")).await;
    assert!(whole.starts_with("http/1.1 200") && whole.contains(signature) && whole.ends_with("\r\n\r\nabc"), "{whole}");
    let head = ask(&server, &get("HEAD", "disk_images/one/file/", "")).await;
    assert!(head.contains("content-length: 3") && !head.contains("signature"), "{head}");
    let part = ask(&server, &get("GET", "disk_images/one/file/", "Range: bytes=1-\r\n")).await;
    assert!(part.starts_with("http/1.1 206") && part.contains("content-range: bytes 1-2/3") && part.ends_with("\r\n\r\nbc"), "{part}");
    let media = ask(&server, &get("GET", "media_images/one/file/", "")).await;
    assert!(media.ends_with("\r\n\r\nabc") && !media.contains("signature"), "{media}");
    for absent in ["disk_images/two/file/", "disk_images/..%2fone/file/"] {
        let refused = ask(&server, &get("GET", absent, "")).await;
        assert!(refused.starts_with("http/1.1 200") && refused.contains("\"error_code\":500"), "{refused}");
    }
    let unknown = ask(&server, &get("GET", "other/one/file/", "")).await;
    assert!(unknown.starts_with("http/1.1 404"), "{unknown}");
    let beyond = ask(&server, &get("GET", "disk_images/one/file/", "Range: bytes=9-\r\n")).await;
    assert!(beyond.starts_with("http/1.1 416"), "{beyond}");
    assert_eq!(server.seen().len(), 8);
    assert_eq!(server.seen()[2].range.as_deref(), Some("bytes=1-"));
}

#[tokio::test]
async fn an_upload_counts_only_with_the_right_checksum() {
    let directory = tempfile::tempdir().unwrap();
    let server = plain(directory.path()).await;
    let upload = |checksum: &str| {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"checksum\"\r\n\r\n{checksum}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"new\"\r\n\r\nabc\r\n--b--\r\n"
        );
        let more = format!("Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n", body.len());
        get("PUT", "disk_images/new/file/", &more) + &body
    };
    let refused = ask(&server, &upload("da39a3ee5e6b4b0d3255bfef95601890afd80709")).await;
    assert!(refused.contains("checksum is"), "{refused}");
    assert_eq!(server.images().unwrap(), []);
    let taken = ask(&server, &upload("a9993e364706816aba3e25717850c26c9cd0d89d")).await;
    assert!(taken.contains("\"error_code\":0"), "{taken}");
    assert_eq!(server.images().unwrap()[0].size, 3);
}

#[tokio::test]
async fn faults_are_read_from_their_names_and_hold_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("one"), "abc").unwrap();
    let server = plain(directory.path()).await;
    assert!("corrupt,nonsense".parse::<Faults>().unwrap_err().contains("'nonsense' is no fault"));
    server.set_faults("corrupt,no-range".parse().unwrap());
    let corrupt = ask(&server, &get("GET", "disk_images/one/file/", "Range: bytes=1-\r\n")).await;
    assert!(corrupt.starts_with("http/1.1 200") && !corrupt.ends_with("abc"), "{corrupt}");
    server.set_faults("refuse".parse().unwrap());
    assert!(ask(&server, &get("GET", "disk_images/one/file/", "")).await.contains("on demand"));
    server.set_faults(Faults::default());
    assert!(ask(&server, &get("GET", "disk_images/one/file/", "")).await.ends_with("abc"));
}
