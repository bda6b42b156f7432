//! Days, weeks and months begin when the calendar says so, in UTC, through the component, on both databases: at midnight,
//! on Mondays, at the ends of months and years, and around leap days.

use serde_json::{Value, json};

use crate::support::{Books, Clock, Gateway, MODEL, Site, Store, Upstream, eventually, question_of};

/// A moment at which three people ask, who have a cap of a cent for the day, the week and the month; each request costs
/// that cent. Who is let in, because their period has begun, and when the periods end.
struct Moment {
    now: &'static str,
    is_let_in: [bool; 3],
    ends: [&'static str; 3],
}

const PERIODS: [&str; 3] = ["daily", "weekly", "monthly"];

const fn at(now: &'static str, is_let_in: [bool; 3], ends: [&'static str; 3]) -> Moment {
    Moment { now, is_let_in, ends }
}

/// Seconds since 1970 of the midnights that are named below, as `date -u -d … +%s` tells them.
const MIDNIGHTS: [(&str, u64); 13] = [
    ("2027-01-01", 1_798_761_600),
    ("2027-01-02", 1_798_848_000),
    ("2027-01-04", 1_799_020_800),
    ("2027-01-05", 1_799_107_200),
    ("2027-01-11", 1_799_625_600),
    ("2027-02-01", 1_801_440_000),
    ("2028-02-29", 1_835_395_200),
    ("2028-03-01", 1_835_481_600),
    ("2028-03-02", 1_835_568_000),
    ("2028-03-06", 1_835_913_600),
    ("2028-03-07", 1_836_000_000),
    ("2028-03-13", 1_836_518_400),
    ("2028-04-01", 1_838_160_000),
];

#[rustfmt::skip] // A table: one moment, one line.
const MOMENTS: [Moment; 10] = [
    // A Thursday, in the last week of the ISO year 2026: 2026-W53.
    at("2026-12-31 23:59:59", [true, true, true], ["2027-01-01", "2027-01-04", "2027-01-01"]),
    // The day and the month are new; the week goes on across the year's end.
    at("2027-01-01 00:00:00", [true, false, true], ["2027-01-02", "2027-01-04", "2027-02-01"]),
    at("2027-01-03 23:59:59", [true, false, false], ["2027-01-04", "2027-01-04", "2027-02-01"]),
    // Monday.
    at("2027-01-04 00:00:00", [true, true, false], ["2027-01-05", "2027-01-11", "2027-02-01"]),
    at("2028-02-28 23:59:59", [true, true, true], ["2028-02-29", "2028-03-06", "2028-03-01"]),
    // The leap day is a day, and of February.
    at("2028-02-29 00:00:00", [true, false, false], ["2028-03-01", "2028-03-06", "2028-03-01"]),
    at("2028-02-29 23:59:59", [false, false, false], ["2028-03-01", "2028-03-06", "2028-03-01"]),
    at("2028-03-01 00:00:00", [true, false, true], ["2028-03-02", "2028-03-06", "2028-04-01"]),
    at("2028-03-05 23:59:59", [true, false, false], ["2028-03-06", "2028-03-06", "2028-04-01"]),
    at("2028-03-06 00:00:00", [true, true, false], ["2028-03-07", "2028-03-13", "2028-04-01"]),
];

/// Every period in which somebody was let in.
const KEYS: [&str; 3] = [
    "2026-12-31 2027-01-01 2027-01-03 2027-01-04 2028-02-28 2028-02-29 2028-03-01 2028-03-05 2028-03-06",
    "2026-W53 2027-W01 2028-W09 2028-W10",
    "2026-12 2027-01 2028-02 2028-03",
];

fn midnight(day: &str) -> u64 {
    MIDNIGHTS.iter().find(|(name, _)| *name == day).unwrap_or_else(|| panic!("{day} is not in the table")).1
}

/// A session that is good at every moment of the story.
fn session(site: &Site, user: &str) -> String {
    site.session_with(&json!({"sub": user, "iat": midnight("2027-01-01") - 2, "exp": midnight("2028-04-01")}))
}

