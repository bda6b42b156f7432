//! What answers cost, through the component, on both databases: every model and every kind of usage, to the
//! nano-dollar.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::{Books, Gateway, Site, Store, Upstream, eventually, question_of};

/// The list as it is printed, in dollars per million tokens: model, input, output, cache read, cache write for five
/// minutes and for an hour, and the factor of fast speed.
const LIST: &str = "
claude-fable-5-2            8    40    0.20  10     16    2
claude-fable-5-1            10   50    0.25  12.50  20    1
claude-fable-5              10   50    1.00  12.50  20    1
claude-opus-5-5             4    20    0.20  5      8     2
claude-opus-5               5    25    0.50  6.25   10    2
claude-opus-4-8             5    25    0.50  6.25   10    2
claude-opus-4-7             5    25    0.50  6.25   10    6
claude-opus-4-6             5    25    0.50  6.25   10    6
claude-opus-4-5             5    25    0.50  6.25   10    1
claude-opus-4-1             15   75    1.50  18.75  30    1
claude-opus-4               15   75    1.50  18.75  30    1
claude-sonnet-5-5           2    10    0.10  2.50   4     1
claude-sonnet-5             2    10    0.20  2.50   4     1
claude-sonnet-4-6           3    15    0.30  3.75   6     1
claude-sonnet-4-5           3    15    0.30  3.75   6     1
claude-sonnet-4             3    15    0.30  3.75   6     1
claude-3-7-sonnet           3    15    0.30  3.75   6     1
claude-3-5-sonnet           3    15    0.30  3.75   6     1
claude-haiku-5-5            0.10 0.50  0.01  0.125  0.20  1
claude-haiku-4-5            1    5     0.10  1.25   2     1
claude-3-5-haiku            0.80 4     0.08  1      1.60  1
gpt-oss                     5    25    0.50  6.25   10    1
claude-opus-9               5    25    0.50  6.25   10    1
claude-haiku-5              5    25    0.50  6.25   10    1
my-Claude-Haiku-4.5-dep     1    5     0.10  1.25   2     1
anthropic/claude-opus-4.8   5    25    0.50  6.25   10    2
eu.anthropic.claude-sonnet-4-5-20250929-v1:0  3  15  0.30  3.75  6  1
";

/// Nano-dollars of a thousand tokens.
fn thousand(dollars: &str) -> u64 {
    let (whole, fraction) = dollars.split_once('.').unwrap_or((dollars, ""));
    format!("{whole}{fraction:0<3}").parse::<u64>().expect("a price") * 1000
}

/// A request, and what it must cost.
struct Vector {
    model: String,
    usage: Value,
    nanos: u64,
}

impl Vector {
    fn new(model: &str, mut usage: Value, nanos: u64) -> Self {
        // An answer that tells neither tells no usage.
        if usage["input_tokens"].is_null() && usage["output_tokens"].is_null() {
            usage["input_tokens"] = 0.into();
        }
        Self { model: model.to_owned(), usage, nanos }
    }
}

/// The id under which clients ask for the upstream's model of this line.
fn id_of(line: usize) -> String {
    format!("house-{line}")
}

fn lines() -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    let rows = LIST.lines().filter(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().collect()).enumerate()
}

fn of_the_list() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (line, columns) in lines() {
        let [_, input, output, read, five_minutes, hour, fast] = columns[..] else { panic!("{columns:?}") };
        let hour_of = |tokens: u64| json!({"ephemeral_1h_input_tokens": tokens, "ephemeral_5m_input_tokens": 0});
        let kinds = [
            (json!({"input_tokens": 1000}), thousand(input)),
            (json!({"output_tokens": 1000}), thousand(output)),
            (json!({"cache_read_input_tokens": 1000}), thousand(read)),
            (json!({"cache_creation_input_tokens": 1000}), thousand(five_minutes)),
            (json!({"cache_creation_input_tokens": 1000, "cache_creation": hour_of(1000)}), thousand(hour)),
        ];
        let all: u64 = kinds.iter().map(|(_, nanos)| nanos).sum();
        let everything = json!({
            "input_tokens": 1000, "output_tokens": 1000, "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 2000, "cache_creation": hour_of(1000),
            "server_tool_use": {"web_search_requests": 2}, "service_tier": "priority",
        });
        let mut quick = everything.clone();
        quick["speed"] = "fast".into();
        // A cent for a search, whatever the model and the speed.
        let searches = 20_000_000;
        let factor: u64 = fast.parse().expect("a factor");
        vectors.extend(kinds.into_iter().map(|(usage, nanos)| Vector::new(&id_of(line), usage, nanos)));
        vectors.push(Vector::new(&id_of(line), everything, all + searches));
        vectors.push(Vector::new(&id_of(line), quick, all * factor + searches));
    }
    vectors
}

