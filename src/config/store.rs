//! Section `store` (auth contract §3.4).

use std::time::Duration;

use super::decode::Keys;
use super::kind::{positive, secret, text, whole};
use super::{Secret, Store};

pub(super) fn store(keys: &mut Keys<'_, '_>) -> Option<Store> {
    let address = keys.optional(
        "postgres_url",
        secret(1),
        "Address of a PostgreSQL database, `postgres://…` or `postgresql://…`. Without it the gateway keeps its state in \
         SQLite, which is right for one machine.",
    );
    let username = keys.optional("username", text(), "User name; overrides the one in `postgres_url`.");
    let password = keys.optional("password", secret(0), "Password; overrides the one in `postgres_url`.");
    let max_connections = keys.or("max_connections", positive(), "5", "Connections to PostgreSQL per process.");
    let connect_timeout = keys.or(
        "connect_timeout_seconds",
        whole(1, 60).map(Duration::from_secs),
        "5",
        "How long one attempt to connect at start may take, in seconds.",
    );
    if (keys.has("username") || keys.has("password")) && !keys.has("postgres_url") {
        keys.lacks("postgres_url", "`username` and `password` need a `postgres_url`");
    }
    let completed = address.map(|address| complete(address.reveal(), username.as_deref(), password.as_ref()));
    let postgres_url = match completed.transpose() {
        Ok(url) => url.map(Secret::new),
        Err(message) => {
            keys.fault("postgres_url", message);
            None
        }
    };
    Some(Store { postgres_url, max_connections: max_connections?, connect_timeout: connect_timeout? })
}

/// The address with user name and password merged in. It is taken apart by hand: several hosts, and none at all (a
/// socket named in the query), are legal here but not in a URL.
fn complete(address: &str, username: Option<&str>, password: Option<&Secret<String>>) -> Result<String, String> {
    let scheme = ["postgres://", "postgresql://"].into_iter().find(|scheme| address.starts_with(scheme));
    let Some(scheme) = scheme else { return Err("must begin with postgres:// or postgresql://".to_owned()) };
    let rest = &address[scheme.len()..];
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (own_username, own_password) = match credentials.split_once(':') {
        Some((username, password)) => (username, Some(password.to_owned())),
        None => (credentials, None),
    };
    let username = username.map_or_else(|| own_username.to_owned(), percent_encoded);
    let password = password.map(|password| percent_encoded(password.reveal())).or(own_password);
    let credentials = match (username.as_str(), password) {
        ("", None) => String::new(),
        (username, None) => format!("{username}@"),
        (username, Some(password)) => format!("{username}:{password}@"),
    };
    Ok(format!("{scheme}{credentials}{hosts}{path}"))
}

/// Everything but RFC 3986's unreserved characters is escaped.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_and_password_override_those_of_the_address() {
        let password = Secret::new("p@ss/100%".to_owned());
        for (address, username, password, expected) in [
            ("postgres://db/x?sslmode=require", None, None, Ok("postgres://db/x?sslmode=require")),
            (
                "postgresql://a:b@db:5433/x",
                Some("me"),
                Some(&password),
                Ok("postgresql://me:p%40ss%2F100%25@db:5433/x"),
            ),
            ("postgres://a:b@db/x", None, Some(&password), Ok("postgres://a:p%40ss%2F100%25@db/x")),
            (
                "postgres://me@/x?host=/run/sql",
                None,
                Some(&password),
                Ok("postgres://me:p%40ss%2F100%25@/x?host=/run/sql"),
            ),
            ("postgres://a:1,b:2/x", Some("me"), None, Ok("postgres://me@a:1,b:2/x")),
            ("postgres://a:p%20@db", None, None, Ok("postgres://a:p%20@db")),
            ("mysql://db/x", None, None, Err("must begin with postgres:// or postgresql://")),
        ] {
            let completed = complete(address, username, password);
            assert_eq!(completed.as_deref().map_err(String::as_str), expected, "{address}");
        }
    }
}
