//! The calls of libvirt that the `virt` crate does not wrap: lifecycle events, the end of a connection, the statistics of one domain, and the
//! limits and failures of a running domain's disks.
//! The event loop that delivers the first two runs in one thread of its own.
//!
//! Contract: `unsafe` is here and, for block jobs, in [`super::block_job`], and nowhere else. Callbacks run on the event thread; they only put a small value into a
//! bounded channel, never block and never call libvirt. A full channel loses no event for good: it raises a flag upon which the receiver
//! asks for everything anew.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{c_int, c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use crate::host::{ErrorKind, HostError};
use crate::model::GuestId;

use super::connection::Connection;

/// Stack of the event thread; libvirt's loop needs little.
const EVENT_STACK: usize = 256 << 10;

/// Events that may wait before the receiver is told to ask anew.
const QUEUE: usize = 1024;

/// What the event thread tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Something happened to a domain.
    Lifecycle(GuestId, Lifecycle),
    /// The connection is gone.
    Closed,
}

/// The lifecycle events that matter. SHUTDOWN and CRASHED are not among them: the QEMU process still exists then, STOPPED follows when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// A definition is new or has changed.
    Defined,
    /// A definition is gone.
    Undefined,
    /// A QEMU process exists.
    Running,
    /// It exists, and has paused the guest because of a failed disk.
    Held,
    /// The QEMU process ended.
    Stopped,
}

impl Lifecycle {
    fn from_raw(event: c_int, detail: c_int) -> Option<Self> {
        match u32::try_from(event).ok()? {
            // A renamed domain is told as undefined and defined, but it was there all the time.
            sys::VIR_DOMAIN_EVENT_UNDEFINED if u32::try_from(detail) == Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED) => None,
            sys::VIR_DOMAIN_EVENT_DEFINED => Some(Self::Defined),
            sys::VIR_DOMAIN_EVENT_UNDEFINED => Some(Self::Undefined),
            sys::VIR_DOMAIN_EVENT_SUSPENDED if u32::try_from(detail) == Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR) => Some(Self::Held),
            sys::VIR_DOMAIN_EVENT_STARTED | sys::VIR_DOMAIN_EVENT_SUSPENDED | sys::VIR_DOMAIN_EVENT_RESUMED => Some(Self::Running),
            sys::VIR_DOMAIN_EVENT_STOPPED => Some(Self::Stopped),
            _ => None,
        }
    }
}

/// Starts libvirt's event loop, once for the process. It must run before the first connection is opened.
pub(super) fn start_loop() -> Result<(), HostError> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
        let spawned = std::thread::Builder::new().name("libvirt-events".into()).stack_size(EVENT_STACK).spawn(run_loop);
        spawned.map(drop).map_err(|error| error.to_string())
    });
    started.clone().map_err(|why| HostError::with_source(ErrorKind::Failed, "cannot start libvirt's event loop", why))
}

fn run_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!("libvirt's event loop: {}", error.message());
            // It fails when poll() does, for lack of memory: not at once again.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Where the callbacks put what they are told.
struct Sink {
    notices: mpsc::Sender<Notice>,
    lost: AtomicBool,
    closed: AtomicBool,
}

impl Sink {
    fn put(&self, notice: Notice) {
        if notice == Notice::Closed {
            self.closed.store(true, Ordering::Release);
        }
        if self.notices.try_send(notice).is_err() {
            self.lost.store(true, Ordering::Release);
            // Should the receiver have emptied the channel in between, this wakes it so that it sees the flag.
            let _ = self.notices.try_send(notice);
        }
    }
}

/// A connection whose events are delivered until this is dropped.
pub(super) struct Subscription {
    connection: Connection,
    callback: c_int,
    sink: Arc<Sink>,
    notices: mpsc::Receiver<Notice>,
}

impl Subscription {
    /// Asks for the lifecycle events of all domains and for the end of the connection.
    pub(super) fn new(connection: Connection) -> Result<Self, VirtError> {
        let (sender, notices) = mpsc::channel(QUEUE);
        let sink = Arc::new(Sink { notices: sender, lost: AtomicBool::new(false), closed: AtomicBool::new(false) });
        let callback = register(&connection, &sink)?;
        Ok(Self { connection, callback, sink, notices })
    }

