//! What a reference gateway has kept comes along: from a database of its shape, into SQLite and PostgreSQL.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Gateway, Postgres, Site, Store, Upstream, binary, discovery, question};

const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789";

/// The tables of the reference, schema 8, with some of everything in them; the dates are those of this month.
const REFERENCE: &str = r#"
CREATE TABLE _migrations (id integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
INSERT INTO _migrations (id) SELECT generate_series(1, 8);
CREATE TABLE kv (key text PRIMARY KEY, value text, expires_at timestamptz);
CREATE TABLE spend_limits (id text PRIMARY KEY, scope_type text NOT NULL, scope_id text NOT NULL, amount bigint,
  period text NOT NULL, currency text NOT NULL DEFAULT 'USD', created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  created_by text, pooled_limit_enabled boolean NOT NULL DEFAULT false, pooled_monthly_credit_limit bigint,
  UNIQUE (scope_type, scope_id, period));
INSERT INTO spend_limits VALUES
  ('spl_0000000000000000000000000000000a', 'organization', '', 2500, 'monthly', 'USD', now() - interval '3 days', now() - interval '2 days', 'admin-key:x', false, NULL),
  ('spl_0000000000000000000000000000000b', 'rbac_group', 'ops', 700, 'monthly', 'USD', now() - interval '2 days', now() - interval '1 day', 'oidc:boss', true, 90000),
  ('spl_0000000000000000000000000000000c', 'user', 'ada', NULL, 'daily', 'USD', now() - interval '1 day', now() - interval '1 day', 'oidc:boss', false, NULL),
  ('spl_0000000000000000000000000000000d', 'workspace', 'w', 1, 'daily', 'USD', now(), now(), 'oidc:boss', false, NULL);
CREATE TABLE spend (principal text, period text, cents double precision NOT NULL, updated_at timestamptz NOT NULL, PRIMARY KEY (principal, period));
INSERT INTO spend SELECT 'ada', to_char(now() AT TIME ZONE 'UTC', format), cents, now() FROM (VALUES
  ('YYYY-MM-DD', 12.822::double precision), ('IYYY-"W"IW', 0.1::double precision + 0.2::double precision), ('YYYY-MM', 1234.5::double precision)) AS v (format, cents);
INSERT INTO spend SELECT 'user-' || n, '2024-01-01', n / 3.0, now() - interval '30 days' FROM generate_series(1, 450) AS n;
INSERT INTO spend VALUES ('odd', 'forever', 1, now()), ('odd', '2024-01', 'NaN', now());
CREATE TABLE pooled_spend (rbac_group_id text, period text, cents double precision NOT NULL, PRIMARY KEY (rbac_group_id, period));
INSERT INTO pooled_spend SELECT 'ops', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM'), 1203.5;
CREATE TABLE principal_emails (principal text PRIMARY KEY, email text, name text, groups jsonb NOT NULL, updated_at timestamptz NOT NULL);
INSERT INTO principal_emails VALUES ('ada', 'ada@example.com', 'Ada', '["ops"]', now()), ('bot', NULL, NULL, '[]', now());
CREATE TABLE principal_groups (day text, principal text, groups jsonb NOT NULL, PRIMARY KEY (day, principal));
INSERT INTO principal_groups SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 'ada', '["ops", "eng"]';
CREATE TABLE admin_audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, actor text NOT NULL,
  action text NOT NULL, target text NOT NULL, "before" jsonb, "after" jsonb, reason text);
INSERT INTO admin_audit (at, actor, action, target, "before", "after") VALUES
  (now() - interval '3 days', 'admin-key:x', 'spend_limit.upsert', 'spl_0000000000000000000000000000000a', NULL, '{"amount": "9"}'),
  (now() - interval '2 days', 'admin-key:x', 'spend_limit.upsert', 'spl_0000000000000000000000000000000a', '{"amount": "9"}', '{"amount": "2500"}');
"#;

/// Runs `import` for `site`.
fn import(site: &Site, from: &str, more: &[&str]) -> Output {
    std::fs::write(site.file("gateway.yaml"), site.yaml()).expect("a file");
    let output = Command::new(binary())
        .args(["import", "--from", from, "--config"])
        .arg(site.file("gateway.yaml"))
        .arg("--state-dir")
        .arg(site.state())
        .args(more)
        .env_clear()
        .env("POSTGRES_URL", site.postgres_url.as_deref().unwrap_or_default())
        .output();
    output.expect("a run")
}

/// New, changed, same, kept and left-out rows, part by part.
fn parts(output: &Output) -> Vec<(String, [u64; 5])> {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let part = |part: &Value| {
        let count = |name: &str| part[name].as_u64().expect("a number");
        let left_out = part["left_out"].as_array().expect("a list").iter();
        let left_out = left_out.map(|reason| reason["rows"].as_u64().expect("a number")).sum();
        let counts = [count("new"), count("changed"), count("same"), count("kept"), left_out];
        (part["name"].as_str().expect("a name").to_owned(), counts)
    };
    said["parts"].as_array().expect("a list").iter().map(part).collect()
}

fn asked(gateway: &Gateway, path: &str) -> Value {
    gateway.get(path).header("x-api-key", ADMIN_KEY).send().expect(200).json()
}

