//! Clones of an image over loopback: how fast, how many at once, with how much memory, beside what `curl` and `sha1sum` do in the same run.
//!
//! `cargo bench --bench clone -- [MiB]`. The image server is a process of its own; the figures are those of this one, which only fetches.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    missing_docs
)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cell::host::storage::{ImageClient, ImageSettings};
use cell::host::{ImageLocation, Images, Transfer};
use corelet::images::{ImageServer, ImageServerConfig};

const MIB: u64 = 1 << 20;
const IMAGE: &str = "bench";
const AT_ONCE: usize = 8;
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [serve, directory] = arguments.as_slice() {
        if serve == "serve" {
            return server(Path::new(directory));
        }
    }
    let size = arguments.first().map_or(1024, |text| text.parse::<u64>().expect("the size of the image in MiB")) * MIB;
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(size));
}

fn server(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ImageServerConfig { directory: directory.to_owned(), listen: "127.0.0.1:0".parse().unwrap(), tls: true };
        let server = ImageServer::start(config).await.unwrap();
        server.images().unwrap();
        println!("{}", server.address());
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}

struct Bed {
    scratch: tempfile::TempDir,
    image: ImageLocation,
    server: Child,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Bed {
    /// A server with an image of noise behind a qcow2 header, warm in the page cache.
    fn new(size: u64) -> Self {
        let scratch = tempfile::tempdir_in(std::env::var_os("CLONE_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from)).unwrap();
        let images = scratch.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let file = std::fs::File::create(images.join(IMAGE)).unwrap();
        let mut noise = fastrand::Rng::with_seed(1);
        let mut block = vec![0; MIB as usize];
        for at in (0..size).step_by(MIB as usize) {
            noise.fill(&mut block);
            file.write_all_at(&block, at).unwrap();
        }
        let mut header = [0; 104];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[24..32].copy_from_slice(&size.to_be_bytes());
        file.write_all_at(&header, 0).unwrap();
        file.sync_all().unwrap();
        let mut server = Command::new(std::env::current_exe().unwrap()).arg("serve").arg(&images).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address: SocketAddr = line.trim().parse().unwrap();
        let image = ImageLocation { id: IMAGE.into(), host: address.ip().to_string(), port: address.port(), size };
        Self { scratch, image, server }
    }

    /// An empty disk in a pool of its own.
    fn disk(&self, pool: &str, name: &str) -> String {
        let pool = self.scratch.path().join(pool);
        std::fs::create_dir_all(&pool).unwrap();
        let disk = pool.join(name);
        std::fs::write(&disk, "").unwrap();
        disk.to_str().unwrap().to_owned()
    }

    fn clear(&self, pool: &str) {
        let _ = std::fs::remove_dir_all(self.scratch.path().join(pool));
    }

    /// Seconds of `curl | tee FILE | sha1sum`, the page cache's write-back included.
    fn curl(&self) -> f64 {
        let file = self.scratch.path().join("curl.out");
        let url = format!("https://{}:{}/api/v1/disk_images/{IMAGE}/file/", self.image.host, self.image.port);
        let begun = Instant::now();
        let pipe = format!("curl -sk '{url}' | tee '{}' | sha1sum", file.display());
        assert!(Command::new("sh").args(["-c", &pipe]).stdout(Stdio::null()).status().unwrap().success());
        let seconds = begun.elapsed().as_secs_f64();
        std::fs::remove_file(file).unwrap();
        seconds
    }
}

async fn run(size: u64) {
    let bed = Bed::new(size);
    let mib = (size / MIB) as f64;
    let plain = ImageClient::new(&ImageSettings::default()).unwrap();
    let cached = ImageClient::new(&ImageSettings { cache_bytes: u64::MAX, ..ImageSettings::default() }).unwrap();
    let base = rss_anon();
    println!("image of {mib} MiB, RssAnon before: {base} KiB");
    let (mut curl, mut first, mut second, mut caching) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut peak = 0;
    for _ in 0..ROUNDS {
        curl.push(bed.curl());
        first.push(fetch(&plain, &bed, "plain", &mut peak).await);
        bed.clear("plain");
        caching.push(fetch(&cached, &bed, "cached", &mut peak).await);
        second.push(fetch(&cached, &bed, "cached", &mut peak).await);
        bed.clear("cached");
    }
    let rate = |times: &[f64]| mib / median(times);
    println!("curl | tee | sha1sum      {:7.0} MiB/s", rate(&curl));
    println!("clone, cache off          {:7.0} MiB/s, {:.0} % of curl's rate", rate(&first), 100.0 * rate(&first) / rate(&curl));
    println!("clone, kept in the cache  {:7.0} MiB/s, {:.0} % of curl's rate", rate(&caching), 100.0 * rate(&caching) / rate(&curl));
    println!("second clone, from there  {:7.0} MiB/s, {:.1} times the first", rate(&second), rate(&second) / rate(&caching));
    println!("RssAnon at most           {peak:7} KiB");
    at_once(Arc::new(plain), &bed, mib).await;
}

/// Seconds of one fetch with its installation; notes the most memory.
async fn fetch(client: &ImageClient, bed: &Bed, pool: &str, peak: &mut u64) -> f64 {
    let disk = bed.disk(pool, "guest_sys.qcow2");
    let transfer = Transfer::default();
    let begun = Instant::now();
    let fetching = client.fetch(&bed.image, &disk, bed.image.size, &transfer);
    tokio::pin!(fetching);
    loop {
        tokio::select! {
            fetched = &mut fetching => break fetched.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(50)) => *peak = rss_anon().max(*peak),
        }
    }
    client.install(&disk).await.unwrap();
    begun.elapsed().as_secs_f64()
}

/// Several clones at once: all progress, and alike.
async fn at_once(client: Arc<ImageClient>, bed: &Bed, mib: f64) {
    let transfers: Vec<Transfer> = (0..AT_ONCE).map(|_| Transfer::default()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for (number, transfer) in transfers.iter().enumerate() {
        let (client, image, disk, transfer) = (client.clone(), bed.image.clone(), bed.disk("many", &format!("{number}")), transfer.clone());
        tasks.spawn(async move {
            client.fetch(&image, &disk, image.size, &transfer).await.unwrap();
            begun.elapsed().as_secs_f64()
        });
    }
    let (mut peak, mut spread, mut ends) = (0, (100, 100), Vec::new());
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ends.push(ended.unwrap()),
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                peak = rss_anon().max(peak);
                let percents = transfers.iter().map(Transfer::percent);
                let (least, most) = (percents.clone().min().unwrap(), percents.max().unwrap());
                if most >= 50 && spread == (100, 100) {
                    spread = (least, most);
                }
            }
        }
    }
    let slowest = ends.iter().copied().fold(0.0, f64::max);
    let fastest = ends.iter().copied().fold(f64::MAX, f64::min);
    println!(
        "{AT_ONCE} clones at once         {:7.0} MiB/s in all; ended after {fastest:.1} to {slowest:.1} s",
        mib * AT_ONCE as f64 / slowest
    );
    println!("  when the first was at {} %, the last was at {} %; RssAnon at most {peak} KiB", spread.1, spread.0);
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rss_anon() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}
