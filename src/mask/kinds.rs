//! The table of kinds: what is looked for, where its format is documented, and how its token looks.
//!
//! Formats that need more than a table (ARNs, addresses, formats in context) are recognised in `arn` and `find`; they
//! have their row here all the same.

use super::token::{Alphabet, Form};

/// A family of kinds: a name that a configuration may use for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Names and ids that AWS gives out, or that are unique there.
    Aws,
    /// Addresses that mean something only inside a company.
    PrivateIp,
    /// What opens a door.
    Secrets,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::Aws, Self::PrivateIp, Self::Secrets];

    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::PrivateIp => "private_ip",
            Self::Secrets => "secrets",
        }
    }
}

/// One kind of identifier.
#[derive(Debug)]
pub struct Kind {
    /// Its name in a configuration, in receipts and in metrics: `aws.ec2_instance`.
    pub name: &'static str,
    /// The family to which it belongs.
    pub family: Family,
    /// Where its format is documented.
    pub source: &'static str,
    /// What resource ids of this kind begin with, the longest first; empty when its format is not that of a resource id.
    pub(crate) ids: &'static [IdForm],
    /// The forms of its tokens, other than those in `ids`.
    pub(crate) forms: &'static [Form],
}

/// An EC2-style resource id: a prefix and 17 hexadecimal digits, or 8 for those made before 2016.
#[derive(Debug)]
pub(crate) struct IdForm {
    pub(crate) prefix: &'static str,
    /// With 17 digits. Real ones begin with `0`, so tokens do.
    pub(crate) long: Form,
    /// With 8 digits.
    pub(crate) short: Form,
}

macro_rules! ids {
    ($($prefix:literal),+) => {
        &[$(IdForm {
            prefix: concat!($prefix, "-"),
            long: Form { prefix: concat!($prefix, "-0"), alphabet: Alphabet::Hex, length: 16, check: 5 },
            short: Form { prefix: concat!($prefix, "-"), alphabet: Alphabet::Hex, length: 8, check: 2 },
        }),+]
    };
}

macro_rules! resource {
    ($name:literal, $($prefix:literal),+) => {
        Kind { name: $name, family: Family::Aws, source: EC2_IDS, ids: ids!($($prefix),+), forms: &[] }
    };
}

macro_rules! kind {
    ($name:literal, $family:ident, $source:expr, $($form:expr),*) => {
        Kind { name: $name, family: Family::$family, source: $source, ids: &[], forms: &[$($form),*] }
    };
}

/// EC2 User Guide, "Resource IDs": a prefix, a hyphen, and 17 (formerly 8) characters.
const EC2_IDS: &str = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html";

const fn name(prefix: &'static str) -> Form {
    Form { prefix, alphabet: Alphabet::Base32, length: 16, check: 4 }
}

/// Tokens of account ids.
pub(crate) const ACCOUNT: Form = Form { prefix: "", alphabet: Alphabet::Digits, length: 12, check: 3 };
/// Tokens of buckets.
pub(crate) const BUCKET: Form = name("bucket-");
/// Tokens of the names of other resources.
pub(crate) const RESOURCE: Form = name("res-");
/// Tokens of databases, clusters and caches.
pub(crate) const DATABASE: Form = name("db-");
/// Tokens of load balancers.
pub(crate) const BALANCER: Form = name("lb-");
/// Tokens of the part of an RDS host name that stands for an account and a region.
pub(crate) const RDS_HASH: Form = Form { prefix: "c", alphabet: Alphabet::Lower, length: 11, check: 3 };
/// Tokens of function URLs.
pub(crate) const LAMBDA_URL: Form = Form { prefix: "", alphabet: Alphabet::Lower, length: 32, check: 4 };
/// Tokens of API ids.
pub(crate) const API: Form = Form { prefix: "", alphabet: Alphabet::Lower, length: 10, check: 3 };
/// Tokens of EKS cluster ids.
pub(crate) const EKS: Form = Form { prefix: "", alphabet: Alphabet::HexUpper, length: 32, check: 5 };
/// Tokens of `CloudFront` domains.
pub(crate) const CLOUDFRONT: Form = Form { prefix: "d", alphabet: Alphabet::Lower, length: 13, check: 3 };
/// Tokens of long-term access key ids.
pub(crate) const AKIA: Form = Form { prefix: "AKIA", alphabet: Alphabet::Base32Upper, length: 16, check: 4 };
/// Tokens of temporary access key ids.
pub(crate) const ASIA: Form = Form { prefix: "ASIA", ..AKIA };
/// Tokens of secrets, when these are masked and not redacted; the length is that of the value, within limits.
pub(crate) const SECRET: Form = Form { prefix: "", alphabet: Alphabet::Mixed, length: 40, check: 4 };

/// A row of [`KINDS`].
pub(crate) type KindId = usize;