/// What the list does not say in its columns.
fn beyond_the_list() -> Vec<Vector> {
    let haiku = |input: u64, read: u64, write: u64| {
        json!({
            "input_tokens": input, "cache_read_input_tokens": read, "cache_creation_input_tokens": write,
            "output_tokens": 10,
        })
    };
    vec![
        // A prompt of exactly 100,000 tokens is short; one token more, of whatever kind, makes all of it dear.
        Vector::new("claude-haiku-5-5", haiku(99_000, 500, 500), 99_000 * 100 + 500 * 10 + 500 * 125 + 10 * 500),
        Vector::new("claude-haiku-5-5", haiku(99_001, 500, 500), 99_001 * 500 + 500 * 50 + 500 * 625 + 10 * 2_500),
        Vector::new("claude-haiku-5-5", haiku(1_000, 99_001, 0), 1_000 * 500 + 99_001 * 50 + 10 * 2_500),
        // No other model has a surcharge.
        Vector::new("claude-sonnet-4-6", haiku(900_000, 0, 0), 900_000 * 3_000 + 10 * 15_000),
        // The upstream's name says nothing: the name that clients use does.
        Vector::new("claude-haiku-4-5", json!({"input_tokens": 1000}), 1_000_000),
        // The breakdown counts without a total, and never beyond it.
        Vector::new("claude-opus-4-8", json!({"cache_creation": {"ephemeral_1h_input_tokens": 1000}}), 10_000_000),
        Vector::new(
            "claude-opus-4-8",
            json!({"cache_creation_input_tokens": 500, "cache_creation": {"ephemeral_1h_input_tokens": 1000}}),
            5_000_000,
        ),
        Vector::new("claude-opus-4-8", json!({"input_tokens": 0, "output_tokens": 0}), 0),
        Vector::new("claude-opus-4-8", json!({"input_tokens": 3_000_000, "output_tokens": 64_000}), 16_600_000_000),
    ]
}

/// Under a discount of ten percent, and prices of the upstream's own for some models.
fn of_overrides() -> Vec<Vector> {
    let everything = json!({
        "input_tokens": 1000, "output_tokens": 1000, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 2000,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000}, "server_tool_use": {"web_search_requests": 1},
        "speed": "fast",
    });
    vec![
        // 1 + 2 + 3 + 4 + 4 dollars per million tokens, and a cent: fast speed and a longer life change nothing.
        Vector::new("claude-opus-4-8", everything, (14_000_000 + 10_000_000) * 9 / 10),
        // The row that names what the upstream is sent goes before the one that names what the client asks for.
        Vector::new("claude-haiku-4-5", json!({"input_tokens": 1000}), 7_000_000 * 9 / 10),
        Vector::new("claude-sonnet-4-6", json!({"input_tokens": 1000}), 3_000_000 * 9 / 10),
        // A third of a nano-dollar for a token is rounded once, half up: 0.9 and 1.8.
        Vector::new("claude-sonnet-5", json!({"input_tokens": 3}), 1),
        Vector::new("claude-sonnet-5", json!({"input_tokens": 6}), 2),
    ]
}

const ARN: &str = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/ab12";

