//! Amazon Resource Names: `arn:partition:service:region:account-id:resource`.
//!
//! Partition, service, region and resource type stay, so that a model still knows what it reads about; the account and
//! the names are masked one by one, each as it would be outside of an ARN. Wildcards, `${…}` and what belongs to AWS
//! itself (`arn:aws:iam::aws:policy/…`, service-linked roles) stay.
//!
//! Format: IAM User Guide, "Amazon Resource Names (ARNs)".

use super::find::{Match, Shape};
use super::kinds::{ACCOUNT, BUCKET, RESOURCE, id};

/// First parts of a resource that say what it is, and fixed words further on.
const TYPES: &[&str] = &[
    "accelerator",
    "accesspoint",
    "access-point",
    "activity",
    "agent",
    "alarm",
    "alias",
    "analyzer",
    "api-key",
    "apikeys",
    "apis",
    "app",
    "application",
    "apps",
    "assumed-role",
    "authorizer",
    "autoScalingGroup",
    "autoScalingGroupName",
    "aws",
    "aws-reserved",
    "aws-service-role",
    "backup",
    "backup-plan",
    "backup-vault",
    "bot",
    "branch",
    "browser",
    "build",
    "capacity-provider",
    "capacity-reservation",
    "catalog",
    "certificate",
    "certificate-authority",
    "channel",
    "cluster",
    "cluster-endpoint",
    "cluster-pg",
    "cluster-snapshot",
    "codebase",
    "compute-environment",
    "config-rule",
    "configuration",
    "connection",
    "connections",
    "container-instance",
    "crawler",
    "customer-gateway",
    "dashboard",
    "data-catalog",
    "database",
    "dataset",
    "datasource",
    "db",
    "dedicated-host",
    "delivery-stream",
    "deliverystream",
    "deploymentconfig",
    "deploymentgroup",
    "destination",
    "detector",
    "device",
    "dhcp-options",
    "directory",
    "distribution",
    "document",
    "domain",
    "ecs",
    "elastic-ip",
    "elasticip",
    "endpoint",
    "endpoint-config",
    "environment",
    "es",
    "event",
    "event-bus",
    "event-source-mapping",
    "eventbus",
    "execution",
    "export",
    "express",
    "federated-user",
    "file-system",
    "fleet",
    "flow-definition",
    "function",
    "fargateprofile",
    "global-table",
    "globalcluster",
    "graph",
    "group",
    "groupmember",
    "gwy",
    "healthcheck",
    "host",
    "hostedzone",
    "identity",
    "identitypool",
    "identityprovider",
    "image",
    "index",
    "inference-profile",
    "instance",
    "instance-profile",
    "internet-gateway",
    "job",
    "job-definition",
    "job-queue",
    "jobs",
    "key",
    "key-pair",
    "keyspace",
    "knowledge-base",
    "lambda",
    "launch-template",
    "launchConfiguration",
    "launchConfigurationName",
    "layer",
    "listener",
    "listener-rule",
    "loadbalancer",
    "local-gateway",
    "log-group",
    "log-stream",
    "managed-policy",
    "mfa",
    "model",
    "nat-gateway",
    "natgateway",
    "net",
    "network",
    "network-acl",
    "network-interface",
    "nodegroup",
    "oidc-provider",
    "og",
    "org",
    "origin-access-identity",
    "ou",
    "account",
    "parameter",
    "parametergroup",
    "permission-set",
    "permissionSet",
    "pg",
    "pipe",
    "placement-group",
    "policy",
    "pod",
    "project",
    "prefix-list",
    "proxy",
    "provisioned-model",
    "queue",
    "rds",
    "registry",
    "replicationgroup",
    "report-group",
    "repository",
    "resource-share",
    "restapis",
    "ri",
    "role",
    "root",
    "route",
    "route-table",
    "rule",
    "saml-provider",
    "schedule",
    "schedule-group",
    "schema",
    "secgrp",
    "secret",
    "security-group",
    "security-group-rule",
    "server-certificate",
    "service",
    "service-role",
    "session",
    "sms-voice",
    "snapshot",
    "space",
    "stack",
    "stackset",
    "stage",
    "stages",
    "state",
    "stateMachine",
    "statement",
    "stream",
    "studio",
    "subgrp",
    "subnet",
    "subnetgroup",
    "sts",
    "table",
    "table-version",
    "tables",
    "target",
    "targetgroup",
    "task",
    "task-definition",
    "task-set",
    "topic",
    "trail",
    "training-job",
    "transit-gateway",
    "transit-gateway-attachment",
    "transit-gateway-route-table",
    "trigger",
    "user",
    "usergroup",
    "userpool",
    "vault",
    "volume",
    "vpc",
    "vpc-endpoint",
    "vpc-endpoint-service",
    "vpc-flow-log",
    "vpc-peering-connection",
    "vpn-connection",
    "vpn-gateway",
    "webacl",
    "workflow",
    "workgroup",
    "workspace",
];

