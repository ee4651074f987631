//! Commands about disk images.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args::{ImageServerArgs, ServeArgs};
use super::commands::{late, Session};
use super::error::CliError;
use super::output::{table, Output};
use crate::events::Event;
use crate::images::{ImageServer, ImageServerConfig};
use crate::requests::ImageSource;

/// Ports of image servers (contract §15).
const PORTS: std::ops::RangeInclusive<u16> = 5801..=5900;

/// Serves until it is interrupted.
pub(super) fn serve(arguments: &ServeArgs, output: Output) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = ImageServerConfig { directory: arguments.directory.clone(), listen: arguments.address, tls: !arguments.plain };
        let server = ImageServer::start(config).await?;
        if let Some(path) = &arguments.certificate {
            let failed = |source| CliError::File { verb: "write", path: path.clone(), source };
            let certificate = server.certificate().ok_or_else(|| CliError::Usage("--plain has no certificate".into()))?;
            std::fs::write(path, certificate).map_err(failed)?;
        }
        server.set_faults(arguments.fault.unwrap_or_default());
        let images = server.images()?;
        let rows: Vec<Vec<String>> =
            images.iter().map(|image| vec![image.id.clone(), image.size.to_string(), image.signature.clone()]).collect();
        let scheme = if arguments.plain { "http" } else { "https" };
        let url = format!("{scheme}://{}/api/v1/disk_images/ID/file/", server.address());
        let text = format!("{url}\n{}", table(&rows));
        output.result("image-server", text.trim_end(), json!({ "address": server.address(), "url": url, "images": images }))?;
        super::interrupted().await;
        Ok(())
    })
}

impl Session {
    /// An image server beside the Core, on the first of its ports that is free.
    pub(super) async fn serve_images(&self, directory: &Path) -> Result<ImageServer, CliError> {
        let address = IpAddr::V4(*self.core.address().ip());
        for port in PORTS {
            let config = ImageServerConfig { directory: directory.to_owned(), listen: SocketAddr::new(address, port), tls: true };
            match ImageServer::start(config).await {
                Err(crate::images::ImageServerError::Bind(..)) if port != *PORTS.end() => {}
                started => return Ok(started?),
            }
        }
        Err(CliError::Usage("no port is free for an image server".into()))
    }

    /// Where the Cell gets an image from, and the server when it is ours; dropping that ends it. `new` images are not there yet.
    pub(super) async fn image_source(
        &self,
        id: &str,
        arguments: &ImageServerArgs,
        new: bool,
    ) -> Result<(Option<ImageServer>, ImageSource), CliError> {
        let usage = |text: &str| CliError::Usage(text.into());
        if let Some(directory) = &arguments.image_dir {
            let server = self.serve_images(directory).await?;
            let found = server.images()?.into_iter().find(|image| image.id == id);
            let size = match (found, new) {
                (None, true) => 0,
                (Some(image), false) => image.size,
                (Some(_), true) => return Err(CliError::Failed(format!("{} has an image '{id}' already", directory.display()))),
                (None, false) => return Err(CliError::Failed(format!("{} has no image '{id}'", directory.display()))),
            };
            let source = ImageSource { id: id.into(), host: server.address().ip().to_string(), port: server.address().port(), size };
            return Ok((Some(server), source));
        }
        let (Some(host), Some(port)) = (&arguments.image_host, arguments.image_port) else {
            return Err(usage("say where the image is: --image-dir DIR, or --image-host and --image-port"));
        };
        let size = match (arguments.image_size, new) {
            (Some(size), _) => size,
            (None, true) => 0,
            (None, false) => return Err(usage("say how large the image is: --image-size")),
        };
        Ok((None, ImageSource { id: id.into(), host: host.clone(), port, size }))
    }

    pub(super) async fn reset_system(&self, guest: &str, image: &str, server: &ImageServerArgs, within: Duration) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let (_server, source) = self.image_source(image, server, false).await?;
        let what = format!("system reset of {}", found.name);
        let mut progress = self.output.progress(&what);
        let mut events = self.core.events();
        self.core.reset_system(&found.cell, found.guest, &source).await?;
        let outcome = events.find(within, |recorded| match &recorded.event {
            event if event.guest() != Some(found.guest) => None,
            Event::GuestProgress { percent, .. } => {
                progress.percent(&what, *percent);
                None
            }
            Event::SystemReset { failure, .. } => Some(failure.clone().map_or(Ok(()), Err)),
            _ => None,
        });
        let outcome = outcome.await.map_err(|error| late(error, &what))?;
        drop(progress);
        outcome.map_err(|reason| CliError::Failed(format!("{what} failed: {reason}")))?;
        self.done("reset-system", &found, "has a new system disk")
    }

    pub(super) async fn export(&self, guest: &str, image: &str, server: &ImageServerArgs) -> Result<(), CliError> {
        let found = self.find_guest(guest).await?;
        let (_server, target) = self.image_source(image, server, true).await?;
        let what = format!("sending the system disk of {}", found.name);
        let mut progress = self.output.progress(&what);
        let size = self.core.create_disk_image(&found.cell, found.guest, &target, |percent| progress.percent(&what, percent)).await?;
        drop(progress);
        let text = format!("image {image} of {size} bytes made from {}", found.name);
        Ok(self.output.result("export", &text, json!({ "cell": found.cell, "guest": found.guest, "image": image, "size": size }))?)
    }
}
