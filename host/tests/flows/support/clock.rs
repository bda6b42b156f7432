//! A clock of a gateway's own, by `libfaketime`: a file says what time it is, and changes at a story's word. Monotonic
//! time, by which timers run, stays what it is.

use std::fs;
use std::path::{Path, PathBuf};

use super::Site;
use super::programs::skipped;

/// The clock of a site's gateways, replicas included.
pub(crate) struct Clock(PathBuf);

impl Clock {
    /// Gives one to `site`, at the present time; `None` (and says so) where the library is not installed.
    pub(crate) fn of(site: &mut Site) -> Option<Self> {
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let libraries = places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
        let Some(library) = libraries.into_iter().find(|library| library.is_file()) else {
            skipped("libfaketime");
            return None;
        };
        let clock = Self(site.file("clock"));
        clock.turn("+0");
        site.environment.extend([
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock.0.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]);
        Some(clock)
    }

    /// Goes on from the present time and this, such as `+30d`.
    pub(crate) fn turn(&self, offset: &str) {
        // Whoever looks at this moment sees the one or the other.
        let next = self.0.with_extension("next");
        fs::write(&next, offset).expect("a file");
        fs::rename(next, &self.0).expect("a file");
    }

    /// Stands still at this second, such as `2028-02-29 23:59:59`, UTC.
    pub(crate) fn stop_at(&self, second: &str) {
        self.turn(second);
    }
}
