use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::documents::{meta_data, network_config, user_data};
use super::iso::{image, File};
use super::*;
use crate::host::PoolNetwork;
use crate::model::{AddressMode, GuestConfig, Secret};

const ID: &str = "0b5a7c7e-6f5d-4d6a-9f43-0c6a5c1d2e3f";

pub(super) fn guest() -> GuestConfig {
    let text = format!(
        r#"{{"name":"admin.vm1","id":"{ID}","cores":1,"memory":1048576,"disks":[1048576],"monitor_port":5901,
            "hardware_address":"00:16:3e:01:02:03","auth_user":"root","auth_secret":"s3cret","cloud_init_available":true,
            "internal_address":"10.0.0.50/24","address_allocation":"dhcp","root_login_enabled":true,
            "template":{{"operating_system":"linux","disk":"scsi","network":"virtio","display":"vga","control":"vnc"}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn pool() -> PoolNetwork {
    PoolNetwork { gateway: Some(Ipv4Addr::new(10, 0, 0, 1)), dns: vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(8, 8, 8, 8)] }
}

/// Whether a program is there; a test that needs it says that it is skipped.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a YAML 1.1 reader, cloud-init's, makes of a document.
fn yaml_1_1(document: &str) -> Option<serde_json::Value> {
    if !has("python3") || !Command::new("python3").args(["-c", "import yaml"]).stderr(Stdio::null()).status().unwrap().success() {
        return None;
    }
    let program = "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin.buffer.read().decode('utf-8')), sys.stdout)";
    let mut python = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{document}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The part between the boundaries.
fn cloud_config(guest: &GuestConfig) -> String {
    let document = user_data(guest).unwrap();
    let start = document.find("#cloud-config").unwrap();
    let end = document.rfind("\n--").unwrap();
    document[start..end].to_owned()
}

#[test]
fn meta_data_names_the_guest_and_its_host_name() {
    let text = meta_data(&guest(), &pool()).unwrap();
    assert!(text.contains(&format!("instance-id: \"{ID}\"\n")), "{text}");
    assert!(text.contains("hostname: \"vm1\"\n"), "{text}");
    assert!(!text.contains("network"));
    assert_eq!(network_config(&guest(), &pool()).unwrap(), "");
}

#[test]
fn a_statically_addressed_guest_gets_its_network() {
    let mut guest = guest();
    guest.address_allocation = AddressMode::CloudInit;
    let text = network_config(&guest, &pool()).unwrap();
    assert!(text.starts_with("config: ["), "{text}");
    if let Some(network) = yaml_1_1(&text) {
        let expected = serde_json::json!({"version": 1, "config": [
            {"type": "physical", "name": "eth0", "mac_address": "00:16:3e:01:02:03",
             "subnets": [{"type": "static", "address": "10.0.0.50/24", "gateway": "10.0.0.1"}]},
            {"type": "nameserver", "address": ["10.0.0.2", "8.8.8.8"]},
        ]});
        assert_eq!(network, expected);
        assert_eq!(yaml_1_1(&meta_data(&guest, &pool()).unwrap()).unwrap()["network"], expected);
    }
    guest.internal_address = "nonsense".into();
    let error = meta_data(&guest, &pool()).unwrap_err();
    assert!(error.to_string().contains("'nonsense'"), "{error}");
}

#[test]
fn host_names_are_labels() {
    for (name, expected) in [
        ("g.vm1", "vm1"),
        ("vm1", "vm1"),
        ("g.my_vm.x", "my-vm-x"),
        ("g.__", "guest-0b5a7c7e"),
        ("g.", "guest-0b5a7c7e"),
        ("g.ünder", "nder"),
    ] {
        assert_eq!(hostname(&GuestConfig { name: name.into(), ..guest() }), expected, "{name}");
    }
}

#[test]
fn passwords_are_hashed_as_crypt_does() {
    // What `openssl passwd -6 -salt saltstring` says.
    let known = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
    assert_eq!(password::with_salt("Hello world!", "saltstring").unwrap(), known);
    let (one, other) = (password::hash("x").unwrap(), password::hash("x").unwrap());
    assert_ne!(one, other, "salted");
    assert_eq!(one.split('$').nth(2).unwrap().len(), 16);
}

#[test]
fn user_data_is_mime_with_one_part_and_no_password() {
    let mut guest = guest();
    guest.auth_secret = Secret::new("pässwörd: \"12:30\"");
    for (name, admin) in [("root", "root"), ("", "root"), ("nano", "nano")] {
        guest.auth_user = name.into();
        let document = user_data(&guest).unwrap();
        assert!(
            document
                .starts_with("Content-Type: multipart/mixed; boundary=\"==cloud-config-0==\"\nMIME-Version: 1.0\n\n--==cloud-config-0==\n"),
            "{document}"
        );
        assert!(document.contains("Content-Disposition: attachment; filename=\"cloud-config.txt\"\nContent-Transfer-Encoding: 7bit\nContent-Type: text/cloud-config\nMime-Version: 1.0\n\n#cloud-config\n"));
        assert!(document.ends_with("\n--==cloud-config-0==--\n"));
        assert!(!document.contains("12:30"), "the password itself is in the document");
        assert!(document.contains(&format!("{admin}:$6$")));
    }
}

#[test]
fn c15_a_guest_that_is_not_linux_is_told_so() {
    let mut guest = guest();
    for (system, shown) in [("windows", "windows"), ("", "an unknown system")] {
        guest.template.operating_system = system.into();
        let error = user_data(&guest).unwrap_err().to_string();
        assert!(error.contains(shown) && error.contains("linux guests only"), "{error}");
    }
}

#[test]
fn cloud_config_says_what_was_asked_for() {
    let mut guest = guest();
    guest.auth_user = "nano".into();
    guest.root_login_enabled = false;
    guest.disks = vec![1; 3];
    guest.data_path = "/srv/my data".into();
    let Some(config) = yaml_1_1(&cloud_config(&guest)) else { return };
    assert_eq!(config["hostname"], "vm1");
    assert_eq!(config["disable_root"], true);
    assert_eq!(config["ssh_pwauth"], true);
    assert_eq!(config["growpart"]["devices"], serde_json::json!(["/"]));
    assert_eq!(config["users"][0]["name"], "nano");
    assert_eq!(config["users"][0]["lock_passwd"], false);
    let hash = config["users"][0]["passwd"].as_str().unwrap();
    assert_eq!(config["chpasswd"]["list"], serde_json::json!([format!("nano:{hash}")]));
    let disks = &config["bootcmd"][0];
    assert_eq!((disks[0].as_str(), disks[4].as_str(), disks[5].as_str()), (Some("sh"), Some("2"), Some("/srv/my data")));
    let commands = config["runcmd"].as_array().unwrap();
    assert!(commands.iter().any(|command| command[3] == "administrator" && command[4] == "nano"));
    assert!(!commands.iter().any(|command| command[3] == "root-login"));
    guest.disks = vec![1];
    guest.auth_user = "root".into();
    guest.root_login_enabled = true;
    let config = yaml_1_1(&cloud_config(&guest)).unwrap();
    assert_eq!(config["disable_root"], false);
    assert!(config.get("bootcmd").is_none() && config.get("users").is_none());
    assert!(config["runcmd"].as_array().unwrap().iter().any(|command| command[3] == "root-login"));
}

#[test]
fn the_scripts_are_plain_sh() {
    for shell in ["sh", "bash", "busybox"].into_iter().filter(|shell| has(shell)) {
        for script in ["data-disks", "root-volume", "administrator", "root-login"] {
            let path = format!("{}/src/host/cloudinit/scripts/{script}.sh", env!("CARGO_MANIFEST_DIR"));
            let arguments: &[&str] = if shell == "busybox" { &["sh", "-n", &path] } else { &["-n", &path] };
            output(Command::new(shell).args(arguments));
        }
    }
}

#[test]
fn cloud_init_itself_accepts_the_configuration() {
    if !has("cloud-init") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (number, (admin, disks)) in [("root", 1), ("root", 3), ("nano", 1), ("nano", 2)].into_iter().enumerate() {
        let guest = GuestConfig { auth_user: admin.into(), disks: vec![1; disks], ..guest() };
        let path = directory.path().join(number.to_string());
        std::fs::write(&path, cloud_config(&guest)).unwrap();
        let said = output(Command::new("cloud-init").args(["schema", "--config-file"]).arg(&path));
        assert!(said.contains("Valid"), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// No text of a user or guest changes the shape of a document.
    #[test]
    fn hostile_texts_stay_texts(name in "\\PC{0,20}|[\\x00-\\xff\u{2028}\u{2029}\u{feff}\n\t:#\"'\\\\{}\\[\\]-]{0,20}", path in "/(\\PC|[\\x00-\\xff\u{85}\u{2028}\"'$`;\n]){0,20}") {
        let mut guest = guest();
        guest.name = format!("g.{name}");
        guest.disks = vec![1, 1];
        guest.data_path = path.clone();
        let label = hostname(&guest);
        prop_assert!(!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        let meta_data = meta_data(&guest, &pool()).unwrap();
        prop_assert_eq!(meta_data.lines().count(), 3);
        let user_data = user_data(&guest).unwrap();
        prop_assert_eq!(user_data.matches("--==cloud-config-0==").count(), 2);
        if let Some(config) = yaml_1_1(&cloud_config(&guest)) {
            prop_assert_eq!(&config["bootcmd"][0][5], &serde_json::Value::from(path));
            prop_assert_eq!(&config["hostname"], &serde_json::Value::from(label));
        }
    }

    #[test]
    fn only_accounts_are_accounts(name in "\\PC{0,40}") {
        let guest = GuestConfig { auth_user: name.clone(), ..guest() };
        match user_data(&guest) {
            Ok(_) => prop_assert!(name.is_empty() || is_account(&name)),
            Err(DocumentError::BadAdmin { user, .. }) => prop_assert_eq!(user, name),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

fn isoinfo(path: &Path, arguments: &[&str]) -> String {
    output(Command::new("isoinfo").arg("-i").arg(path).args(arguments))
}

#[test]
fn the_seed_image_is_read_by_others() {
    let node = Ipv4Addr::new(10, 0, 0, 9);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.iso");
    let url = format!("http://10.0.0.9:25469/latest/{ID}/");
    let bytes = seed::image(&guest(), &pool(), node);
    assert_eq!(bytes, seed::image(&guest(), &pool(), node), "the same bytes each time");
    assert_ne!(bytes, seed::image(&guest(), &pool(), Ipv4Addr::new(10, 0, 0, 8)), "§14 D22: another address is another image");
    assert_eq!(bytes.len() % 2048, 0);
    std::fs::write(&path, &bytes).unwrap();
    if has("isoinfo") {
        let volume = isoinfo(&path, &["-d"]);
        assert!(volume.contains("Volume id: cidata\n"), "{volume}");
        assert!(volume.contains("Joliet with UCS level 3 found") && volume.contains("Rock Ridge signatures"), "{volume}");
        for names in ["-R", "-J"] {
            let list = isoinfo(&path, &[names, "-f"]);
            assert_eq!(list.lines().map(str::trim).collect::<Vec<_>>(), ["/meta-data", "/user-data"], "{names}");
            let meta_data = isoinfo(&path, &[names, "-x", "/meta-data"]);
            assert_eq!(meta_data, format!("dsmode: \"net\"\nseedfrom: \"{url}\"\n"));
            assert_eq!(isoinfo(&path, &[names, "-x", "/user-data"]), "");
        }
    }
    if has("blkid") {
        let found = output(Command::new("blkid").args(["-p", "-o", "export"]).arg(&path));
        assert!(found.contains("LABEL=cidata") && found.contains("TYPE=iso9660"), "{found}");
    }
}

#[test]
fn the_seed_of_a_statically_addressed_guest_has_its_network() {
    let guest = GuestConfig { address_allocation: AddressMode::CloudInit, ..guest() };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed.iso");
    std::fs::write(&path, seed::image(&guest, &pool(), Ipv4Addr::new(10, 0, 0, 9))).unwrap();
    if !has("isoinfo") {
        return;
    }
    let read = |name: &str| isoinfo(&path, &["-R", "-x", name]);
    assert_eq!(read("/network-config"), network_config(&guest, &pool()).unwrap());
    assert_eq!(read("/user-data"), format!("#include-once\nhttp://10.0.0.9:25469/latest/{ID}/user-data\n"));
    assert!(read("/meta-data").contains("dsmode: \"net\"\n") && !read("/meta-data").contains("seedfrom"));
}

#[test]
fn images_keep_contents_of_any_length() {
    if !has("isoinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.iso");
    for length in [0, 1, 2047, 2048, 2049, 10_000] {
        let content = vec![b'x'; length];
        let files =
            [File { name: "zero", content: &[] }, File { name: "meta-data", content: &content }, File { name: "alpha.txt", content: b"a" }];
        let bytes = image("cidata", &files);
        let declared = u32::from_le_bytes(bytes[16 * 2048 + 80..16 * 2048 + 84].try_into().unwrap());
        assert_eq!(bytes.len(), declared as usize * 2048);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(isoinfo(&path, &["-R", "-x", "/meta-data"]).len(), length);
        assert_eq!(isoinfo(&path, &["-J", "-x", "/alpha.txt"]), "a");
    }
}
