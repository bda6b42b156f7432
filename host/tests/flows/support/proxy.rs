//! A wire that can be held: bytes pass it both ways, or wait.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A listener that hands every connection on to another address.
pub(crate) struct Proxy {
    pub(crate) address: String,
    is_held: Arc<AtomicBool>,
}

impl Proxy {
    /// In front of `target`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let is_held = Arc::new(AtomicBool::new(false));
        let (held, target) = (Arc::clone(&is_held), target.to_owned());
        // Ends with the process: nothing to release.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&target) else { continue };
                join(&near, &far, &held);
            }
        });
        Self { address, is_held }
    }

    /// A corporate proxy that connects (`CONNECT`) whoever asks with `target`, whatever was asked for; and what was.
    pub(crate) fn tunnel(target: String) -> (Self, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for mut near in listener.incoming().map_while(Result::ok) {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && near.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let Some(wanted) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                    continue;
                };
                let _ = sender.send(wanted.to_owned());
                let Ok(far) = TcpStream::connect(&target) else { continue };
                if near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").is_ok() {
                    join(&near, &far, &Arc::default());
                }
            }
        });
        (Self { address, is_held: Arc::default() }, asked)
    }

    /// Has everything wait, or go on.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Release);
    }
}

/// Passes what comes on either side to the other one.
fn join(near: &TcpStream, far: &TcpStream, held: &Arc<AtomicBool>) {
    for (from, to) in [(near, far), (far, near)] {
        let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
        let held = Arc::clone(held);
        std::thread::spawn(move || pass(from, to, &held));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        while held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
