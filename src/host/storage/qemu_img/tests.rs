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

#[tokio::test]
async fn names_that_qemu_img_would_take_for_something_else_never_reach_it() {
    let image = Path::new("/images/a.qcow2");
    for name in ["-o", "--help", "nbd:localhost:1", "json:{\"driver\":\"raw\"}", "fat:rw:x", "relative.qcow2", ""] {
        let hostile = Path::new(name);
        let refused = [
            info(hostile).await.err(),
            create_overlay(hostile, image, 1).await.err(),
            create_overlay(image, hostile, 1).await.err(),
            copy_layer(hostile, image, None).await.err(),
            copy_layer(image, hostile, None).await.err(),
            commit(hostile, image).await.err(),
            commit(image, hostile).await.err(),
            snapshot(hostile, Inside::Forget, "x").await.err(),
            cut(hostile, 1).await.err(),
            resize(hostile, 1).await.err(),
        ];
        for error in refused {
            let error = error.expect("refused");
            assert!(error.kind == ErrorKind::Invalid && error.context.contains("absolute path"), "{name:?}: {}", error.context);
        }
    }
    for name in ["json:{}", "nbd:x/y", "-o"] {
        assert!(copy_layer(image, image, Some(name)).await.unwrap_err().context.contains("which is no file"), "{name:?}");
    }
    assert!(backing_file("base.qcow2").is_ok() && backing_file("/images/a:b.qcow2").is_ok());
}