fn models() -> String {
    let mut models = "models:\n".to_owned();
    for (line, columns) in lines() {
        writeln!(models, "  - {{ id: {}, upstream_model: {{ upstream-0: \"{}\" }} }}", id_of(line), columns[0])
            .expect("a string takes everything");
    }
    models + &format!("  - {{ id: claude-haiku-4-5, upstream_model: {{ upstream-0: \"{ARN}\" }} }}\n")
}

/// Has each vector asked for by somebody else, every other one as a stream, and compares the books.
fn judge(site: &Site, gateway: &Gateway, books: &Books<'_>, name: &str, vectors: &[Vector]) {
    for (number, Vector { model, usage, .. }) in vectors.iter().enumerate() {
        let token = site.session(&format!("{name}{number:04}"));
        let ask = question_of(model, usage, number % 2 == 0);
        gateway.post("/v1/messages").bearer(&token).json(&ask).send().expect(200);
    }
    let settled =
        format!("select count(*) from spend where kind = 'day' and requests = 1 and principal like '{name}%'");
    eventually("all to be settled", || (books.number(&settled) == vectors.len() as u64).then_some(()));
    let from = books.query("select min(period) from spend where kind = 'day'");
    let (mut found, mut page) = (Vec::new(), String::new());
    loop {
        let report =
            gateway.read(&format!("/v1/organizations/usage?starting_at={from}&group_by[]=user&limit=100{page}"));
        found.extend(report["data"].as_array().expect("rows").iter().cloned());
        let Some(next) = report["next_page"].as_str() else { break };
        page = format!("&page={next}");
    }
    for (number, Vector { model, usage, nanos }) in vectors.iter().enumerate() {
        let user = format!("{name}{number:04}");
        let row = found.iter().find(|row| row["actor"]["user_id"] == user.as_str()).expect("a row");
        // Cents with six decimals are tens of nano-dollars.
        let cents = (nanos + 5) / 10;
        let expected = format!("{}.{:06}", cents / 1_000_000, cents % 1_000_000);
        assert_eq!(row["cost"]["amount"], expected.as_str(), "{model} {usage}");
        assert_eq!(row["tokens"]["input_tokens"], usage["input_tokens"].as_u64().unwrap_or(0), "{usage}");
        let kept = format!("select nanos from spend where kind = 'month' and principal = '{user}'");
        assert_eq!(books.number(&kept), *nanos, "{model} {usage}");
    }
}

fn story(store: Store) {
    let Some((mut site, database)) = Site::metered(store, &Upstream::told()) else { return };
    let own = site.more.clone();
    site.more = own.clone() + &models();
    let gateway = site.start();
    let books = Books::of(&site, database.as_ref());
    let vectors: Vec<Vector> = of_the_list().into_iter().chain(beyond_the_list()).collect();
    judge(&site, &gateway, &books, "list", &vectors);
    for model in ["gpt-oss", "claude-opus-9"] {
        let warnings = gateway.log.text().matches(&format!("no price is known for {model} of")).count();
        assert!(warnings >= 1, "{model}: nobody was warned");
    }
    drop(gateway);

    site.more = own
        + &models()
        + "pricing:\n  multiplier: 0.9\n  overrides:\n\
           \x20   - { upstream: upstream-0, model: claude-opus-4-8, input: 1, output: 2, cache_read: 3, cache_write: 4 }\n\
           \x20   - { upstream: upstream-0, model: claude-haiku-4-5, input: 9, output: 9, cache_read: 9, cache_write: 9 }\n\
           \x20   - { upstream: upstream-0, model: claude-sonnet-5, input: 0.000333, output: 1, cache_read: 1, cache_write: 1 }\n"
        + &format!(
            "    - {{ upstream: upstream-0, model: \"{ARN}\", input: 7, output: 7, cache_read: 7, cache_write: 7 }}\n"
        );
    let gateway = site.start();
    judge(&site, &gateway, &books, "own", &of_overrides());
}

#[test]
fn every_model_costs_what_the_list_says_for_every_kind_of_usage_on_sqlite() {
    story(Store::Sqlite);
}

#[test]
fn every_model_costs_what_the_list_says_for_every_kind_of_usage_on_postgresql() {
    story(Store::Postgres);
}
