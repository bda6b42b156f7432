//! For each kind: what it is, what it is not, and what nearly is. In the texts, `‹…›` marks what has to change; all else
//! has to stay.

use std::collections::BTreeSet;

use sallyport::mask::{KINDS, Secrets, Settings};

use crate::{mask, masker, restore};

/// Kind, and texts in which it is found.
const POSITIVES: &[(&str, &[&str])] = &[
    (
        "aws.ec2_instance",
        &[
            "‹i-0a1b2c3d4e5f60718›",
            "old ‹i-1a2b3c4d›.",
            "[\"‹i-0a1b2c3d4e5f60718›\",\"‹i-0a1b2c3d4e5f60719›\"]",
            "line\\n‹i-0a1b2c3d4e5f60718›\\nline",
            "\u{1b}[32m‹i-0a1b2c3d4e5f60718›\u{1b}[0m",
            "instance%2F‹i-0a1b2c3d4e5f60718›",
            "web_‹i-0a1b2c3d4e5f60718›_backup",
            "backup-of-‹i-0a1b2c3d4e5f60718›",
        ],
    ),
    ("aws.ebs_volume", &["(‹vol-0a1b2c3d4e5f60718›)", "/dev/xvda=‹vol-1a2b3c4d›"]),
    ("aws.ebs_snapshot", &["‹snap-0a1b2c3d4e5f60718›"]),
    ("aws.ami", &["ami = \"‹ami-0a1b2c3d4e5f60718›\""]),
    ("aws.vpc", &["‹vpc-0a1b2c3d4e5f60718›", "‹vpc-1a2b3c4d›"]),
    ("aws.subnet", &["‹subnet-0a1b2c3d4e5f60718›,‹subnet-1a2b3c4d›"]),
    ("aws.security_group", &["‹sg-0a1b2c3d4e5f60718› ‹sgr-0a1b2c3d4e5f60718›"]),
    ("aws.network_interface", &["‹eni-0a1b2c3d4e5f60718› ‹eni-attach-0a1b2c3d4e5f60718›"]),
    ("aws.route_table", &["‹rtb-0a1b2c3d4e5f60718› ‹rtbassoc-0a1b2c3d4e5f60718›"]),
    ("aws.network_acl", &["‹acl-0a1b2c3d4e5f60718› ‹aclassoc-0a1b2c3d4e5f60718›"]),
    ("aws.internet_gateway", &["‹igw-0a1b2c3d4e5f60718› ‹eigw-0a1b2c3d4e5f60718›"]),
    ("aws.nat_gateway", &["‹nat-0a1b2c3d4e5f60718›"]),
    ("aws.eip_allocation", &["‹eipalloc-0a1b2c3d4e5f60718›"]),
    ("aws.eip_association", &["‹eipassoc-0a1b2c3d4e5f60718›"]),
    ("aws.vpc_endpoint", &["‹vpce-0a1b2c3d4e5f60718› ‹vpce-svc-0a1b2c3d4e5f60718›"]),
    ("aws.vpc_peering", &["‹pcx-0a1b2c3d4e5f60718›"]),
    ("aws.transit_gateway", &["‹tgw-0a1b2c3d4e5f60718› ‹tgw-attach-0a1b2c3d4e5f60718› ‹tgw-rtb-0a1b2c3d4e5f60718›"]),
    ("aws.vpn_connection", &["‹vpn-0a1b2c3d4e5f60718›"]),
    ("aws.vpn_gateway", &["‹vgw-0a1b2c3d4e5f60718›"]),
    ("aws.customer_gateway", &["‹cgw-0a1b2c3d4e5f60718›"]),
    ("aws.flow_log", &["‹fl-0a1b2c3d4e5f60718›"]),
    ("aws.launch_template", &["‹lt-0a1b2c3d4e5f60718›"]),
    ("aws.efs", &["‹fs-0a1b2c3d4e5f60718› ‹fsap-0a1b2c3d4e5f60718› ‹fs-1a2b3c4d›.efs.eu-west-1.amazonaws.com"]),
    ("aws.other_ec2", &["‹dopt-0a1b2c3d4e5f60718› ‹r-0a1b2c3d4e5f60718›"]),
    (
        "aws.arn",
        &[
            "arn:aws:iam::‹123456789012›:role/‹deployer›",
            "\"arn:aws:iam::‹123456789012›:role/‹team-a›/‹deployer›\",",
            "arn:aws:lambda:eu-west-1:‹123456789012›:function:‹billing›:42.",
            "arn:aws-cn:dynamodb:cn-north-1:‹123456789012›:table/‹orders›/index/‹by_day›",
            "arn:aws:ec2:eu-west-1:‹123456789012›:instance/‹i-0a1b2c3d4e5f60718›",
            "arn:aws:logs:eu-west-1:‹123456789012›:log-group:/aws/lambda/‹billing›:*",
            "arn:aws:iam::‹123456789012›:role/‹app›-*",
            "arn:aws:sqs:eu-west-1:‹123456789012›:‹orders›.fifo",
            "arn:aws:iam::${var.account}:role/‹deployer-x›",
            "arn:aws:elasticloadbalancing:eu-west-1:‹123456789012›:loadbalancer/app/‹web›/‹50dc6c495c0c9188›",
            "arn:aws:s3:::‹acme-payments›/reports/*",
        ],
    ),
    (
        "aws.account_id",
        &[
            "\"AccountId\": \"‹123456789012›\"",
            "{\\\"OwnerId\\\":\\\"‹123456789012›\\\"}",
            "aws_account_id = ‹123456789012›",
            "our account is ‹123456789012›, yes",
            "Account: ‹1234-5678-9012›",
            "accounts: [\"‹123456789012›\", \"‹210987654321›\"]",
            "\"Principal\": {\"AWS\": \"‹123456789012›\"}",
            "account ‹123456789012› and later ‹123456789012› alone",
        ],
    ),
    (
        "aws.s3_bucket",
        &[
            "s3://‹acme-payments›/2026/01/x.csv and acme.txt",
            "aws s3api head-bucket --bucket ‹acme-payments›",
            "\"Bucket\": \"‹logs›\", logs stay",
            "bucket = \"‹acme-payments›\"",
            "https://‹acme-payments›.s3.eu-west-1.amazonaws.com/key",
            "https://s3.eu-west-1.amazonaws.com/‹acme-payments›/key",
            "https://s3.amazonaws.com/‹acme-payments›",
            "s3://‹acme-payments› is written by ‹acme-payments›-writer",
            "bucket: ‹acme-payments-eu›",
            "s3://‹acmepaymentsprod› is the bucket of ‹acmepaymentsprod›",
        ],
    ),
    (
        "aws.rds_host",
        &[
            "‹orders›.‹c9akciq32xyz›.eu-west-1.rds.amazonaws.com:5432",
            "host=‹orders›.cluster-ro-‹c9akciq32xyz›.eu-west-1.rds.amazonaws.com",
            "‹orders›.‹c9akciq32xyz›.rds.cn-north-1.amazonaws.com.cn:5432",
        ],
    ),
    (
        "aws.elb_host",
        &[
            "internal-‹web-1234567890›.eu-west-1.elb.amazonaws.com",
            "http://‹web-1234567890›.eu-west-1.elb.amazonaws.com/",
            "‹net-0123456789abcdef›.elb.eu-west-1.amazonaws.com",
        ],
    ),
    ("aws.lambda_url", &["https://‹abcdefghij0123456789abcdefghij01›.lambda-url.eu-west-1.on.aws/"]),
    ("aws.api_gateway", &["https://‹a1b2c3d4e5›.execute-api.eu-west-1.amazonaws.com/prod"]),
    (
        "aws.ecr_host",
        &[
            "‹123456789012›.dkr.ecr.eu-west-1.amazonaws.com/‹shop›/‹web›:1.2.3",
            "‹123456789012›.dkr-ecr.eu-west-1.on.aws/‹shop›:1.2.3",
        ],
    ),
    ("aws.sqs_url", &["https://sqs.eu-west-1.amazonaws.com/‹123456789012›/‹orders-queue›"]),
    (
        "aws.eks_host",
        &[
            "https://‹0123456789ABCDEF0123456789ABCDEF›.gr7.eu-west-1.eks.amazonaws.com",
            "https://‹0123456789ABCDEF0123456789ABCDEF›.gr7.eu-west-1.api.aws",
            "https://oidc-eks.eu-west-1.api.aws/id/‹0123456789ABCDEF0123456789ABCDEF›",
        ],
    ),
    ("aws.cloudfront_host", &["‹d111111abcdef8›.cloudfront.net"]),
    (
        "private_ip.v4",
        &[
            "‹10.0.1.5›",
            "http://‹192.168.7.20›:8080/x",
            "ssh admin@‹172.16.3.4›",
            "cidr ‹10.20.0.0/16›, ‹10.20.1.0›/24 and ‹100.64.3.1›/32",
            "‹10.0.1.5›-‹10.0.1.9›",
            "ip.addr==‹10.0.1.5›",
            "from ‹10.0.1.5›.",
        ],
    ),
    (
        "private_ip.v6",
        &[
            "[‹fd12:3456:789a:1::1›]:443",
            "‹fd12:3456:789a:1::›/64",
            "‹fd12:3456:789a::/48›",
            "‹fd12:3456:789a:0001:0000:0000:0000:0001›",
        ],
    ),
    (
        "private_ip.dns_name",
        &["ip-‹10-0-1-5›.eu-west-1.compute.internal", "ip-‹172-31-4-9›.ec2.internal", "host ip-‹10-0-1-5›"],
    ),
    (
        "secrets.private_key",
        &["-----BEGIN ‸RSA PRIVATE KEY-----\n‹TUlJRXBBSUJBQUtDQVFFQTBaM1ZTNUpKY2RzMw›\n-----END RSA PRIVATE KEY-----"],
    ),
    ("secrets.url_password", &["postgres://app:‹hunter2hunter2›@db.example.com/x"]),
];

