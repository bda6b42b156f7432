//! The pages as people meet them: in Chromium, with mouse and keyboard, small and large, light and dark. On every page
//! axe-core finds nothing, nothing is cut off, no script runs, and nothing is loaded from elsewhere.
//!
//! `SALLYPORT_PAGES_DIR` names a directory for screenshots, where somebody wants to look at them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Device, Gateway, Idp, Site, Tokens, Upstream, lacks, node, poll, search_path};

/// What a browser saw, page after page.
struct Seen(Vec<Value>);

impl Seen {
    /// Does `steps` in a browser that may go to the gateway and these origins only.
    fn by_doing(gateway: &Gateway, origins: &[&str], steps: &Value) -> Self {
        let own = gateway.url("");
        let origins: Vec<&str> = origins.iter().copied().chain([own.as_str()]).collect();
        let screenshots = std::env::var("SALLYPORT_PAGES_DIR").ok();
        let settings = json!({
            "chromium": chromium(), "origins": origins, "steps": steps, "screenshots": screenshots,
        });
        let mut script = Command::new("node")
            .arg("browser.mjs")
            .current_dir(node())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node");
        write!(script.stdin.take().expect("a pipe"), "{settings}").expect("a reader");
        let output = script.wait_with_output().expect("an end");
        assert!(output.status.success(), "the browser ended with {}", output.status);
        let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(seen["foreign"], json!([]), "the pages asked for something elsewhere");
        let pages = seen["pages"].as_array().expect("a list").clone();
        for page in &pages {
            gateway.transcript.answered(page["text"].as_str().expect("text").as_bytes());
            let name = &page["name"];
            assert_eq!(page["violations"], json!([]), "{name}");
            assert_eq!(page["overflows"], false, "{name} is wider than the screen");
            assert_eq!(page["scripts"], 0, "{name}");
        }
        Self(pages)
    }

    #[track_caller]
    fn page(&self, name: &str) -> &Value {
        self.0.iter().find(|page| page["name"] == name).unwrap_or_else(|| panic!("no page {name}"))
    }

    #[track_caller]
    fn assert_heading(&self, name: &str, heading: &str) {
        let page = self.page(name);
        assert_eq!(page["heading"], heading, "{}", page["text"]);
    }

    /// A page that says what went wrong has a next step, and a reference that an audit event shares.
    #[track_caller]
    fn assert_failure(&self, gateway: &Gateway, name: &str, heading: &str, event: &str) {
        self.assert_heading(name, heading);
        let text = self.page(name)["text"].as_str().expect("text");
        let (_, reference) = text.split_once("Reference ").unwrap_or_else(|| panic!("{name} has no reference: {text}"));
        let reference: String = reference.chars().take_while(char::is_ascii_hexdigit).collect();
        assert_eq!(reference.len(), 8, "{name}: {text}");
        gateway.log.event(event, |event| event["request_id"].as_str().is_some_and(|id| id.starts_with(&reference)));
    }
}

/// Where the browser is.
fn chromium() -> PathBuf {
    search_path().map(|directory| directory.join("chromium")).find(|path| path.is_file()).expect("it was there before")
}

fn small(color_scheme: &str) -> Value {
    json!({"viewport": {"width": 320, "height": 640}, "colorScheme": color_scheme})
}

fn large(color_scheme: &str) -> Value {
    json!({"viewport": {"width": 1920, "height": 1080}, "colorScheme": color_scheme})
}

