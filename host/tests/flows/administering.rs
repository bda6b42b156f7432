//! The admin API, through the component, on both databases, by a client written against its contract: shapes, pages,
//! messages, hostile text, reports that other programs read, and caps that are kept in a file.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Books, Clock, Gateway, LIMITS, MODEL, Site, Store, Upstream, eventually, lacks, question_of, source,
};

/// A Wednesday at noon: half of the day, two and a half days of the week, four and a half of the month's 28 are over.
const NOW: (&str, u64) = ("2031-02-05 12:00:00", 1_928_059_200);

const READ_KEY: &str = "read-key-for-tests-only-0123456789abcdef";

/// A site whose clock stands still.
struct Office {
    site: Site,
    gateway: Gateway,
}

impl Office {
    /// The message of a refusal with this status.
    #[track_caller]
    fn refusal(&self, status: u16, method: Method, path: &str, body: Option<&str>) -> String {
        let answer = self.gateway.administer(method, path, body).expect(status);
        let error = answer.json();
        assert_eq!((&error["type"], &error["request_id"]), (&json!("error"), &json!(answer.header("request-id"))));
        assert_eq!(answer.header("cache-control"), "");
        error["error"]["message"].as_str().expect("a message").to_owned()
    }

    fn token(&self, claims: &Value) -> String {
        let mut all = json!({"iat": NOW.1, "exp": NOW.1 + 3600});
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        self.site.session_with(&all)
    }

    /// Has somebody ask for an answer that costs so many cents.
    fn spend(&self, claims: &Value, cents: u64) {
        let usage = json!({"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": cents}});
        let ask = question_of(MODEL, &usage, cents.is_multiple_of(2));
        self.gateway.post("/v1/messages").bearer(&self.token(claims)).json(&ask).send().expect(200);
    }

    fn cap(&self, scope: &Value, period: &str, amount: &Value) -> Value {
        self.gateway.set_cap(&json!({"scope": scope, "period": period, "amount": amount}))
    }
}

fn user(name: &str) -> Value {
    json!({"type": "user", "user_id": name})
}

fn group(name: &str) -> Value {
    json!({"type": "rbac_group", "rbac_group_id": name})
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02X}").expect("a string takes everything");
        text
    })
}

