//! One instance of the component: what it holds, what it may reach, and how it comes to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use wasmtime::component::{InstancePre, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Result, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::capability;
use crate::capability::http::Outbound;
use crate::capability::key_value::KeyValueStores;
use crate::capability::postgres::PostgresPools;
use crate::capability::sqlite::SqliteDatabases;
use crate::capability::variables::Variables;
use crate::component;
use crate::console::GuestLines;

/// What all instances share: the world that they may reach.
pub(crate) struct World {
    /// Outbound HTTP.
    pub(crate) outbound: Arc<Outbound>,
    /// Key-value stores.
    pub(crate) key_value: KeyValueStores,
    /// SQLite databases.
    pub(crate) sqlite: SqliteDatabases,
    /// PostgreSQL.
    pub(crate) postgres: PostgresPools,
    /// Variables.
    pub(crate) variables: Variables,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// Directories that an instance may read, and where it sees them.
    pub(crate) mounts: Vec<(PathBuf, String)>,
}

/// The state of one instance on our side.
pub(crate) struct Instance {
    /// What it may reach.
    pub(crate) world: Arc<World>,
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    limiter: Limiter,
}

impl WasiView for Instance {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Instance {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

struct Hooks(Arc<Outbound>);

type Transmitted = Box<dyn Future<Output = std::result::Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn set_host_header(&mut self) -> bool {
        // The client sets it from the authority, and only where the protocol has it.
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Transmitted,
    ) -> Box<dyn Future<Output = std::result::Result<(Response<WasiBody>, Transmitted), Error>> + Send> {
        let sent = Arc::clone(&self.0).send(request, options.unwrap_or_default());
        Box::new(async move {
            let response = sent.await?;
            Ok((response, Box::new(async { Ok(()) }) as Transmitted))
        })
    }
}

/// Bounds the memory of an instance and knows how much it has.
struct Limiter {
    has: Arc<AtomicUsize>,
    most: usize,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let fits = desired <= self.most;
        if fits {
            self.has.fetch_max(desired, Ordering::Relaxed);
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> Result<bool> {
        Ok(true)
    }
}

/// Makes instances.
pub(crate) struct Factory {
    service: ServicePre<Instance>,
    engine: Engine,
    world: Arc<World>,
    instance_memory: usize,
}

impl Factory {
    /// Loads the component and connects it to `world`. An instance gets `instance_memory` bytes at most.
    pub(crate) fn new(world: Arc<World>, instance_memory: usize) -> Result<Self> {
        let (engine, component) = component::load()?;
        let mut linker: Linker<Instance> = Linker::new(&engine);
        // The standard library of the component's target speaks WASI 0.2, the SDK 0.3.
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        capability::add_to_linker(&mut linker)?;
        let instance: InstancePre<Instance> = linker.instantiate_pre(&component)?;
        Ok(Self { service: ServicePre::new(instance)?, engine, world, instance_memory })
    }

    /// What instances may reach.
    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Makes an instance. `memory` follows the size of its memory in bytes.
    pub(crate) async fn make(&self, memory: Arc<AtomicUsize>) -> Result<(Store<Instance>, Proxy)> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(GuestLines::output())
            .stderr(GuestLines::error())
            .envs(&self.world.environment)
            // A configuration and a token now and then: reading them is quicker than handing the work over.
            .allow_blocking_current_thread(true)
            .allow_tcp(false)
            .allow_udp(false);
        for (directory, path) in &self.world.mounts {
            wasi.preopened_dir(directory, path, FsPerms::ReadOnly)?;
        }
        let instance = Instance {
            hooks: Hooks(Arc::clone(&self.world.outbound)),
            world: Arc::clone(&self.world),
            wasi: wasi.build(),
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            limiter: Limiter { has: memory, most: self.instance_memory },
        };
        let mut store = Store::new(&self.engine, instance);
        store.limiter(|instance| &mut instance.limiter);
        let service = self.service.instantiate_async(&mut store).await?;
        Ok((store, Proxy::P3(service)))
    }
}
