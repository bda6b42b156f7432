//! What `render spin` writes is what a host can run: ours starts with the same files.

use std::process::Command;

use crate::support::{Site, Upstream, binary, discovery, question};

#[test]
fn a_gateway_starts_with_the_files_that_were_rendered_for_it_and_keeps_its_stores_where_they_say() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    std::fs::write(site.file("gateway.yaml"), site.yaml()).expect("a file");
    let output = Command::new(binary())
        .args(["render", "spin", "--config", "gateway.yaml", "--out", "rendered"])
        .current_dir(site.file(""))
        .env_clear()
        .output()
        .expect("a run");
    assert!(output.status.success(), "{output:?}");
    let manifest = std::fs::read_to_string(site.file("rendered/spin.toml")).expect("a file");
    for host in [site.issuer.clone(), site.upstreams[0].clone()] {
        assert!(manifest.contains(&format!("\"{host}\"")), "{host}: {manifest}");
    }
    for (option, file) in [("--manifest", "rendered/spin.toml"), ("--runtime-config", "rendered/runtime-config.toml")] {
        site.arguments.extend([option.to_owned(), site.file(file).display().to_string()]);
    }

    let gateway = site.start();
    let token = site.session("ada");
    gateway.post("/v1/messages").bearer(&token).json(&question(true)).send().expect(200);
    assert!(site.file("rendered/.sallyport/sqlite.db").is_file(), "runtime-config.toml says where, from where it is");
    assert!(!site.state().join("sqlite.db").exists());

    // What the manifest does not list cannot be called, whatever the configuration says now.
    drop(gateway);
    site.upstreams = vec![format!("http://{}", Upstream::claude().address)];
    let gateway = site.start();
    gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(502);
}