fn ids(page: &Value) -> Vec<String> {
    let rows = page["data"].as_array().expect("rows").iter();
    rows.map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

fn story(store: Store) {
    let Some((mut site, database)) = Site::metered(store, &Upstream::told()) else { return };
    let Some(clock) = Clock::of(&mut site) else { return };
    clock.stop_at(NOW.0);
    site.transcript.secret(READ_KEY);
    writeln!(site.more, "  read_keys: [{{ id: report, key: {READ_KEY} }}]").expect("a string takes everything");
    let gateway = site.start();
    let office = Office { site, gateway };
    let books = Books::of(&office.site, database.as_ref());
    keys_and_paths(&office);
    caps_are_set_and_replaced(&office);
    bodies_that_are_wrong(&office);
    pages_while_caps_are_added(&office);
    people_and_what_they_spend(&office, &books);
    hostile_text(&office, &books);
    caps_in_a_file(&office);
}

#[test]
fn an_administrators_script_finds_what_the_contract_says_on_sqlite() {
    story(Store::Sqlite);
}

#[test]
fn an_administrators_script_finds_what_the_contract_says_on_postgresql() {
    story(Store::Postgres);
}

/// Inference contract §18.1 and §18.2.
fn keys_and_paths(office: &Office) {
    let body = json!({"scope": {"type": "organization"}, "amount": "1"});
    let bearer = office.token(&json!({"sub": "ada"}));
    for (key, status_of_reading, status_of_writing, message) in [
        (None, 401, 401, "missing or invalid admin credentials"),
        (Some(""), 401, 401, "missing or invalid admin credentials"),
        (Some("admin-key-for-tests-only-0123456789abcdeF"), 401, 401, "missing or invalid admin credentials"),
        (Some(READ_KEY), 200, 403, "requires write:spend_limits"),
    ] {
        for (call, status) in [
            (office.gateway.get(LIMITS), status_of_reading),
            (office.gateway.post(LIMITS).json(&body), status_of_writing),
        ] {
            let call = match key {
                Some(key) => call.header("x-api-key", key),
                None => call.bearer(&bearer),
            };
            let answer = call.send().expect(status);
            assert!(answer.header("request-id").starts_with("req_"));
            if status >= 400 {
                assert_eq!(answer.json()["error"]["message"], message, "{key:?}");
            } else {
                assert_eq!(answer.header("cache-control"), "no-store");
            }
        }
    }
    for (method, path, message) in [
        (Method::GET, "/", "spend limit not found"),
        (Method::GET, "/spl_00000000000000000000000000000000", "spend limit not found"),
        (Method::DELETE, "/spl_00000000000000000000000000000000", "spend limit not found"),
        (Method::GET, "/%27%20OR%201=1", "spend limit not found"),
        (Method::POST, "/spl_x", "not found"),
        (Method::PUT, "", "not found"),
        (Method::PATCH, "", "not found"),
        (Method::GET, "/a/b", "not found"),
    ] {
        assert_eq!(office.refusal(404, method, &format!("{LIMITS}{path}"), Some("{}")), message, "{path}");
    }
}

/// Inference contract §18.3, §18.4, §18.6 and §18.8.
fn caps_are_set_and_replaced(office: &Office) {
    let at = "2031-02-05T12:00:00.000Z";
    let set = office.gateway.set_cap(&json!({
        "scope": group("g"), "amount": "0002500", "pooled_budget": {"amount": "90000"}, "unknown": {"x": 1},
    }));
    let id = set["id"].as_str().expect("an id").to_owned();
    assert!(id.len() == 36 && id.starts_with("spl_"), "{id}");
    let pool =
        |amount: &str| json!({"amount": amount, "paused": false, "currency": "USD", "period_to_date_spend": "0"});
    assert_eq!(
        set,
        json!({
            "type": "spend_limit", "id": id, "created_at": at, "updated_at": at, "scope": group("g"), "amount": "2500",
            "currency": "USD", "period": "monthly", "pooled_budget": pool("90000"),
        })
    );
    let path = format!("{LIMITS}/{id}");
    assert_eq!(office.gateway.read(&path), set);
    let replaced = office.gateway.set_cap(&json!({"scope": group("g"), "amount": "9007199254740993"}));
    assert_eq!((&replaced["id"], &replaced["amount"]), (&set["id"], &json!("9007199254740993")));
    assert_eq!(replaced["pooled_budget"], pool("90000"), "what is not named stays");
    let daily = office.cap(&group("g"), "daily", &Value::Null);
    assert_eq!((&daily["amount"], daily.get("pooled_budget")), (&Value::Null, None));
    for cap in [&id, daily["id"].as_str().expect("an id")] {
        let answer = office.gateway.administer(Method::DELETE, &format!("{LIMITS}/{cap}"), None).expect(200);
        assert_eq!(answer.json(), json!({"type": "spend_limit_deleted", "id": cap}));
    }
    assert_eq!(office.refusal(404, Method::DELETE, &path, None), "spend limit not found");
    assert_eq!(office.gateway.read(LIMITS), json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));
    // Newest first.
    let list = office.gateway.read(&format!("{LIMITS}/audit?limit=3"));
    let actions: Vec<&Value> = list["data"].as_array().expect("rows").iter().map(|row| &row["action"]).collect();
    let (upsert, delete) = (json!("spend_limit.upsert"), json!("spend_limit.delete"));
    assert_eq!((actions, &list["has_more"]), (vec![&delete, &delete, &upsert], &json!(true)));
    let last = list["data"][2]["id"].as_str().expect("an id");
    let older = office.gateway.read(&format!("{LIMITS}/audit?after_id={last}"));
    let first = &older["data"][1];
    assert_eq!((older["data"].as_array().map(Vec::len), &older["has_more"]), (Some(2), &json!(false)));
    assert_eq!(
        *first,
        json!({
            "type": "audit_event", "id": first["id"], "created_at": at, "actor": "admin-key:ci",
            "action": "spend_limit.upsert", "target_id": id, "before": null, "reason": null,
            "after": {
                "id": id, "scope": group("g"), "amount": "2500", "period": "monthly", "currency": "USD",
                "created_at": at, "updated_at": at, "pooled_budget": {"amount": "90000", "paused": false},
            },
        })
    );
}

