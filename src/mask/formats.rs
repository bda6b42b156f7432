//! Formats that a regular expression describes: host names, and values that only their context gives away.
//!
//! Each is tried only where one of its anchors stands. What lies in a named group is masked; the name of the group says
//! as what (`part`).

use super::find::Shape;
use super::kinds::{self, KindId, id};
use super::token::Form;

/// A format.
pub(crate) struct Format {
    /// Literals, of which each occurrence contains one; ASCII case does not matter.
    pub(crate) anchors: &'static [&'static str],
    /// Where the expression begins, seen from the anchor.
    pub(crate) begin: Begin,
    /// The expression, without `^`. `REGION` and `BUCKET` stand for the patterns below.
    pub(crate) pattern: &'static str,
}

/// Where a format begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At the anchor.
    Anchor,
    /// At the anchor, where a word begins.
    Word,
    /// At the beginning of the host name that contains the anchor.
    Host,
}

/// AWS General Reference, "Regional endpoints": `eu-central-1`, `us-gov-west-1`.
const REGION: &str = r"[a-z]{2}(?:-[a-z]{3,12}){1,2}-[0-9]{1,2}";

/// Amazon S3 User Guide, "General purpose bucket naming rules": 3 to 63 characters.
const BUCKET: &str = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]";

/// The expression with its abbreviations written out.
pub(crate) fn expand(pattern: &str) -> String {
    format!("(?-u)^(?:{})", pattern.replace("REGION", REGION).replace("BUCKET", BUCKET))
}

const AWS: &[&str] = &[".amazonaws.com"];

/// All formats.
pub(crate) const FORMATS: &[Format] = &[
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?<db>[A-Za-z][A-Za-z0-9-]{0,62})\.(?:(?:cluster|cluster-ro|cluster-custom|proxy|global|shardgrp)-)?(?<hash>[a-z0-9]{12})\.(?:(?:REGION|global)\.rds|rds\.REGION)\.amazonaws\.com",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?:dualstack\.)?(?:internal-)?(?<balancer>[A-Za-z0-9-]{1,64})\.(?:REGION\.elb|elb\.REGION)\.amazonaws\.com",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?<api>[a-z0-9]{10})(?:-vpce-[0-9a-f]{8,17})?\.execute-api\.REGION\.amazonaws\.com",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.REGION\.amazonaws\.com(?:\.cn)?(?:/(?<repository>[a-z0-9]+(?:[._/-]{1,2}[a-z0-9]+)*))?",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?:sqs\.REGION|REGION\.queue|queue)\.amazonaws\.com(?:\.cn)?/(?<account>[0-9]{12})/(?<queue>[A-Za-z0-9_-]{1,80})",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?<eks>[0-9A-F]{32})\.(?:[a-z0-9]{2,4}\.)?REGION\.eks\.amazonaws\.com",
    },
    Format { anchors: AWS, begin: Begin::Host, pattern: r"oidc\.eks\.REGION\.amazonaws\.com/id/(?<eks>[0-9A-F]{32})" },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"(?<bucket>BUCKET)\.s3(?:-website|-accesspoint|-fips)?(?:\.dualstack)?(?:[.-]REGION)?\.amazonaws\.com",
    },
    Format {
        anchors: AWS,
        begin: Begin::Host,
        pattern: r"s3(?:-fips)?(?:\.dualstack)?(?:[.-]REGION)?\.amazonaws\.com(?:\.cn)?/(?<bucket>BUCKET)",
    },
    Format {
        anchors: &[".on.aws"],
        begin: Begin::Host,
        pattern: r"(?<lambda>[a-z0-9]{32})\.lambda-url\.REGION\.on\.aws",
    },
    Format {
        anchors: &[".on.aws"],
        begin: Begin::Host,
        pattern: r"(?<account>[0-9]{12})\.dkr-ecr(?:-fips)?\.REGION\.on\.aws(?:/(?<repository>[a-z0-9]+(?:[._/-]{1,2}[a-z0-9]+)*))?",
    },
    Format {
        anchors: &[".api.aws"],
        begin: Begin::Host,
        pattern: r"(?<eks>[0-9A-F]{32})\.(?:[a-z0-9]{2,4}\.)?REGION\.(?:eks\.)?api\.aws|(?:oidc-eks\.REGION\.api\.aws/id/)(?<cluster>[0-9A-F]{32})",
    },
    Format {
        anchors: &[".cloudfront.net"],
        begin: Begin::Host,
        pattern: r"(?<cloudfront>d[a-z0-9]{11,14})\.cloudfront\.net",
    },
    Format {
        anchors: &["s3://", "s3a://", "s3n://"],
        begin: Begin::Word,
        pattern: r"(?i:s3[an]?)://(?<bucket>BUCKET)",
    },
    Format {
        anchors: &["--bucket"],
        begin: Begin::Anchor,
        pattern: r#"--bucket(?:-name)?[ =]{1,4}\\?["']?(?<bucket>BUCKET)"#,
    },
    Format {
        // Quoted: any name that a bucket may have.
        anchors: &["bucket"],
        begin: Begin::Anchor,
        pattern: r#"(?i:bucket(?:[-_ ]?name)?)\\*["']?\s{0,20}[:=]\s{0,4}\\*["'](?<bucket>BUCKET)\\*["']"#,
    },
    Format {
        // Not quoted: only what cannot be a variable.
        anchors: &["bucket"],
        begin: Begin::Anchor,
        pattern: r#"(?i:bucket(?:[-_ ]?name)?)\\*["']?\s{0,20}[:=]\s{0,4}(?<bucket>[a-z][a-z0-9]{1,20}-[a-z0-9-]{2,40}[a-z0-9])(?:[\s,;}\\/\x00]|$)"#,
    },
    Format {
        anchors: &["account", "acct", "owner"],
        begin: Begin::Anchor,
        pattern: r"(?i:account|acct|owner)[-A-Za-z_.()\s]{0,32}[^A-Za-z0-9\x00]{0,12}(?<accounts>[0-9]{12}(?:[\s,'\x22]{1,12}[0-9]{12})*|[0-9]{4}-[0-9]{4}-[0-9]{4})",
    },
    Format {
        // IAM policies name an account as a principal by its id alone.
        anchors: &["\"aws"],
        begin: Begin::Anchor,
        pattern: r#""AWS\\?"\s{0,4}:\s{0,4}\[?\s{0,40}\\?"(?<account>[0-9]{12})\\?""#,
    },
    Format { anchors: &["AKIA", "ASIA"], begin: Begin::Word, pattern: r"(?<akey>(?:AKIA|ASIA)[A-Z0-9]{16})" },
    Format {
        // The line of a downloaded credentials file.
        anchors: &["AKIA", "ASIA"],
        begin: Begin::Word,
        pattern: r"(?:AKIA|ASIA)[A-Z0-9]{16}[,:;\s]{1,3}(?<secret>[A-Za-z0-9/+]{40})",
    },
    Format {
        anchors: &["secret"],
        begin: Begin::Anchor,
        pattern: r#"(?i:secret[-_ ]?(?:access[-_ ]?)?key)[A-Za-z_]{0,12}[\s"'\\:=>]{1,12}(?<secret>[A-Za-z0-9/+]{40})"#,
    },
    Format {
        anchors: &["session", "security"],
        begin: Begin::Anchor,
        pattern: r#"(?i:session[-_ ]?token|security[-_ ]?token)[\s"'\\:=>]{1,12}(?<session>[A-Za-z0-9/+=%]{64,})"#,
    },
    Format {
        anchors: &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"],
        begin: Begin::Word,
        pattern: r"(?<token>gh[pousr]_[A-Za-z0-9]{36,255})",
    },
    Format { anchors: &["github_pat_"], begin: Begin::Word, pattern: r"(?<token>github_pat_[A-Za-z0-9_]{22,255})" },
    Format { anchors: &["glpat-"], begin: Begin::Word, pattern: r"(?<token>glpat-[A-Za-z0-9_-]{20,64})" },
    Format {
        anchors: &["xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"],
        begin: Begin::Word,
        pattern: r"(?<token>xox[abprs]-[0-9]{6,}-[A-Za-z0-9-]{10,200})",
    },
    Format { anchors: &["sk-ant-"], begin: Begin::Word, pattern: r"(?<token>sk-ant-[A-Za-z0-9_-]{20,200})" },
    Format {
        anchors: &["://"],
        begin: Begin::Anchor,
        pattern: r#"://[^\s/:@"'<>\\$\x00]{0,64}:(?<password>[^\s/:@"'<>\\$*{\x00][^\s/:@"'<>\\\x00]{2,127})@[A-Za-z0-9]"#,
    },
];

