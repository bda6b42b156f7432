//! What the demo writes and prints.

use super::*;

#[test]
fn a_browser_is_sent_to_an_address_that_it_can_reach() {
    let table = [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:81", "http://127.0.0.1:81"),
        ("[::]:81", "http://127.0.0.1:81"),
        ("[::1]:82", "http://[::1]:82"),
    ];
    for (listen, url) in table {
        assert_eq!(gateway_url(listen.parse().unwrap()), url);
    }
}

#[test]
fn instructions_name_the_gateway_in_every_command() {
    let gateway = "http://127.0.0.1:9".to_owned();
    let text = Instructions { gateway, upstream: Upstream::Demonstration }.to_string();
    let commands: Vec<_> = text.lines().filter(|line| line.contains("curl") || line.ends_with(" claude")).collect();
    assert_eq!(commands.len(), 4);
    assert!(commands.iter().all(|command| command.contains("http://127.0.0.1:9")));
    // What the page says, word for word.
    for words in ["\"Is this your code?\"", "\"Yes, sign in\""] {
        assert!(text.contains(words), "{words}");
    }
}

#[test]
fn a_configuration_is_replaced_only_if_the_demo_wrote_it() {
    let directory = std::env::temp_dir().join(format!("sallyport-demo-{}", grants::token()));
    let path = directory.join("gateway.yaml");

    write_config(&path, &format!("{HEADER}\nfirst")).unwrap();
    write_config(&path, &format!("{HEADER}\nsecond")).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("second"));

    std::fs::write(&path, "listen: {}").unwrap();
    assert!(write_config(&path, HEADER).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "listen: {}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_real_api_gets_the_key_of_the_environment_and_no_address() {
    let party = || StandIn { url: "http://127.0.0.1:1".to_owned(), secret: "s".to_owned() };
    let write = |upstream| configuration("127.0.0.1:2".parse().unwrap(), "http://127.0.0.1:2", &party(), upstream);
    let (demonstration, real) = (write(Some(&party())), write(None));

    assert!(demonstration.starts_with(HEADER));
    assert!(demonstration.ends_with("    base_url: http://127.0.0.1:1\n    auth:\n      api_key: \"s\"\n"));
    assert!(real.ends_with("  - provider: anthropic\n    auth:\n      api_key: ${ANTHROPIC_API_KEY}\n"));
}
