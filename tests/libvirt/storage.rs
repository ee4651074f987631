//! Pools and volumes.

use std::process::Command;

use cell::host::{Change, ErrorKind, Hypervisor, Storage};

use super::lab::{pool_directory, wait_for, Daemon, Lab, DISK, POOL};

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_pool_is_made_adopted_and_removed() {
    let lab = Lab::new().await;
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("made");
    let target = target.to_str().unwrap();
    let made = lab.libvirt.ensure_local_pool("cell-made", target).await.unwrap();
    assert_eq!((made.name.as_str(), made.target.as_str(), made.id.len()), ("cell-made", target, 36));
    assert!(lab.told(&["pool-info", "cell-made"]).lines().any(|line| line.starts_with("Autostart") && line.ends_with("yes")));
    // As the reference leaves it: not active, and closed to QEMU's user.
    lab.told(&["pool-destroy", "cell-made"]);
    Command::new("chmod").args(["0744", target]).status().unwrap();
    std::fs::write(format!("{target}/old.qcow2"), b"x").unwrap();
    let adopted = lab.libvirt.ensure_local_pool("cell-made", target).await.unwrap();
    assert_eq!((&adopted.id, adopted.volumes.get("old.qcow2")), (&made.id, Some(&true)));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(target).unwrap().permissions());
    assert_eq!(mode & 0o011, 0o011);
    let error = lab.libvirt.ensure_local_pool("cell-made", "/var/lib/other").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists);
    assert_eq!(lab.libvirt.remove_pool("cell-made").await.unwrap(), Change::Changed);
    assert!(std::path::Path::new(target).join("old.qcow2").exists());
    assert_eq!(lab.libvirt.remove_pool("cell-made").await.unwrap(), Change::Unchanged);
    assert_eq!(lab.libvirt.pool("cell-made").await.unwrap_err().kind, ErrorKind::NotFound);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn the_copied_blank_is_the_image_that_libvirt_makes() {
    let lab = Lab::new().await;
    let mut files = Vec::new();
    for index in 0..2 {
        let name = format!("blank{index}.qcow2");
        let info = lab.libvirt.create_volume(POOL, &name, DISK).await.unwrap();
        assert_eq!((info.path.clone(), info.capacity), (info.key, DISK));
        files.push(std::fs::read(&info.path).unwrap());
        assert!(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", &info.path]).status().unwrap().success());
        let output = Command::new("qemu-img").args(["info", "--output=json", &info.path]).output().unwrap();
        let image: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&image["format"], &image["virtual-size"]), (&"qcow2".into(), &DISK.into()));
        assert_eq!(image["format-specific"]["data"]["compat"], "1.1");
        assert!(image["actual-size"].as_u64().unwrap() < 1 << 20);
    }
    assert_eq!(files[0], files[1]);
    // libvirt learns the format of the second by itself.
    wait_for(|| lab.told(&["vol-dumpxml", "blank1.qcow2", POOL]).contains("<format type='qcow2'/>")).await;
    assert_eq!(lab.libvirt.create_volume(POOL, "blank1.qcow2", DISK).await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(std::fs::read(pool_directory().join("blank1.qcow2")).unwrap(), files[0]);
    for index in 0..2 {
        assert_eq!(lab.libvirt.delete_volume(POOL, &format!("blank{index}.qcow2")).await.unwrap(), Change::Changed);
        assert_eq!(lab.libvirt.delete_volume(POOL, &format!("blank{index}.qcow2")).await.unwrap(), Change::Unchanged);
    }
    std::fs::write(pool_directory().join("unseen.qcow2"), b"x").unwrap();
    assert_eq!(lab.libvirt.delete_volume(POOL, "unseen.qcow2").await.unwrap(), Change::Changed);
    assert_eq!(lab.libvirt.create_volume("no-such-pool", "a", DISK).await.unwrap_err().kind, ErrorKind::NotFound);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_guest_starts_with_a_pool_that_is_down_a_file_that_is_new_and_after_a_restart() {
    let mut lab = Lab::new().await;
    // The first makes the blank, the second is a copy of it.
    let _first = lab.defined().await;
    let guest = lab.defined().await;
    lab.libvirt.start(guest.id).await.unwrap();
    lab.libvirt.destroy(guest.id).await.unwrap();
    lab.told(&["pool-destroy", POOL]);
    lab.libvirt.start(guest.id).await.unwrap();
    lab.libvirt.destroy(guest.id).await.unwrap();

    let disk = pool_directory().join(&guest.storage_volumes[0]);
    let aside = pool_directory().join("aside");
    std::fs::rename(&disk, &aside).unwrap();
    lab.told(&["pool-refresh", POOL]);
    assert_eq!(lab.libvirt.start(guest.id).await.unwrap_err().kind, ErrorKind::NotFound);
    std::fs::rename(&aside, &disk).unwrap();
    lab.libvirt.start(guest.id).await.unwrap();
    lab.libvirt.destroy(guest.id).await.unwrap();

    let third = lab.defined().await;
    let daemon = Daemon::find();
    daemon.stop().await;
    daemon.start();
    lab.expect(|event| matches!(event, cell::host::HostEvent::Connected(_))).await;
    lab.libvirt.start(third.id).await.unwrap();
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_full_file_system_is_told_as_such_and_left_clean() {
    let lab = Lab::new().await;
    let mount = tempfile::tempdir().unwrap();
    let target = mount.path().to_str().unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m,mode=0755", "tmpfs", target]).status().unwrap().success());
    lab.libvirt.ensure_local_pool("cell-full", target).await.unwrap();
    for name in ["one.qcow2", "two.qcow2"] {
        lab.libvirt.create_volume("cell-full", name, DISK).await.unwrap();
        lab.libvirt.delete_volume("cell-full", name).await.unwrap();
    }
    let error = lab.libvirt.create_volume("cell-full", "big.qcow2", 1 << 40).await.unwrap_err();
    let left = std::fs::read_dir(target).unwrap().count();
    lab.libvirt.remove_pool("cell-full").await.unwrap();
    assert!(Command::new("umount").arg(target).status().unwrap().success());
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}: {:?}", error.source);
    assert_eq!(left, 0);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn the_bridge_is_read_from_the_kernel() {
    use cell::host::Network;
    let lab = Lab::new().await;
    let name = std::env::var("CELL_TEST_BRIDGE").unwrap();
    let bridge = cell::host::network::HostNetwork::new(name.clone()).bridge().unwrap();
    assert_eq!(bridge.name, name);
    let told = Command::new("ip").args(["-o", "link", "show", "dev", &name]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let mac: Vec<_> = bridge.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(told.starts_with(&format!("{}: ", bridge.index)) && told.contains(&mac.join(":")), "{told}");
    let told = Command::new("ip").args(["-4", "-o", "addr", "show", "dev", &name]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let expected = told.split_whitespace().nth(3).and_then(|cidr| cidr.split('/').next()).and_then(|address| address.parse().ok());
    assert_eq!(bridge.address, expected);
    lab.clean().await;
}