fn ask(gateway: &Gateway, token: &str) -> crate::support::Answer {
    // A search costs a cent.
    let cent = json!({"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 1}});
    gateway.post("/v1/messages").bearer(token).json(&question_of(MODEL, &cent, true)).send()
}

fn story(store: Store) {
    let Some((mut site, database)) = Site::metered(store, &Upstream::told()) else { return };
    let Some(clock) = Clock::of(&mut site) else { return };
    site.more += "  spend_retention_months: 120\n";
    clock.stop_at(MOMENTS[0].now);
    let gateway = site.start();
    let books = Books::of(&site, database.as_ref());
    for period in PERIODS {
        let scope = json!({"type": "user", "user_id": period});
        gateway.set_cap(&json!({"scope": scope, "amount": "1", "period": period}));
    }
    let mut asked = [0; 3];
    for Moment { now, is_let_in, ends } in MOMENTS {
        clock.stop_at(now);
        for (index, period) in PERIODS.into_iter().enumerate() {
            let token = session(&site, period);
            if is_let_in[index] {
                ask(&gateway, &token).expect(200);
                asked[index] += 1;
                let settled = format!("select sum(requests) from spend where kind = 'day' and principal = '{period}'");
                eventually("the books to be complete", || (books.number(&settled) == asked[index]).then_some(()));
            }
            let refused = ask(&gateway, &token).expect(429);
            let end = midnight(ends[index]);
            let header = |name: &str| refused.header(&format!("anthropic-ratelimit-unified-{name}")).to_owned();
            assert_eq!(
                (header("overage-period"), header("overage-reset")),
                (period.to_owned(), end.to_string()),
                "{now}"
            );
            let is_midnight = now.ends_with("00:00:00");
            let seconds = midnight(ends[0]) - if is_midnight { 86_400 } else { 1 };
            assert_eq!(refused.header("retry-after"), (end - seconds).to_string(), "{now}");
            // Sums of the present periods.
            let path = format!("/v1/organizations/spend_limits/effective?user_ids[]={period}&period[]={period}");
            let row = &gateway.read(&path)["data"][0];
            assert_eq!((&row["period_to_date_spend"], &row["amount"]), (&json!("1"), &json!("1")), "{now} {period}");
            // What a caller reads may be two seconds old.
            if !is_midnight {
                continue;
            }
            let usage = gateway.get("/api/oauth/usage").bearer(&token).send().expect(200).json();
            let told = &usage["limits"][0];
            let resets = format!("{}T00:00:00.000Z", ends[index]);
            assert_eq!((&told["group"], &told["resets_at"]), (&Value::from(period), &Value::from(resets)), "{now}");
            assert_eq!((&told["percent"], &told["severity"]), (&json!(100), &json!("critical")), "{now}");
        }
    }
    for (index, (kind, user)) in [("day", "daily"), ("week", "weekly"), ("month", "monthly")].into_iter().enumerate() {
        let keys = books.query(&format!(
            "select period from spend where kind = '{kind}' and principal = '{user}' and requests > 0 order by period"
        ));
        assert_eq!(keys.replace('\n', " "), KEYS[index]);
    }
    // A month's report has the leap day, and nothing of the day after it.
    let cost = "/v1/organizations/analytics/cost?starting_at=2028-02-01T00:00:00Z&ending_at=2028-03-01T00:00:00Z\
                &time_bucket_width=1d&order_by=time&order=asc";
    let days = gateway.read(cost)["data"].clone();
    let days: Vec<&str> = days.as_array().expect("rows").iter().filter_map(|row| row["starting_at"].as_str()).collect();
    assert_eq!(days, ["2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z"]);
}

#[test]
fn caps_start_again_when_the_calendar_says_so_on_sqlite() {
    story(Store::Sqlite);
}

#[test]
fn caps_start_again_when_the_calendar_says_so_on_postgresql() {
    story(Store::Postgres);
}
