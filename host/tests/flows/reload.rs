//! A new configuration takes over between requests; a faulty one changes nothing.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Gateway, Site, Upstream, discovery, eventually, question};

/// The configuration of `site`, with one more model.
fn with_model(site: &Site, id: &str) -> String {
    format!("{}models:\n  - id: {id}\n    upstream_model: {{ upstream-0: {id} }}\n", site.yaml())
}

/// Whether a request that is made now sees this model.
fn serves(gateway: &Gateway, token: &str, id: &str) -> Option<()> {
    let list = gateway.get("/v1/models").bearer(token).send().expect(200).json();
    list["data"].as_array()?.iter().any(|model| model["id"] == id).then_some(())
}

#[test]
fn a_new_configuration_takes_over_under_load_and_no_request_fails() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let gateway = site.start();
    let token = site.session("ada");
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));

    std::thread::scope(|scope| {
        for turn in 0..4 {
            let (gateway, token, is_over, answered) = (&gateway, &token, &is_over, &answered);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let call = gateway.post("/v1/messages").bearer(token).json(&question(turn % 2 == 0));
                    call.send().expect(200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for model in ["first-model", "second-model", "third-model"] {
            let before = answered.load(Ordering::Relaxed);
            fs::write(site.file("gateway.yaml"), with_model(&site, model)).expect("a file");
            eventually("the new model", || serves(&gateway, &token, model));
            eventually("more load", || (answered.load(Ordering::Relaxed) > before + 20).then_some(()));
        }
        is_over.store(true, Ordering::Relaxed);
    });

    let loads = gateway.log.events("config.load");
    assert_eq!(loads.len(), 4, "{loads:?}");
    assert!(loads.windows(2).all(|pair| pair[0]["sha256"] != pair[1]["sha256"]), "{loads:?}");
    assert!(gateway.log.text().contains("configuration reloaded"));
}

#[test]
fn a_faulty_configuration_is_refused_loudly_and_the_old_one_stays() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let gateway = site.start();
    let token = site.session("ada");

    fs::write(site.file("gateway.yaml"), format!("{}unheard_of: 1\nlimits: 5\n", site.yaml())).expect("a file");
    eventually("a refusal", || gateway.log.text().contains("goes on with the configuration it has").then_some(()));

    let said = gateway.log.text();
    for key in ["unheard_of", "limits"] {
        let is_loud = |line: &str| line.contains(" error ") && line.contains("not reloaded") && line.contains(key);
        assert!(said.lines().any(is_loud), "{key}: {said}");
    }
    gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(200);

    // The component finds this fault: there is no identity provider.
    let away = site.yaml().replace(&site.issuer, &format!("http://127.0.0.1:{}", crate::support::free_port()));
    fs::write(site.file("gateway.yaml"), away).expect("a file");
    eventually("another refusal", || gateway.log.text().contains("discovery failed").then_some(()));
    gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(200);
    assert_eq!(gateway.log.text().matches("configuration reloaded").count(), 0);

    fs::write(site.file("gateway.yaml"), with_model(&site, "good-again")).expect("a file");
    eventually("the new model", || serves(&gateway, &token, "good-again"));
}

#[test]
fn a_stream_that_began_before_goes_on_with_what_it_began_with() {
    let (upstream, asked) = Upstream::held();
    let site = Site::for_inference(&discovery(), &upstream);
    let gateway = site.start();
    let token = site.session("ada");
    let mut client = gateway.connect();
    client.post("/v1/messages", &token, &question(true));
    let mut exchange = asked.recv().expect("a request");
    exchange.begin_stream();
    exchange.piece(b"event: ping\ndata: {\"type\": \"ping\"}\n\n").expect("a reader");
    client.until("ping");

    fs::write(site.file("gateway.yaml"), with_model(&site, "new-model")).expect("a file");
    eventually("the new model", || serves(&gateway, &token, "new-model"));

    exchange.piece(b"event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n").expect("a reader");
    exchange.end();
    client.until("message_stop");
    client.until("\r\n0\r\n\r\n");
}

#[test]
fn sighup_reads_the_configuration_again_and_keys_of_the_start_are_named() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let gateway = site.start();

    gateway.hang_up();
    eventually("a reload", || gateway.log.text().contains("configuration reloaded").then_some(()));
    assert_eq!(gateway.log.events("config.load").len(), 2);

    // Where to listen comes from the command line here, so only TLS is left to say.
    let tls = "  tls: { cert: /nowhere/cert.pem, key: /nowhere/key.pem }\noidc:";
    fs::write(site.file("gateway.yaml"), site.yaml().replacen("oidc:", tls, 1)).expect("a file");
    eventually("a warning", || {
        let is_warning = |line: &str| line.contains(" warn ") && line.contains("listen.tls has changed");
        gateway.log.text().lines().any(is_warning).then_some(())
    });
}

#[cfg(unix)]
#[test]
fn a_mounted_directory_that_is_swapped_as_kubernetes_does_is_noticed() {
    use std::os::unix::fs::symlink;

    let site = Site::for_inference(&discovery(), &Upstream::claude());
    fs::create_dir(site.file("..v1")).expect("a directory");
    symlink("..v1", site.file("..data")).expect("a link");
    symlink("..data/gateway.yaml", site.file("gateway.yaml")).expect("a link");
    let gateway = site.start();
    let token = site.session("ada");

    fs::create_dir(site.file("..v2")).expect("a directory");
    fs::write(site.file("..v2/gateway.yaml"), with_model(&site, "swapped-in")).expect("a file");
    symlink("..v2", site.file("..data_tmp")).expect("a link");
    fs::rename(site.file("..data_tmp"), site.file("..data")).expect("a rename");
    fs::remove_dir_all(site.file("..v1")).expect("a directory");

    eventually("the new model", || serves(&gateway, &token, "swapped-in"));
}
