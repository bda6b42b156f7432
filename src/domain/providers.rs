//! Several identity providers: which of them signs a person in, and what keeps their people apart.
//!
//! With one provider nothing here changes anything.

use crate::config::Oidc;
use crate::domain::identity::{Identity, Refusal};
use crate::domain::service_identity::SUBJECT_PREFIX;

/// Who signs a person in, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// This one.
    Made(&'a Oidc),
    /// The person has to be asked.
    Open(Open),
}

/// Why a person has to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// They said nothing yet.
    NotAsked,
    /// No provider has the name that came.
    UnknownName,
    /// Nobody signs in addresses of this domain.
    UnknownDomain,
    /// What they gave is no address.
    NoAddress,
}

/// The provider that `name` names. A sign-in that began with the only provider goes on with it while it is the only
/// one, or the one that kept its subjects.
pub fn find<'a>(providers: &'a [Oidc], name: Option<&str>) -> Option<&'a Oidc> {
    match (providers, name) {
        ([only], None) => Some(only),
        (_, None) => providers.iter().find(|provider| provider.keep_subjects),
        (_, Some(_)) => providers.iter().find(|provider| provider.name.as_deref() == name),
    }
}

/// Chooses by the name of a provider, or else by an e-mail address.
pub fn choose<'a>(providers: &'a [Oidc], name: Option<&str>, email: Option<&str>) -> Choice<'a> {
    if let [only] = providers {
        return Choice::Made(only);
    }
    let open = |why| move || Choice::Open(why);
    match (name, email) {
        (Some(name), _) => find(providers, Some(name)).map_or_else(open(Open::UnknownName), Choice::Made),
        (None, Some(email)) => {
            let Some(domain) = domain(email) else { return Choice::Open(Open::NoAddress) };
            let is_of_domain = |provider: &&Oidc| provider.email_domains.contains(&domain);
            let others = || providers.iter().filter(|provider| provider.email_domains.is_empty());
            // Of several without a domain, none is more likely than the others.
            let only_other = || others().next().filter(|_| others().nth(1).is_none());
            providers.iter().find(is_of_domain).or_else(only_other).map_or_else(open(Open::UnknownDomain), Choice::Made)
        }
        (None, None) => Choice::Open(Open::NotAsked),
    }
}

/// Whether the sign-in page asks for an address: some provider is known by a domain.
pub fn ask_for_email(providers: &[Oidc]) -> bool {
    providers.len() > 1 && providers.iter().any(|provider| !provider.email_domains.is_empty())
}

/// The providers that the sign-in page offers by name: those without a domain.
pub fn offered(providers: &[Oidc]) -> impl Iterator<Item = &Oidc> {
    let several = providers.len() > 1;
    providers.iter().filter(move |provider| several && provider.email_domains.is_empty())
}

/// What a person calls the provider.
pub fn label(provider: &Oidc) -> &str {
    let host = || provider.issuer.host_str().unwrap_or_default();
    provider.label.as_deref().or(provider.name.as_deref()).unwrap_or_else(host)
}

/// The identity as it is known outside of its provider: with a subject and groups that nobody at another provider can
/// have. Names of providers have no colon, so the first one ends the name.
pub fn keep_apart(providers: &[Oidc], provider: &Oidc, identity: Identity) -> Result<Identity, Refusal> {
    let Identity { subject, email, name, groups } = identity;
    let groups = groups.into_iter().map(|group| format!("{}{group}", provider.groups_prefix)).collect();
    let subject = if providers.len() == 1 { subject } else { apart(providers, provider, subject)? };
    if let Some(domain) = email.as_deref().and_then(domain)
        && !provider.email_domains.contains(&domain)
        && providers.len() > 1
        && providers.iter().any(|other| other.email_domains.contains(&domain))
    {
        return Err(Refusal::ForeignDomain);
    }
    Ok(Identity { subject, email, name, groups })
}

fn apart(providers: &[Oidc], provider: &Oidc, subject: String) -> Result<String, Refusal> {
    let name = provider.name.as_deref().unwrap_or_default();
    if !provider.keep_subjects {
        return Ok(format!("{name}:{subject}"));
    }
    let is_others = |other: &Oidc| {
        let rest = other.name.as_deref().and_then(|name| subject.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(':'))
    };
    if subject.starts_with(SUBJECT_PREFIX) || providers.iter().any(is_others) {
        return Err(Refusal::ForeignSubject);
    }
    Ok(subject)
}

