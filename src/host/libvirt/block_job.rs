//! Block jobs of a running domain, which the `virt` crate does not wrap: begin a commit or a pull, and ask how far it has come.
//!
//! Contract: the only file beside [`super::events`] with `unsafe`, and it does nothing but hand over arguments that live for the call. Each call
//! begins or asks and returns; none waits for a job. libvirt allows one job for each disk.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;

use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use crate::host::Progress;

/// No limit.
const BANDWIDTH: std::ffi::c_ulong = 0;

/// Begins to write all that `top` holds into `base`, on which it is based; both are files beneath the disk `target`.
pub(super) fn begin_commit(domain: &Domain, target: &str, top: &str, base: &str) -> Result<(), VirtError> {
    let (target, top, base) = (text(target), text(top), text(base));
    // SAFETY: `domain` and the three terminated texts live for the call, which only reads them.
    checked(unsafe { sys::virDomainBlockCommit(domain.as_ptr(), target.as_ptr(), base.as_ptr(), top.as_ptr(), BANDWIDTH, 0) })
}

/// Begins to copy into the disk's own image what lies between it and `base`, or everything below it.
pub(super) fn begin_pull(domain: &Domain, target: &str, base: Option<&str>) -> Result<(), VirtError> {
    let (target, base) = (text(target), base.map(text));
    let base = base.as_deref().map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: `domain` and the terminated texts live for the call, which only reads them; no base is a null pointer.
    checked(unsafe { sys::virDomainBlockRebase(domain.as_ptr(), target.as_ptr(), base, BANDWIDTH, 0) })
}

/// How far the disk's job has come; none when there is none.
pub(super) fn progress(domain: &Domain, target: &str) -> Result<Option<Progress>, VirtError> {
    let target = text(target);
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: `domain` and the terminated text live for the call, which writes to nothing but `info`.
    let found = unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), target.as_ptr(), &mut info, 0) };
    checked(found)?;
    Ok((found > 0).then_some(Progress { done: info.cur, total: info.end }))
}

/// Names of disks and files come out of libvirt's own XML, which has no NUL; one that had names nothing.
fn text(plain: &str) -> CString {
    CString::new(plain).unwrap_or_default()
}

fn checked(result: std::ffi::c_int) -> Result<(), VirtError> {
    if result < 0 {
        return Err(VirtError::last_error());
    }
    Ok(())
}
