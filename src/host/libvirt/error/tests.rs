use super::*;

#[test]
fn each_code_has_the_kind_a_caller_can_act_on() {
    let table = [
        (ErrorNumber::NoDomain, ErrorKind::NotFound),
        (ErrorNumber::NoStoragePool, ErrorKind::NotFound),
        (ErrorNumber::NoStorageVolume, ErrorKind::NotFound),
        (ErrorNumber::NoNwfilter, ErrorKind::NotFound),
        (ErrorNumber::DomExist, ErrorKind::Exists),
        (ErrorNumber::StorageVolExist, ErrorKind::Exists),
        (ErrorNumber::OperationInvalid, ErrorKind::Busy),
        (ErrorNumber::OperationTimeout, ErrorKind::Busy),
        (ErrorNumber::ConfigUnsupported, ErrorKind::Unsupported),
        (ErrorNumber::XmlError, ErrorKind::Invalid),
        (ErrorNumber::InvalidArg, ErrorKind::Invalid),
        (ErrorNumber::Rpc, ErrorKind::Unavailable),
        (ErrorNumber::NoConnect, ErrorKind::Unavailable),
        (ErrorNumber::InternalError, ErrorKind::Failed),
    ];
    for (code, expected) in table {
        assert_eq!(kind(code, "any"), expected, "{code}");
    }
}

#[test]
fn a_full_disk_is_told_by_its_text() {
    let message = "internal error: Child process (/usr/bin/qemu-img create) unexpected exit status 1: No space left on device";
    assert_eq!(kind(ErrorNumber::InternalError, message), ErrorKind::NoSpace);
    assert_eq!(kind(ErrorNumber::SystemError, "cannot extend file: Disk quota exceeded"), ErrorKind::NoSpace);
}