/// What follows the last `@`, in lower case.
fn domain(email: &str) -> Option<String> {
    let (local, domain) = email.trim().rsplit_once('@')?;
    (!local.is_empty() && !domain.is_empty()).then(|| domain.to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn provider(name: &str, domains: &[&str]) -> Oidc {
        Oidc {
            name: Some(name.to_owned()),
            email_domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            ..testing::oidc()
        }
    }

    fn person(subject: &str, email: Option<&str>) -> Identity {
        Identity {
            subject: subject.to_owned(),
            email: email.map(str::to_owned),
            name: None,
            groups: vec!["eng".to_owned()],
        }
    }

    fn chosen(providers: &[Oidc], name: Option<&str>, email: Option<&str>) -> Result<String, Open> {
        match choose(providers, name, email) {
            Choice::Made(provider) => Ok(provider.name.clone().unwrap_or_default()),
            Choice::Open(why) => Err(why),
        }
    }

    #[test]
    fn one_provider_is_never_a_question_and_changes_nothing() {
        let only = [testing::oidc()];
        for (name, email) in [(None, None), (Some("x"), None), (None, Some("a@b.test"))] {
            assert_eq!(chosen(&only, name, email), Ok(String::new()));
        }
        assert!(!ask_for_email(&only));
        assert_eq!(offered(&only).count(), 0);
        let alice = person("corp:alice", Some("a@b.test"));
        assert_eq!(keep_apart(&only, &only[0], alice.clone()), Ok(alice));
        let listed = [provider("corp", &["b.test"])];
        let alice = person("alice", Some("a@other.test"));
        assert_eq!(keep_apart(&listed, &listed[0], alice.clone()), Ok(alice));
    }

    #[test]
    fn an_address_or_a_name_chooses_among_several() {
        let several = [provider("corp", &["corp.test", "corp.example"]), provider("partners", &[])];
        for (name, email, expected) in [
            (None, Some("a@corp.test"), Ok("corp")),
            (None, Some(" A@b@CORP.example "), Ok("corp")),
            (None, Some("a@other.test"), Ok("partners")),
            (None, Some("a"), Err(Open::NoAddress)),
            (None, Some("@corp.test"), Err(Open::NoAddress)),
            (Some("partners"), Some("a@corp.test"), Ok("partners")),
            (Some("corp"), None, Ok("corp")),
            (Some("Corp"), None, Err(Open::UnknownName)),
            (None, None, Err(Open::NotAsked)),
        ] {
            assert_eq!(chosen(&several, name, email), expected.map(str::to_owned), "{name:?} {email:?}");
        }
        let unsure = [provider("a", &[]), provider("b", &[]), provider("c", &["c.test"])];
        assert_eq!(chosen(&unsure, None, Some("x@d.test")), Err(Open::UnknownDomain));
        let closed = [provider("a", &["a.test"]), provider("c", &["c.test"])];
        assert_eq!(chosen(&closed, None, Some("x@d.test")), Err(Open::UnknownDomain));
        assert_eq!((ask_for_email(&closed), offered(&closed).count()), (true, 0));
        assert_eq!((ask_for_email(&several), offered(&several).count()), (true, 1));
    }

    #[test]
    fn a_sign_in_goes_on_with_the_provider_it_began_with() {
        let several = [provider("corp", &[]), provider("partners", &[])];
        let name = |found: Option<&Oidc>| found.and_then(|provider| provider.name.clone());
        assert_eq!(name(find(&several, Some("partners"))).as_deref(), Some("partners"));
        assert_eq!(name(find(&several, Some("gone"))), None);
        assert_eq!(name(find(&several, None)), None);
        let kept = [Oidc { keep_subjects: true, ..provider("corp", &[]) }, provider("partners", &[])];
        assert_eq!(name(find(&kept, None)).as_deref(), Some("corp"));
        assert!(find(&[testing::oidc()], None).is_some() && find(&[testing::oidc()], Some("corp")).is_none());
    }

    #[test]
    fn nobody_at_one_provider_can_be_somebody_at_another() {
        let several =
            [provider("corp", &["corp.test"]), Oidc { groups_prefix: "p/".to_owned(), ..provider("partners", &[]) }];
        let ours = keep_apart(&several, &several[0], person("alice", Some("a@corp.test"))).expect("ours");
        assert_eq!((ours.subject.as_str(), ours.groups), ("corp:alice", vec!["eng".to_owned()]));
        let theirs = keep_apart(&several, &several[1], person("alice", Some("a@partner.test"))).expect("theirs");
        assert_eq!((theirs.subject.as_str(), theirs.groups), ("partners:alice", vec!["p/eng".to_owned()]));
        let impostor = keep_apart(&several, &several[1], person("alice", Some("a@CORP.test")));
        assert_eq!(impostor, Err(Refusal::ForeignDomain));
    }

    proptest! {
        #[test]
        fn subjects_never_collide(
            one in "(corp|partners|service)?:?[a-z:]{1,6}", other in "(corp|partners|service)?:?[a-z:]{1,6}",
            keeps in proptest::option::of(0..2_usize),
        ) {
            let mut several = [provider("corp", &[]), provider("partners", &[])];
            if let Some(index) = keeps {
                several[index].keep_subjects = true;
            }
            let first = keep_apart(&several, &several[0], person(&one, None));
            let second = keep_apart(&several, &several[1], person(&other, None));
            if let (Ok(first), Ok(second)) = (first, second) {
                prop_assert_ne!(&first.subject, &second.subject);
                prop_assert!(!first.subject.starts_with(SUBJECT_PREFIX) && !second.subject.starts_with(SUBJECT_PREFIX));
            }
        }
    }
}
