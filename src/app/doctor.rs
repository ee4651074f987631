//! The parts that `cell doctor` looks with, on this host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::service::{image_settings, libvirt_config};
use super::{AppError, Settings};
use crate::doctor::{self, Deed, Expectation, Findings, Sources};
use crate::host::libvirt::Libvirt;
use crate::host::network::{ports, HostNetwork};
use crate::host::platform::{self, Platform, PortState};
use crate::host::storage::{qemu_img_version, ImageClient, ImageSettings, LocalDisks, SharedFiles};
use crate::host::{HostError, Hypervisor, Network, Storage};
use crate::model::PoolMode;
use crate::net;
use crate::process::error_chain;
use crate::store::Store;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Request {
    /// Settings; defaults where they can't be used.
    pub settings: Settings,
    /// What is wrong with the settings, a line each.
    pub complaints: Vec<String>,
    /// The service runs, as this process where that is known.
    pub service: Option<Option<i32>>,
    /// Repair what can be repaired; the caller holds the home's lock.
    pub repair: bool,
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// What is so now.
    pub findings: Findings,
    /// What was repaired before.
    pub deeds: Vec<Deed>,
}

/// Looks at everything, and repairs where that was asked for.
///
/// # Errors
/// The system gives no threads.
pub fn run(request: &Request) -> Result<Report, AppError> {
    super::run_to_end(examine(request))
}

async fn examine(request: &Request) -> Report {
    let settings = &request.settings;
    let libvirt = Libvirt::connect(libvirt_config(settings)).await.map(Arc::new).map_err(told);
    let guests = match &libvirt {
        Ok(libvirt) => libvirt.runs_guests_as().await.map_err(told),
        Err(reason) => Err(reason.clone()),
    };
    let platform = platform(request, guests).await;
    let images = ImageClient::new(&image_settings(settings)).or_else(|_| ImageClient::new(&ImageSettings::default()));
    let mut complaints = request.complaints.clone();
    let images = match images {
        Ok(images) => images,
        Err(error) => {
            complaints.push(told(error));
            return Report { findings: doctor::complain(&complaints), deeds: Vec::new() };
        }
    };
    let data = settings.home.data_dir();
    let sources = Sources {
        data: &data,
        bridge: &settings.cell.bridge,
        running: request.service.is_some(),
        libvirt: libvirt.map(|libvirt| (libvirt.clone() as Arc<dyn Hypervisor>, libvirt as Arc<dyn Storage>)),
        disks: Arc::<LocalDisks>::default(),
        images: Arc::new(images),
        shared: Arc::new(SharedFiles::default()),
    };
    let expectation =
        Expectation { virtualization: settings.cell.virtualization, core_named: settings.cell.core_address.is_some(), complaints };
    if request.repair {
        let (deeds, findings) = doctor::repair(&sources, &platform, &expectation).await;
        return Report { findings, deeds };
    }
    Report { findings: doctor::examine(&sources, &platform, &expectation).await, deeds: Vec::new() }
}

async fn platform(request: &Request, guests: Result<String, String>) -> Platform {
    let settings = &request.settings;
    let (home, name, service) = (&settings.home, &settings.cell.bridge, request.service.flatten());
    let bridge = HostNetwork::new(name).bridge().map_err(told);
    let address = bridge.as_ref().ok().and_then(|bridge| bridge.address);
    let (open_files, threads) = platform::limits(service);
    let missing = || PortState::Unknown(format!("{name} has no address"));
    Platform {
        root: nix::unistd::geteuid().is_root(),
        kvm: platform::kvm(),
        guests,
        bridge_ports: bridge.as_ref().ok().and_then(platform::bridge_ports),
        default_route: platform::default_route(),
        multicast: net::comes_back(*settings.domain.group.ip(), name).await.map_err(|error| error_chain(&error)),
        dhcp_port: match &bridge {
            Ok(_) => ports::dhcp(name, service),
            Err(_) => missing(),
        },
        cloud_init_port: address.map_or_else(missing, |address| ports::cloud_init(address, service)),
        bridge,
        spaces: spaces(request),
        open_files,
        threads,
        qemu_img: qemu_img_version().await.map_err(told),
        now: SystemTime::now(),
        last_write: platform::last_write(&home.data_dir()),
    }
}

/// File systems of `data/`, of the log, and of local pools; a shared one may not answer, and is looked at elsewhere.
fn spaces(request: &Request) -> Vec<platform::Space> {
    let home = &request.settings.home;
    let own = [home.data_dir(), home.log_dir()].into_iter().filter_map(|path| platform::space(&path, false));
    let books = Store::look(&home.data_dir(), &request.settings.cell.bridge);
    let pools: Vec<PathBuf> = books.map_or_else(
        |_| Vec::new(),
        |books| books.storage.pools.values().filter(|pool| pool.mode == PoolMode::Local).map(|pool| PathBuf::from(&pool.target)).collect(),
    );
    own.chain(pools.iter().filter_map(|path| platform::space(path, true))).collect()
}

fn told(error: HostError) -> String {
    error_chain(&error)
}