/// What looks like an identifier and is none.
const NEGATIVES: &[&str] = &[
    "i-0a1b2c3d4e5f6071",
    "i-0a1b2c3d4e5f607189",
    "xi-0a1b2c3d4e5f60718",
    "i-0a1b2c3d4e5f60718z",
    "I-0A1B2C3D4E5F60718",
    "wifi-1a2b3c4d",
    "my-vol-1a2b3c4d",
    "vol-20260131",
    "key-1a2b3c4d",
    "vol-1a2b3c4d-aaaa-bbbb-cccc-ddddeeeeffff",
    "nat-defaced",
    "arn:aws:iam::aws:policy/AdministratorAccess",
    "arn:aws:s3:::*",
    "arn:aws:iam::*:role/*",
    "arn:aws:iam::${AWS::AccountId}:role/*",
    "arn:acme:thing:::x",
    "123456789012",
    "order 123456789012 was shipped",
    "account 1234567890123",
    "AKIA",
    "s3://",
    "bucket = var.bucket",
    "bucket = aws_s3_bucket.logs.id",
    "a token bucket: 12 per second",
    "bucket = hash % size",
    "rds.amazonaws.com",
    "sqs.eu-west-1.amazonaws.com",
    "s3.eu-west-1.amazonaws.com",
    "cloudfront.net",
    "127.0.0.1 0.0.0.0 169.254.169.254 255.255.255.0",
    "192.0.2.1 198.51.100.7 203.0.113.9 8.8.8.8",
    "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10",
    "172.32.0.1 100.128.0.1 192.169.0.1 11.0.0.1",
    "v10.0.1.5",
    "10.0.1",
    "10.0.1.5.6",
    "1.10.0.1.5",
    "10.0.1.256",
    "\"version\": \"10.0.1.5\"",
    "libfoo-10.0.1.5.tar.gz",
    "fd:12:34:56:78:9a",
    "fdef::dead",
    "2001:db8::1",
    "::1 fe80::1 fd00::/8 fc00::/7",
    "ip-10-0-1",
    "ip-8-8-8-8",
    "-----BEGIN PUBLIC KEY-----\nTUlJQklqQU5CZ2txaGtpRzl3MEJBUUVGQUFPQ0FROEE\n-----END PUBLIC KEY-----",
    "https://example.com:8080/@user",
    "postgres://app:${PASSWORD}@db.example.com/x",
];

