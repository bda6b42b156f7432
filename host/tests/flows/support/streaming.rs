//! How many stories begin: an answer that is on its way, its client on the one side and its upstream on the other.

use super::http::Raw;
use super::{Exchange, Gateway, PATIENCE, Site, Upstream, discovery, question};

/// A gateway with a request under way.
pub(crate) struct Streaming {
    pub(crate) gateway: Gateway,
    pub(crate) client: Raw,
    pub(crate) exchange: Exchange,
    /// Where the gateway lives: it goes last.
    pub(crate) site: Site,
}

impl Streaming {
    /// Ada has asked, and the upstream has not answered yet. `prepare` changes the site before it starts.
    pub(crate) fn asked(prepare: impl FnOnce(&mut Site)) -> Self {
        let (provider, (upstream, requests)) = (discovery(), Upstream::held());
        let mut site = Site::for_inference(&provider, &upstream);
        prepare(&mut site);
        let gateway = site.start();
        let mut client = gateway.connect();
        client.post("/v1/messages", &site.session("ada"), &question(true));
        let exchange = requests.recv_timeout(PATIENCE).expect("a request");
        Self { gateway, client, exchange, site }
    }

    /// The first piece of the answer has arrived.
    pub(crate) fn begun(prepare: impl FnOnce(&mut Site)) -> Self {
        let mut streaming = Self::asked(prepare);
        streaming.exchange.begin_stream();
        streaming.exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
        streaming.client.until("event: ping");
        streaming
    }
}