fn story(store: Store) {
    let Some(theirs) = Postgres::start() else { return };
    theirs.query(REFERENCE).expect("tables");
    let Some((mut site, _own)) = store.site() else { return };
    let upstream = Upstream::claude();
    site.issuer = format!("http://{}", discovery().address);
    site.has_session_secret = true;
    site.use_upstream(&upstream);
    site.more = format!("admin:\n  write_keys: [{{ id: ci, key: {ADMIN_KEY} }}]\n");
    site.transcript.secret(ADMIN_KEY);
    let all_new = [("caps", 3, 1), ("spend", 453, 2), ("spend of pools", 1, 0), ("identities", 2, 0)];
    let all_new = all_new.into_iter().chain([("memberships", 2, 0), ("audit rows", 2, 0)]);
    let all_new: Vec<_> = all_new.map(|(name, new, out)| (name.to_owned(), [new, 0, 0, 0, out])).collect();
    let all_same: Vec<_> = all_new.iter().map(|(name, [new, .., out])| (name.clone(), [0, 0, *new, 0, *out])).collect();

    let dry = import(&site, &theirs.url(), &["--dry-run", "--json"]);
    assert_eq!(parts(&dry), all_new);
    assert!(!site.state().exists(), "a dry run makes nothing");
    let done = import(&site, &theirs.url(), &[]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    for line in [
        "caps: 3 new, 0 changed, 0 the same",
        "  left out: 1 with a scope of type `workspace`, which is not known here",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} is not in:\n{said}{done:?}");
    }
    for more in [&["--dry-run", "--json"][..], &["--json"]] {
        assert_eq!(parts(&import(&site, &theirs.url(), more)), all_same);
    }

    let gateway = site.start();
    let caps = asked(&gateway, "/v1/organizations/spend_limits");
    let caps = caps["data"].as_array().expect("a list");
    let ids: Vec<_> = caps.iter().map(|cap| cap["id"].as_str().expect("an id").chars().last()).collect();
    assert_eq!(ids, [Some('a'), Some('b'), Some('c')]);
    assert_eq!(caps[1]["pooled_budget"]["period_to_date_spend"], "1203.5");
    let audit = asked(&gateway, "/v1/organizations/spend_limits/audit");
    assert_eq!(audit["data"][0]["after"], json!({ "amount": "2500" }));
    let explained = asked(&gateway, "/v1/organizations/explain?email=ada%40example.com");
    assert_eq!((&explained["user_id"], &explained["groups"]), (&json!("ada"), &json!(["ops"])));
    let spent = |explained: &Value| -> Vec<String> {
        let periods = explained["caps"]["periods"].as_array().expect("a list").iter();
        periods.map(|cap| cap["period_to_date_spend"].as_str().expect("an amount").to_owned()).collect()
    };
    assert_eq!(spent(&explained), ["12.822", "0.3", "1234.5"]);

    // Both gateways go on for a while; a repetition brings what the other one has seen.
    let token = site.session("ada");
    gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(200);
    let own = crate::support::eventually("own spending", || {
        let now = spent(&asked(&gateway, "/v1/organizations/explain?user_id=ada"));
        (now[2] != "1234.5").then_some(now)
    });
    theirs
        .query("UPDATE spend SET cents = cents + 100, updated_at = now() WHERE principal = 'ada'")
        .expect("an update");
    let repeated = parts(&import(&site, &theirs.url(), &["--json"]));
    assert_eq!(repeated[1].1, [0, 3, 450, 0, 2]);
    let both = spent(&asked(&gateway, "/v1/organizations/explain?user_id=ada"));
    let cents = |text: &String| text.parse::<f64>().expect("a number");
    for (before, after) in own.iter().zip(&both) {
        assert!((cents(after) - cents(before) - 100.0).abs() < 0.002, "{before} {after}");
    }
}

#[test]
fn caps_spend_identities_and_audit_rows_come_along_into_sqlite_and_again() {
    story(Store::Sqlite);
}

#[test]
fn caps_spend_identities_and_audit_rows_come_along_into_postgresql_and_again() {
    story(Store::Postgres);
}

#[test]
fn a_database_of_another_kind_or_schema_is_refused_by_name() {
    let Some(theirs) = Postgres::start() else { return };
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    for (change, expected) in [
        ("SELECT 1", "is not the reference gateway's: it has no table _migrations"),
        ("CREATE TABLE schema_migrations (number bigint)", "is this gateway's own kind"),
        ("DROP TABLE schema_migrations", "it has no table _migrations"),
        (REFERENCE, ""),
        ("DELETE FROM _migrations WHERE id = 8", "has schema 7 of the reference gateway; import reads schema 8"),
        ("INSERT INTO _migrations (id) VALUES (8), (9)", "has schema 9"),
        ("DELETE FROM _migrations WHERE id = 9; ALTER TABLE spend DROP COLUMN cents", "spend.cents is missing"),
    ] {
        theirs.query(change).expect("a change");
        let output = import(&site, &theirs.url(), &["--dry-run"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), expected.is_empty(), "{change}: {said}");
        assert!(said.contains(expected), "{change}: {said}");
    }
    assert!(!site.state().exists());
}
