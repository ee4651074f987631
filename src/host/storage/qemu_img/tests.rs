use super::*;

/// A host without qemu-img can't run these; the error says so to the user as well.
fn missing() -> bool {
    let missing = std::process::Command::new("qemu-img").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        eprintln!("skipped: this host has no qemu-img");
    }
    missing
}

fn make(path: &Path, size: &str) {
    let status = std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn an_image_grows() {
    if missing() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a ; b.qcow2");
    make(&image, "1M");
    resize(&image, 5 << 20).await.unwrap();
    let header = std::fs::read(&image).unwrap();
    assert_eq!(header[24..32], (5_u64 << 20).to_be_bytes());
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_with_the_programs_reason() {
    if missing() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("raw");
    std::fs::write(&image, vec![7; 4096]).unwrap();
    let error = resize(&image, 5 << 20).await.unwrap_err();
    assert!(error.context.contains("not in qcow2 format"), "{}", error.context);
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 4096);
}

#[tokio::test]
async fn a_run_that_does_not_end_is_killed_at_its_deadline() {
    if missing() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let arguments: [&OsStr; 5] = ["bench".as_ref(), "-f".as_ref(), "raw".as_ref(), "-q".as_ref(), fifo.as_ref()];
    let error = run("cannot wait", Duration::from_millis(200), arguments).await.unwrap_err();
    assert!(error.context.contains("did not end"), "{}", error.context);
}