/// Inference contract §18.4: every message; and amounts that are no amounts.
fn bodies_that_are_wrong(office: &Office) {
    let scope = r#""scope":{"type":"organization"}"#;
    let whole = "amount: must be a whole-number decimal string of cents";
    let known = "'daily' | 'weekly' | 'monthly'";
    let long = "x".repeat(513);
    let cases: Vec<(String, String)> = [
        ("", "invalid JSON body"),
        ("{", "invalid JSON body"),
        ("[]", "Expected object, received array"),
        ("null", "Expected object, received null"),
        ("{}", "scope: Required"),
        (r#"{"scope":"x"}"#, "scope: Expected object, received string"),
        (r#"{"scope":null}"#, "scope: Expected object, received null"),
        (
            r#"{"scope":{"type":"team"}}"#,
            "scope.type: Invalid discriminator value. Expected 'user' | 'rbac_group' | 'organization'",
        ),
        (r#"{"scope":{"type":"user"}}"#, "scope.user_id: Required"),
        (r#"{"scope":{"type":"rbac_group"}}"#, "scope.rbac_group_id: Required"),
        (r#"{"scope":{"type":"user","user_id":""}}"#, "scope.user_id: String must contain at least 1 character(s)"),
        (r#"{"scope":{"type":"user","user_id":7}}"#, "scope.user_id: Expected string, received number"),
        (r#"{"scope":{"type":"user","user_id":null}}"#, "scope.user_id: Expected string, received null"),
        (r#"{"scope":{"type":"user","user_id":"a\u0000b"},"amount":"1"}"#, "scope.user_id: Invalid"),
    ]
    .map(|(body, message)| (body.to_owned(), message.to_owned()))
    .into_iter()
    .chain([
        (
            format!(r#"{{"scope":{{"type":"user","user_id":"{long}"}},"amount":"1"}}"#),
            "scope.user_id: String must contain at most 512 character(s)".to_owned(),
        ),
        (format!("{{{scope}}}"), "amount: Required".to_owned()),
    ])
    .chain(
        [
            ("1", "amount: Expected string, received number"),
            ("-1", "amount: Expected string, received number"),
            ("1e400", "invalid JSON body"),
            ("true", "amount: Expected string, received boolean"),
            ("{}", "amount: Expected string, received object"),
            (r#""""#, whole),
            (r#""-1""#, whole),
            (r#""1.5""#, whole),
            (r#""+7""#, whole),
            (r#"" 7""#, whole),
            (r#""1e3""#, whole),
            (r#""0x10""#, whole),
            (r#""٣""#, whole),
            (r#""NaN""#, whole),
            (r#""9223372036854775808""#, whole),
            (r#""12345678901234567890""#, whole),
        ]
        .map(|(amount, message)| (format!(r#"{{{scope},"amount":{amount}}}"#), message.to_owned())),
    )
    .chain(
        [
            (r#""period":"yearly""#, format!("period: Invalid enum value. Expected {known}, received 'yearly'")),
            (r#""period":null"#, format!("period: Expected {known}, received null")),
            (r#""period":1"#, format!("period: Expected {known}, received number")),
            (r#""currency":"usd""#, "currency: Invalid literal value, expected \"USD\"".to_owned()),
            (r#""currency":"EUR""#, "currency: Invalid literal value, expected \"USD\"".to_owned()),
            (r#""currency":null"#, "currency: Invalid literal value, expected \"USD\"".to_owned()),
            (r#""pooled_budget":"x""#, "pooled_budget: Expected object, received string".to_owned()),
            (r#""pooled_budget":{"amount":1}"#, "pooled_budget.amount: Expected string, received number".to_owned()),
            (r#""pooled_budget":{"paused":"x"}"#, "pooled_budget.paused: Expected boolean, received string".to_owned()),
            (
                r#""pooled_budget":{"amount":"5"}"#,
                "pooled_budget: only a cap of scope rbac_group can have one".to_owned(),
            ),
        ]
        .map(|(more, message)| (format!(r#"{{{scope},"amount":"1",{more}}}"#), message)),
    )
    .collect();
    for (body, message) in &cases {
        assert_eq!(office.refusal(400, Method::POST, LIMITS, Some(body)), *message, "{body}");
    }
    largest_and_queries_that_are_wrong(office);
}

/// The rest of it.
fn largest_and_queries_that_are_wrong(office: &Office) {
    // The largest that fits is kept exactly, and blocks nobody.
    let largest = office.cap(&json!({"type": "organization"}), "monthly", &json!("9223372036854775807"));
    assert_eq!(largest["amount"], "9223372036854775807");
    office.spend(&json!({"sub": "somebody"}), 1);
    let path = format!("{LIMITS}/{}", largest["id"].as_str().expect("an id"));
    office.gateway.administer(Method::DELETE, &path, None).expect(200);
    for (path, message) in [
        ("?limit=0", "limit: must be between 1 and 1000"),
        ("?limit=1001", "limit: must be between 1 and 1000"),
        ("?limit=x", "limit: must be between 1 and 1000"),
        ("?limit=1.5", "limit: must be between 1 and 1000"),
        ("?limit=-1", "limit: must be between 1 and 1000"),
        ("?limit=99999999999999999999", "limit: must be between 1 and 1000"),
        ("?limit=", "limit: must be between 1 and 1000"),
        ("?after_id=a&before_id=b", "after_id and before_id are mutually exclusive"),
        ("?after_id=a", "after_id: no spend limit with this id"),
        ("?before_id=%27--", "before_id: no spend limit with this id"),
        ("?scope_type=team", "scope_type: must be one of organization, rbac_group, user"),
        ("/audit?limit=0", "limit: must be between 1 and 1000"),
        ("/audit?after_id=x", "after_id: must be an audit event id"),
        ("/audit?after_id=", "after_id: must be an audit event id"),
        ("/effective?period[]=yearly", "period[]: must be one of daily, weekly, monthly"),
        ("/effective?sort=name", "sort: must be spend_desc"),
        ("/effective?sort=spend_desc", "sort=spend_desc requires exactly one period[]"),
        ("/effective?sort=spend_desc&period[]=daily&period[]=weekly", "sort=spend_desc requires exactly one period[]"),
        ("/effective?page=x", "page: invalid page token"),
        ("/effective?limit=1001", "limit: must be between 1 and 1000"),
    ] {
        assert_eq!(office.refusal(400, Method::GET, &format!("{LIMITS}{path}"), None), message, "{path}");
    }
    let many = vec!["user_ids[]=u"; 101].join("&");
    let told = office.refusal(400, Method::GET, &format!("{LIMITS}/effective?{many}"), None);
    assert_eq!(told, "user_ids[]: at most 100 entries per request");
    for (query, message) in [
        ("", "starting_at: Required"),
        ("starting_at=2031-02-01", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-01T00:00Z", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-01T00:00:00", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-29T00:00:00Z", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-06T00:00:00Z", "starting_at: must be before ending_at, which defaults to now"),
        (
            "starting_at=2031-01-01T00:00:00Z&ending_at=2031-02-02T00:00:00Z",
            "ending_at: the range may span at most 31 days",
        ),
        ("starting_at=2031-02-01T00:00:00Z&time_bucket_width=1d", "ending_at: required when time_bucket_width is set"),
        ("starting_at=2031-02-01T00:00:00Z&exclude_deleted_users=true", "exclude_deleted_users: "),
        ("starting_at=2031-02-01T00:00:00Z&group_by[]=model", "group_by[]: "),
        ("starting_at=2031-02-01T00:00:00Z&order=up", "order: "),
        ("starting_at=2031-02-01T00:00:00Z&page=x", "page: invalid page token"),
        ("starting_at=2031-02-01T00:00:00Z&models[]=x", "models[]: "),
    ] {
        let told = office.refusal(400, Method::GET, &format!("/v1/organizations/analytics/cost?{query}"), None);
        assert!(told.starts_with(message), "{query}: {told}");
    }
}

/// Inference contract §18.5: forwards and backwards, while somebody else adds.
fn pages_while_caps_are_added(office: &Office) {
    let add = |name: String| office.cap(&user(&name), "weekly", &json!("1"))["id"].as_str().expect("an id").to_owned();
    let first: Vec<String> = (0..7).map(|number| add(format!("page-{number}"))).collect();
    let (mut forward, mut added, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = office.gateway.read(&format!("{LIMITS}?limit=2&scope_type=user{cursor}"));
        forward.extend(ids(&page));
        assert_eq!(page["last_id"].as_str(), forward.last().map(String::as_str));
        if page["has_more"] == false {
            break;
        }
        if added.len() < 3 {
            added.push(add(format!("added-{}", added.len())));
        }
        cursor = format!("&after_id={}", page["last_id"].as_str().expect("an id"));
    }
    assert_eq!(forward, [first, added.clone()].concat());
    let (mut backward, mut cursor) = (Vec::new(), added[2].clone());
    loop {
        let page = office.gateway.read(&format!("{LIMITS}?limit=4&before_id={cursor}"));
        backward.splice(0..0, ids(&page));
        if page["has_more"] == false {
            break;
        }
        add(format!("late-{}", backward.len()));
        page["first_id"].as_str().expect("an id").clone_into(&mut cursor);
    }
    assert_eq!(backward, forward[..9]);
    for id in ids(&office.gateway.read(&format!("{LIMITS}?limit=1000"))) {
        office.gateway.administer(Method::DELETE, &format!("{LIMITS}/{id}"), None).expect(200);
    }
}

/// Inference contract §18.7, §18.9 and §19, with forecasts.
fn people_and_what_they_spend(office: &Office, books: &Books<'_>) {
    let scope = json!({"type": "organization"});
    let monthly = office.cap(&scope, "monthly", &json!("1000"));
    let eng = office.cap(&group("eng"), "weekly", &json!("30"));
    office.cap(&group("ops"), "weekly", &json!("40"));
    let own = office.cap(&user("ada"), "daily", &json!("4"));
    office.cap(&user("dan"), "monthly", &Value::Null);
    office.cap(&user("eve"), "daily", &json!("1"));
    let ada = json!({"sub": "ada", "name": "Ada", "email": "ada@example.com", "groups": ["eng", "ops"]});
    let people = [
        (ada.clone(), 3),
        (json!({"sub": "bob", "name": "Bob_%", "email": "bob@example.com", "groups": ["ops"]}), 1),
        (json!({"sub": "dan"}), 2),
        (json!({"sub": "eve"}), 2),
    ];
    for (claims, cents) in &people {
        office.spend(claims, *cents);
    }
    eventually("the books to be complete", || {
        let known = books.number("select count(*) from principals where principal in ('ada', 'bob', 'dan', 'eve')");
        (known == 4).then_some(())
    });

    let read = |query: &str| office.gateway.read(&format!("{LIMITS}/effective?{query}"));
    let rows = read("user_ids[]=ada");
    let row = |period: &str, amount: &str, source: &Value, cap: &Value, projected: &str| {
        json!({
            "scope": user("ada"), "groups": ["eng", "ops"],
            "actor": {
                "type": "user_actor", "user_id": "ada", "name": "Ada", "email_address": "ada@example.com",
                "deleted": false,
            },
            "amount": amount, "currency": "USD", "period": period, "source": source, "spend_limit_id": cap["id"],
            "period_to_date_spend": "3", "projected_spend": projected,
        })
    };
    assert_eq!(
        rows,
        json!({"data": [
            row("daily", "4", &user("ada"), &own, "6"),
            row("weekly", "30", &group("eng"), &eng, "8.4"),
            row("monthly", "1000", &scope, &monthly, "18.667"),
        ], "next_page": null})
    );
    let unlimited = read("user_ids[]=dan&period[]=monthly");
    assert_eq!((&unlimited["data"][0]["amount"], &unlimited["data"][0]["source"]), (&Value::Null, &user("dan")));
    let unknown = &read("user_ids[]=nobody&period[]=daily")["data"][0];
    let told = ["groups", "amount", "source", "spend_limit_id", "period_to_date_spend"].map(|name| &unknown[name]);
    assert_eq!(json!(told), json!([[], null, null, null, "0"]));
    assert_eq!(
        unknown["actor"],
        json!({"type": "user_actor", "user_id": "nobody", "name": null, "email_address": null, "deleted": false})
    );
    let names = |page: &Value| -> String {
        let rows = page["data"].as_array().expect("rows").iter();
        rows.map(|row| row["scope"]["user_id"].as_str().expect("a name")).collect::<Vec<_>>().join(" ")
    };
    for (query, expected) in [
        ("period[]=daily", "ada bob dan eve somebody"),
        ("period[]=daily&q=", "ada bob dan eve somebody"),
        ("period[]=daily&q=EXAMPLE.com", "ada bob"),
        ("period[]=daily&q=_%25", "bob"),
        ("period[]=daily&q=%25", "bob"),
        ("period[]=daily&q=%27", ""),
        ("period[]=daily&sort=spend_desc", "ada dan eve bob somebody"),
        ("user_ids[]=eve&user_ids[]=ada&period[]=daily&limit=1&q=zzz", "ada eve"),
        ("period=yearly&period[]=weekly&limit=1000", "ada bob dan eve somebody"),
    ] {
        assert_eq!(names(&read(query)), expected, "{query}");
    }
    for (query, pages) in [
        ("period[]=monthly&limit=2", &["ada bob", "dan eve", "somebody"][..]),
        ("period[]=daily&sort=spend_desc&limit=2", &["ada dan", "eve bob", "somebody"]),
        ("limit=3", &["ada ada ada bob bob bob dan dan dan", "eve eve eve somebody somebody somebody"]),
    ] {
        let mut cursor = String::new();
        for (number, expected) in pages.iter().enumerate() {
            let page = read(&format!("{query}{cursor}"));
            assert_eq!(names(&page), *expected, "{query}");
            assert_eq!(page["next_page"].is_null(), number + 1 == pages.len(), "{query}");
            cursor = format!("&page={}", page["next_page"].as_str().unwrap_or_default());
        }
    }
    what_callers_read(office, &ada);
    costs(office);
}

/// Inference contract §19: caps, none, one that is used up, one of nothing.
fn what_callers_read(office: &Office, ada: &Value) {
    office.cap(&user("fay"), "daily", &json!("0"));
    let limit = |period: &str, percent: u64, day: &str, severity: &str, active: bool, projected: [u64; 2]| {
        json!({
            "kind": "spend", "group": period, "percent": percent, "resets_at": format!("{day}T00:00:00.000Z"),
            "severity": severity, "is_active": active, "projected_percent": projected[0],
            "projected_credits": projected[1],
        })
    };
    let extra = |limit: u64, used: u64, utilization: u64, projected: u64| {
        json!({
            "is_enabled": true, "monthly_limit": limit, "used_credits": used, "utilization": utilization,
            "currency": "USD", "projected_credits": projected,
        })
    };
    let (day, week, month) = ("2031-02-06", "2031-02-10", "2031-03-01");
    for (claims, expected) in [
        (
            ada.clone(),
            json!({"extra_usage": extra(4, 3, 75, 6), "limits": [
                limit("daily", 75, day, "normal", true, [150, 6]),
                limit("weekly", 10, week, "normal", false, [28, 8]),
                limit("monthly", 0, month, "normal", false, [2, 18]),
            ]}),
        ),
        (
            json!({"sub": "eve"}),
            json!({"extra_usage": extra(1, 2, 200, 4), "limits": [
                limit("daily", 200, day, "critical", true, [400, 4]),
                limit("monthly", 0, month, "normal", false, [1, 12]),
            ]}),
        ),
        (
            json!({"sub": "fay"}),
            json!({"extra_usage": extra(0, 0, 100, 0), "limits": [
                limit("daily", 100, day, "critical", true, [100, 0]),
                limit("monthly", 0, month, "normal", false, [0, 0]),
            ]}),
        ),
        (
            json!({"sub": "dan"}),
            json!({"extra_usage": {
                "is_enabled": true, "monthly_limit": null, "used_credits": 2, "utilization": null, "currency": "USD",
                "projected_credits": 12,
                "daily": {"limit": null, "used_credits": 2, "utilization": null, "projected_credits": 4},
                "weekly": {"limit": null, "used_credits": 2, "utilization": null, "projected_credits": 5},
            }, "limits": []}),
        ),
    ] {
        let answer = office.gateway.get("/api/oauth/usage").bearer(&office.token(&claims)).send().expect(200);
        assert_eq!(answer.json(), expected, "{claims}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    office.gateway.get("/api/oauth/usage").send().expect(401);
    office.gateway.post("/api/oauth/usage").bearer(&office.token(ada)).send().expect(404);
    // Whoever is blocked is told when to come back, and what the next request would be told is what this page says.
    let eve = office.token(&json!({"sub": "eve"}));
    let ask = question_of(MODEL, &json!({"input_tokens": 1}), false);
    let refused = office.gateway.post("/v1/messages").bearer(&eve).json(&ask).send().expect(429);
    let reset = (NOW.1 + 43_200).to_string();
    assert_eq!(refused.header("anthropic-ratelimit-unified-overage-reset"), reset);
    assert_eq!(refused.json()["error"]["message"], "spend limit reached \u{b7} resets Feb 6");
}

/// Inference contract §18.9.
fn costs(office: &Office) {
    let read = |query: &str| {
        office.gateway.read(&format!("/v1/organizations/analytics/cost?starting_at=2031-02-01T00:00:00Z{query}"))
    };
    let all = read("");
    let row = &all["data"][0];
    assert_eq!(
        (all["data"].as_array().map(Vec::len), &all["has_more"], &all["next_page"]),
        (Some(1), &json!(false), &json!(null))
    );
    assert_eq!(
        (&row["starting_at"], &row["ending_at"]),
        (&json!("2031-02-01T00:00:00Z"), &json!("2031-02-06T00:00:00Z"))
    );
    assert_eq!(
        row["cost"],
        json!({"currency": "USD", "amount": "9.000000", "list_amount": "9.000000", "requests": null})
    );
    let group = row["group"].as_object().expect("an object");
    assert!(group.len() == 21 && group.values().all(Value::is_null), "{row}");
    let amounts = |page: &Value, of: &str| -> Vec<String> {
        let rows = page["data"].as_array().expect("rows").iter();
        let name = |row: &Value| row.pointer(of).and_then(Value::as_str).unwrap_or("-").to_owned();
        rows.map(|row| format!("{} {}", name(row), row["cost"]["amount"].as_str().expect("an amount"))).collect()
    };
    assert_eq!(
        amounts(&read("&group_by[]=actor"), "/group/actor/user_id"),
        ["ada 3.000000", "dan 2.000000", "eve 2.000000", "bob 1.000000", "somebody 1.000000"]
    );
    // Ada is in two groups and counts in both; three are in none.
    assert_eq!(
        amounts(&read("&group_by[]=rbac_group_id"), "/group/rbac_group_id"),
        ["- 5.000000", "ops 4.000000", "eng 3.000000"]
    );
    assert_eq!(amounts(&read("&actor_ids[]=ada&actor_ids[]=eve"), "/group/x"), ["- 5.000000"]);
    assert_eq!(amounts(&read("&rbac_group_ids[]=eng&group_by[]=actor"), "/group/actor/user_id"), ["ada 3.000000"]);
    assert_eq!(
        amounts(&read("&ending_at=2031-02-08T00:00:00Z&time_bucket_width=1d"), "/starting_at"),
        ["2031-02-05T00:00:00Z 9.000000"]
    );
    assert_eq!(read("&ending_at=2031-02-03T23:59:59Z")["data"], json!([]));
}

/// Text that is something else elsewhere: SQL, formulas, HTML, control characters, characters of four bytes.
const HOSTILE: [&str; 16] = [
    "'; DROP TABLE spend; --",
    "x' OR '1'='1",
    "$1 ?1 :a",
    "%_\\",
    "=1+1",
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "<script>alert(1)</script>",
    "a\u{1}\u{1b}[2J\u{7f}\u{85}",
    "a\r\nx-evil: 1",
    "\"quoted\", and so on",
    "\u{1f600}\u{10ffff}\u{fffd}",
    "\u{202e}abc\u{feff}",
    "day:ada#1",
];

/// Every string is kept, found and told as it is, in JSON and in CSV; the sums of a report are those of the books.
fn hostile_text(office: &Office, books: &Books<'_>) {
    let longest = "\u{1f600}".repeat(512);
    for text in HOSTILE.into_iter().chain([longest.as_str()]) {
        for scope in [user(text), group(text)] {
            let set = office.cap(&scope, "weekly", &json!("100000"));
            assert_eq!(set["scope"], scope);
            assert_eq!(
                office.gateway.read(&format!("{LIMITS}/{}", set["id"].as_str().expect("an id")))["scope"],
                scope
            );
        }
    }
    for text in HOSTILE {
        let email = format!("{text}@example.com");
        office.spend(&json!({"sub": text, "name": text, "email": email, "groups": [text]}), 7);
    }
    // PostgreSQL cannot keep it, so nothing does.
    office.spend(&json!({"sub": "nul\0", "name": "nul\0", "groups": ["nul\0"]}), 7);
    eventually("the books to be complete", || {
        let found = "select count(*) from principals where principal not in ('ada', 'bob', 'dan', 'eve', 'somebody')";
        (books.number(found) == HOSTILE.len() as u64 + 1).then_some(())
    });
    for text in HOSTILE.into_iter().chain(["nul\u{fffd}"]) {
        let path = format!("{LIMITS}/effective?period[]=weekly&user_ids[]={}", escaped(text));
        let row = &office.gateway.read(&path)["data"][0];
        assert_eq!(row["actor"]["name"], text);
        assert!(row["groups"] == json!([text]) || text.starts_with("nul"), "{row}");
        assert_eq!(row["period_to_date_spend"], "7", "{text:?}");
        let path =
            format!("/v1/organizations/usage?starting_at=2031-02-05&group_by[]=user&user_ids[]={}", escaped(text));
        let found = office.gateway.read(&path);
        assert_eq!((&found["data"][0]["actor"]["user_id"], &found["data"][0]["requests"]), (&json!(text), &json!(1)));
        let by_group = format!(
            "/v1/organizations/usage?starting_at=2031-02-05&group_by[]=group&rbac_group_ids[]={}",
            escaped(text)
        );
        assert_eq!(office.gateway.read(&by_group)["data"][0]["rbac_group_id"], text);
        for path in ["sessions?user_id=", "explain?user_id=", "audit_events?user_ids[]=", "sessions?after_id="] {
            let answer =
                office.gateway.administer(Method::GET, &format!("/v1/organizations/{path}{}", escaped(text)), None);
            assert!([200, 400, 404].contains(&answer.status), "{text:?}: {}", answer.status_and_text());
        }
    }
    if lacks(&["python3"]) {
        return;
    }
    let csv = "/v1/organizations/usage?starting_at=2031-02-01&group_by[]=user&group_by[]=model&limit=1000&format=csv";
    let rows = read_by_python(&office.gateway.administer(Method::GET, csv, None).expect(200).body);
    for text in HOSTILE.into_iter().chain(["nul\u{fffd}"]) {
        let is_formula = text.starts_with(['=', '+', '-', '@', '\t']);
        let cell = if is_formula { format!("'{text}") } else { text.to_owned() };
        let row = rows.iter().find(|row| row["user_id"] == cell.as_str()).unwrap_or_else(|| panic!("no row {cell:?}"));
        assert_eq!(
            (&row["name"], &row["cost_cents"], &row["model"]),
            (&json!(cell), &json!("7.000000"), &json!(MODEL))
        );
    }
    let sum = |column: &str| -> u64 {
        let number =
            |row: &Value| row[column].as_str().expect("text").replace('.', "").parse::<u64>().expect("a number");
        rows.iter().map(number).sum()
    };
    let kept = |column: &str| books.number(&format!("select sum({column}) from spend where kind = 'usage'"));
    assert_eq!(sum("cost_cents") * 10, kept("nanos"));
    assert_eq!((sum("requests"), sum("web_search_requests")), (kept("requests"), kept("web_searches")));
    let total = office.gateway.read("/v1/organizations/usage?starting_at=2031-02-01");
    assert_eq!(total["data"][0]["requests"], kept("requests"));
    // The command line tells the same.
    let said = office.site.said("report", &["--from", "2031-02-01", "--by", "user,model", "--format", "csv"]);
    assert_eq!(read_by_python(said.as_bytes()), rows);
    let said = office.site.said("report", &["--from", "2031-02-01", "--by", "user", "--format", "table"]);
    assert!(!said.contains('\u{1b}') && said.lines().count() >= rows.len(), "{said}");
}

/// The rows of a document, as Python's `csv` reads them.
fn read_by_python(document: &[u8]) -> Vec<Value> {
    let mut python = Command::new("python3")
        .arg(source("python").join("rows.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    std::io::Write::write_all(&mut python.stdin.take().expect("a pipe"), document).expect("a reader");
    let output = python.wait_with_output().expect("an end");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `PUT …/bulk` and `sallyport limits apply`: what would change, what does, what a fault leaves alone.
fn caps_in_a_file(office: &Office) {
    let all = || ids(&office.gateway.read(&format!("{LIMITS}?limit=1000")));
    let put = |body: &Value| {
        let path = format!("{LIMITS}/bulk");
        office.gateway.administer(Method::PUT, &path, Some(&body.to_string()))
    };
    let before = all();
    let kept = json!([
        {"scope": user("ada"), "period": "daily", "amount": "4"},
        {"scope": group("eng"), "period": "weekly", "amount": "31"},
        {"scope": user("zoe"), "amount": "9"},
    ]);
    let actions = |answer: &Value| {
        let mut counts = [0; 3];
        for change in answer["changes"].as_array().expect("changes") {
            let place = ["create", "update", "delete"].iter().position(|action| change["action"] == *action);
            counts[place.expect("a known action")] += 1;
        }
        (counts, answer["unchanged"].as_u64())
    };
    let looked = put(&json!({"limits": kept, "prune": true, "dry_run": true})).expect(200).json();
    assert_eq!(actions(&looked), ([1, 1, before.len() - 2], Some(1)));
    for fault in
        [json!({"scope": user("x"), "amount": -1}), json!({"scope": user("x"), "amount": "1", "currency": "EUR"})]
    {
        let mut faulty = kept.clone();
        faulty.as_array_mut().expect("a list").push(fault);
        let told = put(&json!({"limits": faulty, "prune": true})).expect(400).json();
        let message = told["error"]["message"].as_str().expect("a message").to_owned();
        assert!(message.starts_with("limits[3]."), "{message}");
    }
    assert_eq!(all(), before, "nothing has changed");
    let done = put(&json!({"limits": kept, "prune": true})).expect(200).json();
    assert_eq!((actions(&done), all().len()), (actions(&looked), 3));

    let file = office.site.file("caps.yaml");
    let path = file.display().to_string();
    let apply = |more: &[&str]| office.site.said("limits", &[&["apply", path.as_str()], more].concat());
    let caps = "limits:\n  - { scope: { type: organization }, period: daily, amount: 5000 }\n  \
         - { scope: { type: user, user_id: zoe }, amount: 10 }\n";
    fs::write(&file, format!("prune: true\n{caps}")).expect("a file");
    let expected = [
        "+ organization daily: 5000 cents",
        r#"~ user "zoe" monthly: 9 cents -> 10 cents"#,
        r#"- user "ada" daily: 4 cents"#,
        r#"- rbac_group "eng" weekly: 31 cents"#,
    ];
    let sorted = |said: &str| {
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let dry = apply(&["--dry-run"]);
    assert_eq!(
        sorted(&dry),
        sorted(&[&expected[..], &["4 changes, 0 unchanged, nothing was written"]].concat().join("\n"))
    );
    assert_eq!(all().len(), 3);
    for (faulty, told) in [
        (format!("{caps}  - {{ scope: {{ type: team }}, amount: 1 }}\n"), "limits[2].scope.type: "),
        (format!("{caps}  - {{ scope: {{ type: user, user_id: zoe }}, amount: 1.5 }}\n"), "limits[2].amount: "),
        (format!("{caps}limits: []\n"), "limits"),
        ("limits: [".to_owned(), ""),
        ("nothing: here\n".to_owned(), "nothing: unknown key"),
    ] {
        fs::write(&file, &faulty).expect("a file");
        let said = office.site.complaint("limits", &["apply", &path]);
        assert!(said.contains(told), "{faulty}: {said}");
    }
    assert_eq!(all().len(), 3, "nothing has changed");
    fs::write(&file, format!("prune: true\n{caps}")).expect("a file");
    let done = apply(&[]);
    assert_eq!(sorted(&done), sorted(&[&expected[..], &["4 changes, 0 unchanged"]].concat().join("\n")));
    assert_eq!(apply(&[]), "0 changes, 2 unchanged");
    assert_eq!(all().len(), 2);
    let newest = office.gateway.read(&format!("{LIMITS}/audit?limit=1"));
    assert_eq!(newest["data"][0]["actor"], "operator");
}
