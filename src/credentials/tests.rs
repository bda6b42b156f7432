//! One exchange for everybody: many requests, several instances, stores that are away, tokens that are withdrawn.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::future::join_all;

use crate::config::{AnthropicAuth, AwsAuth, Config, Provider, Secret};
use crate::gateway::Gateway;
use crate::ports::Value;
use crate::testing;
use crate::testing_replicas::Replicas;
use crate::upstream::credentials::Credential;

const EXCHANGE: &str = "/v1/oauth/token";

fn config() -> Config {
    let auth = AnthropicAuth::WorkloadIdentity {
        federation_rule_id: "rule".to_owned(),
        organization_id: "org".to_owned(),
        identity_token_file: "/token".to_owned(),
        workspace_id: None,
        service_account_id: None,
    };
    let provider = Provider::Anthropic { auth, forward_user_identity: false };
    Config { upstreams: vec![testing::upstream("a", provider)], ..testing::config() }
}

/// A token endpoint whose tokens are numbered and last for this many seconds; 0 answers with an error.
fn replicas(life: &Rc<Cell<u64>>) -> Replicas {
    let (life, issued) = (Rc::clone(life), Cell::new(0));
    let replicas = Replicas::new(move |_| {
        if life.get() == 0 {
            return (503, String::new());
        }
        issued.set(issued.get() + 1);
        let token = format!("placeholder-token-{}", issued.get());
        (200, format!(r#"{{"access_token":"{token}","expires_in":{}}}"#, life.get()))
    });
    replicas.files.0.borrow_mut().insert("/token".to_owned(), b"placeholder-identity".to_vec());
    replicas
}

fn token(number: u32) -> Credential {
    Credential::Bearer(Secret::new(format!("placeholder-token-{number}")))
}

/// What `requests` parallel requests at each of these instances get.
fn ask(instances: &[Rc<Gateway>], requests: usize) -> Vec<Result<Credential, String>> {
    let all = instances.iter().flat_map(|gateway| (0..requests).map(move |_| gateway.credential(0)));
    block_on(join_all(all))
}

fn lines(replicas: &Replicas, outcome: &str) -> usize {
    let wanted = format!(r#"{{"figure":"credential","upstream":"a","outcome":"{outcome}"}}"#);
    replicas.figures.0.borrow().iter().filter(|line| **line == wanted).count()
}

#[test]
fn a_thousand_requests_at_several_instances_that_find_no_token_or_an_expired_one_cause_one_exchange() {
    let replicas = replicas(&Rc::new(Cell::new(3600)));
    let instances = [(); 3].map(|()| replicas.instance(config()));
    assert!(ask(&instances, 334).iter().all(|got| *got == Ok(token(1))));
    assert_eq!(replicas.count(EXCHANGE), 1);
    assert_eq!((lines(&replicas, "obtained"), lines(&replicas, "shared")), (1, 2));

    let new = replicas.instance(config());
    assert_eq!(ask(&[new], 1), [Ok(token(1))], "a new instance asks the store only");
    assert_eq!(replicas.count(EXCHANGE), 1);

    replicas.wait(Duration::from_secs(3599));
    assert!(ask(&instances, 334).iter().all(|got| *got == Ok(token(2))));
    assert_eq!(replicas.count(EXCHANGE), 2);
}

#[test]
fn a_token_is_renewed_ahead_of_its_end_once_and_beside_the_requests() {
    let life = Rc::new(Cell::new(3600));
    let replicas = replicas(&life);
    let instances = [(); 2].map(|()| replicas.instance(config()));
    ask(&instances, 1);

    replicas.wait(Duration::from_secs(3500));
    life.set(0);
    assert!(ask(&instances, 100).iter().all(|got| *got == Ok(token(1))), "nobody waits");
    replicas.run_tasks();
    assert_eq!(replicas.count(EXCHANGE), 2, "one attempt, which failed");
    assert!(ask(&instances, 100).iter().all(|got| *got == Ok(token(1))));
    replicas.run_tasks();
    assert_eq!(replicas.count(EXCHANGE), 2, "it is not tried again at once");

    life.set(3600);
    replicas.wait(Duration::from_secs(15));
    ask(&instances, 100);
    replicas.run_tasks();
    assert!(ask(&instances, 100).iter().all(|got| *got == Ok(token(2))));
    assert_eq!(replicas.count(EXCHANGE), 3);
    assert!(replicas.tasks.0.borrow().is_empty(), "the new one is not due");
}

#[test]
fn without_the_stores_an_instance_obtains_its_own() {
    let replicas = replicas(&Rc::new(Cell::new(3600)));
    let instances = [(); 3].map(|()| replicas.instance(config()));
    replicas.stores_are_down.set(true);
    assert!(ask(&instances, 100).iter().all(Result::is_ok));
    assert_eq!(replicas.count(EXCHANGE), 3);
    assert!(replicas.key_value.0.borrow().is_empty());
}

#[test]
fn a_token_that_was_withdrawn_is_dropped_everywhere_and_its_successor_is_not() {
    let replicas = replicas(&Rc::new(Cell::new(3600)));
    let instances = [(); 2].map(|()| replicas.instance(config()));
    ask(&instances, 1);

    let renewed = |gateway: &Rc<Gateway>| {
        let gateway = Rc::clone(gateway);
        async move {
            gateway.forget_credential(0, &token(1)).await;
            gateway.credential(0).await
        }
    };
    let all = instances.iter().flat_map(|gateway| (0..100).map(move |_| renewed(gateway)));
    assert!(block_on(join_all(all)).iter().all(|got| *got == Ok(token(2))));
    assert_eq!(replicas.count(EXCHANGE), 2);

    // Whoever is late with the old one drops nothing.
    block_on(instances[0].forget_credential(0, &token(1)));
    assert_eq!(ask(&instances, 1), [Ok(token(2)), Ok(token(2))]);
    let new = replicas.instance(config());
    assert_eq!(ask(&[new], 1), [Ok(token(2))]);
    assert_eq!(replicas.count(EXCHANGE), 2);
}

#[test]
fn an_exchange_that_fails_fails_for_all_that_wait_and_the_next_request_tries_again() {
    let life = Rc::new(Cell::new(0));
    let replicas = replicas(&life);
    let instances = [(); 3].map(|()| replicas.instance(config()));
    let got = ask(&instances, 100);
    assert!(got.iter().all(|got| got.as_ref().is_err_and(|reason| reason.contains("answered 503"))), "{got:?}");
    assert_eq!(replicas.count(EXCHANGE), 1);

    life.set(3600);
    assert!(ask(&instances, 100).iter().all(|got| *got == Ok(token(1))));
    assert_eq!(replicas.count(EXCHANGE), 2);
}

#[test]
fn a_request_that_is_given_up_while_it_obtains_a_token_keeps_nobody_waiting() {
    let replicas = replicas(&Rc::new(Cell::new(3600)));
    let instances = [(); 2].map(|()| replicas.instance(config()));
    {
        let first = instances[0].credential(0);
        futures_util::pin_mut!(first);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert_eq!(replicas.count(EXCHANGE), 1);
    }
    replicas.run_tasks();
    assert!(ask(&instances, 10).iter().all(|got| *got == Ok(token(2))));
    assert_eq!(replicas.count(EXCHANGE), 2);
}

#[test]
fn a_token_that_hardly_lasts_is_used_by_those_that_waited_for_it() {
    let replicas = replicas(&Rc::new(Cell::new(10)));
    let instances = [replicas.instance(config())];
    assert!(ask(&instances, 100).iter().all(|got| *got == Ok(token(1))));
    assert_eq!(replicas.count(EXCHANGE), 1);
}

#[test]
fn a_token_lies_sealed_in_the_store_in_its_own_place() {
    let replicas = replicas(&Rc::new(Cell::new(3600)));
    let gateway = replicas.instance(config());
    ask(&[Rc::clone(&gateway)], 1);
    let stored = replicas.key_value.0.borrow().clone();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (name, kept) = stored.iter().find(|(name, _)| name.starts_with("credential/")).expect("it is kept");
    assert!(!format!("{}{}", text(kept), replicas.log.0.borrow().join("\n")).contains("placeholder"));
    let rows = block_on(gateway.ports.db.run("SELECT name FROM counters", &[])).expect("it runs");
    assert_eq!(rows, Vec::<Vec<Value>>::new(), "the claim was given back");

    // Moved to the place of another upstream, it opens for nobody.
    let mut other = config();
    other.upstreams[0].name = "b".to_owned();
    let other = replicas.instance(other);
    ask(&[Rc::clone(&other)], 1);
    let names: Vec<String> = replicas.key_value.0.borrow().keys().cloned().collect();
    let place = names.iter().find(|other| other.starts_with("credential/") && *other != name).expect("another place");
    replicas.key_value.0.borrow_mut().insert(place.clone(), kept.clone());
    let mut config = config();
    config.upstreams[0].name = "b".to_owned();
    assert_eq!(ask(&[replicas.instance(config)], 1), [Ok(token(3))]);
}

#[test]
fn keys_of_the_environment_are_in_no_store() {
    let mut replicas = Replicas::new(|request| panic!("{} is asked", request.uri()));
    for (name, value) in [("AWS_ACCESS_KEY_ID", "placeholder-id"), ("AWS_SECRET_ACCESS_KEY", "placeholder-secret")] {
        replicas.environment.insert(name.to_owned(), value.to_owned());
    }
    let provider = Provider::Bedrock {
        region: "eu-west-1".to_owned(),
        auth: AwsAuth::DefaultChain,
        guardrail: None,
        assume_role: None,
    };
    let config = Config { upstreams: vec![testing::upstream("a", provider)], ..testing::config() };
    assert!(matches!(ask(&[replicas.instance(config)], 1)[0], Ok(Credential::AwsKeys(_))));
    assert!(replicas.key_value.0.borrow().is_empty());
}
