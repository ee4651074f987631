//! The replay on the command line.

use std::path::Path;

use cell::proto::message::MessageId;
use serde_json::json;

use super::commands::Session;
use super::error::CliError;
use crate::replay::{self, Options, Outcome, Replayed};

impl Session {
    pub(crate) async fn replay(&self, path: &Path, skip: &[String], allow_unsupported: bool) -> Result<(), CliError> {
        let text = std::fs::read_to_string(path).map_err(|source| CliError::File { verb: "read", path: path.into(), source })?;
        let steps = replay::parse(&text)?;
        let named =
            |name: &String| MessageId::from_name(name).ok_or_else(|| CliError::Usage(format!("--skip {name}: no message of the contract")));
        let skip = skip.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let cell = self.wait_cell().await?.name;
        let mut failed_output = None;
        let mut tell = |result: &Replayed| {
            let value = serde_json::to_value(result).unwrap_or_default();
            failed_output = failed_output.take().or(self.output.item(&line(result), &value).err());
        };
        let directory = tempfile::tempdir()?;
        let server = self.serve_images(directory.path()).await?;
        let options = Options { skip: &skip, images: Some(server.address()), equal_guests: true };
        let results = replay::run(&self.core, &cell, &steps, options, &self.tidy.begin(), &mut tell).await;
        self.tidy.end();
        failed_output.map_or(Ok(()), |error| Err(CliError::Io(error)))?;
        self.summary(&cell, &results, allow_unsupported)
    }

    fn summary(&self, cell: &str, results: &[Replayed], allow_unsupported: bool) -> Result<(), CliError> {
        let count = |fits: fn(&Outcome) -> bool| results.iter().filter(|result| fits(&result.outcome)).count();
        let equal = count(|outcome| matches!(outcome, Outcome::Equal));
        let deliberate = count(|outcome| matches!(outcome, Outcome::Deliberate { .. }));
        let different = count(|outcome| matches!(outcome, Outcome::Different { .. }));
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
        let unsupported = count(|outcome| matches!(outcome, Outcome::Unsupported { .. }));
        let text = format!(
            "{equal} equal, {deliberate} different on purpose, {different} different, {unsupported} not supported, {skipped} skipped"
        );
        if different > 0 || (unsupported > 0 && !allow_unsupported) {
            return Err(CliError::Failed(format!("{cell} answers otherwise than the capture: {text}")));
        }
        let fields = json!({ "cell": cell, "equal": equal, "deliberate": deliberate, "different": different, "unsupported": unsupported, "skipped": skipped });
        Ok(self.output.result("replay", &text, fields)?)
    }
}

fn line(result: &Replayed) -> String {
    let (word, details): (&str, Vec<String>) = match &result.outcome {
        Outcome::Equal => ("equal", Vec::new()),
        Outcome::Deliberate { reasons } => ("on purpose", reasons.clone()),
        Outcome::Different { differences } => ("DIFFERENT", differences.clone()),
        Outcome::Unsupported { reason } => ("UNSUPPORTED", vec![reason.clone()]),
        Outcome::Skipped { reason } => ("skipped", vec![reason.clone()]),
    };
    format!("{:>9.3}  {word:<11}  {}  {}", result.t, result.request, details.join("; ")).trim_end().to_owned()
}
