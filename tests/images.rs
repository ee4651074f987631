//! The client of the image servers against an image server over loopback, with everything going wrong that can.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    missing_docs
)]

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cell::host::storage::{ImageClient, ImageSettings, ImageTls};
use cell::host::{ErrorKind, HostError, ImageLocation, Images, Transfer};
use corelet::images::{AnswerFault, BodyFault, Faults, ImageServer, ImageServerConfig};

const MIB: u64 = 1 << 20;
/// Long enough for a machine that does other things as well.
const STALL: Duration = Duration::from_secs(2);

/// A server with images, and a pool with a disk whose content is known.
struct Bed {
    server: ImageServer,
    images: tempfile::TempDir,
    pool: tempfile::TempDir,
    client: ImageClient,
}

impl Bed {
    async fn new() -> Self {
        Self::with(0).await
    }

    async fn with(cache_bytes: u64) -> Self {
        let images = tempfile::tempdir().unwrap();
        let server = serve(images.path()).await;
        let pool = tempfile::tempdir().unwrap();
        let client = client(ImageTls::Insecure, None, cache_bytes);
        let bed = Self { server, images, pool, client };
        std::fs::write(bed.disk(), "the old disk").unwrap();
        std::fs::set_permissions(bed.disk(), std::fs::Permissions::from_mode(0o666)).unwrap();
        bed
    }

    fn disk(&self) -> PathBuf {
        self.pool.path().join("guest_sys.qcow2")
    }

    /// Puts an image of so much data into the server's directory, with a hole in its middle.
    fn image(&self, id: &str, data: u64) -> ImageLocation {
        let path = self.images.path().join(id);
        let file = std::fs::File::create(&path).unwrap();
        let mut noise = fastrand::Rng::with_seed(data);
        for at in (0..data).step_by(MIB as usize).filter(|at| at / MIB != 1) {
            let block: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take((data - at).min(MIB) as usize).collect();
            file.write_all_at(&block, at).unwrap();
        }
        file.write_all_at(&header(16 * MIB), 0).unwrap();
        file.set_len(data).unwrap();
        self.location(id)
    }

    fn location(&self, id: &str) -> ImageLocation {
        let size = std::fs::metadata(self.images.path().join(id)).map_or(1, |metadata| metadata.len());
        let address = self.server.address();
        ImageLocation { id: id.into(), host: address.ip().to_string(), port: address.port(), size }
    }

    async fn fetch(&self, image: &ImageLocation) -> Result<Transfer, HostError> {
        let transfer = Transfer::default();
        let fetched = self.client.fetch(image, self.disk().to_str().unwrap(), 16 * MIB, &transfer).await;
        fetched.map(|()| transfer)
    }

    /// Fetches and expects to fail for this reason, without a trace.
    async fn fails(&self, image: &ImageLocation, reason: &str) {
        let error = self.fetch(image).await.err().unwrap_or_else(|| panic!("no failure: {reason}"));
        let text = chain(&error);
        assert!(text.contains(reason), "{reason:?} in {text:?}");
        assert_eq!(self.files(), ["guest_sys.qcow2"]);
        assert_eq!(std::fs::read(self.disk()).unwrap(), b"the old disk");
    }

    async fn succeeds(&self, image: &ImageLocation) {
        let transfer = self.fetch(image).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(transfer.percent(), 100);
        assert_eq!(std::fs::read(self.disk()).unwrap(), b"the old disk", "not touched yet");
        self.client.install(self.disk().to_str().unwrap()).await.unwrap();
        let expected = std::fs::read(self.images.path().join(&image.id)).unwrap();
        assert!(std::fs::read(self.disk()).unwrap() == expected, "the disk is not the image");
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.pool.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.server.seen().into_iter().map(|seen| seen.range).collect()
    }
}

async fn serve(directory: &Path) -> ImageServer {
    let listen = "127.0.0.1:0".parse().unwrap();
    ImageServer::start(ImageServerConfig { directory: directory.to_owned(), listen, tls: true }).await.unwrap()
}

fn client(tls: ImageTls, ca: Option<PathBuf>, cache_bytes: u64) -> ImageClient {
    ImageClient::new(&ImageSettings { tls, ca, cache_bytes, stall: STALL }).unwrap()
}