/// Kind, texts that have to do with it and hold none, and texts that miss its format by little. Resource ids are not
/// here: theirs follow from their prefixes.
const OTHERS: &[(&str, &[&str], &[&str])] = &[
    (
        "aws.arn",
        &["arn:aws:iam::aws:policy/AdministratorAccess", "arn:aws:s3:::*", "arn:aws:iam::${AWS::AccountId}:role/*"],
        &[
            "arn:aws:",
            "arn:aws:iam",
            "arn:aws::::deployer",
            "arn:acme:iam:::role/deployer",
            "barn:aws:iam:::role/deployer",
        ],
    ),
    (
        "aws.account_id",
        &["order 123456789012 was shipped", "accounting 2026", "account balance 1234.56"],
        &["account 12345678901", "account 1234567890123", "account 1234-5678-901", "account id a123456789012"],
    ),
    (
        "aws.access_key_id",
        &["AKIA", "AKIA is a prefix", "ASIATIC"],
        &["AK‸IAQ3EXAMPLEQ3EXAM", "AK‸IAQ3EXAMPLEQ3EXAMPL", "ak‸iaq3exampleq3examp", "XAK‸IAQ3EXAMPLEQ3EXAMP"],
    ),
    (
        "aws.s3_bucket",
        &["s3://", "a token bucket: 12 per second", "bucket = var.bucket", "https://s3.eu-west-1.amazonaws.com/"],
        &[
            "s3://ab",
            "xs3://acme-payments",
            "--buckets acme-payments",
            "bucket = acme_payments",
            "acme.s3x.amazonaws.com",
        ],
    ),
    (
        "aws.rds_host",
        &["rds.amazonaws.com", "rds.eu-west-1.amazonaws.com"],
        &[
            "orders.c9akciq32xy.eu-west-1.rds.amazonaws.com",
            "orders.c9akciq32xyz.eu-west-1.rds.example.com",
            "orders.c9akciq32xyz.west.rds.amazonaws.com",
        ],
    ),
    (
        "aws.elb_host",
        &["elb.amazonaws.com", "elasticloadbalancing.eu-west-1.amazonaws.com"],
        &["web-1234567890.eu-west-1.elbs.amazonaws.com", "web-1234567890.eu-west-1.elb.example.com"],
    ),
    (
        "aws.lambda_url",
        &["lambda.eu-west-1.amazonaws.com", "lambda-url.eu-west-1.on.aws"],
        &[
            "https://abcdefghij0123456789abcdefghij0.lambda-url.eu-west-1.on.aws/",
            "https://abcdefghij0123456789abcdefghij012.lambda-url.eu-west-1.on.aws/",
        ],
    ),
    (
        "aws.api_gateway",
        &["execute-api.eu-west-1.amazonaws.com", "apigateway.eu-west-1.amazonaws.com"],
        &["a1b2c3d4e.execute-api.eu-west-1.amazonaws.com", "a1b2c3d4e5f.execute-api.eu-west-1.amazonaws.com"],
    ),
    (
        "aws.ecr_host",
        &["public.ecr.aws/docker/library/alpine:3", "api.ecr.eu-west-1.amazonaws.com"],
        &["12345678901.dkr.ecr.eu-west-1.amazonaws.com/shop", "1234567890123.dkr.ecr.eu-west-1.amazonaws.com/shop"],
    ),
    (
        "aws.sqs_url",
        &["https://sqs.eu-west-1.amazonaws.com/", "sqs.eu-west-1.amazonaws.com"],
        &[
            "https://sqs.eu-west-1.amazonaws.com/12345678901/orders-queue",
            "https://sqs.eu-west-1.example.com/123456789012/orders-queue",
        ],
    ),
    (
        "aws.eks_host",
        &["eks.eu-west-1.amazonaws.com", "https://oidc.eks.eu-west-1.amazonaws.com/id/"],
        &[
            "https://0123456789ABCDEF0123456789ABCDE.gr7.eu-west-1.eks.amazonaws.com",
            "https://0123456789abcdef0123456789abcdef.gr7.eu-west-1.eks.amazonaws.com",
        ],
    ),
    (
        "aws.cloudfront_host",
        &["cloudfront.net", "www.cloudfront.net", "cloudfront.amazonaws.com"],
        &["e111111abcdef8.cloudfront.net", "d1111.cloudfront.net", "d111111abcdef8.cloudfront.org"],
    ),
    (
        "private_ip.v4",
        &["127.0.0.1", "0.0.0.0", "169.254.169.254", "192.0.2.1 198.51.100.7 203.0.113.9", "8.8.8.8"],
        &[
            "9.255.255.255 11.0.0.1 172.15.0.1 172.32.0.1 192.167.0.1 192.169.0.1 100.63.0.1 100.128.0.1",
            "10.0.1.256",
            "10.0.1",
            "10.0.01.5",
            "1.10.0.1.5",
            "10.0.1.5.6",
            "v10.0.1.5",
        ],
    ),
    (
        "private_ip.v6",
        &["::1", "::", "fe80::1", "2001:db8::1", "fc00::/7 fd00::/8"],
        &[
            "fb12:3456:789a:1::1",
            "fe12:3456:789a:1::1",
            "fd12:3456:789a:1::1::2",
            "fd12:3456:789a",
            "fd:12:34:56:78:9a",
        ],
    ),
    (
        "private_ip.dns_name",
        &["ip-8-8-8-8", "ip-127-0-0-1", "ip-address-10"],
        &["ip-10-0-1", "ip-10-0-1-256", "ip-10-0-1-5-6", "zip-10-0-1-5", "ip-172-32-0-1"],
    ),
    (
        "secrets.aws_secret_key",
        &[
            "aws_secret_access_key = <your key>",
            "SecretAccessKey: !Ref Key",
            "aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/",
        ],
        &[
            "secret_access_key = aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3",
            "secret_access_key = aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/aB3/a",
        ],
    ),
    (
        "secrets.aws_session_token",
        &["session_token_ttl = 3600", "AWS_SESSION_TOKEN=$TOKEN"],
        &["session_token = Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9+Qm9"],
    ),
    (
        "secrets.private_key",
        &["-----BEGIN PUBLIC KEY-----\nTUlJQklqQU5CZ2txaGtpRzl3MEJBUUVGQUFPQ0FROEE\n-----END PUBLIC KEY-----"],
        &[
            "-----BEGIN ‸PRIVATE KEY-----\nTUlJRXBBSUJBQUtDQVFFQTBaM1ZTNUpKY2RzMw",
            "-----BEGIN ‸PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        ],
    ),
    (
        "secrets.api_token",
        &["ghp_", "glpat-", "github_pat_", "xoxb-"],
        &["gh‸p_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B", "gh‸x_a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2"],
    ),
    (
        "secrets.url_password",
        &["https://user@example.com:8080/", "https://example.com:8080/@user"],
        &["postgres://app:${PASSWORD}@db.example.com/x", "postgres://app:x1@db.example.com/x", "app:hunter2@db"],
    ),
];

#[test]
fn each_kind_is_found_in_its_forms_and_all_around_it_stays() {
    let masker = masker(&Settings { secrets: Secrets::Mask, ..Settings::default() });
    for (kind, texts) in POSITIVES {
        for marked in *texts {
            // The mark keeps this file free of what scanners take for a key.
            let marked = marked.replace('‸', "");
            let text = marked.replace(['‹', '›'], "");
            let (masked, shown) = mask(&masker, &text);
            let parts: Vec<_> = marked.split(['‹', '›']).collect();
            let kept: Vec<_> = parts.iter().step_by(2).map(|part| regex::escape(part)).collect();
            let form = regex::Regex::new(&format!("(?s)^{}$", kept.join("(.+?)"))).unwrap();
            let tokens = form.captures(&shown).unwrap_or_else(|| panic!("{kind}: {marked:?} became {shown:?}"));
            for (token, part) in tokens.iter().skip(1).flatten().zip(parts.iter().skip(1).step_by(2)) {
                assert_ne!(token.as_str(), *part, "{kind}: {marked:?} became {shown:?}");
            }
            let marks = u64::try_from(marked.matches('‹').count()).unwrap();
            assert_eq!(masked.receipt.total(), marks, "{kind}: {marked:?} became {shown:?}");
            assert_eq!(restore(&masked, &shown), text, "{kind}");
        }
    }
}

#[test]
fn each_kind_is_counted_under_its_name() {
    let masker = masker(&Settings::default());
    for (kind, texts) in POSITIVES {
        let (masked, _) = mask(&masker, &texts[0].replace(['‹', '›', '‸'], ""));
        assert!(masked.receipt.masked.contains_key(*kind), "{kind}: {:?}", masked.receipt);
    }
    let tested: BTreeSet<_> =
        POSITIVES.iter().map(|(kind, _)| *kind).chain(credentials().into_iter().map(|(kind, ..)| kind)).collect();
    let all: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(tested, all);
}

#[test]
fn what_nearly_is_an_identifier_stays() {
    let masker = masker(&Settings::default());
    for text in NEGATIVES {
        let (masked, shown) = mask(&masker, text);
        assert_eq!(shown, *text, "{:?}", masked.receipt);
    }
}

/// What a resource id of some prefix nearly is.
fn near_ids(prefix: &str) -> Vec<String> {
    let digits = "0a1b2c3d4e5f607189";
    let mut near: Vec<_> = [7, 9, 16, 18].iter().map(|length| format!("{prefix}{}", &digits[..*length])).collect();
    near.extend([
        prefix.to_owned(),
        format!("{prefix}name"),
        format!("{prefix}{}", digits[..17].to_uppercase()),
        format!("{prefix}{}z", &digits[..17]),
        format!("{prefix}{}g", &digits[..16]),
        format!("my-{prefix}1a2b3c4d"),
        format!("{prefix}20260131"),
        format!("{prefix}1a2b3c4d-aaaa-bbbb-cccc-ddddeeeeffff"),
        format!("{prefix}*"),
        format!("{prefix}${{id}}"),
    ]);
    // What stands before the last part of a longer prefix does not matter: `rtb-…` is an id by itself.
    if prefix.matches('-').count() == 1 {
        near.push(format!("x{prefix}{}", &digits[..17]));
    }
    near
}

#[test]
fn each_kind_has_neighbours_that_stay() {
    let masker = masker(&Settings::default());
    let id = regex::Regex::new("‹([a-z-]+-)[0-9a-f]{17}›").unwrap();
    let mut told = BTreeSet::new();
    for (kind, texts) in POSITIVES {
        let prefixes = texts.iter().flat_map(|text| id.captures_iter(text)).map(|found| found[1].to_owned());
        let prefixes: BTreeSet<_> = if *kind == "aws.arn" { BTreeSet::new() } else { prefixes.collect() };
        for text in prefixes.iter().flat_map(|prefix| near_ids(prefix)) {
            let (masked, shown) = mask(&masker, &text);
            assert_eq!(shown, text, "{kind}: {:?}", masked.receipt);
            told.insert(*kind);
        }
    }
    for (kind, negatives, near) in OTHERS {
        assert!(!negatives.is_empty() && !near.is_empty() && told.insert(kind), "{kind}");
        for text in negatives.iter().chain(*near).map(|text| text.replace('‸', "")) {
            let (masked, shown) = mask(&masker, &text);
            assert_eq!(shown, text, "{kind}: {:?}", masked.receipt);
        }
    }
    assert_eq!(told, KINDS.iter().map(|kind| kind.name).collect());
}

#[test]
fn a_private_dns_name_carries_the_token_of_its_address() {
    let masker = masker(&Settings::default());
    for address in ["10.0.1.5", "172.31.4.9", "192.168.7.20", "100.64.3.1"] {
        let text = format!(
            "ip-{}.ec2.internal is {address}, in {}0/24",
            address.replace('.', "-"),
            &address[..=address.rfind('.').unwrap()]
        );
        let (masked, shown) = mask(&masker, &text);
        let (name, rest) = shown.strip_prefix("ip-").unwrap().split_once(".ec2.internal is ").unwrap();
        let (token, network) = rest.split_once(", in ").unwrap();
        assert_eq!(name.replace('-', "."), token);
        assert_ne!(token, address);
        assert_eq!(network, format!("{}.0/24", token.rsplit_once('.').unwrap().0), "the same subnet");
        assert_eq!(restore(&masked, &shown), text);
    }
}

/// Kind, text and the credential in it.
fn credentials() -> Vec<(&'static str, String, String)> {
    let access = format!("{}{}", "AKIA", "Q3EXAMPLEQ3EXAMP");
    let secret = "aB3/".repeat(10);
    let session = "Qm9+".repeat(60);
    let github = format!("ghp{}{}", '_', "a1B2".repeat(9));
    vec![
        ("aws.access_key_id", format!("key {access}."), access.clone()),
        ("secrets.aws_secret_key", format!("aws_secret_access_key = {secret}"), secret.clone()),
        ("secrets.aws_secret_key", format!("\"SecretAccessKey\": \"{secret}\","), secret.clone()),
        ("secrets.aws_secret_key", format!("{{\\\"SecretAccessKey\\\":\\\"{secret}\\\"}}"), secret.clone()),
        ("secrets.aws_secret_key", format!("{access},{secret}"), secret),
        ("secrets.aws_session_token", format!("export AWS_SESSION_TOKEN={session}"), session),
        ("secrets.api_token", format!("GITHUB_TOKEN={github}"), github),
    ]
}

#[test]
fn secrets_are_redacted_masked_or_refused_as_configured() {
    for (kind, text, value) in credentials() {
        let is_secret = kind.starts_with("secrets.");
        for secrets in [Secrets::Redact, Secrets::Mask, Secrets::Block] {
            let masker = masker(&Settings { secrets, ..Settings::default() });
            if is_secret && secrets == Secrets::Block {
                let error = masker.mask_request(&crate::request(&text)).unwrap_err().to_string();
                assert!(error.contains("masking") && error.contains(kind) && !error.contains(&value), "{error}");
                continue;
            }
            let (masked, shown) = mask(&masker, &text);
            assert!(!shown.contains(&value), "{kind}: {shown}");
            let restored = restore(&masked, &shown);
            if is_secret && secrets == Secrets::Redact {
                assert!(shown.contains("[redacted:") && !restored.contains(&value), "{kind}: {shown}");
            } else {
                assert_eq!(restored, text, "{kind}: {shown}");
            }
        }
    }
}