/// What the group `name` holds.
pub(crate) const fn part(name: &str) -> Option<(KindId, Shape)> {
    const fn form(kind: &str, form: Form) -> (KindId, Shape) {
        (id(kind), Shape::Form(form))
    }
    Some(match name.as_bytes() {
        b"account" => form("aws.account_id", kinds::ACCOUNT),
        b"accounts" => (id("aws.account_id"), Shape::Accounts),
        b"db" => form("aws.rds_host", kinds::DATABASE),
        b"hash" => form("aws.rds_host", kinds::RDS_HASH),
        b"balancer" => form("aws.elb_host", kinds::BALANCER),
        b"api" => form("aws.api_gateway", kinds::API),
        b"repository" => (id("aws.ecr_host"), Shape::Path),
        b"queue" => form("aws.sqs_url", kinds::RESOURCE),
        b"eks" | b"cluster" => form("aws.eks_host", kinds::EKS),
        b"lambda" => form("aws.lambda_url", kinds::LAMBDA_URL),
        b"cloudfront" => form("aws.cloudfront_host", kinds::CLOUDFRONT),
        b"bucket" => form("aws.s3_bucket", kinds::BUCKET),
        b"akey" => (id("aws.access_key_id"), Shape::AccessKey),
        b"secret" => (id("secrets.aws_secret_key"), Shape::Secret),
        b"session" => (id("secrets.aws_session_token"), Shape::Secret),
        b"token" => (id("secrets.api_token"), Shape::Secret),
        b"password" => (id("secrets.url_password"), Shape::Secret),
        _ => return None,
    })
}
