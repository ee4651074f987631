use super::super::args::{Cli, Command};
use super::*;

#[test]
fn the_command_lines_are_well_formed() {
    Cli::command().debug_assert();
    ShellLine::command().debug_assert();
}

#[test]
fn a_line_is_split_as_in_a_shell() {
    match parse("raw  '{\"id\": 1}'  # a comment").unwrap() {
        Order::Run(command) => match *command {
            Command::Raw { message, parameters, event } => {
                assert_eq!((message.as_str(), parameters.len(), event), ("{\"id\": 1}", 0, false));
            }
            other => panic!("{other:?}"),
        },
        _ => panic!("not a command"),
    }
}

#[test]
fn empty_lines_help_and_leaving_are_understood() {
    assert!(matches!(parse("   ").unwrap(), Order::Nothing));
    assert!(matches!(parse("# nothing").unwrap(), Order::Nothing));
    assert!(matches!(parse("exit").unwrap(), Order::Leave));
    assert!(matches!(parse("quit").unwrap(), Order::Leave));
    assert!(matches!(parse("help start").unwrap(), Order::Help(words) if words == ["start"]));
    assert!(help(&["start".into()]).contains("--media"));
    assert!(help(&[]).contains("delete"));
}

#[test]
fn mistakes_are_usage_errors() {
    for line in ["nonsense", "start", "stop a --force --reset", "create 'x"] {
        assert!(matches!(parse(line), Err(CliError::Usage(_))), "{line}");
    }
}

#[test]
fn the_name_of_a_guest_is_not_the_name_of_the_core() {
    use clap::Parser;
    let cli = Cli::try_parse_from(["corelet", "--listen", "10.0.0.1", "create", "one", "--limits", "1M,0,0,0,0,5"]).unwrap();
    assert_eq!(cli.options.core_config().unwrap().name, "Core_00000a000001");
    match cli.command {
        Command::Create(arguments) => assert_eq!((arguments.name.as_str(), arguments.limits), ("one", [1 << 20, 0, 0, 0, 0, 5])),
        other => panic!("{other:?}"),
    }
    assert!(Cli::try_parse_from(["corelet", "create", "one", "--limits", "1,2"]).is_err());
}

#[test]
fn a_pool_has_what_the_options_say() {
    use clap::Parser;
    let pool = |arguments: &[&str]| {
        let all = ["corelet", "--listen", "10.0.0.1"].iter().chain(arguments).chain(&["list"]);
        Cli::try_parse_from(all).map(|cli| cli.options.core_config().unwrap().pool)
    };
    let plain = pool(&[]).unwrap();
    assert_eq!((plain.name.as_str(), plain.storage, plain.network), ("default", None, None));
    let full = pool(&["--pool", "p", "--nfs", "10.0.0.9:/share", "--network", "10.0.0.1,10.0.0.2", "--network-mode", "cloudinit"]).unwrap();
    let storage = full.storage.unwrap();
    assert_eq!((storage.host.as_str(), storage.target.as_str()), ("10.0.0.9", "/share"));
    let network = full.network.unwrap();
    assert_eq!(
        (network.gateway.as_str(), network.dns.as_slice(), network.mode.as_str()),
        ("10.0.0.1", ["10.0.0.2".to_owned()].as_slice(), "cloudinit")
    );
    for wrong in [["--nfs", "share"], ["--network", "x"], ["--network-mode", "magic"]] {
        assert!(pool(&wrong).is_err(), "{wrong:?}");
    }
}