#[test]
fn people_sign_in_and_are_told_what_to_do_when_they_cannot() {
    if lacks(&["chromium", "node", "npm"]) {
        return;
    }
    let mut site = Site::new();
    let Some(idp) = Idp::start(&mut site) else { return };
    site.use_upstream(&Upstream::claude());
    site.more = "login_notice: For employees of Example only.\n\
        branding: { name: Example Tools, support_url: \"https://help.example.com/\" }\n"
        .to_owned();
    let gateway = site.start();
    let (ada, grace, stopped) = (Device::authorize(&gateway), Device::authorize(&gateway), Device::authorize(&gateway));
    let (eve, nobody) = (Device::authorize(&gateway), Device::authorize(&gateway));
    let link = |device: &Device| gateway.url(&format!("/device?user_code={}", device.user_code));

    let seen = Seen::by_doing(
        &gateway,
        &[&idp.issuer],
        &json!([
            {"step": "visit", "look": small("light"), "name": "landing", "url": gateway.url("/")},
            {"step": "confirm", "look": small("light"), "name": "ada", "url": link(&ada), "login": "ada"},
            {"step": "type", "look": large("dark"), "name": "grace", "url": gateway.url("/device"),
                "code": grace.user_code.to_lowercase(), "login": "grace"},
            {"step": "deny", "look": small("dark"), "name": "stopped", "url": link(&stopped)},
            {"step": "deny", "look": large("light"), "name": "stopped-again", "url": link(&stopped)},
            {"step": "type", "look": small("dark"), "name": "unknown", "url": gateway.url("/device"), "code": "BCDFGHJK"},
            {"step": "confirm", "look": small("light"), "name": "eve", "url": link(&eve), "login": "eve"},
            {"step": "confirm", "look": large("light"), "name": "nobody", "url": link(&nobody), "login": "nobody"},
            {"step": "visit", "look": small("dark"), "name": "old-link", "url": gateway.url("/oauth/callback?code=x&state=y")},
            {"step": "visit", "look": small("light"), "name": "long",
                "url": gateway.url(&format!("/device?user_code={}", "%22%3E%3Cscript%3E".repeat(12)))},
        ]),
    );

    seen.assert_heading("landing", "Claude Code gateway");
    seen.assert_heading("ada", "Is this your code?");
    assert!(seen.page("ada")["text"].as_str().expect("text").contains("For employees of Example only."));
    seen.assert_heading("ada-end", "You are signed in");
    Tokens::of(&gateway, &poll(&gateway, &ada));
    assert_eq!(seen.page("grace")["focused"], "user_code", "one can type at once");
    seen.assert_heading("grace-end", "You are signed in");
    Tokens::of(&gateway, &poll(&gateway, &grace));
    seen.assert_heading("stopped", "Sign-in stopped");
    assert_eq!(poll(&gateway, &stopped).expect(400).json()["error"], "access_denied");
    seen.assert_heading("long", "Is this your code?");

    seen.assert_failure(&gateway, "stopped-again", "Nothing is waiting", "device.verify");
    seen.assert_failure(&gateway, "unknown-end", "Sign in to Claude Code", "device.verify");
    seen.assert_failure(&gateway, "eve-end", "You could not be signed in", "session.mint");
    seen.assert_failure(&gateway, "nobody-end", "Your identity provider said no", "device.callback");
    seen.assert_failure(&gateway, "old-link", "This link has expired", "device.callback");
    for page in &seen.0 {
        assert!(page["text"].as_str().expect("text").contains("Get help"), "{page}");
    }
}

#[test]
fn people_of_several_providers_say_who_they_are() {
    if lacks(&["chromium", "node", "npm"]) {
        return;
    }
    let mut site = Site::new();
    let (Some(corp), Some(partners)) = (Idp::start(&mut site), Idp::start(&mut site)) else { return };
    site.providers = vec![
        ("corp", corp.issuer.clone(), "match: { email_domain: example.com }"),
        ("partners", partners.issuer.clone(), "label: Partners"),
    ];
    site.use_upstream(&Upstream::claude());
    let gateway = site.start();
    let (ada, eve, grace) = (Device::authorize(&gateway), Device::authorize(&gateway), Device::authorize(&gateway));
    let link = |device: &Device| gateway.url(&format!("/device?user_code={}", device.user_code));

    let seen = Seen::by_doing(
        &gateway,
        &[&corp.issuer, &partners.issuer],
        &json!([
            {"step": "confirm", "look": small("dark"), "name": "ada", "url": link(&ada), "login": "ada",
                "email": "ada@example.com"},
            {"step": "confirm", "look": large("light"), "name": "eve", "url": link(&eve), "login": "eve",
                "choice": "partners"},
            {"step": "type", "look": small("light"), "name": "grace", "url": gateway.url("/device"),
                "code": grace.user_code},
        ]),
    );

    seen.assert_heading("ada-end", "You are signed in");
    Tokens::of(&gateway, &poll(&gateway, &ada));
    gateway.log.event("session.mint", |event| event["sub"] == "corp:ada");
    seen.assert_heading("eve-end", "You are signed in");
    Tokens::of(&gateway, &poll(&gateway, &eve));
    gateway.log.event("session.mint", |event| event["sub"] == "partners:eve");
    seen.assert_heading("grace-end", "How do you sign in?");
}
