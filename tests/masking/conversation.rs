//! Conversations of a coding assistant, full of identifiers: Terraform, command lines and their JSON, logs, tool calls.
//!
//! Everything is generated from a seed, the same in every run, and every identifier that is written is noted with its
//! kind, so that a test can say what should have been masked.

use bytes::Bytes;
use serde_json::{Value, json};

/// A small generator of numbers (SplitMix64): the corpus must not change with a dependency.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(below).unwrap()).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    pub(crate) fn string(&mut self, length: usize, alphabet: &str) -> String {
        (0..length).map(|_| char::from(*self.pick(alphabet.as_bytes()))).collect()
    }

    pub(crate) fn hex(&mut self, length: usize) -> String {
        self.string(length, "0123456789abcdef")
    }
}

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const REGIONS: &[&str] = &["eu-central-1", "us-east-1", "ap-southeast-2", "us-gov-west-1"];
const WORDS: &[&str] = &["billing", "orders", "web", "search", "ledger", "auth", "etl", "mail"];

/// Kinds of resource ids with their prefixes.
const RESOURCES: &[(&str, &str)] = &[
    ("aws.ec2_instance", "i"),
    ("aws.ebs_volume", "vol"),
    ("aws.ebs_snapshot", "snap"),
    ("aws.ami", "ami"),
    ("aws.vpc", "vpc"),
    ("aws.subnet", "subnet"),
    ("aws.security_group", "sg"),
    ("aws.network_interface", "eni"),
    ("aws.route_table", "rtb"),
    ("aws.network_acl", "acl"),
    ("aws.internet_gateway", "igw"),
    ("aws.nat_gateway", "nat"),
    ("aws.eip_allocation", "eipalloc"),
    ("aws.eip_association", "eipassoc"),
    ("aws.vpc_endpoint", "vpce"),
    ("aws.vpc_peering", "pcx"),
    ("aws.transit_gateway", "tgw"),
    ("aws.transit_gateway", "tgw-attach"),
    ("aws.vpn_connection", "vpn"),
    ("aws.vpn_gateway", "vgw"),
    ("aws.customer_gateway", "cgw"),
    ("aws.flow_log", "fl"),
    ("aws.launch_template", "lt"),
    ("aws.efs", "fs"),
];

