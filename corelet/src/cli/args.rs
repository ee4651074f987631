//! What can be said on the command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::size::parse_size;
use crate::config::{AddressPool, CoreConfig, SharedStorage};
use crate::images::Faults;

/// A minimal Core: finds a Cell of the domain, takes it into a pool and gives it orders.
///
/// Every command starts a Core, waits for a Cell to join, does its work and leaves; `shell` stays for several commands.
#[derive(Debug, Parser)]
#[command(
    name = "corelet",
    version,
    max_term_width = 120,
    after_help = "Example, on a host whose bridge has 10.0.0.1 and on which or beside which a Cell of domain 'nano' runs:\n  \
    corelet --listen 10.0.0.1 list\n  \
    corelet --listen 10.0.0.1 create manager.first --memory 512M --disk 5G\n  \
    corelet --listen 10.0.0.1 start manager.first"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Who this Core is and how it talks.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Options {
    /// Address to listen on; its interface joins the multicast group
    #[arg(long, global = true, value_name = "IP", env = "CORELET_LISTEN")]
    pub(crate) listen: Option<Ipv4Addr>,
    /// Domain that the Cells are in
    #[arg(long, global = true, default_value = "nano", env = "CORELET_DOMAIN")]
    pub(crate) domain: String,
    /// Multicast group of the discovery
    #[arg(long, global = true, default_value = "224.0.0.226", value_name = "IP")]
    pub(crate) group: Ipv4Addr,
    /// Port of the discovery's pings; echoes go to the one below
    #[arg(long, global = true, default_value_t = 5599, value_name = "PORT")]
    pub(crate) group_port: u16,
    /// UDP port for the Cells' connections [default: first free one of 5600..5799]
    #[arg(long, global = true)]
    pub(crate) port: Option<u16>,
    /// Do not answer pings; Cells must have this address in their configuration
    #[arg(long, global = true)]
    pub(crate) no_discovery: bool,
    /// Name of this Core [default: Core_ and its address in hex digits]
    #[arg(long = "name", global = true, value_name = "NAME")]
    pub(crate) core_name: Option<String>, // `name` is the guest's of `create`
    /// Name of the pool that Cells are taken into
    #[arg(long, global = true, default_value = "default")]
    pub(crate) pool: String,
    /// The pool's shared storage: an NFS export that its Cells keep disks on
    #[arg(long, global = true, value_name = "HOST:PATH", value_parser = parse_export)]
    pub(crate) nfs: Option<SharedStorage>,
    /// The pool's addresses for guests: gateway and DNS servers
    #[arg(long, global = true, value_name = "GATEWAY[,DNS…]", value_delimiter = ',')]
    pub(crate) network: Vec<Ipv4Addr>,
    /// How guests get these addresses
    #[arg(long, global = true, default_value = "dhcp", value_name = "MODE")]
    pub(crate) network_mode: NetworkMode,
    /// Work with the Cell of this name [default: the first that joins, or the one that has the guest]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cell: Option<String>,
    /// How long to wait for a Cell to join, in seconds
    #[arg(long, global = true, default_value = "30", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) wait: Duration,
    /// How long a request may wait for its answer, in seconds
    #[arg(long, global = true, default_value = "10", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
    /// One JSON object a line on standard output; progress stays on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress on standard error
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Log the protocol on standard error; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Options {
    /// The Core's settings; `None` without an address to listen on.
    pub(crate) fn core_config(&self) -> Option<CoreConfig> {
        let mut config = CoreConfig::new(self.listen?);
        config.domain.clone_from(&self.domain);
        config.group = self.group;
        config.group_port = self.group_port;
        config.discovery = !self.no_discovery;
        config.pool.name.clone_from(&self.pool);
        config.pool.storage.clone_from(&self.nfs);
        config.pool.network = self.address_pool();
        config.timeout = self.timeout;
        if let Some(port) = self.port {
            config.ports = port..=port;
        }
        if let Some(name) = &self.core_name {
            config.name.clone_from(name);
        }
        Some(config)
    }

    fn address_pool(&self) -> Option<AddressPool> {
        let (gateway, dns) = self.network.split_first()?;
        let mode = match self.network_mode {
            NetworkMode::Dhcp => "dhcp",
            NetworkMode::Cloudinit => "cloudinit",
        };
        let dns = dns.iter().map(Ipv4Addr::to_string).collect();
        Some(AddressPool { name: self.pool.clone(), gateway: gateway.to_string(), dns, mode: mode.into() })
    }
}

/// How guests get their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// From the Cell's DHCP server
    Dhcp,
    /// Written into their configuration by cloud-init
    Cloudinit,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything that happens in the domain until interrupted
    Watch {
        /// Stop after so many seconds
        #[arg(long = "for", value_name = "SECONDS", value_parser = parse_seconds)]
        duration: Option<Duration>,
        /// Show the Cells' status reports too (one every 2 s)
        #[arg(long)]
        reports: bool,
    },
    /// List the Cells and their guests
    List,
    /// Create a guest
    Create(Box<CreateArgs>),
    /// Start a guest
    Start {
        /// Name or id
        guest: String,
        #[command(flatten)]
        media: MediaArgs,
        /// Return on the Cell's answer, without waiting until the guest runs
        #[arg(long)]
        no_wait: bool,
    },
    /// Show what a guest is and uses; without a guest, what the Cell's host uses
    Status {
        /// Name or id
        guest: Option<String>,
    },
    /// Show what a guest is
    Get {
        /// Name or id
        guest: String,
    },
    /// Stop, reboot or reset a guest
    Stop {
        /// Name or id
        guest: String,
        #[command(flatten)]
        how: StopArgs,
        /// Return on the Cell's answer, without waiting until the guest stopped
        #[arg(long)]
        no_wait: bool,
        /// How long to wait until the guest stopped, in seconds
        #[arg(long, default_value = "70", value_name = "SECONDS", value_parser = parse_seconds)]
        within: Duration,
    },
    /// Delete a stopped guest and its disks
    Delete {
        /// Name or id
        guest: String,
        /// Stop it by force first when it runs
        #[arg(long)]
        force: bool,
    },
    /// Fill a stopped guest's system disk anew from a disk image; its data disks stay
    ResetSystem {
        /// Name or id
        guest: String,
        /// The disk image
        #[arg(long, value_name = "ID")]
        image: String,
        #[command(flatten)]
        server: ImageServerArgs,
        /// How long to wait until the disk is ready, in seconds
        #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = parse_seconds)]
        within: Duration,
    },
    /// Make a disk image from a stopped guest's system disk
    Export {
        /// Name or id
        guest: String,
        /// Id of the new image
        #[arg(long, value_name = "ID")]
        image: String,
        #[command(flatten)]
        server: ImageServerArgs,
    },
    /// Serve the files of a directory as disk and media images until interrupted
    ImageServer(ServeArgs),
    /// Wait until a guest is in a state
    Wait {
        /// Name or id
        guest: String,
        /// The state
        state: GuestState,
        /// How long, in seconds
        #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = parse_seconds)]
        within: Duration,
    },
    /// Show where the Cell keeps its disks, or change it
    Storage {
        /// New path for disks
        path: Option<String>,
    },
    /// Send any message and show the answer
    #[command(after_help = super::raw::HELP)]
    Raw {
        /// Name (QuerySnapshotRequest) or number (0x00031000, 200704) of the message, or a whole message as JSON
        message: String,
        /// Parameters as map.key=value
        parameters: Vec<String>,
        /// Send it as an event: do not wait for an answer
        #[arg(long)]
        event: bool,
    },
    /// Measure how fast the Cell answers and what that costs it
    Bench(BenchArgs),
    /// Send many requests at once, some of them to guests that hang, and see that each is answered in time
    Storm(StormArgs),
    /// Send a captured Core's requests to the Cell and compare the answers with the captured ones by meaning
    Replay {
        /// Capture: one JSON object a line with t, from (core or cell) and message
        capture: PathBuf,
        /// Do not send requests of this name; repeat it
        #[arg(long, value_name = "NAME")]
        skip: Vec<String>,
        /// Requests that the Cell says it does not support are no failure
        #[arg(long)]
        allow_unsupported: bool,
    },
    /// Take commands line by line, from a terminal or a pipe, while the Core stays up
    Shell {
        /// End at the first command that fails
        #[arg(long)]
        stop_on_error: bool,
    },
    /// Convert a picture from PPM (P6, as `virsh screenshot` writes it) to PNG
    PpmToPng {
        /// PPM file
        input: PathBuf,
        /// PNG file to write
        output: PathBuf,
    },
}