/// The header of an empty qcow2 file of version 3; enough for what is tested here.
fn header(size: u64) -> [u8; 104] {
    let mut header = [0; 104];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[20..24].copy_from_slice(&16_u32.to_be_bytes());
    header[24..32].copy_from_slice(&size.to_be_bytes());
    header[100..].copy_from_slice(&104_u32.to_be_bytes());
    header
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or(error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn answer(answer: AnswerFault) -> Faults {
    Faults { answer, ..Faults::default() }
}

fn body(body: BodyFault) -> Faults {
    Faults { body, ..Faults::default() }
}

#[tokio::test]
async fn an_image_comes_whole_with_its_holes_and_the_disks_looks() {
    let bed = Bed::new().await;
    let image = bed.image("one", 5 * MIB + 4321);
    bed.succeeds(&image).await;
    let disk = std::fs::metadata(bed.disk()).unwrap();
    assert!(disk.blocks() * 512 < 5 * MIB, "the hole of the image is a hole of the disk");
    assert_eq!(disk.permissions().mode() & 0o777, 0o666);
    assert_eq!(bed.files(), ["guest_sys.qcow2"]);
}

/// §14 B2, §13.11: what the server says instead of an image is the reason of the failure.
#[tokio::test]
async fn b2_an_answer_that_is_no_image_is_never_a_disk() {
    let bed = Bed::new().await;
    let image = bed.image("one", 2 * MIB);
    for (fault, reason) in [
        (AnswerFault::Refuse, "refuses: the image is not to be had, on demand"),
        (AnswerFault::Html, "Please log in"),
        (AnswerFault::NotFound, "HTTP 404"),
        (AnswerFault::WrongType, "HTTP 200, text/plain"),
        (AnswerFault::NoSignature, "sent no image"),
        (AnswerFault::Halved, "it has 1048576 bytes on the server, but 2097152 were announced"),
    ] {
        bed.server.set_faults(answer(fault));
        bed.fails(&image, reason).await;
    }
    bed.server.set_faults(Faults::default());
    bed.fails(&bed.location("absent"), "refuses: image 'absent'").await;
    bed.succeeds(&image).await;
}

/// §14 B1: damage on the way, a lost end, and a surplus.
#[tokio::test]
async fn b1_an_image_that_is_not_what_was_promised_is_never_a_disk() {
    let bed = Bed::new().await;
    let image = bed.image("one", 3 * MIB);
    bed.server.set_faults(body(BodyFault::Corrupt));
    bed.fails(&image, "is damaged: its SHA-1 is").await;
    bed.server.set_faults(Faults { no_range: true, ..body(BodyFault::Break { after: MIB }) });
    bed.fails(&image, "bytes").await;
    bed.server.set_faults(body(BodyFault::Longer));
    let result = bed.fetch(&image).await;
    assert!(result.is_ok(), "a surplus after the last byte is not looked at");
    bed.fails(&ImageLocation { size: image.size + 1, ..image.clone() }, "bytes").await;
}

#[tokio::test]
async fn a_broken_connection_is_replaced_by_one_for_the_rest() {
    let bed = Bed::new().await;
    let image = bed.image("one", 5 * MIB);
    bed.server.set_faults(body(BodyFault::Break { after: 2 * MIB }));
    bed.succeeds(&image).await;
    // What was on its way when the connection broke may be lost with it: where exactly it went on is the network's affair.
    let ranges = bed.ranges();
    let begins: Vec<u64> = ranges.iter().flatten().map(|range| range["bytes=".len()..range.len() - 1].parse().unwrap()).collect();
    assert_eq!(begins.len(), ranges.len() - 1, "only the first asks for everything: {ranges:?}");
    assert!(begins.len() >= 2 && begins.is_sorted() && begins[0] > 0, "{begins:?}");
}

#[tokio::test]
async fn a_server_that_cannot_send_parts_is_asked_for_everything_again() {
    let bed = Bed::new().await;
    let image = bed.image("one", 3 * MIB);
    bed.server.set_faults(Faults { no_range: true, ..body(BodyFault::Break { after: MIB }) });
    let fetching = bed.fetch(&image);
    let healing = async {
        while bed.server.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bed.server.set_faults(Faults { no_range: true, ..Faults::default() });
    };
    let (fetched, ()) = tokio::join!(fetching, healing);
    fetched.unwrap_or_else(|error| panic!("{}", chain(&error)));
    bed.client.install(bed.disk().to_str().unwrap()).await.unwrap();
    assert!(std::fs::read(bed.disk()).unwrap() == std::fs::read(bed.images.path().join("one")).unwrap());
}

#[tokio::test]
async fn an_image_that_is_replaced_between_two_parts_is_not_mixed() {
    let bed = Bed::new().await;
    let image = bed.image("one", 3 * MIB);
    bed.server.set_faults(body(BodyFault::Break { after: MIB }));
    let (transfer, disk) = (Transfer::default(), bed.disk());
    let fetching = bed.client.fetch(&image, disk.to_str().unwrap(), 16 * MIB, &transfer);
    let replacing = async {
        while transfer.done() < MIB {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let file = std::fs::OpenOptions::new().write(true).open(bed.images.path().join("one")).unwrap();
        file.write_all_at(b"another", 2 * MIB).unwrap();
    };
    let (fetched, ()) = tokio::join!(fetching, replacing);
    let error = fetched.unwrap_err();
    assert!(chain(&error).contains("was replaced on its server"), "{}", chain(&error));
    assert_eq!(bed.files(), ["guest_sys.qcow2"]);
}

/// §14 C20: a server that says nothing more is given up, and only it.
#[tokio::test]
async fn c20_a_stalled_server_ends_in_failure_and_holds_up_nobody() {
    let bed = Bed::new().await;
    let image = bed.image("one", 3 * MIB);
    bed.server.set_faults(body(BodyFault::Stall { after: 0 }));
    bed.fails(&image, "nothing came from the image server").await;
    bed.server.set_faults(answer(AnswerFault::Silent));
    bed.fails(&image, "nothing came from the image server").await;
    // A stall in the middle is healed like a broken connection.
    bed.server.set_faults(body(BodyFault::Stall { after: 2 * MIB }));
    bed.succeeds(&image).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_or_no_address_is_told() {
    let bed = Bed::new().await;
    let image = bed.image("one", MIB);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    bed.fails(&ImageLocation { port: closed, ..image.clone() }, "can't be reached: Connection refused").await;
    // §14 C9
    for (host, id) in [("not a host", "one"), ("127.0.0.1", "a/b?c"), ("127.0.0.1", "")] {
        let wrong = ImageLocation { host: host.into(), id: id.into(), ..image.clone() };
        bed.fails(&wrong, "is n").await;
    }
    // §14 C7
    bed.fails(&ImageLocation { size: 0, ..image }, "0 bytes").await;
}

#[tokio::test]
async fn an_image_that_is_no_plain_qcow2_or_does_not_fit_is_refused() {
    let bed = Bed::new().await;
    let with = |id: &str, change: fn(&mut [u8; 104])| {
        let mut header = header(16 * MIB);
        change(&mut header);
        std::fs::write(bed.images.path().join(id), header).unwrap();
        bed.location(id)
    };
    bed.fails(&with("raw", |header| header[0] = 0), "it is not a qcow2 file").await;
    bed.fails(&with("backed", |header| header[15] = 104), "backing file").await;
    bed.fails(&with("outside", |header| header[79] = 4), "external data file").await;
    bed.fails(&with("large", |header| header[24] = 1), "it needs a disk of").await;
}

#[tokio::test]
async fn a_transfer_that_is_stopped_ends_at_once_and_leaves_nothing() {
    let bed = Bed::new().await;
    let image = bed.image("one", 3 * MIB);
    bed.server.set_faults(body(BodyFault::Stall { after: MIB }));
    let transfer = Transfer::default();
    let (disk, half) = (bed.disk(), MIB);
    let fetching = bed.client.fetch(&image, disk.to_str().unwrap(), 16 * MIB, &transfer);
    let stopping = async {
        while transfer.done() < half {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        transfer.stop().cancel();
    };
    let (fetched, ()) = tokio::join!(fetching, stopping);
    assert!(fetched.unwrap_err().context.contains("it was stopped"));
    assert_eq!(bed.files(), ["guest_sys.qcow2"]);
}

#[tokio::test]
async fn the_second_clone_is_copied_and_a_new_version_is_not() {
    let bed = Bed::with(100 * MIB).await;
    let image = bed.image("one", 4 * MIB);
    bed.succeeds(&image).await;
    // A server that sends only the head of an image now: nothing more is needed of it.
    bed.server.set_faults(body(BodyFault::Stall { after: 0 }));
    std::fs::write(bed.disk(), "the old disk").unwrap();
    bed.succeeds(&image).await;
    assert_eq!(bed.files(), [".image_cache", "guest_sys.qcow2"]);
    // The server is asked for the signature each time: what it has now counts.
    bed.server.set_faults(Faults::default());
    let changed = std::fs::OpenOptions::new().write(true).open(bed.images.path().join("one")).unwrap();
    changed.write_all_at(b"version two", 2 * MIB).unwrap();
    std::fs::write(bed.disk(), "the old disk").unwrap();
    bed.succeeds(&image).await;
    assert_eq!(std::fs::read_dir(bed.pool.path().join(".image_cache")).unwrap().count(), 1);
    bed.server.set_faults(answer(AnswerFault::Refuse));
    assert!(bed.fetch(&image).await.is_err(), "an image that the server no longer gives is not given");
}

#[tokio::test]
async fn a_certificate_is_checked_where_that_is_asked_for() {
    let bed = Bed::new().await;
    let image = bed.image("one", MIB);
    let disk = bed.disk();
    let ca = bed.images.path().join("ca.pem");
    std::fs::write(&ca, bed.server.certificate().unwrap()).unwrap();
    let fetch = |client: ImageClient, image: ImageLocation| {
        let disk = disk.clone();
        async move { client.fetch(&image, disk.to_str().unwrap(), 16 * MIB, &Transfer::default()).await }
    };
    fetch(client(ImageTls::Verify, Some(ca.clone()), 0), image.clone()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    // Another server with the same name has another key.
    let other = serve(bed.images.path()).await;
    let elsewhere = ImageLocation { port: other.address().port(), ..image.clone() };
    let error = fetch(client(ImageTls::Verify, Some(ca), 0), elsewhere.clone()).await.unwrap_err();
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    fetch(client(ImageTls::Insecure, None, 0), elsewhere).await.unwrap();
}

#[tokio::test]
async fn a_disk_is_sent_with_its_checksum_and_comes_back_the_same() {
    let bed = Bed::new().await;
    let mut content = vec![7; (2 * MIB + 77) as usize];
    content[..104].copy_from_slice(&header(16 * MIB));
    std::fs::write(bed.disk(), &content).unwrap();
    let transfer = Transfer::default();
    let sent = bed.client.upload(bed.disk().to_str().unwrap(), &bed.location("new"), &transfer).await;
    assert_eq!(sent.unwrap_or_else(|error| panic!("{}", chain(&error))), content.len() as u64);
    assert_eq!(transfer.percent(), 100);
    assert!(std::fs::read(bed.images.path().join("new")).unwrap() == content);
    assert_eq!(bed.server.images().unwrap()[0].size, content.len() as u64);
}

/// §14 C1: a failed upload is an error like any other.
#[tokio::test]
async fn c1_an_upload_that_is_refused_or_stalls_fails_with_the_reason() {
    let bed = Bed::new().await;
    let disk = bed.disk();
    let disk = disk.to_str().unwrap();
    let target = bed.location("new");
    bed.server.set_faults(answer(AnswerFault::Refuse));
    let error = bed.client.upload(disk, &target, &Transfer::default()).await.unwrap_err();
    assert!(chain(&error).contains("refuses: the image is not to be had"), "{}", chain(&error));
    bed.server.set_faults(answer(AnswerFault::Html));
    assert!(bed.client.upload(disk, &target, &Transfer::default()).await.is_err());
    bed.server.set_faults(answer(AnswerFault::Silent));
    std::fs::File::create(disk).unwrap().set_len(64 * MIB).unwrap();
    let error = bed.client.upload(disk, &target, &Transfer::default()).await.unwrap_err();
    assert!(chain(&error).contains("took nothing for"), "{}", chain(&error));
    std::fs::remove_file(disk).unwrap();
    let error = bed.client.upload(disk, &target, &Transfer::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(!bed.images.path().join("new").exists());
}

/// §14 B21: the server never takes a part for the whole.
#[tokio::test]
async fn b21_a_disk_that_changes_while_it_is_sent_is_not_accepted() {
    let bed = Bed::new().await;
    let disk = bed.disk();
    let size = 96 * MIB;
    std::fs::File::create(&disk).unwrap().set_len(size).unwrap();
    let transfer = Transfer::default();
    let target = bed.location("new");
    let sending = bed.client.upload(disk.to_str().unwrap(), &target, &transfer);
    let changing = async {
        while transfer.done() < size {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(b"somebody wrote here", size - 100).unwrap();
    };
    let (sent, ()) = tokio::join!(sending, changing);
    let error = sent.unwrap_err();
    assert!(chain(&error).contains("changed while it was sent"), "{}", chain(&error));
    assert!(!bed.images.path().join("new").exists());
}

/// A real image, grown by the real program to what the guest was promised.
#[tokio::test]
async fn a_smaller_image_is_grown_to_the_disk() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("skipped: this host has no qemu-img");
        return;
    }
    let bed = Bed::new().await;
    let path = bed.images.path().join("real");
    let created = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("4M").status().unwrap();
    assert!(created.success());
    bed.fetch(&bed.location("real")).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    bed.client.install(bed.disk().to_str().unwrap()).await.unwrap();
    let check = Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(bed.disk()).status().unwrap();
    assert!(check.success());
    assert_eq!(std::fs::read(bed.disk()).unwrap()[24..32], (16 * MIB).to_be_bytes());
}

/// §14 E10: QEMU needs to know no certificate, because it gets a file.
#[tokio::test]
async fn e10_media_become_files_that_anybody_may_read_and_are_fetched_once() {
    let bed = Bed::with(8 * MIB).await;
    let media = bed.image("cd", 3 * MIB);
    let expected = std::fs::read(bed.images.path().join("cd")).unwrap();
    let directory = bed.pool.path().join(".media");
    let fetch = |image: ImageLocation| {
        let (client, directory) = (&bed.client, directory.to_str().unwrap().to_owned());
        async move { client.fetch_media(&ImageLocation { size: 0, ..image }, &directory, &Transfer::default()).await }
    };
    let file = fetch(media.clone()).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), expected);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(Path::new(&file)), mode(&directory)), (0o644, 0o755));
    let made = std::fs::metadata(&file).unwrap().ino();
    assert_eq!(fetch(media.clone()).await.unwrap(), file);
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), made, "it was there");

    // Another version is another file; what is in a drive stays when the rest goes.
    bed.image("cd", 2 * MIB);
    let newer = fetch(media.clone()).await.unwrap();
    assert_ne!(newer, file);
    let big = fetch(bed.image("big", 9 * MIB)).await.unwrap();
    bed.client.discard_media(directory.to_str().unwrap(), std::slice::from_ref(&file)).await.unwrap();
    assert!(Path::new(&file).exists() && !Path::new(&big).exists());

    let error = fetch(ImageLocation { id: "none".into(), ..media.clone() }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(!std::fs::read_dir(&directory).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".new-")));
}

#[tokio::test]
async fn media_that_break_off_are_resumed_and_what_is_no_media_leaves_nothing() {
    let bed = Bed::new().await;
    let media = bed.image("cd", 3 * MIB);
    let directory = bed.pool.path().join(".media").to_str().unwrap().to_owned();
    bed.server.set_faults(Faults { answer: AnswerFault::WrongType, ..Faults::default() });
    bed.client.fetch_media(&media, &directory, &Transfer::default()).await.unwrap_err();
    assert!(!Path::new(&directory).exists() || std::fs::read_dir(&directory).unwrap().next().is_none());
    bed.server.set_faults(Faults::default());
    let file = bed.client.fetch_media(&media, &directory, &Transfer::default()).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), std::fs::read(bed.images.path().join("cd")).unwrap());
}