    /// The connection that the events come through.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next notice. A notice that was lost for want of room is [`None`]: ask for everything anew.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        let notice = self.notices.recv().await;
        if !self.sink.lost.swap(false, Ordering::AcqRel) {
            return notice;
        }
        while self.notices.try_recv().is_ok() {}
        self.sink.closed.load(Ordering::Acquire).then_some(Notice::Closed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the connection is open until after this, and `callback` was given by it. Both calls fail harmlessly on a broken connection;
        // libvirt itself drops its references to the sink through `release`.
        unsafe {
            sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), self.callback);
            sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(on_close));
        }
    }
}

fn register(connection: &Connection, sink: &Arc<Sink>) -> Result<c_int, VirtError> {
    type Specific = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
    type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
    // SAFETY: libvirt's documented way (VIR_DOMAIN_EVENT_CALLBACK): it casts the pointer back to the type that belongs to the event's id.
    let generic = unsafe { std::mem::transmute::<Specific, Generic>(on_lifecycle) };
    let lifecycle = c_int::try_from(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE).unwrap_or_default();
    let reference = lend(sink);
    // SAFETY: the connection is open; a null domain means all; `reference` is a counted pointer that libvirt gives back to `release`, exactly
    // once and after its last use, unless the call fails (then it is taken back here).
    let callback = unsafe {
        sys::virConnectDomainEventRegisterAny(connection.as_ptr(), ptr::null_mut(), lifecycle, Some(generic), reference, Some(release))
    };
    if callback < 0 {
        let error = VirtError::last_error();
        // SAFETY: libvirt refused the reference, so it is still ours.
        unsafe { release(reference) };
        return Err(error);
    }
    let reference = lend(sink);
    // SAFETY: as above.
    if unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(on_close), reference, Some(release)) } < 0 {
        let error = VirtError::last_error();
        // SAFETY: libvirt refused the reference, so it is still ours; `callback` was given by this connection.
        unsafe {
            release(reference);
            sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), callback);
        }
        return Err(error);
    }
    Ok(callback)
}

fn lend(sink: &Arc<Sink>) -> *mut c_void {
    Arc::into_raw(sink.clone()).cast_mut().cast()
}

/// SAFETY: `opaque` comes from [`lend`], once for each call of this.
unsafe extern "C" fn release(opaque: *mut c_void) {
    drop(Arc::from_raw(opaque.cast_const().cast::<Sink>()));
}

/// SAFETY: libvirt calls it with a valid domain and the pointer of [`lend`], which lives until [`release`].
unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut bytes = [0; 16];
    let sink = &*opaque.cast_const().cast::<Sink>();
    // Reads the UUID out of the object: no call to libvirtd.
    if sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) == 0 {
        if let Some(what) = Lifecycle::from_raw(event, detail) {
            sink.put(Notice::Lifecycle(GuestId::from_bytes(bytes), what));
        }
    }
    0
}

/// SAFETY: libvirt calls it with the pointer of [`lend`], which lives until [`release`].
unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    (*opaque.cast_const().cast::<Sink>()).put(Notice::Closed);
}

/// A statistic of libvirt: a number (negative ones are left out) or a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statistic {
    /// A counter or a size.
    Number(u64),
    /// A name or a path.
    Text(String),
}

/// The statistics of one domain, by libvirt's names ("balloon.usable"). `groups` are `VIR_DOMAIN_STATS_*`.
/// A domain with a job under way is not waited for: what would need its monitor is then left out.
pub(super) fn statistics(domain: &Domain, groups: u32) -> Result<HashMap<String, Statistic>, VirtError> {
    let mut domains = [domain.as_ptr(), ptr::null_mut()];
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    // SAFETY: `domains` ends with a null pointer and `domain` lives for the call; libvirt allocates the records.
    let count = unsafe { sys::virDomainListGetStats(domains.as_mut_ptr(), groups, &mut records, flags) };
    let Ok(count) = usize::try_from(count) else { return Err(VirtError::last_error()) };
    let mut found = HashMap::new();
    // SAFETY: libvirt returned an array of `count` records, each with `nparams` parameters, valid until the list is freed below.
    unsafe {
        for index in 0..count {
            let record = &**records.add(index);
            for index in 0..usize::try_from(record.nparams).unwrap_or(0) {
                if let Some((name, value)) = read(&*record.params.add(index)) {
                    found.insert(name, value);
                }
            }
        }
        sys::virDomainStatsRecordListFree(records);
    }
    Ok(found)
}