/// What to measure.
#[derive(Debug, Args)]
#[command(
    after_help = "Guests that are missing are created, timed, and removed at the end. To compare two Cells, run against each, the first with --save \
    and the second with --compare; every figure of the second is then followed by how many times the first's it is."
)]
pub(crate) struct BenchArgs {
    /// Guests that the Cell shall have
    #[arg(long, default_value_t = 100)]
    pub(crate) guests: usize,
    /// Leave the guests that were made
    #[arg(long)]
    pub(crate) keep: bool,
    /// How many of them run while the status of running guests is asked for
    #[arg(long, default_value_t = 1)]
    pub(crate) running: usize,
    /// Requests in flight of the parallel phases
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) parallel: u16,
    /// Guests created or deleted at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) change_parallel: u16,
    /// Length of each phase of queries, in seconds
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) duration: Duration,
    /// Length of the idle phase, in seconds; needs a pid
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) idle: Duration,
    /// The Cell's process, for CPU time and memory
    #[arg(long, value_name = "PID")]
    pub(crate) cell_pid: Option<u32>,
    /// libvirtd's process, for its CPU time while idle
    #[arg(long, value_name = "PID")]
    pub(crate) libvirtd_pid: Option<u32>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Show the figures beside those of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
}

/// What to send at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Slow requests need running guests whose QEMU hangs, such as one that was sent SIGSTOP. Exit status 1 when a request had no answer or the \
    connection broke."
)]
pub(crate) struct StormArgs {
    /// Requests in all
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) requests: u32,
    /// In which time they are sent, in seconds
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) within: Duration,
    /// How many of them go to guests that hang
    #[arg(long, default_value_t = 1024, requires = "stuck")]
    pub(crate) slow: u32,
    /// Name or id of a running guest that hangs; repeat it
    #[arg(long, value_name = "GUEST")]
    pub(crate) stuck: Vec<String>,
}

