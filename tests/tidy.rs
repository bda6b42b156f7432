//! The rules that keep the code what the documents say it is.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, with their content.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                found.push((path, text));
            }
        }
    }
    found
}

/// What a layer must not mention, outside its tests.
fn assert_absent(folder: &str, forbidden: &[&str]) {
    let files = sources(folder);
    assert!(!files.is_empty(), "src has no {folder}");
    for (path, text) in files {
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in forbidden {
            assert!(!code.contains(word), "{} must not mention {word}", path.display());
        }
    }
}

#[test]
fn decisions_know_no_io_and_no_clock() {
    for folder in ["src/domain", "src/upstream", "src/stream", "src/wire"] {
        assert_absent(folder, &["async fn", ".await", "crate::ports", "crate::store", "crate::endpoints", "::now()"]);
    }
}

#[test]
fn formats_know_nothing_of_this_gateway() {
    assert_absent("src/wire", &["crate::config", "crate::domain", "crate::upstream", "crate::gateway"]);
}

#[test]
fn the_store_knows_no_http() {
    assert_absent("src/store", &["crate::exchange", "crate::endpoints", "http::"]);
}

#[test]
fn only_the_edge_names_the_sdk() {
    for (path, text) in sources("src") {
        let is_edge = path.starts_with(root().join("src/spin"));
        assert!(is_edge || !text.contains("spin_sdk"), "{} names the SDK", path.display());
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for folder in ["src", "host/src", "host/tests", "tests"] {
        for (path, text) in sources(folder) {
            assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
        }
    }
}

#[test]
fn every_path_of_the_router_stands_in_the_readme() {
    let routes = fs::read_to_string(root().join("src/routes.rs")).expect("src/routes.rs");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let arms = routes.lines().filter(|line| line.contains("=> Self::"));
    let paths: Vec<&str> = arms.filter_map(|arm| arm.split('"').nth(1)).collect();
    assert!(paths.len() > 10, "the router's paths were not found");
    for path in paths {
        assert!(readme.contains(&format!("`{path}`")), "the README does not list {path}");
    }
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let mut names: Vec<String> = fs::read_dir(root().join("migrations"))
        .expect("migrations/")
        .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "there are no migrations");
    for (index, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", index + 1)), "{name} is out of order");
    }
}

#[test]
fn every_dependency_has_a_reason() {
    for manifest in ["Cargo.toml", "host/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies") && !line.contains("workspace");
            } else if in_dependencies && line.contains(" = ") && !line.starts_with([' ', '#']) {
                assert!(
                    line.contains(" # ") || line.contains("path =") || line.contains("workspace = true"),
                    "{manifest}: no reason for {line}"
                );
            }
        }
    }
}

#[test]
fn every_invariant_of_the_security_document_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let (_, section) = text.split_once("## Invariants").expect("invariants");
    let section = section.split("\n## ").next().unwrap_or_default();
    let code: Vec<String> = ["src", "tests", "host"].into_iter().flat_map(sources).map(|(_, text)| text).collect();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")).collect();
    assert!(rows.len() > 5, "the invariants were not found");
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        assert!(tests.starts_with('`'), "no test for: {row}");
        for name in tests.split(", ").map(|name| name.trim_matches('`')) {
            let definition = format!("fn {name}(");
            assert!(code.iter().any(|text| text.contains(&definition)), "there is no test {name}");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    documents.extend(fs::read_dir(root().join("docs")).expect("docs/").map(|entry| entry.expect("a file").path()));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(document).expect("a document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let path = document.parent().expect("a folder").join(file);
            assert!(path.exists(), "{}: {target} leads nowhere", document.display());
        }
    }
}
