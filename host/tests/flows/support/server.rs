//! Servers that stand between a gateway and what it calls: proxies, and nginx with certificates of an authority of one's
//! own.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::programs::{command, find};
use super::{eventually, free_port};

/// A program that listens on a port; killed on drop.
pub(crate) struct Server {
    pub(crate) port: u16,
    directory: TempDir,
    process: Child,
}

impl Server {
    /// Writes the configuration that `config` makes for a directory and a port, and starts `program` with `arguments`
    /// and the configuration's path.
    fn start(program: &str, arguments: &[&str], config: impl Fn(&Path, u16) -> String) -> Self {
        let directory = TempDir::with_prefix("sallyport-server-").expect("a directory");
        // Some programs give up being root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let (port, path) = (free_port(), directory.path().join("config"));
        fs::write(&path, config(directory.path(), port)).expect("a file");
        let mut process = Command::new(find(program).unwrap_or_else(|| panic!("{program} is not installed")))
            .args(arguments)
            .arg(&path)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        eventually(program, || {
            if let Some(status) = process.try_wait().expect("a status") {
                panic!("{program} ended with {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { port, directory, process }
    }

    /// A proxy that lets everybody through and says so in `Via`.
    pub(crate) fn tinyproxy() -> Self {
        Self::start("tinyproxy", &["-d", "-c"], |_, port| {
            format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\nViaProxyName \"between\"\n"
            )
        })
    }

    /// A proxy that lets `user` with `password` through.
    pub(crate) fn squid(user: &str, password: &str) -> Self {
        let hash = command(Command::new("openssl").args(["passwd", "-apr1", password]));
        Self::start("squid", &["-N", "-f"], |directory, port| {
            let users = directory.join("users");
            fs::write(&users, format!("{user}:{hash}")).expect("a file");
            format!(
                "http_port 127.0.0.1:{port}\npid_filename none\ncache deny all\nshutdown_lifetime 0 seconds\n\
                 access_log none\ncache_log {directory}/cache.log\ncoredump_dir {directory}\n\
                 auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}\n\
                 acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n",
                directory = directory.display(),
                users = users.display(),
            )
        })
    }

    /// nginx, with `http` in its `http` block; `PORT` in it is the port to listen on.
    pub(crate) fn nginx(http: &str) -> Self {
        Self::start("nginx", &["-c"], |directory, port| {
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
                .concat();
            format!(
                "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error.log;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{paths}{http}\n}}\n",
                directory = directory.display(),
                http = http.replace("PORT", &port.to_string()),
            )
        })
    }

    /// What `name`, a log beside the configuration, says; for a failed story.
    pub(crate) fn said(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate authority, made with `openssl`.
pub(crate) struct Authority(TempDir);

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let authority = Self(TempDir::with_prefix("sallyport-ca-").expect("a directory"));
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem \
             -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign",
        );
        authority
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// Certificate and key of `name`, valid for `days` (which may be over) and for `subject`, such as `IP:127.0.0.1`.
    pub(crate) fn issue(&self, name: &str, subject: &str, days: i32) -> (PathBuf, PathBuf) {
        fs::write(self.0.path().join("extensions"), format!("subjectAltName={subject}\n")).expect("a file");
        self.openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -out {name}.pem \
             -extfile extensions"
        ));
        (self.0.path().join(format!("{name}.pem")), self.0.path().join(format!("{name}.key")))
    }

    /// The key of `name`, encrypted with `passphrase`.
    pub(crate) fn encrypted_key(&self, name: &str, passphrase: &str) -> PathBuf {
        let out = self.0.path().join(format!("{name}.encrypted"));
        self.openssl(&format!("pkcs8 -topk8 -in {name}.key -out {} -passout pass:{passphrase}", out.display()));
        out
    }

    fn openssl(&self, arguments: &str) {
        command(Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()));
    }
}
