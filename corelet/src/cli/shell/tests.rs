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