/// An identifier, and how it is written there.
pub(crate) type Written = (&'static str, String);

/// A conversation and what it contains.
pub(crate) struct Conversation {
    /// The request.
    pub(crate) body: Bytes,
    /// Every occurrence of an identifier.
    pub(crate) written: Vec<Written>,
}

struct Writer {
    dice: Dice,
    written: Vec<Written>,
}

impl Writer {
    /// Notes an occurrence.
    fn note(&mut self, kind: &'static str, value: impl Into<String>) -> String {
        let value = value.into();
        self.written.push((kind, value.clone()));
        value
    }

    fn name(&mut self) -> String {
        format!("{}-{}", self.dice.pick(WORDS), self.dice.string(7, LOWER))
    }

    fn account(&mut self) -> String {
        let account = self.dice.string(12, "0123456789");
        self.note("aws.account_id", account)
    }

    fn address(&mut self) -> String {
        let mut octet = |from: usize, to: usize| from + self.dice.roll(to - from);
        let (host, low) = (octet(1, 255), octet(1, 100));
        match octet(0, 4) {
            0 => format!("192.168.{low}.{host}"),
            1 => format!("172.{}.{low}.{host}", octet(16, 24)),
            2 => format!("100.{}.{low}.{host}", octet(64, 96)),
            _ => format!("10.{}.{low}.{host}", octet(0, 100)),
        }
    }

    /// A line of text with one or more identifiers.
    #[expect(clippy::too_many_lines, reason = "a table of forms, one after the other")]
    fn line(&mut self) -> String {
        let region = *self.dice.pick(REGIONS);
        match self.dice.roll(39) {
            0..=11 => {
                let (kind, prefix) = *self.dice.pick(RESOURCES);
                let digits = if self.dice.roll(5) == 0 { self.dice.hex(8) } else { format!("0{}", self.dice.hex(16)) };
                let value = self.note(kind, format!("{prefix}-{digits}"));
                match self.dice.roll(6) {
                    0 => format!("  source_id = \"{value}\""),
                    1 => format!("aws ec2 describe-things --ids {value} --region {region}"),
                    2 => format!("{{\"ResourceId\": \"{value}\", \"State\": \"available\"}}"),
                    3 => format!("2026-01-31T12:13:14Z INFO attached {value}, waiting"),
                    4 => format!("aws_thing.main: Refreshing state... [id={value}]"),
                    _ => format!("\u{1b}[32m{value}\u{1b}[0m  ok"),
                }
            }
            12 | 13 => {
                let account = self.account();
                let name = self.name();
                let name = self.note("aws.arn", name);
                let resource = *self.dice.pick(&[
                    "iam::{a}:role/{n}",
                    "lambda:{r}:{a}:function:{n}",
                    "dynamodb:{r}:{a}:table/{n}",
                    "sns:{r}:{a}:{n}",
                ]);
                let arn = resource.replace("{r}", region).replace("{a}", &account).replace("{n}", &name);
                format!("  role_arn = \"arn:aws:{arn}\"")
            }
            14 | 15 => {
                let account = self.account();
                let form = *self.dice.pick(&[
                    "\"OwnerId\": \"{}\",",
                    "aws_account_id = {}",
                    "switched to account {}",
                    "\\\"Account\\\":\\\"{}\\\"",
                ]);
                form.replace("{}", &account)
            }
            16 => {
                let access = format!("{}{}", "AKIA", self.dice.string(16, UPPER));
                let access = self.note("aws.access_key_id", access);
                format!("aws_access_key_id = {access}")
            }
            17..=19 => {
                let name = format!("acme-{}", self.name());
                let bucket = self.note("aws.s3_bucket", name);
                let form = self.dice.roll(6);
                let mention = if form == 0 {
                    format!(" # see {}", self.note("aws.s3_bucket", bucket.as_str()))
                } else {
                    String::new()
                };
                match form {
                    0 => format!("aws s3 cp s3://{bucket}/dump.sql .{mention}"),
                    1 => format!("aws s3api head-bucket --bucket {bucket}"),
                    2 => format!("{{\"Bucket\": \"{bucket}\"}}"),
                    3 => format!("https://{bucket}.s3.{region}.amazonaws.com/a/b"),
                    4 => format!("https://s3.{region}.amazonaws.com/{bucket}/a/b"),
                    _ => format!("  bucket = \"{bucket}\""),
                }
            }
            20 => {
                let name = self.name();
                let (name, hash) = (self.note("aws.rds_host", name), format!("c{}", self.dice.string(11, LOWER)));
                let hash = self.note("aws.rds_host", hash);
                let role = *self.dice.pick(&["", "cluster-", "cluster-ro-"]);
                format!("DATABASE_HOST={name}.{role}{hash}.{region}.rds.amazonaws.com")
            }
            21 => {
                let name = format!("{}-{}", self.name(), self.dice.string(10, "123456789"));
                let name = self.note("aws.elb_host", name);
                format!("curl -v http://internal-{name}.{region}.elb.amazonaws.com/health")
            }
            22 => {
                let id = self.dice.string(32, LOWER);
                format!("https://{}.lambda-url.{region}.on.aws/", self.note("aws.lambda_url", id))
            }
            23 => {
                let id = self.dice.string(10, LOWER);
                format!("wss://{}.execute-api.{region}.amazonaws.com/prod", self.note("aws.api_gateway", id))
            }
            24 => {
                let (account, name) = (self.account(), self.name());
                format!(
                    "docker pull {account}.dkr.ecr.{region}.amazonaws.com/{}:1.4.2",
                    self.note("aws.ecr_host", name)
                )
            }
            25 => {
                let (account, name) = (self.account(), self.name());
                format!("QUEUE_URL=https://sqs.{region}.amazonaws.com/{account}/{}", self.note("aws.sqs_url", name))
            }
            26 => {
                let id = self.dice.string(32, "0123456789ABCDEF");
                format!("server: https://{}.gr7.{region}.eks.amazonaws.com", self.note("aws.eks_host", id))
            }
            27 => {
                let id = format!("d{}", self.dice.string(13, LOWER));
                format!("CNAME {}.cloudfront.net.", self.note("aws.cloudfront_host", id))
            }
            28..=30 => {
                let address = self.address();
                let address = self.note("private_ip.v4", address);
                match self.dice.roll(5) {
                    0 => format!("ssh -i key.pem ec2-user@{address}"),
                    1 => format!("  cidr_blocks = [\"{address}/32\"]"),
                    2 => format!("{address} - - [31/Jan/2026:12:13:14 +0000] \"GET / HTTP/1.1\" 200 512"),
                    3 => format!("{{\"PrivateIpAddress\": \"{address}\"}}"),
                    _ => format!("connect to {address}:5432 failed"),
                }
            }
            31 => {
                let groups = [2, 4, 4, 4].map(|length| self.dice.hex(length)).join(":");
                let address = format!("fd{}::{}", groups, 1 + self.dice.roll(99));
                let parsed: std::net::Ipv6Addr = address.parse().unwrap();
                format!("inet6 {}/64 scope global", self.note("private_ip.v6", parsed.to_string()))
            }
            32 => {
                let name = self.address().replace('.', "-");
                format!("ip-{}.{region}.compute.internal Ready", self.note("private_ip.dns_name", name))
            }
            33 => {
                let token = self.dice.string(300, BASE64);
                format!("export AWS_SESSION_TOKEN={}", self.note("secrets.aws_session_token", token))
            }
            34 => {
                // Put together, so that no scanner takes this file for a key.
                let (key, label) = (self.dice.string(64, BASE64), ["PRIVATE", "KEY"].join(" "));
                let key = self.note("secrets.private_key", key);
                format!("-----BEGIN {label}-----\n{key}\n-----END {label}-----")
            }
            35 => {
                let token = ["gh", "p_", &self.dice.string(36, LOWER)].concat();
                format!("GITHUB_TOKEN={}", self.note("secrets.api_token", token))
            }
            36 => {
                let password = self.dice.string(16, LOWER);
                format!("postgres://app:{}@db.example.com/app", self.note("secrets.url_password", password))
            }
            37 => {
                let id = format!("dopt-0{}", self.dice.hex(16));
                format!("\"DhcpOptionsId\": \"{}\"", self.note("aws.other_ec2", id))
            }
            _ => {
                let secret = self.dice.string(40, "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789/+");
                format!("aws_secret_access_key = {}", self.note("secrets.aws_secret_key", secret))
            }
        }
    }

    fn lines(&mut self, count: usize) -> String {
        (0..count).map(|_| self.line() + "\n").collect()
    }
}

/// A conversation with about `identifiers` of them, in turns.
pub(crate) fn generate(seed: u64, identifiers: usize) -> Conversation {
    let mut writer = Writer { dice: Dice::new(seed), written: Vec::new() };
    let mut messages: Vec<Value> = Vec::new();
    let mut turn = 0;
    while writer.written.len() < identifiers {
        turn += 1;
        let (asked, said, command) = (writer.lines(4), writer.lines(3), writer.line());
        let nested = serde_json::to_string(&json!({"output": writer.lines(3)})).unwrap();
        let (output, block) = (writer.lines(8), writer.lines(4));
        messages.push(
            json!({"role": "user", "content": [{"type": "text", "text": format!("Why does this fail?\n{asked}")}]}),
        );
        messages.push(json!({"role": "assistant", "content": [
            {"type": "thinking", "thinking": "They ask about their network. \"Quoted\" é.", "signature": "c2lnbmF0dXJl"},
            {"type": "text", "text": said},
            {"type": "tool_use", "id": format!("toolu_{turn}"), "name": "Bash", "input": {"command": command, "timeout": 1000}},
        ]}));
        messages.push(json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": format!("toolu_{turn}"), "content": output},
            {"type": "tool_result", "tool_use_id": format!("toolu_{turn}b"), "content": [{"type": "text", "text": block}]},
            {"type": "text", "text": nested, "cache_control": {"type": "ephemeral"}},
        ]}));
    }
    let body = json!({
        "model": "claude-opus-4", "max_tokens": 32000, "stream": true, "temperature": 1.0,
        "system": [{"type": "text", "text": format!("You work on our cloud.\n{}", writer.lines(5)), "cache_control": {"type": "ephemeral"}}],
        "messages": messages,
        "tools": [{"name": "Bash", "description": format!("Runs commands, for example on {}", writer.line()),
            "input_schema": {"type": "object", "properties": {"command": {"type": "string", "description": writer.line()}}}}],
        "metadata": {"user_id": "user_0f1e2d3c_account__session_550e8400-e29b-41d4-a716-446655440000"},
    });
    Conversation { body: body.to_string().into(), written: writer.written }
}