/// A guest to create.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Full name <group>.<name>; without a group, manager.<name>
    pub(crate) name: String,
    /// Id [default: a random one]
    #[arg(long)]
    pub(crate) id: Option<cell::model::GuestId>,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    pub(crate) cores: u64,
    /// Memory, such as 512M
    #[arg(long, default_value = "256M", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Disk, such as 10G; repeat it for data disks
    #[arg(long = "disk", default_value = "1G", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) disks: Vec<u64>,
    /// Owner
    #[arg(long, default_value = "admin")]
    pub(crate) owner: String,
    /// Start it once created, and with the host
    #[arg(long)]
    pub(crate) auto_start: bool,
    /// CPU priority
    #[arg(long, default_value = "medium")]
    pub(crate) priority: Priority,
    /// Six limits: read B/s, write B/s, read IOPS, write IOPS, receive B/s, send B/s; 0 = unlimited
    #[arg(long, default_value = "0,0,0,0,0,0", hide_default_value = true, value_name = "N,N,N,N,N,N", value_parser = parse_numbers::<6>)]
    pub(crate) limits: [u64; 6],
    /// Hardware: system,disk,network,display,control,usb,tablet in the numbers of the wire
    #[arg(long, value_name = "N,N,N,N,N,N,N", value_parser = parse_numbers::<7>)]
    pub(crate) template: Option<[u64; 7]>,
    /// Module for the guest: qemu (guest agent), cloud-init; repeat it
    #[arg(long = "module", value_name = "NAME")]
    pub(crate) modules: Vec<String>,
    /// Address inside, such as 10.0.0.50/24
    #[arg(long, default_value = "", hide_default_value = true, value_name = "IP/BITS")]
    pub(crate) address: String,
    /// Administrator's account in the guest
    #[arg(long, default_value = "root")]
    pub(crate) admin: String,
    /// Administrator's password; empty lets the Cell choose
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) password: String,
    /// Fill the system disk from this disk image
    #[arg(long, value_name = "ID")]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) server: ImageServerArgs,
    /// Return on the Cell's answer, without waiting until the guest is ready
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until the guest is ready, in seconds
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) within: Duration,
}

