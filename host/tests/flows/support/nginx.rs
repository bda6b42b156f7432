//! nginx as a company puts it in front of a model provider: a reverse proxy with a path of its own.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Upstream, eventually, free_port, lacks};

/// A running nginx; killed on drop.
pub(crate) struct Nginx {
    /// Where the provider is below it.
    pub(crate) base_url: String,
    process: Child,
    /// Its configuration, logs and temporary files.
    _directory: TempDir,
}

impl Nginx {
    /// Starts one that passes `/claude-proxy/…` on to `upstream` and compresses its answers; `None` (and says so) when
    /// nginx is not on the machine.
    pub(crate) fn before(upstream: &Upstream) -> Option<Self> {
        // Debian keeps it where not everybody's PATH leads.
        let debian = PathBuf::from("/usr/sbin/nginx");
        if !debian.is_file() && lacks(&["nginx"]) {
            return None;
        }
        let program = if debian.is_file() { debian } else { PathBuf::from("nginx") };
        let directory = TempDir::with_prefix("sallyport-nginx-").expect("a directory");
        let (place, port) = (directory.path().display(), free_port());
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\nevents {{}}\nhttp {{\n  \
             access_log off;\n  client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n  \
             fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  scgi_temp_path {place}/scgi;\n  \
             client_max_body_size 64m;\n  gzip on;\n  gzip_min_length 1;\n  gzip_types text/event-stream \
             application/json;\n  server {{\n    listen 127.0.0.1:{port};\n    location /claude-proxy/ {{\n      \
             proxy_pass http://{}/;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
             proxy_buffering off;\n    }}\n    location / {{ return 404; }}\n  }}\n}}\n",
            upstream.address
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("a file");
        let process = Command::new(program)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx");
        let nginx = Self { base_url: format!("http://127.0.0.1:{port}/claude-proxy"), process, _directory: directory };
        eventually("nginx to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
