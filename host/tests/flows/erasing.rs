//! A person is erased, through the component, on both databases: by an administrator and by the operator.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    ADMIN_KEY, Books, Gateway, Idp, LIMITS, Site, Store, Tokens, Upstream, admin, discovery, eventually, question,
    refresh, sign_in,
};

/// Whatever holds something about people.
const TABLES: [&str; 7] =
    ["principals", "principal_groups", "sessions", "spend", "spend_limits", "alerts", "audit_events"];

/// Where the tables still name somebody.
fn traces(books: &Books<'_>, login: &str) -> Vec<String> {
    let words = [
        format!("{login}@example.com"),
        format!("\"{login}\""),
        format!("|{login}|"),
        format!(":{login}:"),
        format!("oidc:{login}"),
    ];
    let mut found = Vec::new();
    for table in TABLES {
        let rows = books.query(&format!("select * from {table}"));
        let lines = rows.lines().map(|line| format!("|{line}|"));
        found.extend(
            lines.filter(|line| words.iter().any(|word| line.contains(word))).map(|line| format!("{table} {line}")),
        );
    }
    found
}

fn erase(gateway: &Gateway, query: &str) -> Value {
    gateway.administer(Method::DELETE, &format!("/v1/organizations/users?{query}"), None).expect(200).json()
}

fn story(store: Store) {
    let Some((mut site, database)) = store.site() else { return };
    let Some(_idp) = Idp::start(&mut site) else { return };
    site.use_upstream(&Upstream::claude());
    site.transcript.secret(ADMIN_KEY);
    site.more = admin() + "audit: { store: true }\n";
    let gateway = site.start();
    let books = Books::of(&site, database.as_ref());
    let ask = |tokens: &Tokens, status| {
        gateway.post("/v1/messages").bearer(&tokens.access).json(&question(true)).send().expect(status)
    };
    let (ada, grace) = (sign_in(&gateway, "ada"), sign_in(&gateway, "grace"));
    for login in ["ada", "grace"] {
        gateway.set_cap(&json!({"scope": {"type": "user", "user_id": login}, "amount": "700", "period": "daily"}));
    }
    ask(&ada, 200);
    ask(&ada, 200);
    ask(&grace, 200);
    eventually("the books to be complete", || {
        let settled = "select coalesce(sum(requests), 0) from spend where kind = 'day'";
        let copied = "select count(*) from audit_events where evt = 'inference'";
        let known = "select count(*) from principals";
        let found = [settled, copied, known].map(|sql| books.number(sql));
        (found == [3, 3, 2]).then_some(())
    });
    let day = books.query("select min(period) from spend where kind = 'day'");
    let report = |by: &str| site.said("report", &["--from", &day, "--by", by, "--format", "csv"]);
    let totals = [report("day"), report("model,upstream")];
    assert!(traces(&books, "ada").len() > 8, "{:#?}", traces(&books, "ada"));
    let others = traces(&books, "grace");

    let looked = erase(&gateway, "user_id=ada&dry_run=true");
    let said = site.said("erase", &["--user", "ada", "--dry-run"]);
    assert!(said.contains("principals: 1 would be deleted"), "{said}");
    ask(&ada, 200);
    eventually("the books to be complete", || {
        (books.number("select sum(requests) from spend where kind = 'day'") == 4).then_some(())
    });
    eventually("the trail to be copied", || {
        (books.number("select count(*) from audit_events where evt = 'inference'") == 4).then_some(())
    });
    let totals_now = [report("day"), report("model,upstream")];
    assert_ne!(totals_now, totals, "a dry run erases nothing, and people go on");

    let erased = erase(&gateway, "user_id=ada");
    let pseudonym = erased["pseudonym"].as_str().expect("a name").to_owned();
    assert_eq!(erased["deleted"], looked["deleted"]);
    let gone = ["principals", "spend_limits", "alerts"].map(|table| &erased["deleted"][table]);
    assert_eq!(json!(gone), json!([1, 1, 0]));
    assert_eq!(traces(&books, "ada"), [""; 0]);
    assert_eq!(traces(&books, "grace"), others);
    assert_eq!([report("day"), report("model,upstream")], totals_now, "money stays");
    assert!(report("user").contains(&pseudonym));
    let event = gateway.log.event("user.erase", |_| true);
    assert_eq!((&event["actor"], &event["pseudonym"]), (&json!("admin-key:ci"), &json!(pseudonym)));

    // They are out, everybody else is not, and whoever comes back is somebody new.
    eventually("the session to be refused", || {
        let answer = gateway.get("/v1/models").bearer(&ada.access).send();
        (answer.status == 401).then_some(())
    });
    assert_eq!(refresh(&gateway, &ada.refresh).status / 100, 4);
    ask(&grace, 200);
    let again = erase(&gateway, "user_id=ada");
    assert_eq!(again["deleted"]["principals"], 0);
    let new = sign_in(&gateway, "ada");
    ask(&new, 200);
    let listed = || gateway.read(&format!("{LIMITS}/effective?period[]=daily"));
    let rows = eventually("the new person to be known", || {
        let rows = listed()["data"].as_array().expect("rows").clone();
        (rows.len() == 3).then_some(rows)
    });
    let deleted: Vec<(&str, bool)> = rows
        .iter()
        .map(|row| (row["actor"]["user_id"].as_str().expect("a name"), row["actor"]["deleted"] == true))
        .collect();
    assert_eq!(deleted, [("ada", false), (pseudonym.as_str(), true), ("grace", false)]);

    // The operator's way; a name that is nobody's, and one that is nothing.
    let said = site.said("erase", &["--user", "ada", "--json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&said["type"], &said["dry_run"]), (&json!("user_erased"), &json!(false)));
    assert!(said["pseudonym"].as_str().is_some_and(|name| name != pseudonym), "{said}");
    assert_eq!(site.said("erase", &["--user", "nobody"]), "there is nothing of this person");
    assert!(site.complaint("erase", &["--user", ""]).contains("user_id: must name a person"));
    assert!(site.complaint("erase", &["--user", &pseudonym]).contains("is the pseudonym of somebody who was erased"));
}

#[test]
fn where_no_gateway_was_started_nobody_is_erased_and_nothing_made() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    for arguments in [&["--user", "ada"][..], &["--user", "ada", "--dry-run"]] {
        assert!(site.complaint("erase", arguments).contains("is not there: no gateway has been started on it"));
        assert!(!site.state().exists());
    }
}

#[test]
fn a_person_is_erased_and_the_money_stays_on_sqlite() {
    story(Store::Sqlite);
}

#[test]
fn a_person_is_erased_and_the_money_stays_on_postgresql() {
    story(Store::Postgres);
}