/// Where a disk image is: in a directory that this command serves itself, or on an image server.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageServerArgs {
    /// Directory with the image; it is served over HTTPS for as long as the command runs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["image_host", "image_port", "image_size"])]
    pub(crate) image_dir: Option<PathBuf>,
    /// Address of the image server
    #[arg(long, value_name = "IP", requires = "image_port")]
    pub(crate) image_host: Option<String>,
    /// HTTPS port of the image server
    #[arg(long, value_name = "PORT", requires = "image_host")]
    pub(crate) image_port: Option<u16>,
    /// Size of the image on the image server in bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) image_size: Option<u64>,
}

/// An image server of one's own.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory with the images; a file's name is its image's id
    pub(crate) directory: PathBuf,
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:5801", value_name = "IP:PORT")]
    pub(crate) address: SocketAddr,
    /// Plain HTTP, which Cells do not speak
    #[arg(long)]
    pub(crate) plain: bool,
    /// What goes wrong, with commas between: refuse, html, not-found, wrong-type, no-signature, halved, silent, corrupt, break, stall, longer, no-range
    #[arg(long, value_name = "FAULTS")]
    pub(crate) fault: Option<Faults>,
    /// Write the certificate to this file, for the Cell's image_ca
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
}

/// A media image to start from.
#[derive(Clone, Debug, Args)]
pub(crate) struct MediaArgs {
    /// Start with this media image in the drive
    #[arg(long, value_name = "ID", requires_all = ["media_host", "media_port"])]
    pub(crate) media: Option<String>,
    /// Address of the image server
    #[arg(long, value_name = "IP")]
    pub(crate) media_host: Option<String>,
    /// HTTPS port of the image server
    #[arg(long, value_name = "PORT")]
    pub(crate) media_port: Option<u16>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct StopArgs {
    /// Pull the plug
    #[arg(long)]
    pub(crate) force: bool,
    /// Orderly reboot
    #[arg(long)]
    pub(crate) reboot: bool,
    /// Hard reset
    #[arg(long)]
    pub(crate) reset: bool,
}

/// CPU priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Priority {
    High,
    Medium,
    Low,
}

impl Priority {
    /// Its number on the wire.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::High => 0,
            Self::Medium => 1,
            Self::Low => 2,
        }
    }
}

/// A guest's state to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GuestState {
    /// Its disks are ready
    Created,
    /// It runs
    Running,
    /// It is stopped
    Stopped,
    /// It is gone
    Deleted,
}

/// One line of the shell.
#[derive(Debug, Parser)]
#[command(name = "corelet", multicall = true, disable_version_flag = true, disable_help_flag = true)]
pub(crate) struct ShellLine {
    #[command(subcommand)]
    pub(crate) command: ShellCommand,
}

/// What the shell understands.
#[derive(Debug, Subcommand)]
pub(crate) enum ShellCommand {
    #[command(flatten)]
    Command(Command),
    /// Leave the shell
    #[command(visible_alias = "quit")]
    Exit,
}

/// An NFS export; the storage pool is called after the server, as good a name as any.
fn parse_export(text: &str) -> Result<SharedStorage, String> {
    match text.split_once(':') {
        Some((host, path)) if !host.is_empty() && path.starts_with('/') => {
            Ok(SharedStorage { name: format!("nfs-{host}"), host: host.into(), target: path.into() })
        }
        _ => Err("not of the form HOST:/PATH".into()),
    }
}

/// So many sizes, separated by commas.
fn parse_numbers<const N: usize>(text: &str) -> Result<[u64; N], String> {
    let numbers = text.split(',').map(parse_size).collect::<Result<Vec<u64>, String>>()?;
    let found = numbers.len();
    numbers.try_into().map_err(|_| format!("{found} numbers where {N} belong"))
}

/// Seconds, fractions allowed.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a time span".to_owned())
}