/// All built-in kinds.
pub static KINDS: &[Kind] = &[
    resource!("aws.ec2_instance", "i"),
    resource!("aws.ebs_volume", "vol"),
    resource!("aws.ebs_snapshot", "snap"),
    resource!("aws.ami", "ami"),
    resource!("aws.vpc", "vpc"),
    resource!("aws.subnet", "subnet"),
    resource!("aws.security_group", "sgr", "sg"),
    resource!("aws.network_interface", "eni-attach", "eni"),
    resource!("aws.route_table", "rtbassoc", "rtb"),
    resource!("aws.network_acl", "aclassoc", "acl"),
    resource!("aws.internet_gateway", "eigw", "igw"),
    resource!("aws.nat_gateway", "nat"),
    resource!("aws.eip_allocation", "eipalloc"),
    resource!("aws.eip_association", "eipassoc"),
    resource!("aws.vpc_endpoint", "vpce-svc", "vpce"),
    resource!("aws.vpc_peering", "pcx"),
    resource!("aws.transit_gateway", "tgw-attach", "tgw-rtb", "tgw"),
    resource!("aws.vpn_connection", "vpn"),
    resource!("aws.vpn_gateway", "vgw"),
    resource!("aws.customer_gateway", "cgw"),
    resource!("aws.flow_log", "fl"),
    resource!("aws.launch_template", "lt"),
    resource!("aws.efs", "fsap", "fsmt", "fs"),
    resource!("aws.other_ec2", "dopt", "key", "r", "cr", "lgw", "subnet-cidr-assoc", "vpc-cidr-assoc"),
    kind!("aws.arn", Aws, "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html", RESOURCE),
    kind!(
        "aws.account_id",
        Aws,
        "https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-identifiers.html",
        ACCOUNT
    ),
    kind!(
        "aws.access_key_id",
        Aws,
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids",
        AKIA,
        ASIA
    ),
    kind!("aws.s3_bucket", Aws, "https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html", BUCKET),
    kind!(
        "aws.rds_host",
        Aws,
        "https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html",
        DATABASE,
        RDS_HASH
    ),
    kind!(
        "aws.elb_host",
        Aws,
        "https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html",
        BALANCER
    ),
    kind!("aws.lambda_url", Aws, "https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html", LAMBDA_URL),
    kind!(
        "aws.api_gateway",
        Aws,
        "https://docs.aws.amazon.com/apigateway/latest/developerguide/how-to-call-api.html",
        API
    ),
    kind!("aws.ecr_host", Aws, "https://docs.aws.amazon.com/AmazonECR/latest/userguide/Registries.html", RESOURCE),
    kind!(
        "aws.sqs_url",
        Aws,
        "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-message-identifiers.html",
        RESOURCE
    ),
    kind!("aws.eks_host", Aws, "https://docs.aws.amazon.com/eks/latest/userguide/cluster-endpoint.html", EKS),
    kind!(
        "aws.cloudfront_host",
        Aws,
        "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/distribution-web-values-returned.html",
        CLOUDFRONT
    ),
    kind!("private_ip.v4", PrivateIp, "RFC 1918 §3, RFC 6598 §7",),
    kind!("private_ip.v6", PrivateIp, "RFC 4193 §3.1",),
    kind!("private_ip.dns_name", PrivateIp, "https://docs.aws.amazon.com/vpc/latest/userguide/vpc-dns.html",),
    kind!(
        "secrets.aws_secret_key",
        Secrets,
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_access-keys.html",
    ),
    kind!(
        "secrets.aws_session_token",
        Secrets,
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_use-resources.html",
    ),
    kind!("secrets.private_key", Secrets, "RFC 7468 §10",),
    kind!(
        "secrets.api_token",
        Secrets,
        "https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github",
    ),
    kind!("secrets.url_password", Secrets, "RFC 3986 §3.2.1",),
];

/// The row of the kind `name`, which exists.
pub(crate) const fn id(name: &str) -> KindId {
    let mut row = 0;
    while row < KINDS.len() {
        if equal(KINDS[row].name.as_bytes(), name.as_bytes()) {
            return row;
        }
        row += 1;
    }
    panic!("no such kind")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Family, KINDS};

    #[test]
    fn every_kind_is_named_after_its_family_once_and_says_where_its_format_is_documented() {
        let mut names = HashSet::new();
        for kind in KINDS {
            assert!(names.insert(kind.name), "{}", kind.name);
            assert!(kind.name.starts_with(&format!("{}.", kind.family.name())), "{}", kind.name);
            assert!(kind.source.starts_with("https://docs.") || kind.source.starts_with("RFC "), "{}", kind.name);
        }
        assert!(Family::ALL.iter().all(|family| KINDS.iter().any(|kind| kind.family == *family)));
    }

    #[test]
    fn a_longer_prefix_stands_before_the_shorter_one_that_it_contains() {
        for kind in KINDS {
            for (index, id) in kind.ids.iter().enumerate() {
                assert!(
                    kind.ids[index + 1..].iter().all(|later| !later.prefix.starts_with(id.prefix)),
                    "{}",
                    id.prefix
                );
            }
        }
    }
}
