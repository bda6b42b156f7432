//! The identity provider: npm `oidc-provider`, which is certified by the `OpenID` Foundation, run by Node.js.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::gateway::CLIENT_SECRET;
use super::http::plain_client;
use super::programs::{lacks, node};
use super::{Site, free_port};

/// A running provider that knows these people:
///
/// | sign-in name | who |
/// |---|---|
/// | `ada` | an employee, in the groups `engineering` and `everyone` |
/// | `grace` | another employee, in `everyone` |
/// | `mallory` | has the right e-mail domain, unverified |
/// | `eve` | has a verified address in a domain of someone else |
///
/// Ends on drop.
pub(crate) struct Idp {
    pub(crate) issuer: String,
    process: Child,
    /// What it says on standard error.
    log: File,
}

impl Idp {
    /// Starts a provider where the gateway of `site` is registered, and points the site at it.
    /// `None` (and says so) on a machine without Node.js.
    pub(crate) fn start(site: &mut Site) -> Option<Self> {
        if lacks(&["node", "npm"]) {
            return None;
        }
        let port = free_port();
        let settings = json!({
            "port": port,
            "client_id": "sallyport",
            "client_secret": CLIENT_SECRET,
            "redirect_uri": format!("{}/oauth/callback", site.public_url),
            "id_token_signed_response_alg": site.id_token_alg,
            "people": {
                "ada": person("ada@example.com", true, &["engineering", "everyone"]),
                "grace": person("grace@example.com", true, &["everyone"]),
                "mallory": person("mallory@example.com", false, &["everyone"]),
                "eve": person("eve@example.net", true, &["everyone"]),
            },
        });
        let log = tempfile::tempfile().expect("a file");
        let mut process = Command::new("node")
            .arg("oidc-provider.mjs")
            .current_dir(node())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a handle"))
            .spawn()
            .expect("node");
        // The pipe stays open, in `process`: when it closes, the provider ends.
        writeln!(process.stdin.as_mut().expect("a pipe"), "{settings}").expect("a reader");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert!(line.contains("issuer"), "the identity provider did not start: {line:?}");
        site.issuer = format!("http://127.0.0.1:{port}");
        Some(Self { issuer: site.issuer.clone(), process, log })
    }

    /// Has it hang, or go on.
    pub(crate) fn hang(&self, hangs: bool) {
        let signal = if hangs { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.process), signal).expect("a signal");
    }

    /// Replaces the claims of a person, or removes the person with `null`.
    pub(crate) fn change(&self, login: &str, claims: &Value) {
        let url = format!("{}/people/{login}", self.issuer);
        let response = plain_client().put(url).json(claims).send().expect("an answer");
        assert_eq!(response.status().as_u16(), 204);
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = self.log.rewind().and_then(|()| self.log.read_to_string(&mut said));
            println!("standard error of the identity provider at {}:\n{said}", self.issuer);
        }
    }
}

/// Claims of a person.
pub(crate) fn person(email: &str, verified: bool, groups: &[&str]) -> Value {
    let name = email.split('@').next();
    json!({"email": email, "email_verified": verified, "name": name, "groups": groups})
}
