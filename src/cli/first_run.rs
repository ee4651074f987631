//! The first start: there is no `config/domain.cfg` yet. On a terminal one is asked, elsewhere the defaults are taken; both say where they went.

use std::io::{self, BufRead, Write};
use std::net::SocketAddrV4;

use super::term;
use crate::config::{self, ConfigError, DomainSettings};
use crate::process::Home;

/// No settings, because nobody gave any.
#[derive(Debug, thiserror::Error)]
pub(super) enum FirstRunError {
    /// The file can't be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The questions were not answered.
    #[error("no settings were given and none were written")]
    NoAnswer,
}

/// Makes `config/domain.cfg`.
pub(super) fn create_domain_cfg(home: &Home) -> Result<(), FirstRunError> {
    let path = home.domain_cfg();
    let interactive = term::is_interactive();
    let settings = if interactive {
        term::say(format_args!(
            "{} does not exist yet. Which domain shall this node join? (Enter takes the value in brackets)",
            path.display()
        ));
        ask(&mut io::stdin().lock(), &mut io::stdout())?
    } else {
        DomainSettings::default()
    };
    settings.write_new(&path)?;
    let with = if interactive { "" } else { "the default settings, " };
    term::say(format_args!("{} created with {with}domain {}, group {}", path.display(), settings.domain, settings.group));
    Ok(())
}

/// Asks until each answer is usable.
fn ask(input: &mut impl BufRead, output: &mut impl Write) -> Result<DomainSettings, FirstRunError> {
    let default = DomainSettings::default();
    let domain = question(input, output, "Domain", &default.domain, |text| config::valid_domain(text).map(|()| text.to_owned()))?;
    let address = question(input, output, "Multicast group address", &default.group.ip().to_string(), config::valid_group_address)?;
    let port = question(input, output, "Multicast group port", &default.group.port().to_string(), |text| {
        text.parse::<u64>().map_err(|_| "is not a number".to_owned()).and_then(config::valid_group_port)
    })?;
    Ok(DomainSettings { domain, group: SocketAddrV4::new(address, port), ..default })
}

fn question<T>(
    input: &mut impl BufRead,
    output: &mut impl Write,
    what: &str,
    default: &str,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, FirstRunError> {
    loop {
        let _ = write!(output, "{what} [{default}]: ");
        let _ = output.flush();
        let mut line = String::new();
        match input.read_line(&mut line) {
            Ok(length) if length > 0 => {}
            _ => {
                let _ = writeln!(output);
                return Err(FirstRunError::NoAnswer);
            }
        }
        let answer = line.trim();
        match check(if answer.is_empty() { default } else { answer }) {
            Ok(value) => return Ok(value),
            Err(reason) => {
                let _ = writeln!(output, "  that {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> (Result<DomainSettings, FirstRunError>, String) {
        let mut output = Vec::new();
        let settings = ask(&mut text.as_bytes(), &mut output);
        (settings, String::from_utf8(output).unwrap())
    }

    #[test]
    fn enter_takes_the_defaults_that_are_shown() {
        let (settings, output) = answer("\n\n\n");
        assert_eq!(settings.unwrap(), DomainSettings::default());
        assert_eq!(output, "Domain [nano]: Multicast group address [224.0.0.226]: Multicast group port [5599]: ");
    }

    #[test]
    fn a_useless_answer_is_asked_again_with_the_reason() {
        let (settings, output) = answer(" lab \n10.0.0.1\n239.0.0.1\nx\n70000\n7000\n");
        let settings = settings.unwrap();
        assert_eq!((settings.domain.as_str(), settings.group.to_string().as_str()), ("lab", "239.0.0.1:7000"));
        assert!(output.contains("not multicast") && output.contains("is not a number") && output.contains("from 2 to 65535"), "{output}");
    }

    #[test]
    fn the_end_of_input_is_no_answer() {
        assert!(matches!(answer("lab\n").0, Err(FirstRunError::NoAnswer)));
    }
}