/// Recognises the ARN at `start`, puts what is to be masked into `matches`, and returns where the ARN ends.
pub(crate) fn find(text: &[u8], start: usize, matches: &mut Vec<Match>) -> Option<usize> {
    // Without a service it is none; told before its end is looked for.
    let head = &text[start..text.len().min(start + 24)];
    let service = head.iter().skip(4).position(|byte| *byte == b':')? + 5;
    if matches!(head.get(service), None | Some(b':')) {
        return None;
    }
    let end = end(text, start);
    let mut parts = [(0, 0); 6];
    let mut at = start;
    for part in &mut parts[..5] {
        let colon = separator(text, at, end, b":")?;
        *part = (at, colon);
        at = colon + 1;
    }
    parts[5] = (at, end);
    let [_, _, service, _, account, resource] = parts.map(|(start, end)| &text[start..end]);
    // `arn:aws:iam::aws:policy/AdministratorAccess` is the same in every account of the world.
    if account == b"aws" {
        return Some(end);
    }
    if account.len() == 12 && account.iter().all(u8::is_ascii_digit) {
        matches.push(Match {
            start: parts[4].0,
            end: parts[4].1,
            kind: id("aws.account_id"),
            shape: Shape::Form(ACCOUNT),
        });
    }
    if service == b"s3" {
        let length = memchr::memchr(b'/', resource).unwrap_or(resource.len());
        names(text, at, at + length, matches, id("aws.s3_bucket"), Shape::Form(BUCKET));
    } else {
        segments(text, at, end, matches);
    }
    Some(end)
}

/// No ARN is longer (IAM and AWS STS quotas).
const MAX_LENGTH: usize = 2048;

/// Where the ARN ends: at the first character that none has, without punctuation of the sentence around it.
fn end(text: &[u8], start: usize) -> usize {
    let mut end = start;
    while let Some(byte) = text.get(end).filter(|_| end - start < MAX_LENGTH) {
        match byte {
            b'0'..=b'9'
            | b'A'..=b'Z'
            | b'a'..=b'z'
            | b'-'
            | b'_'
            | b'.'
            | b':'
            | b'/'
            | b'*'
            | b'?'
            | b'+'
            | b'='
            | b'@'
            | b'#'
            | b'~' => {
                end += 1;
            }
            // `${aws:username}`, but also `${local.name}`.
            b'$' => match (text.get(end + 1), memchr::memchr(b'}', &text[end..text.len().min(end + 128)])) {
                (Some(b'{'), Some(close)) => end += close + 1,
                (Some(b'L'), _) => end += 1,
                _ => break,
            },
            _ => break,
        }
    }
    while end > start && matches!(text[end - 1], b'.' | b':' | b'?' | b'=' | b'-') {
        end -= 1;
    }
    end
}

/// The parts of a resource, between `/` and `:`.
fn segments(text: &[u8], start: usize, end: usize, matches: &mut Vec<Match>) {
    let mut at = start;
    while at < end {
        let length = separator(text, at, end, b"/:").unwrap_or(end) - at;
        let segment = &text[at..at + length];
        if !is_kept(segment) {
            // A queue's name in its URL is found without the suffix.
            let suffix = if segment.ends_with(b".fifo") { 5 } else { 0 };
            names(text, at, at + length - suffix, matches, id("aws.arn"), Shape::Form(RESOURCE));
        }
        at += length + 1;
    }
}

/// The first of `separators` in `text[start..end]` that is not inside `${…}`.
fn separator(text: &[u8], start: usize, end: usize, separators: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    (start..end).find(|at| {
        match text[*at] {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && separators.contains(&text[*at])
    })
}

/// Whether a segment says nothing about a company.
fn is_kept(segment: &[u8]) -> bool {
    segment.is_empty()
        || TYPES.iter().any(|word| word.as_bytes() == segment)
        || segment.ends_with(b".amazonaws.com")
        || segment.starts_with(b"AWSServiceRoleFor")
        || segment.starts_with(b"$")
        // Revisions, versions and ports.
        || (segment.len() <= 6 && segment.iter().all(u8::is_ascii_digit))
        || is_resource_id(segment)
}

/// Whether a segment is an id like `i-0…`, which is masked as what it is.
fn is_resource_id(segment: &[u8]) -> bool {
    let Some(hyphen) = memchr::memrchr(b'-', segment) else { return false };
    let (prefix, digits) = (&segment[..=hyphen], &segment[hyphen + 1..]);
    matches!(digits.len(), 8 | 17)
        && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && super::kinds::KINDS.iter().flat_map(|kind| kind.ids).any(|id| id.prefix.as_bytes() == prefix)
}

/// What is between wildcards and `${…}` in one segment.
fn names(text: &[u8], start: usize, end: usize, matches: &mut Vec<Match>, kind: usize, shape: Shape) {
    let mut at = start;
    while at < end {
        let rest = &text[at..end];
        let length = rest.iter().position(|byte| matches!(byte, b'*' | b'?' | b'$')).unwrap_or(rest.len());
        let is_joint = |byte: &u8| matches!(byte, b'-' | b'_' | b'.' | b'+' | b'=' | b'@' | b'#' | b'~');
        let piece = &rest[..length];
        let leading = piece.iter().take_while(|byte| is_joint(byte)).count();
        let trailing = piece[leading..].iter().rev().take_while(|byte| is_joint(byte)).count();
        if leading + trailing < length {
            matches.push(Match { start: at + leading, end: at + length - trailing, kind, shape });
        }
        at += length;
        if text.get(at) == Some(&b'$') {
            at += memchr::memchr(b'}', &text[at..end]).unwrap_or(0);
        }
        at += 1;
    }
}