/// SAFETY: `parameter` was filled by libvirt, so its name is terminated and `type_` tells which member of the union is set.
unsafe fn read(parameter: &sys::virTypedParameter) -> Option<(String, Statistic)> {
    let text = |pointer: *const std::ffi::c_char| CStr::from_ptr(pointer).to_string_lossy().into_owned();
    let value = match u32::try_from(parameter.type_).ok()? {
        sys::VIR_TYPED_PARAM_INT => Statistic::Number(u64::try_from(parameter.value.i).ok()?),
        sys::VIR_TYPED_PARAM_UINT => Statistic::Number(u64::from(parameter.value.ui)),
        sys::VIR_TYPED_PARAM_LLONG => Statistic::Number(u64::try_from(parameter.value.l).ok()?),
        sys::VIR_TYPED_PARAM_ULLONG => Statistic::Number(parameter.value.ul),
        sys::VIR_TYPED_PARAM_STRING => Statistic::Text(text(parameter.value.s)),
        _ => return None,
    };
    Some((text(parameter.field.as_ptr()), value))
}

/// Sets limits of a disk of a running domain; the names are libvirt's ("read_bytes_sec"), 0 lifts a limit.
pub(super) fn limit_disk(domain: &Domain, target: &str, limits: &[(&str, u64)]) -> Result<(), VirtError> {
    let mut params: Vec<sys::virTypedParameter> = limits.iter().map(|(name, value)| number(name, *value)).collect();
    // Names of disks come out of libvirt's own XML, which has no NUL.
    let target = std::ffi::CString::new(target).unwrap_or_default();
    let (count, flags) = (c_int::try_from(params.len()).unwrap_or(c_int::MAX), sys::VIR_DOMAIN_AFFECT_LIVE);
    // SAFETY: `domain`, `target` and the `count` parameters live for the call, which only reads them.
    let result = unsafe { sys::virDomainSetBlockIoTune(domain.as_ptr(), target.as_ptr(), params.as_mut_ptr(), count, flags) };
    if result < 0 {
        return Err(VirtError::last_error());
    }
    Ok(())
}

fn number(name: &str, value: u64) -> sys::virTypedParameter {
    let mut field = [0; 80];
    // One place less than there are: the last one stays NUL.
    for (place, byte) in field.iter_mut().take(79).zip(name.bytes()) {
        *place = std::ffi::c_char::from_ne_bytes([byte]);
    }
    let type_ = c_int::try_from(sys::VIR_TYPED_PARAM_ULLONG).unwrap_or_default();
    sys::virTypedParameter { field, type_, value: sys::_virTypedParameterValue { ul: value } }
}

/// Most disks that are asked about; a guest has no more places for them.
const DISKS: usize = 64;

/// Disks of a running domain that failed, by their names in the guest ("sda"), and whether the file system was full.
pub(super) fn failed_disks(domain: &Domain) -> Result<Vec<(String, bool)>, VirtError> {
    let mut records = [const { sys::virDomainDiskError { disk: ptr::null_mut(), error: 0 } }; DISKS];
    let room = u32::try_from(records.len()).unwrap_or_default();
    // SAFETY: `records` has room for as many as it says; libvirt fills the first of them with names that it has allocated.
    let count = unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), records.as_mut_ptr(), room, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(VirtError::last_error()) };
    let failed = records.iter().take(count).map(|record| {
        // SAFETY: libvirt's names are terminated; whoever asked for them frees them, once.
        let name = unsafe {
            let name = CStr::from_ptr(record.disk).to_string_lossy().into_owned();
            nix::libc::free(record.disk.cast());
            name
        };
        (name, u32::try_from(record.error) == Ok(sys::VIR_DOMAIN_DISK_ERROR_NO_SPACE))
    });
    Ok(failed.collect())
}
